"""Runs on the Hugging Face Hub: `main` is the final model, and each kept step is a revision `stepN`.

    python -m pipeline.hub push RUN --repo user/name      resumable; what is there already is not sent again
    python -m pipeline.hub verify RUN --repo user/name    every file on the Hub against the manifest
    python -m pipeline.hub pull user/name --output RUN    a run folder whose steps can be analysed
    python -m pipeline.hub push CORPUS --repo user/name   a folder of `python -m pipeline.corpora --export`

One revision is one commit on a branch that starts from the repository's empty first commit, sent one after the other
and `main` last: a push that was interrupted leaves revisions that are whole or empty, and never another step's weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.bundle import CARD, MAIN, revisions
from pipeline.checkpoints import remove
from pipeline.drafts import new_folder
from pipeline.explain import choose_steps
from pipeline.files import sha256, write_json
from pipeline.folder import CORPUS, ENVIRONMENT, RECIPE, TOKENIZER
from pipeline.history import METRICS
from pipeline.manifest import MANIFEST, Manifest
from pipeline.parameters import ParameterError
from pipeline.paths import expand_arguments
from pipeline.reading import RecipeError
from pipeline.remote import HubError, Remote, Source, digest
from pipeline.results import Results
from pipeline.store import INDEX
from pipeline.terminal import run_command
from pipeline.wording import size

PUSHED = "pushed.json"  # in a run's folder: which revisions were read back from which repository
PULLED = ".pulled-from"  # marks a folder that may be pulled into again
WEIGHTS = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


def push(
    path: Path,
    repo: str,
    *,
    steps: str = "all",
    private: bool | None = None,
    corpus: str | None = None,
    dry_run: bool = False,
    quick: bool = False,
) -> Iterator[str]:
    """Pushes a run's kept steps and, once it is finished, its final model; or a corpus. Yields a line for each.

    corpus: a dataset repository for the run's corpus. dry_run: says what would be sent, without the network. quick:
    compares what was sent by the hashes that the Hub lists, and does not read it back.

    Raises:
        HubError: when something does not go as it should; the same call goes on from there.
        RecipeError: when the folder is neither a run nor a corpus.
    """
    if (path / INDEX).is_file() and not (path / RECIPE).is_file():
        yield from _push_corpus(path, repo, private, dry_run)
        return
    run = Results.read(path)
    wanted = revisions(run, kept_steps(run.manifest, steps), repo, corpus)
    if corpus:
        yield from _push_corpus(path / CORPUS, corpus, private, dry_run)
    if dry_run:
        for name, files in wanted.items():
            yield f"{name}: {len(files)} files, {_size(files)}"
        yield f"nothing was sent; {len(wanted)} revisions of {_size(*wanted.values())} would be in {repo}"
        return
    began, sent_of, there_already = time.monotonic(), list[Mapping[str, Source]](), 0
    remote = Remote(repo)
    remote.create(private)
    start = remote.first_commit()
    there = set(remote.branches())
    record = json.loads((path / PUSHED).read_text(encoding="utf-8")) if (path / PUSHED).exists() else {}
    for number, (name, files) in enumerate(wanted.items(), 1):
        counted = f"[{number}/{len(wanted)}] {name}"
        if name != MAIN and name in there:
            _check_same_run(remote, name, files)
        elif name != MAIN:
            remote.branch(name, start)
        new = remote.upload(name, files, f"{run.name}: {name}")
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
            write_json(path / PUSHED, record)
        checked = "listed as it is here" if quick else "read back as it is here"
        yield f"{counted}: {f'sent {_size(sent)}' if new else 'there already'}, {checked}"
    again = f", {remote.retries} requests made again" if remote.retries else ""
    yield (
        f"{repo} has it all: {len(wanted)} revisions, {there_already} of them there already; sent {_size(*sent_of)} "
        f"in {time.monotonic() - began:.0f} s{again}"
    )
    if MAIN not in wanted:
        yield f"{path} is not finished: main stays empty until a push after its end"


def _check_same_run(remote: Remote, name: str, files: Mapping[str, Source]) -> None:
    """Refuses to put a run's weights over those of another."""
    there = remote.listing(name) or {}
    if WEIGHTS in there and not there[WEIGHTS].holds(files[WEIGHTS]):
        raise HubError(f"{remote.name}: {name} holds other weights, so those of another run; choose another --repo")


