"""The same numbers, sooner: short forward passes, products by oneDNN, updates as CUDA graphs, and their checks."""
