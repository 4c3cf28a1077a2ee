"""Which steps a run keeps, how they come to be listed in its manifest, and the checkpoint to resume from.

Two tiers. `steps/stepN` are weights alone, kept for ever at the steps of the schedule. `checkpoint-N` are the Trainer's
own, with all that resuming needs; only the newest few stay. A folder counts only once the manifest lists its files
with their hashes, which is written last and in one step: what is torn is not listed, and what has changed shows.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.fields import Parameters, param
from pipeline.runs.entry import Entry
from pipeline.runs.manifest import Manifest, add, listed_checkpoints, strike_off
from pipeline.runs.metrics import METRICS
from pipeline.utils.drafts import clean, draft_folder, left_behind
from pipeline.utils.errors import ParameterError
from pipeline.utils.files import sha256, sync, writing
from pipeline.utils.inside import exists, open_file, opened, remove_listed, remove_tree
from pipeline.utils.log import log

UNIVERSAL = ".universal.draft"  # where a ZeRO checkpoint is regrouped; a start removes what a crash has left of it


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
        """Return all the steps it keeps, up to the last one of a run."""
        kept = {0} if self.initial else set()
        if self.powers_of_two:
            kept |= {2**power for power in range(last.bit_length())}
        for every, until in self.every:
            kept |= set(range(every, min(last if until is None else until, last) + 1, every))
        return kept


def step_of(checkpoint: str | Path) -> int:
    """Return the step of a `checkpoint-N`, by its name."""
    return int(str(checkpoint).rpartition("-")[2])


def files_of(folder: Path) -> list[str]:
    """Return the names of all files in a folder, in order."""
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
    with writing(run / path), draft_folder(run, path) as draft:
        write(draft.path)
        facts = facts_of(draft.path, files_of(draft.path))
        if exists(run, path) and (listed := Manifest.load(run).kept.get(step)):
            remove(run, listed)
        draft.publish()
        add(run, "kept", step, Entry(path, facts, dict(metrics)))


def seal(run: Path, step: int, most: int | None, facts: dict[str, dict[str, Any]] | None = None) -> None:
    """Lists a `checkpoint-N` that is whole, then deletes all but the newest `most` of them.

    `facts` are those of its files where they are known already.
    """
    list_checkpoint(run, step, facts)
    retire(run, most)


def list_checkpoint(run: Path, step: int, facts: dict[str, dict[str, Any]] | None = None) -> None:
    """Lists a `checkpoint-N` that is whole; see `seal`."""
    path = f"checkpoint-{step}"
    if exists(run, METRICS):  # a run that resumes here has logged what came before
        file = open_file(run, METRICS)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    for folder in [*(file for file in (run / path).rglob("*") if file.is_dir()), run / path, run]:
        sync(folder)
    add(run, "resumable", step, Entry(path, facts or facts_of(run / path, files_of(run / path))))


def retire(run: Path, most: int | None) -> None:
    """Deletes all listed checkpoints but the newest `most`: first off the list, which is synced, then off the disk."""
    there = set(numbered(run, "", "checkpoint-"))
    if not most or len(there) <= most:
        return
    listed = listed_checkpoints(run, there)
    old = sorted(listed)[:-most]
    if old:
        strike_off(run, old)
    for step in old:
        remove(run, listed[step])


def remove(run: Path, entry: Entry) -> None:
    """Deletes the files that an entry lists, and its folder; what else lies in there stays, and is named."""
    try:
        problem = "" if remove_listed(run, entry.path, list(entry.files)) else "it holds files that are not of this run"
    except OSError as error:
        problem = f"it cannot be deleted ({error.strerror})"
    if problem:
        log.info(f"{run / entry.path} stays: {problem}")


def numbered(run: Path, folder: str, prefix: str) -> dict[int, Path]:
    """Return what is called by a prefix and a number in a folder of a run, by number."""
    try:
        with opened(run, folder) as place:
            names = os.listdir(place)
    except FileNotFoundError:
        return {}
    found = (re.fullmatch(rf"{prefix}(0|[1-9][0-9]{{0,14}})", name) for name in names)
    return {int(match[1]): run / folder / match[0] for match in sorted(filter(None, found), key=lambda m: int(m[1]))}


def newest_good(run: Path, manifest: Manifest) -> tuple[int | None, list[str]]:
    """The last step that can be resumed from (None: none), and a line for each checkpoint that is passed over."""
    passed_over: list[str] = []
    foreign = manifest.breaks()
    for step in sorted({*numbered(run, "", "checkpoint-"), *manifest.resumable}, reverse=True):
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
    for tier in ("kept", "pruned", "resumable"):
        for number in [number for number in getattr(manifest, tier) if number > last]:
            manifest.drop(tier, number)
    manifest.finished = None
    going = {**manifest.going, **{entry.path: entry for entry in manifest.pruned.values()}}
    manifest.save(run)
    for entry in going.values():
        if exists(run, entry.path):
            remove(run, entry)
    listed = {entry.path for tier in (manifest.kept, manifest.resumable) for entry in tier.values()}
    for name, becomes in left_behind(run, is_owner=True):
        path = becomes.replace(".", "/", 1) if becomes.startswith("steps.") else becomes
        # Renamed, and not listed: its draft is empty, and what it has become is on no list.
        if re.fullmatch(r"steps/step\d+|checkpoint-\d+", path) and path not in listed and _is_empty(run / name):
            with opened(run, path.rpartition("/")[0]) as folder:
                remove_tree(folder, path.rpartition("/")[2])
    clean(run, is_owner=True)


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def unlisted(run: Path, manifest: Manifest) -> list[Path]:
    """Folders called like steps and checkpoints that the manifest neither lists nor is about to delete."""
    listed = {entry.path for tier in (manifest.kept, manifest.resumable) for entry in tier.values()}
    listed |= manifest.going.keys()
    found = [*numbered(run, "", "checkpoint-").values(), *numbered(run, "steps", "step").values()]
    return [path for path in found if str(path.relative_to(run)) not in listed]


def choose_steps(manifest: Manifest, words: str) -> list[int]:
    """Return the kept steps of a run that words stand for, see `choose_among`."""
    return choose_among(sorted(manifest.kept), words)


def check_steps(words: str, key: str) -> None:
    """Check that words can say which steps are meant, whichever were kept; `key` is where they were given.

    Raises:
        ParameterError: when they cannot.
    """
    if not re.fullmatch(r"all|last|log| *[0-9]+ *(, *[0-9]+ *)*", words):
        raise ParameterError(key, f"{words!r} is not all, last, log, or numbers such as 0,1000")


def choose_among(kept: list[int], words: str) -> list[int]:
    """Return the steps that `all`, `last`, `log` (one for each third of an octave) or a list of numbers stands for.

    Raises:
        ParameterError: when one of them was not kept.
    """
    if not kept:
        raise ParameterError("steps", "no step of this run was kept")
    if words == "all":
        return kept
    if words == "last":
        return kept[-1:]
    if words == "log":
        octaves = {round(3 * math.log2(max(step, 0.5))): step for step in reversed(kept)}
        return sorted({*octaves.values(), *kept[-1:]})
    wanted = [int(word) for word in words.split(",")]
    missing = [step for step in wanted if step not in kept]
    if missing:
        raise ParameterError("steps", f"step {missing[0]} was not kept; kept are {', '.join(map(str, kept))}")
    return wanted
