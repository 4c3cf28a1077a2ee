"""Figures: plain data in, a matplotlib figure out. `base` says what a drawing of a report is, `style` how all look."""
