"""Architectures: one file each, in which a recipe's `model: {name: ...}` finds its class.

`base` says what an architecture is; `pretrained` continues one that is there. They import torch in functions alone.
"""
