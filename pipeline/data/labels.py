"""What labels say beside token ids."""

IGNORED = -100  # no target, as in transformers and torch
