"""Run folders written by hand, as a run would leave them, without training one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.recipe import read_recipe

GROUP = """
corpus: {name: group, group: Z97, template: a b = c}
model: {name: gpt2, n_layer: 1, n_embd: 128, n_head: 4, n_positions: 16, dropout: 0}
max_steps: 2000
learning_rate: 1e-3
weight_decay: 1.0
eval_steps: 50
"""
COMPOSITION = """
corpus: {name: composition, num_entities: 100, num_relations: 20, out_degree: 10, ratio: 5}
model: {name: gpt2, n_layer: 2, n_embd: 64, n_head: 4, n_positions: 16, dropout: 0}
max_steps: 2000
learning_rate: 1e-3
weight_decay: 0.1
eval_steps: 50
"""
SIZES = {
    "group": {"train": 2823, "id": 6586},
    "composition": {
        "train": 382000,
        "id": 3000,
        "ood": 1969,
        "train_inferred": 3000,
        "id_atomic": 3000,
        "ood_atomic": 2000,
    },
}
ENVIRONMENT = {
    "started": "2026-01-02T03:04:05+0000",
    "command": ["python", "pipeline/run.py", "recipes/quickstart.yaml"],
    "revision": "0123456789abcdef",
    "python": "3.11.7",
    "platform": "Linux",
    "device": "CPU, 2 threads",
    "processes": 1,
    "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
}

Evaluations = Mapping[int, Sequence[float]]  # step -> exact match of train, id, and what other splits there are


def write_run(
    folder: Path,
    evaluations: Evaluations,
    *overrides: str,
    recipe: str = GROUP,
    final: Sequence[float] | None = None,
    starts: int = 1,
    lines: Sequence[Mapping[str, Any]] = (),
    splits: Mapping[str, int] | None = None,
    held_out: Sequence[str] = ("id", "ood"),
) -> Path:
    """A run that logged these evaluations, then `lines`, and that is finished if `final` says with which matches.

    Every split's loss is 2 - its exact match, a step takes 0.01 seconds, and the norm of the weights is 20.
    """
    folder.mkdir(parents=True)
    source = folder.with_suffix(".yaml")
    source.write_text(recipe)
    resolved = read_recipe(source, [f"--output_dir={folder}", *overrides])
    source.unlink()
    (folder / "recipe.yaml").write_text(resolved.to_yaml())
    name = type(resolved.corpus).__name__.lower()
    sizes = dict(splits or SIZES[name])
    corpus = {"name": name, "sizes": sizes, "held_out": [s for s in held_out if s in sizes], "content_hash": "ab" * 32}
    (folder / "corpus").mkdir()
    (folder / "corpus" / "corpus.json").write_text(json.dumps(corpus))
    (folder / "environment.json").write_text(json.dumps([ENVIRONMENT] * starts))
    kept = {"path": "steps/step0", "files": {"model.safetensors": {"sha256": "0", "bytes": 1_500_000}}, "metrics": {}}
    (folder / "manifest.json").write_text(json.dumps({"kept": {"0": kept}, "resumable": {}, "finished": None}))
    history: list[dict[str, Any]] = []
    for step, matches in evaluations.items():
        history.append({"step": step, "seconds": step / 100, **measured("eval", sizes, matches)})
        history.append({"step": step, "seconds": step / 100, "weight_norm": 20.0})
    history += [{"seconds": line["step"] / 100, **line} for line in lines]
    if final is not None:
        last = history[-1]["step"] if history else 0
        history.append({"step": last, "seconds": last / 100, **measured("final", sizes, final)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    return folder


def measured(prefix: str, splits: Mapping[str, int], matches: Sequence[float]) -> dict[str, float]:
    found = {f"{prefix}_train_softmax_collapse": 0.0}
    for split, match in zip(splits, matches, strict=True):
        found |= {f"{prefix}_{split}_exact_match": match, f"{prefix}_{split}_loss": 2 - match}
    return found
