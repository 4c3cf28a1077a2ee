"""Runs on the Hugging Face Hub: pushed, pulled, verified."""
