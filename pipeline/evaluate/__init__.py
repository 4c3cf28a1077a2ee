"""Evaluation of any model on any corpus: kept steps of a run, a folder of weights, or a name on the Hub."""
