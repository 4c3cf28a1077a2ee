"""Runs in a notebook: what lies in a run folder, or on the Hub, as models and tables."""
