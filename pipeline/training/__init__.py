"""The Trainer of runs: its loop, evaluation, checkpoints and engines; `session` takes a recipe through it."""
