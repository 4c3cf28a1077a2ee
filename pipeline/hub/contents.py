"""What of a run goes to the Hub: the files of every revision, by path, and nothing that tells of the machine.

`main` is the final model with the run's own files, `stepN` a kept step. Each has weights, tokenizer, recipe, manifest
and card. Only plain files of the run's folder are sent: a link may lead anywhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.yaml_writer import resolved_recipe
from pipeline.corpora.store import INDEX
from pipeline.hub import cards
from pipeline.hub.anonymous import Anonymous
from pipeline.hub.repository import HubError, Source
from pipeline.runs.entry import Entry
from pipeline.runs.folder import RunFolder
from pipeline.runs.layout import CORPUS, ENVIRONMENT, RECIPE, TOKENIZER
from pipeline.runs.manifest import MANIFEST, Manifest
from pipeline.runs.metrics import METRICS
from pipeline.utils.inside import refuse_links

MAIN = "main"
CARD = "README.md"
WEIGHTS = "model.safetensors"
FIXED = (RECIPE, MANIFEST, METRICS, ENVIRONMENT, INDEX, CARD)
CONFIGURATION = re.compile(r"(?:.*/)?\w*config\.json")  # of a model, a tokenizer, an adapter
MOST_BYTES = 1 << 24  # of a text in which names of the machine are looked for

Files = dict[str, Source]


def revisions(run: RunFolder, steps: list[int], repo: str, data: str | None) -> dict[str, Files]:
    """Revision -> path -> content: the steps in their order, then `main` where the run is finished.

    Raises:
        HubError: when a step's files are not those that were kept.
        RecipeError: when one is a link.
    """
    manifest = run.manifest
    for step in {*steps, max(manifest.kept)}:
        damage = manifest.kept[step].damage(run.path)
        if damage:
            raise HubError(f"{run.path / manifest.kept[step].path}: {damage}; nothing was pushed")
    names = Anonymous(run.path, [start.get("host") for start in run.starts])
    tokenizer = {name: _public(run.path / TOKENIZER / name, name, names) for name in _files_below(run.path, TOKENIZER)}
    if not tokenizer:
        raise HubError(f"{run.path}: it has no {TOKENIZER}; nothing was pushed")
    weights = {step: _weights(run, entry, names) for step, entry in manifest.kept.items()}
    chain = _chained(manifest, weights)
    recipe = public_recipe(run, names)
    index = _json_bytes(names.paths(json.loads(_text_in(run.path, f"{CORPUS}/{INDEX}"))))
    found: dict[str, Files] = {}
    for step in steps:
        found[f"step{step}"] = {
            **tokenizer,
            **weights[step],
            RECIPE: recipe.encode(),
            INDEX: index,
            MANIFEST: _step_manifest(run.name, step, chain[step]),
            CARD: cards.step_card(run, step, repo, data).encode(),
        }
    if manifest.finished:
        kept = {step: chain[step] for step in manifest.kept}
        pruned = {step: chain[step] for step in manifest.pruned}
        found[MAIN] = {
            **tokenizer,
            **weights[max(manifest.kept)],
            RECIPE: recipe.encode(),
            **{
                f"figures/{name}": run.path / "figures" / name
                for name in _files_below(run.path, "figures")
                if name[-4:] == ".png"
            },
            MANIFEST: _manifest(Manifest(kept, pruned=pruned, finished=manifest.finished)),
            METRICS: _plain_file(run.path, METRICS),
            ENVIRONMENT: _json_bytes(names.values(run.starts)),
            INDEX: index,
            CARD: cards.model_card(run, steps, repo, data, recipe).encode(),
        }
    return found


def owned(run: RunFolder, name: str) -> bool:
    """Whether a path of a revision is one that a push of this run has put there, or may have."""
    entries = run.manifest.chain().values()
    tokenizer = run.path / TOKENIZER / name
    return (
        name in FIXED
        or re.fullmatch(r"figures/[\w.-]+\.png", name) is not None
        or any(name in entry.files for entry in entries)
        or tokenizer.is_file()
    )


def corpus_files(folder: Path) -> Files:
    """The files of a corpus's folder as a dataset.

    Raises:
        RecipeError: when one is a link.
    """
    names = Anonymous(folder)
    found: Files = {}
    for name in _files_below(folder, ""):
        if "/" in name or name.startswith("."):
            continue
        path = folder / name
        found[name] = path
        if name in (INDEX, CARD):
            text = names.path(_text_in(folder, name)) if name == CARD else ""
            found[name] = text.encode() if text else _json_bytes(names.paths(json.loads(_text_in(folder, name))))
    return found


def public_recipe(run: RunFolder, names: Anonymous) -> str:
    """The resolved recipe with a folder beside its reader in the place of the run's, and no path of this machine."""
    values = yaml.safe_load(_text_in(run.path, RECIPE))
    return resolved_recipe({**names.paths(values), "output_dir": f"runs/{run.name}"})


def _weights(run: RunFolder, entry: Entry, names: Anonymous) -> Files:
    found: Files = {}
    for name in entry.files:
        path = run.path / entry.path / name
        if path.exists():  # else it is damaged, and is not sent
            found[name] = _public(_plain_file(run.path, f"{entry.path}/{name}"), name, names)
    return found


def _public(path: Path, name: str, names: Anonymous) -> Source:
    """A file as it is sent: a configuration that names paths of this machine without them."""
    if not CONFIGURATION.fullmatch(name) or path.stat().st_size > MOST_BYTES:
        return path
    try:
        facts: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return path
    cut = names.paths(facts)
    return path if cut == facts else _json_bytes(cut)


def _chained(manifest: Manifest, weights: dict[int, Files]) -> dict[int, Entry]:
    """The entries of all steps, with the hashes of what is sent, linked anew where that is not what was kept."""
    found: dict[int, Entry] = {}
    changed, parent = False, ""
    for step, entry in manifest.chain().items():
        facts = {
            name: {"sha256": hashlib.sha256(source).hexdigest(), "bytes": len(source)}
            for name, source in weights.get(step, {}).items()
            if isinstance(source, bytes)
        }
        changed = changed or bool(facts)
        if changed:
            entry = dataclasses.replace(entry, files={**entry.files, **facts}).after(parent)
        found[step], parent = entry, entry.link
    return found


def _files_below(root: Path, folder: str) -> list[str]:
    """The names of all files in a folder of `root`, in order.

    Raises:
        RecipeError: when it is a link, or one is in it.
    """
    refuse_links(root, folder)
    found = []
    for at, folders, files in os.walk(root / folder):
        inside = Path(at).relative_to(root)
        for name in folders:
            refuse_links(root, str(inside / name))
        found += [_plain_file(root, str(inside / name)).relative_to(root / folder).as_posix() for name in files]
    return sorted(found)


def _plain_file(root: Path, name: str) -> Path:
    """The path of a plain file in `root`, or of nothing."""
    refuse_links(root, name)
    path = root / name
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise HubError(f"{path}: is not a plain file; nothing was pushed")
    return path


def _text_in(root: Path, name: str) -> str:
    path = _plain_file(root, name)
    if path.stat().st_size > MOST_BYTES:
        raise HubError(f"{path}: has more than {MOST_BYTES:,} bytes; nothing was pushed")
    return path.read_text(encoding="utf-8")


def _step_manifest(run: str, step: int, entry: Entry) -> bytes:
    return _json_bytes({"run": run, "step": step, "files": entry.files, "metrics": entry.metrics})


def _manifest(manifest: Manifest) -> bytes:
    facts = dataclasses.asdict(manifest)
    facts.pop("going")  # of the folder here
    return _json_bytes(facts)


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