def verify(path: Path, repo: str, *, steps: str = "all", quick: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Each revision with what is wrong with it, nothing where it is as it was kept; then those that are too many.

    Raises:
        HubError: when the repository cannot be read.
    """
    run = Results.read(path)
    remote = Remote(repo)
    pushed = remote.listing(MAIN) or {}
    wanted = revisions(run, kept_steps(run.manifest, steps), repo, None)
    branches = remote.branches()
    for name, files in wanted.items():
        damage = remote.damage(name, files, read_back=not quick)
        # A card may tell of a dataset, and figures are drawn again with every report: both are no results.
        yield name, [line for line in damage if not line.startswith((CARD, "figures/"))]
    if MAIN not in wanted and WEIGHTS in pushed:
        yield MAIN, ["it holds weights, and the run is not finished"]
    for name in branches:
        if re.fullmatch(r"step\d+", name) and int(name[4:]) not in run.manifest.kept:
            yield name, ["the manifest has no such step"]


def pull(repo: str, path: Path, *, steps: str = "all") -> Iterator[str]:
    """Downloads a pushed run into a folder that circuits and reports can read; yields a line for each step.

    Steps that lie there as their manifest says are not downloaded again.

    Raises:
        HubError: when the repository is no pushed run, or a file comes with another sha256 than the manifest's.
    """
    remote = Remote(repo)
    files = remote.listing(MAIN) or {}
    if MANIFEST not in files or RECIPE not in files:
        raise HubError(f"{repo}: main has no {MANIFEST} and {RECIPE}, so it is not a finished run that was pushed")
    if path.exists() and any(path.iterdir()) and not (path / PULLED).is_file():
        raise HubError(f"{path} exists and was not pulled; choose another --output")
    path.mkdir(parents=True, exist_ok=True)
    (path / PULLED).write_text(f"{repo}\n", encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=path, prefix=".draft-") as draft:
        folder = Path(draft)
        for name in {MANIFEST, RECIPE, METRICS, ENVIRONMENT, INDEX, *TOKENIZER_FILES} & files.keys():
            remote.download(MAIN, name, folder)
        manifest = Manifest.load(folder)
        chosen = kept_steps(manifest, steps)
        for name in (TOKENIZER, CORPUS):
            (path / name).mkdir(exist_ok=True)
        places = {INDEX: path / CORPUS, **dict.fromkeys(TOKENIZER_FILES, path / TOKENIZER)}
        for file in folder.iterdir():
            if file.is_file() and file.name != MANIFEST:  # which lists only what has arrived
                file.replace(places.get(file.name, path) / file.name)
    got = Manifest.load(path) if (path / MANIFEST).exists() else Manifest()
    got.finished = manifest.finished
    for step in chosen:
        entry = manifest.kept[step]
        if entry.damage(path) is None:
            yield f"step{step}: here already"
        else:
            if step in got.kept:
                remove(path, got.kept[step])  # what is damaged
            with new_folder(path, entry.path) as folder:
                for name, facts in entry.files.items():
                    if sha256(remote.download(f"step{step}", name, folder)) != facts["sha256"]:
                        raise HubError(f"{repo}, step{step}: {name} has another sha256 than the manifest says")
            yield f"step{step}: {size(sum(facts['bytes'] for facts in entry.files.values()))}"
        got.kept[step] = entry
        # The others are known by their hashes and not here, like those that were pruned.
        got.pruned = {number: kept for number, kept in manifest.chain().items() if number not in got.kept}
        got.save(path)


def kept_steps(manifest: Manifest, words: str) -> list[int]:
    """The kept steps that `all`, `last`, `log` or a list of numbers stands for.

    Raises:
        ParameterError: when it stands for none, or names a step that was not kept.
    """
    if words not in ("all", "last", "log") and not re.fullmatch(r"\d+(,\d+)*", words):
        raise ParameterError("--steps", f"{words!r} is not all, last, log, or numbers such as 0,1000")
    if not manifest.kept:
        raise ParameterError("--steps", "no step has been kept yet")
    return choose_steps(manifest, words)


def _push_corpus(path: Path, repo: str, private: bool | None, dry_run: bool) -> Iterator[str]:
    files: dict[str, Source] = {file.name: file for file in sorted(path.iterdir()) if file.is_file()}
    if dry_run:
        yield f"{repo}: a dataset of {len(files)} files, {_size(files)}"
        return
    remote = Remote(repo, "dataset")
    remote.create(private)
    new = remote.upload(MAIN, files, f"{path.name}: corpus")
    damage = remote.damage(MAIN, files, read_back=bool(new))
    if damage:
        raise HubError(f"{repo}: {damage[0]}")
    yield f"{repo}: {f'sent {_size({file: files[file] for file in new})}' if new else 'there already'}"


def _size(*parts: Mapping[str, Source]) -> str:
    sources = [source for files in parts for source in files.values()]
    return size(sum(len(source) if isinstance(source, bytes) else source.stat().st_size for source in sources))


def _seal(files: Mapping[str, Source]) -> str:
    facts = sorted((name, digest(source)) for name, source in files.items())
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 verify found damage, 2 it could not be done, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.hub", description="Runs on the Hugging Face Hub.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="push|pull|verify")
    helps = {"push": "send a run, or a corpus", "verify": "compare the Hub with a run", "pull": "fetch a run"}
    parsers = {name: commands.add_parser(name, help=text, description=text) for name, text in helps.items()}
    for name in ("push", "verify"):
        parsers[name].add_argument("run", type=Path, metavar="RUN", help="folder of a run")
        parsers[name].add_argument("--repo", required=True, metavar="USER/NAME", help="repository on the Hub")
        parsers[name].add_argument(
            "--quick", action="store_true", help="compare by the hashes that the Hub lists, without reading files back"
        )
    parsers["pull"].add_argument("repo", metavar="USER/NAME", help="repository on the Hub")
    parsers["pull"].add_argument("--output", type=Path, metavar="DIR", help="default: runs/NAME")
    for each in parsers.values():
        each.add_argument("--steps", default="all", help="all, last, log, or numbers such as 0,1000 (%(default)s)")
    parsers["push"].add_argument(
        "--private", action="store_true", default=None, help="where the repository is new, make it private"
    )
    parsers["push"].add_argument("--corpus", metavar="USER/NAME", help="also send the corpus, to this dataset")
    parsers["push"].add_argument("--dry-run", action="store_true", help="say what would be sent, without the network")
    chosen = parser.parse_args(arguments)
    try:
        expand_arguments(chosen, *(["output"] if chosen.command == "pull" else ["run"]))
        return _do(chosen)
    except (HubError, RecipeError, ParameterError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on", file=sys.stderr)
        return 130


def _do(chosen: argparse.Namespace) -> int:
    if chosen.command == "verify":
        found = list[bool]()
        for name, damage in verify(chosen.run, chosen.repo, steps=chosen.steps, quick=chosen.quick):
            print(f"{name}: {'; '.join(damage) or 'ok'}", flush=True)
            found.append(not damage)
        print(f"{sum(found)} of {len(found)} revisions are as they were kept")
        return 0 if all(found) else 1
    if chosen.command == "pull":
        path = chosen.output or Path("runs") / chosen.repo.rpartition("/")[2]
        lines = pull(chosen.repo, path, steps=chosen.steps)
        done = f"{path} is a run folder: python -m pipeline.report {path}"
    else:
        options = {key: getattr(chosen, key) for key in ("steps", "private", "corpus", "dry_run", "quick")}
        lines = push(chosen.run, chosen.repo, **options)
        done = ""
    for line in lines:
        print(line, flush=True)
    if done:
        print(done)
    return 0


if __name__ == "__main__":
    run_command(main)
