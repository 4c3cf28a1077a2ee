"""What of a run goes to the Hub: the files of every revision, by path, and nothing that tells of the machine.

`main` is the final model with the run's own files, `stepN` a kept step. Each has weights, tokenizer, recipe, manifest
and card.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pipeline import cards
from pipeline.folder import CORPUS, ENVIRONMENT, RECIPE, TOKENIZER
from pipeline.history import METRICS
from pipeline.manifest import MANIFEST, Entry, Manifest
from pipeline.remote import HubError, Source
from pipeline.results import Results
from pipeline.store import INDEX

MAIN = "main"
CARD = "README.md"


def revisions(run: Results, steps: list[int], repo: str, data: str | None) -> dict[str, dict[str, Source]]:
    """Revision -> path -> content: the steps in their order, then `main` where the run is finished.

    Raises:
        HubError: when a step's files are not those that were kept.
    """
    manifest = run.manifest
    for step in {*steps, max(manifest.kept)}:
        damage = manifest.kept[step].damage(run.path)
        if damage:
            raise HubError(f"{run.path / manifest.kept[step].path}: {damage}; nothing was pushed")
    tokenizer = _folder(run.path / TOKENIZER)
    if not tokenizer:
        raise HubError(f"{run.path}: it has no {TOKENIZER}; nothing was pushed")
    recipe: dict[str, Source] = {RECIPE: cards.recipe_text(run).encode()}
    found: dict[str, dict[str, Source]] = {}
    for step in steps:
        found[f"step{step}"] = {
            **tokenizer,
            **_weights(run.path, manifest.kept[step]),
            **recipe,
            MANIFEST: _step_manifest(run.name, step, manifest.kept[step]),
            CARD: cards.step_card(run, step, repo, data).encode(),
        }
    if manifest.finished:
        figures = {f"figures/{file.name}": file for file in sorted((run.path / "figures").glob("*.png"))}
        found[MAIN] = {
            **tokenizer,
            **_weights(run.path, manifest.kept[max(manifest.kept)]),
            **recipe,
            **figures,
            MANIFEST: _json(
                dataclasses.asdict(Manifest(manifest.kept, pruned=manifest.pruned, finished=manifest.finished))
            ),
            METRICS: run.path / METRICS,
            ENVIRONMENT: _json([{key: start[key] for key in start if key != "host"} for start in run.starts]),
            INDEX: run.path / CORPUS / INDEX,
            CARD: cards.model_card(run, steps, repo, data).encode(),
        }
    return found


def _folder(folder: Path) -> dict[str, Source]:
    return {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}


def _weights(run: Path, entry: Entry) -> dict[str, Source]:
    return {name: run / entry.path / name for name in entry.files}


def _step_manifest(run: str, step: int, entry: Entry) -> bytes:
    return _json({"run": run, "step": step, "files": entry.files, "metrics": entry.metrics})


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
