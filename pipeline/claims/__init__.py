"""Claims: one file for each result of a paper: the runs it needs, the numbers it takes of them, and what would hold.

`base` says what a claim is, `runner` runs what is missing, `record` writes and reads what was found. Needs no torch.
"""
