"""Analyses: one file each, named in a recipe's `circuits:` block.

`base` says what one is, `hooks` reads and changes activations, `runner` walks the kept steps of a run.
"""
