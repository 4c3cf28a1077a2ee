"""Corpora: one file each, in which a recipe's `corpus: {name: ...}` finds its class; and how they are stored.

`base` says what a corpus is, `store` proves and caches it. Needs no torch.
"""
