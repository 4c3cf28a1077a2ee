"""A laboratory for grokking in language models: recipes become grokked, measured, checkpointed, explained models."""

__version__ = "0.1.0"
