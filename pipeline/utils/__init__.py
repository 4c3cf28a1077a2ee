"""What knows nothing of recipes and runs: files that are whole or absent, folders of others, launchers, signals, text.

Imports no other room, and torch in functions alone.
"""
