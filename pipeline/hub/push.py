"""Sending a run or a corpus to the Hub, revision by revision, without touching what others have put there.

One revision is one commit on a branch that starts from the repository's empty first commit, sent one after the other
and `main` last: a push that was interrupted leaves revisions that are whole or empty, and never another step's weights.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.recipe import Recipe
from pipeline.corpora.store import INDEX
from pipeline.hub.contents import MAIN, WEIGHTS, corpus_files, owned, revisions
from pipeline.hub.pull import kept_steps, parse_manifest, read_small
from pipeline.hub.repository import HOUSEKEEPING, HubError, Remote, Source, digest
from pipeline.runs.folder import RunFolder
from pipeline.runs.layout import CORPUS, RECIPE
from pipeline.runs.manifest import MANIFEST
from pipeline.utils import launcher
from pipeline.utils.errors import RecipeError
from pipeline.utils.files import refusal, write_json
from pipeline.utils.format import size
from pipeline.utils.inside import read_json
from pipeline.utils.log import log

PUSHED = "pushed.json"  # in a run's folder: which revisions were read back from which repository


def push(
    path: Path,
    repo: str,
    *,
    steps: str = "all",
    private: bool | None = None,
    corpus: str | None = None,
    dry_run: bool = False,
    quick: bool = False,
    replace: Sequence[str] = (),
) -> Iterator[str]:
    """Pushes a run's kept steps and, once it is finished, its final model; or a corpus. Yields a line for each.

    Args:
        corpus: a dataset repository for the run's corpus.
        dry_run: says what would be sent, without the network.
        quick: compares what was sent by the hashes that the Hub lists, and does not read it back.
        replace: repositories in which files of others are replaced.

    Raises:
        HubError: when something does not go as it should; the same call goes on from there.
        RecipeError: when the folder is neither a run nor a corpus.
    """
    if (path / INDEX).is_file() and not (path / RECIPE).is_file():
        yield from _push_corpus(path, repo, private, dry_run, repo in replace)
        return
    run = RunFolder.read(path)
    wanted = revisions(run, kept_steps(run.manifest, steps), repo, corpus)
    if dry_run:
        if corpus:
            yield from _push_corpus(path / CORPUS, corpus, private, dry_run, corpus in replace)
        for name, files in wanted.items():
            yield f"{name}: {len(files)} files, {_size(files)}"
        yield f"nothing was sent; {len(wanted)} revisions of {_size(*wanted.values())} would be in {repo}"
        return
    began, sent_of, there_already, problem = time.monotonic(), list[Mapping[str, Source]](), 0, ""
    may_replace = repo in replace
    remote = Remote(repo)
    remote.create(private)
    if not may_replace:
        _check_main(remote, run)
    start = remote.first_commit(may_replace)
    there = set(remote.branches())
    if corpus:
        yield from _push_corpus(path / CORPUS, corpus, private, dry_run, corpus in replace)
    record = _record(path)
    for number, (name, files) in enumerate(wanted.items(), 1):
        counted = f"[{number}/{len(wanted)}] {name}"
        if name != MAIN and name not in there:
            remote.branch(name, start)
        elif name != MAIN and not may_replace:
            _check_same_run(remote, name, files)
        new = remote.upload(name, files, f"{run.name}: {name}", lambda file: may_replace or owned(run, file))
        sent = {file: files[file] for file in new}
        sent_of.append(sent)
        there_already += not new
        seal = _seal(files)
        if record.get(repo, {}).get(name) == seal and not new:
            yield f"{counted}: there already"
            continue
        damage = remote.damage(name, files, read_back=not quick)
        if damage:
            raise HubError(f"{repo}, {name}: {damage[0]}")
        if not quick:
            record.setdefault(repo, {})[name] = seal
            problem = problem or _write_record(path, record)
        checked = "listed as it is here" if quick else "read back as it is here"
        yield f"{counted}: {f'sent {_size(sent)}' if new else 'there already'}, {checked}"
    again = f", {remote.retries} requests made again" if remote.retries else ""
    yield (
        f"{repo} has it all: {len(wanted)} revisions, {there_already} of them there already; sent {_size(*sent_of)} "
        f"in {time.monotonic() - began:.0f} s{again}"
    )
    if problem:
        yield f"{path / PUSHED} cannot be written ({problem}): the next push reads all revisions back again"
    if MAIN not in wanted:
        yield f"{path} is not finished: main stays empty until a push after its end"


def _check_main(remote: Remote, run: RunFolder) -> None:
    """Refuses a repository whose `main` holds anything but what a push of this run has put there."""
    there = remote.listing(MAIN) or {}
    held = sorted(there.keys() - {HOUSEKEEPING})
    if not held:
        return
    if MANIFEST not in there or RECIPE not in there:
        remote.refuse(MAIN, held)
    theirs = parse_manifest(f"{remote.name}, {MAIN}", read_small(remote, MAIN, MANIFEST, there)).chain()
    ours = run.manifest.chain()
    common = sorted(theirs.keys() & ours.keys())
    other = [step for step in common if theirs[step].files.get(WEIGHTS) != ours[step].files.get(WEIGHTS)]
    if other or not common:
        what = f"its step {other[0]} has other weights" if other else "none of its steps was kept here"
        raise HubError(
            f"{remote.name}: main holds another run: {what}; choose another repository, or write "
            f"--replace {remote.name} to have it replaced"
        )
    remote.refuse(MAIN, [name for name in held if not owned(run, name)])


def _check_same_run(remote: Remote, name: str, files: Mapping[str, Source]) -> None:
    """Refuses to put a run's weights over those of another."""
    there = remote.listing(name) or {}
    if WEIGHTS in there and not there[WEIGHTS].holds(files[WEIGHTS]):
        raise HubError(
            f"{remote.name}: {name} holds other weights, so those of another run; choose another --repo, or write "
            f"--replace {remote.name} to have them replaced"
        )


