"""Grids of runs of one recipe, on this machine or as Slurm jobs."""
