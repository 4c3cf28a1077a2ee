"""The same numbers, sooner: short forwards, products by oneDNN, compiled updates, CUDA graphs, and their checks."""