def _push_corpus(path: Path, repo: str, private: bool | None, dry_run: bool, replace: bool) -> Iterator[str]:
    files = corpus_files(path)
    if dry_run:
        yield f"{repo}: a dataset of {len(files)} files, {_size(files)}"
        return
    remote = Remote(repo, "dataset")
    remote.create(private)
    if not replace:
        _check_dataset(remote, files)
    new = remote.upload(MAIN, files, f"{path.name}: corpus", lambda name: replace)
    damage = remote.damage(MAIN, files, read_back=bool(new))
    if damage:
        raise HubError(f"{repo}: {damage[0]}")
    yield f"{repo}: {f'sent {_size({file: files[file] for file in new})}' if new else 'there already'}"


def _check_dataset(remote: Remote, files: Mapping[str, Source]) -> None:
    """Refuses a dataset that holds anything but what a push of this corpus has put there."""
    there = remote.listing(MAIN) or {}
    held = sorted(there.keys() - {HOUSEKEEPING})
    remote.refuse(MAIN, held if INDEX not in there else [name for name in held if name not in files])
    if held and _content_hash(read_small(remote, MAIN, INDEX, there)) != _content_hash(files[INDEX]):
        raise HubError(
            f"{remote.name}: main holds another corpus; choose another repository, or write --replace {remote.name} "
            "to have it replaced"
        )


def _content_hash(source: Source) -> str:
    """The content hash in the index of a corpus; empty where there is none."""
    try:
        return str(json.loads(source if isinstance(source, bytes) else source.read_bytes())["content_hash"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def _record(run: Path) -> dict[str, Any]:
    """What was read back before: repository -> revision -> hash of its files; nothing where that is damaged."""
    try:
        return {str(repo): {**found} for repo, found in read_json(run, PUSHED).items()}
    except (OSError, RecipeError, TypeError, AttributeError):
        return {}


def _write_record(run: Path, record: Mapping[str, Any]) -> str:
    """Writes what was read back; returns why the disk refuses that, or nothing."""
    try:
        write_json(run / PUSHED, record)
    except OSError as error:
        reason = refusal(error, run / PUSHED)
        if reason is None:
            raise
        return reason
    return ""


def _size(*parts: Mapping[str, Source]) -> str:
    sources = [source for files in parts for source in files.values()]
    return size(sum(len(source) if isinstance(source, bytes) else source.stat().st_size for source in sources))


def _seal(files: Mapping[str, Source]) -> str:
    facts = sorted((name, digest(source)) for name, source in files.items())
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def publish(recipe: Recipe) -> int:
    """Pushes a finished run where the recipe says so; the same command goes on with a push that failed."""
    if not recipe.training.get("push_to_hub") or not launcher.is_first():
        return 0
    repository = recipe.training["hub_model_id"]
    try:
        for line in push(recipe.output_dir, repository, private=recipe.training.get("hub_private_repo")):
            log.info(line)
    except HubError as error:
        log.warning(f"{error}; the run is finished, and the same command pushes what is missing")
        return 1
    return 0
