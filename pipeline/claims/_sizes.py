"""Sizes of the two-hop corpus and its model that several claims run at."""

from __future__ import annotations

# Seconds, in tests.
SMOKE = {
    "max_steps": "4", "eval_steps": "2", "corpus.num_entities": "30", "corpus.num_relations": "6",
    "corpus.out_degree": "6", "corpus.ratio": "3", "checkpoints.every": "[]",
}  # fmt: skip
# Wang et al. 2024, section 3.
PAPER = {
    "corpus.num_entities": "2000", "corpus.num_relations": "200", "model.n_layer": "8", "model.n_embd": "768",
    "model.n_head": "12", "learning_rate": "1e-4", "weight_decay": "0.1", "warmup_steps": "2000",
}  # fmt: skip
# Few facts, each in so many of their compositions that these are learned in a minute.
DENSE = {
    "corpus.num_entities": "40", "corpus.num_relations": "12", "corpus.out_degree": "12", "corpus.ratio": "9",
    "corpus.ood_fraction": "0.1", "corpus.iid_fraction": "0.05",
}  # fmt: skip
DENSE_MODEL = {
    "model.n_layer": "3", "model.n_embd": "128", "model.n_positions": "8", "global_batch_size": "256",
    "learning_rate": "1e-3", "adam_beta2": "0.98", "weight_decay": "1", "warmup_steps": "50", "save_steps": "10000",
    "bf16": "false",
}  # fmt: skip
# Two-hop facts of 40 entities, for which some thousand steps, a few minutes, do where they are composed often enough.
SMALL = {
    "corpus.num_entities": "40", "model.n_layer": "2", "model.n_embd": "64", "model.dropout": "0",
    "learning_rate": "2e-3", "stop_when": "never", "checkpoints.every": "[]", "checkpoints.powers_of_two": "false",
}  # fmt: skip
