"""Runs on the Hugging Face Hub: `main` is the final model, and each kept step is a revision `stepN`.

python -m pipeline.hub push RUN --repo user/name      resumable; what is there already is not sent again
python -m pipeline.hub verify RUN --repo user/name    every file on the Hub against the manifest
python -m pipeline.hub pull user/name --output RUN    a run folder whose steps can be analysed
python -m pipeline.hub space RUN --repo user/name     its report and answers as a static Space; --output DIR: a folder
python -m pipeline.hub space RUN --live user/name     the same with a model that answers, of a run that was pushed
python -m pipeline.hub push CORPUS --repo user/name   a folder of `python -m pipeline.corpora --export`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.hub.pull import pull
from pipeline.hub.push import push
from pipeline.hub.repository import HubError
from pipeline.hub.verify import verify
from pipeline.runs.folder import RunFolder
from pipeline.utils.arguments import Parser
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.paths import expand_arguments
from pipeline.utils.terminal import run_command, say


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 verify found damage, 2 it could not be done, 130 interrupted."""
    parser = Parser(prog="python -m pipeline.hub", description="Runs on the Hugging Face Hub.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="push|pull|verify|space")
    helps = {"push": "send a run, or a corpus", "verify": "compare the Hub with a run", "pull": "fetch a run"}
    helps["space"] = "the report and answers of a run as a static Space"
    parsers = {name: commands.add_parser(name, help=text, description=text) for name, text in helps.items()}
    for name in ("push", "verify"):
        parsers[name].add_argument("run", type=Path, metavar="RUN", help="folder of a run")
        parsers[name].add_argument("--repo", required=True, metavar="USER/NAME", help="repository on the Hub")
        parsers[name].add_argument(
            "--quick", action="store_true", help="compare by the hashes that the Hub lists, without reading files back"
        )
    parsers["space"].add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parsers["space"].add_argument("--repo", metavar="USER/NAME", help="Space on the Hub")
    parsers["space"].add_argument(
        "--live", metavar="USER/NAME", help="answer live, by gradio, with the steps that were pushed to this repository"
    )
    parsers["space"].add_argument("--output", type=Path, metavar="DIR", help="a folder for it, in place of the Hub")
    parsers["space"].add_argument("--prompts", type=int, default=8, metavar="N", help="of each split (%(default)s)")
    parsers["pull"].add_argument("repo", metavar="USER/NAME", help="repository on the Hub")
    parsers["pull"].add_argument("--output", type=Path, metavar="DIR", help="default: runs/NAME")
    for name, each in parsers.items():
        usual = "log" if name == "space" else "all"
        each.add_argument("--steps", default=usual, help="all, last, log, or numbers such as 0,1000 (%(default)s)")
    for name in ("push", "space"):
        parsers[name].add_argument(
            "--private", action="store_true", default=None, help="where the repository is new, make it private"
        )
        parsers[name].add_argument(
            "--replace",
            action="append",
            default=[],
            metavar="USER/NAME",
            help="a repository whose other files are replaced",
        )
    parsers["push"].add_argument("--corpus", metavar="USER/NAME", help="also send the corpus, to this dataset")
    parsers["push"].add_argument("--dry-run", action="store_true", help="say what would be sent, without the network")
    chosen = parser.parse_args(arguments)
    try:
        paths = {"pull": ["output"], "space": ["run", "output"]}
        expand_arguments(chosen, *paths.get(chosen.command, ["run"]))
        return _do(chosen)
    except (HubError, RecipeError, ParameterError, OSError) as error:
        say(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on", file=sys.stderr)
        return 130


def _do(chosen: argparse.Namespace) -> int:
    if chosen.command == "verify":
        found = list[bool]()
        for name, damage in verify(chosen.run, chosen.repo, steps=chosen.steps, quick=chosen.quick):
            say(f"{name}: {'; '.join(damage) or 'ok'}")
            found.append(not damage)
        print(f"{sum(found)} of {len(found)} revisions are as they were kept")
        return 0 if all(found) else 1
    if chosen.command == "space":
        say(*_space(chosen))
        return 0
    if chosen.command == "pull":
        path = chosen.output or Path("runs") / chosen.repo.rpartition("/")[2]
        lines = pull(chosen.repo, path, steps=chosen.steps)
        done = f"{path} is a run folder: python -m pipeline.report {path}"
    else:
        options = {key: getattr(chosen, key) for key in ("steps", "private", "corpus", "dry_run", "quick", "replace")}
        for name in set(chosen.replace) - {chosen.repo, chosen.corpus}:
            raise HubError(f"--replace {name}: this push does not go there, but to {chosen.repo}")
        lines = push(chosen.run, chosen.repo, **options)
        done = ""
    for line in lines:
        say(line)
    if done:
        say(done)
    return 0


def _space(chosen: argparse.Namespace) -> Iterator[str]:
    """Makes a Space of a run, in a folder or on the Hub."""
    if (chosen.repo is None) == (chosen.output is None):
        raise HubError("space: name --repo USER/NAME, or --output DIR for a folder")
    if chosen.prompts < 1:
        raise HubError(f"--prompts {chosen.prompts} is not a whole number >= 1")
    from pipeline.api.run import Run
    from pipeline.ask.over_training import course
    from pipeline.evaluate.subject import RunSubject
    from pipeline.hub.space import contents, live_contents, push_space, write_space
    from pipeline.report.page import Answers

    run = RunFolder.read(chosen.run)
    found = course(RunSubject(Run(str(chosen.run))), chosen.steps, chosen.prompts)
    if chosen.live is None:
        files = contents(run, Answers(*found))
    else:
        length = max(block.answers.shape[1] for split in run.stored.sizes for block in run.stored.blocks(split))
        files = live_contents(run, chosen.live, found.steps, [prompt for prompt, _, _ in found.prompts], length)
    if chosen.output is not None:
        yield from write_space(files, chosen.output)
    else:
        yield from push_space(files, chosen.repo, chosen.private, chosen.repo in chosen.replace)


if __name__ == "__main__":
    run_command(main)
