"""Which steps a run keeps, how they come to be listed in its manifest, and the checkpoint to resume from.

Two tiers. `steps/stepN` are weights alone, kept for ever at the steps of the schedule. `checkpoint-N` are the Trainer's
own, with all that resuming needs; only the newest few stay. A folder counts only once the manifest lists its files
with their hashes, which is written last and in one step: what is torn is not listed, and what has changed shows.

    python -m pipeline.checkpoints list RUN
    python -m pipeline.checkpoints show RUN STEP
    python -m pipeline.checkpoints verify RUN
    python -m pipeline.checkpoints prune RUN --keep STEPS
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files import new_folder, sha256, sync, writing
from pipeline.history import METRICS
from pipeline.manifest import Entry, Manifest, add
from pipeline.parameters import ParameterError, Parameters, param


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

    def steps(self, last: int) -> set[int]:
        """All the steps it keeps, up to the last one of a run."""
        kept = {0} if self.initial else set()
        if self.powers_of_two:
            kept |= {2**power for power in range(last.bit_length())}
        for every, until in self.every:
            kept |= set(range(every, min(last if until is None else until, last) + 1, every))
        return kept


def files_of(folder: Path) -> list[str]:
    """The names of all files in a folder, in order."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def facts_of(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Hash and size of files, once they are on the disk: nothing is listed that a power cut could still undo."""
    facts = {}
    for name in names:
        sync(folder / name)
        facts[name] = {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
    return facts


def keep(run: Path, step: int, write: Any, metrics: Mapping[str, float]) -> None:
    """Keeps a step for ever: `write(folder)` writes the weights into a draft, which is renamed and then listed.

    Raises:
        DiskError: when the disk refuses; then nothing is left of it.
    """
    path = f"steps/step{step}"
    with writing(run / path), new_folder(run / path) as draft:
        write(draft)
        facts = facts_of(draft, files_of(draft))
    add(run, "kept", step, Entry(path, facts, dict(metrics)))


def seal(run: Path, step: int, most: int | None, facts: dict[str, dict[str, Any]] | None = None) -> None:
    """Lists a `checkpoint-N` that is whole, then deletes all but the newest `most` of them.

    `facts` are those of its files where they are known already.
    """
    path = f"checkpoint-{step}"
    if (run / METRICS).exists():  # a run that resumes here has logged what came before
        sync(run / METRICS)
    for folder in [*(file for file in (run / path).rglob("*") if file.is_dir()), run / path, run]:
        sync(folder)
    facts = facts_of(run / path, files_of(run / path)) if facts is None else facts
    listed = sorted({*(number for number, _ in checkpoints_of(run)), step}) if most else []
    # What is not listed is torn, and goes when training is next resumed.
    old = listed[:-most] if most else []
    add(run, "resumable", step, Entry(path, facts), gone=old)
    for number in old:
        shutil.rmtree(run / f"checkpoint-{number}", ignore_errors=True)


def checkpoints_of(run: Path) -> list[tuple[int, Path]]:
    """The folders `checkpoint-N` of a run with their numbers, in order."""
    found = [(path.name.removeprefix("checkpoint-"), path) for path in run.glob("checkpoint-*")]
    return sorted((int(number), path) for number, path in found if number.isdigit())


def newest_good(run: Path, manifest: Manifest) -> tuple[int | None, list[str]]:
    """The last step that can be resumed from (None: none), and a line for each checkpoint that is passed over."""
    passed_over: list[str] = []
    foreign = manifest.breaks()
    for step in sorted({*dict(checkpoints_of(run)), *manifest.resumable}, reverse=True):
        entry = manifest.resumable.get(step)
        damage = (entry.damage(run) or foreign.get(entry.path)) if entry else "torn: it was never finished"
        if damage is None:
            return step, passed_over
        passed_over.append(f"skipping checkpoint-{step}: {damage}")
    return None, passed_over


def rewind(run: Path, manifest: Manifest, step: int | None) -> None:
    """Forgets what lies after the step that is resumed from, since training will write it anew.

    Weights of an abandoned branch beside those of the resumed run would not descend from one another.
    """
    last = -1 if step is None else step
    for tier in (manifest.kept, manifest.pruned, manifest.resumable):
        for number in [number for number in tier if number > last]:
            del tier[number]
    manifest.finished = None
    manifest.save(run)
    for path in unlisted(run, manifest):
        shutil.rmtree(path, ignore_errors=True)


def unlisted(run: Path, manifest: Manifest) -> list[Path]:
    """Folders that a crash has left: those of steps and checkpoints that the manifest does not list, and drafts."""
    listed = {entry.path for tier in (manifest.kept, manifest.resumable) for entry in tier.values()}
    found = sorted([*run.glob("checkpoint-*"), *run.glob("steps/*")])
    return [path for path in found if str(path.relative_to(run)) not in listed]


if __name__ == "__main__":
    from pipeline.upkeep import main

    sys.exit(main())
