"""Which steps a run keeps, the manifest that says which weights are which, and the checkpoint to resume from.

Two tiers. `steps/stepN` are weights alone, kept for ever at the steps of the schedule. `checkpoint-N` are the Trainer's
own, with all that resuming needs; only the newest few stay. A folder counts only once `manifest.json` lists its files
with their hashes, which is written last and in one step: what is torn is not listed, and what has changed shows.

    python -m pipeline.checkpoints list RUN
    python -m pipeline.checkpoints verify RUN
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files import new_folder, sha256, write_json
from pipeline.parameters import ParameterError, Parameters, param

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class KeepSchedule(Parameters):
    """The steps whose weights are kept for ever; the last step always is.

    Pythia's schedule is `powers_of_two: true, every: [[1000, null]]`.
    """

    initial: bool = param(True, "step 0, the untrained weights")
    powers_of_two: bool = param(True, "steps 1, 2, 4, 8, ...")
    every: tuple[tuple[int, int | None], ...] = field(
        default=(), metadata={"help": "[every, until] pairs: each multiple up to a step, or null for the end"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for every, until in self.every:
            if every < 1 or (until is not None and until < every):
                pair = f"[{every}, {'null' if until is None else until}]"
                raise ParameterError("every", f"{pair} is not [every >= 1, until >= every or null]")

    def keeps(self, step: int) -> bool:
        if step == 0:
            return self.initial
        if self.powers_of_two and step & (step - 1) == 0:
            return True
        return any(step % every == 0 and (until is None or step <= until) for every, until in self.every)


@dataclass(frozen=True)
class Entry:
    """A sealed folder: its files with sha256 and size in bytes, and what was measured at that step."""

    path: str
    files: dict[str, dict[str, Any]]
    metrics: dict[str, float] = field(default_factory=dict)

    def damage(self, run: Path) -> str | None:
        """What is wrong with the folder on disk, or None: files missing, of another size, or with other bytes."""
        for name, facts in self.files.items():
            file = run / self.path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != facts["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {facts['bytes']}"
            if sha256(file) != facts["sha256"]:
                return f"{name} is corrupted: its sha256 is not the recorded one"
        return None


@dataclass
class Manifest:
    """`manifest.json`: the kept steps, the resumable checkpoints, and what came out once the run is finished."""

    kept: dict[int, Entry] = field(default_factory=dict)
    resumable: dict[int, Entry] = field(default_factory=dict)
    finished: dict[str, Any] | None = None

    @classmethod
    def load(cls, run: Path) -> Manifest:
        """The manifest of a run folder; empty where there is none yet.

        Raises:
            ValueError: when the file is not a manifest.
        """
        try:
            text = (run / MANIFEST).read_text()
        except FileNotFoundError:
            return cls()
        try:
            facts = json.loads(text)
            tiers: Any = {
                tier: {int(step): Entry(**entry) for step, entry in facts.pop(tier).items()}
                for tier in ("kept", "resumable")
            }
            return cls(**tiers, **facts)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{run / MANIFEST} is damaged; move it away to start from nothing") from None

    def save(self, run: Path) -> None:
        write_json(run / MANIFEST, dataclasses.asdict(self))


def _entry(run: Path, path: str, metrics: Mapping[str, float] | None = None) -> Entry:
    files = {
        str(file.relative_to(run / path)): {"sha256": sha256(file), "bytes": file.stat().st_size}
        for file in sorted((run / path).rglob("*"))
        if file.is_file()
    }
    return Entry(path, files, dict(metrics or {}))


def keep(run: Path, step: int, write: Any, metrics: Mapping[str, float]) -> None:
    """Keeps a step for ever: `write(folder)` writes the weights into a draft, which is renamed and then listed."""
    path = f"steps/step{step}"
    with new_folder(run / path) as draft:
        write(draft)
    manifest = Manifest.load(run)
    manifest.kept[step] = _entry(run, path, metrics)
    manifest.save(run)


def seal(run: Path, step: int, most: int | None) -> None:
    """Lists a `checkpoint-N` that is whole, then deletes all but the newest `most` of them."""
    manifest = Manifest.load(run)
    manifest.resumable[step] = _entry(run, f"checkpoint-{step}")
    old = sorted(manifest.resumable)[:-most] if most else []
    for number in old:
        del manifest.resumable[number]
    manifest.save(run)
    for number in old:
        shutil.rmtree(run / f"checkpoint-{number}", ignore_errors=True)


def newest_good(run: Path, manifest: Manifest) -> tuple[int | None, list[str]]:
    """The last step that can be resumed from (None: none), and a line for each checkpoint that is passed over."""
    passed_over: list[str] = []
    found = {int(path.name.rpartition("-")[2]): path for path in run.glob("checkpoint-*") if path.name[11:].isdigit()}
    for step in sorted(found.keys() | manifest.resumable.keys(), reverse=True):
        entry = manifest.resumable.get(step)
        damage = entry.damage(run) if entry else "torn: it was never finished"
        if damage is None:
            return step, passed_over
        passed_over.append(f"skipping checkpoint-{step}: {damage}")
    return None, passed_over


def rewind(run: Path, manifest: Manifest, step: int | None) -> None:
    """Forgets what lies after the step that is resumed from, since training will write it anew.

    Weights of an abandoned branch beside those of the resumed run would not descend from one another.
    """
    last = -1 if step is None else step
    for tier in (manifest.kept, manifest.resumable):
        for number in [number for number in tier if number > last]:
            del tier[number]
    manifest.finished = None
    manifest.save(run)
    listed = {entry.path for tier in (manifest.kept, manifest.resumable) for entry in tier.values()}
    for path in [*run.glob("checkpoint-*"), *run.glob("steps/*")]:
        if str(path.relative_to(run)) not in listed:
            shutil.rmtree(path, ignore_errors=True)


def verify(run: Path) -> Iterator[tuple[str, str | None]]:
    """Each listed folder with what is wrong with it, None where nothing is; then folders that are not listed."""
    manifest = Manifest.load(run)
    listed = set()
    for tier in (manifest.kept, manifest.resumable):
        for step in sorted(tier):
            listed.add(tier[step].path)
            yield tier[step].path, tier[step].damage(run)
    for path in sorted([*run.glob("checkpoint-*"), *run.glob("steps/*")]):
        if str(path.relative_to(run)) not in listed:
            yield str(path.relative_to(run)), "is not in the manifest: torn, or not written by this run"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.checkpoints", description="The weights a run has kept.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in {
        "list": "the kept steps with their exact matches",
        "verify": "hash every file again and compare with the manifest; exit status 1 when one differs",
    }.items():
        commands.add_parser(name, help=text, description=text).add_argument("run", type=Path, metavar="RUN")
    chosen = parser.parse_args(arguments)
    if not (chosen.run / MANIFEST).is_file():
        print(f"{chosen.run}: is not a run folder: it has no {MANIFEST}", file=sys.stderr)
        return 2
    try:
        return _list(chosen.run) if chosen.command == "list" else _verify(chosen.run)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def _list(run: Path) -> int:
    manifest = Manifest.load(run)
    for step in sorted(manifest.kept):
        entry = manifest.kept[step]
        size = sum(facts["bytes"] for facts in entry.files.values()) / 1e6
        matches = "  ".join(
            f"{key.removeprefix('eval_').removesuffix('_exact_match')} {value:.3f}"
            for key, value in entry.metrics.items()
            if key.endswith("_exact_match")
        )
        print(f"step{step:<10} {size:8.1f} MB  {matches}")
    for step in sorted(manifest.resumable):
        print(f"checkpoint-{step} can be resumed from")
    return 0


def _verify(run: Path) -> int:
    found = list(verify(run))
    for path, damage in found:
        print(f"{path}: {damage or 'ok'}")
    bad = sum(damage is not None for _, damage in found)
    print(f"{len(found) - bad} of {len(found)} folders are as they were written")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
