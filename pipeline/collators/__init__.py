"""Collators: one file each, changes of the prompts that are trained, anew in every update. `base` says what one is."""
