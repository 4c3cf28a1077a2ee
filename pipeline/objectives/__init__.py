"""Objectives: one file each, in which a recipe's `objective: {name: ...}` finds its class. `base` says what one is."""
