"""Callbacks: one file each, named in a recipe's `callbacks:` block or part of every run.

`base` says what one is, and what it may know of the trainer. They import torch in functions alone.
"""
