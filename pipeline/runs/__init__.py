"""A run's folder: what lies where, which steps it keeps, what was measured, and who is writing to it.

The one thing that analyses, reports and the Hub read of a run. Needs no torch at the top.
"""
