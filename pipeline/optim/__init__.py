"""Optimizers and changes of gradients: one file each, named in a recipe's `optimizer:` block.

`base` says what both are, `decay` which weights decay. They import torch in functions, or below a TYPE_CHECKING.
"""
