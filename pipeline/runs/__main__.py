"""The steps that a run keeps: look at them, verify them, delete some.

python -m pipeline.runs list RUN
python -m pipeline.runs show RUN STEP
python -m pipeline.runs verify RUN
python -m pipeline.runs prune RUN --keep STEPS
python -m pipeline.runs rebuild-manifest RUN
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from pipeline.config.recipe import read_kept_recipe
from pipeline.config.trust import HELP, OPTION
from pipeline.runs.checkpoints import check_steps, choose_steps, remove, unlisted
from pipeline.runs.entry import Entry
from pipeline.runs.folder import check_corpus
from pipeline.runs.layout import RECIPE
from pipeline.runs.lock import RunLock
from pipeline.runs.manifest import MANIFEST, REBUILD, Manifest
from pipeline.runs.rebuild import rebuild
from pipeline.runs.verify import verify
from pipeline.utils.arguments import Parser
from pipeline.utils.errors import MISTAKES, RecipeError
from pipeline.utils.files import DiskError
from pipeline.utils.inside import exists
from pipeline.utils.terminal import run_command, say

COMMANDS = {
    "list": "the kept steps with their sizes and exact matches, and the checkpoints that training can resume from",
    "show": "one step: what was measured there, its files with their hashes, and the step before it",
    "verify": "hash every file again, and look for steps that are missing or of another run; exit status 1 when any is",
    "prune": "delete the weights of kept steps; what was measured there stays",
    "rebuild-manifest": "list anew what verifies, where manifest.json is missing or damaged",
}


def is_rebuilt(run: Path, trusted: bool = False) -> bool:
    """Return whether step 0 holds, bit by bit, the untrained weights that recipe.yaml builds here and now.

    trusted: whether code that comes with its base model may run.

    Raises:
        RecipeError: when step 0 was not kept.
    """
    manifest = Manifest.load(run)
    if 0 not in manifest.kept:
        raise RecipeError("--rebuild", f"{run} has not kept step 0")
    from safetensors.torch import load_file

    from pipeline.corpora.store import build
    from pipeline.models.adapters import merged
    from pipeline.models.loading import renamed
    from pipeline.utils.seeds import seed_weights

    recipe = read_kept_recipe(run / RECIPE, trusted=trusted)
    stored = build(recipe.corpus)
    check_corpus(run, stored)
    seed_weights(recipe.training["seed"])
    model = recipe.model.for_corpus(stored)
    if recipe.peft:
        recipe.peft.into(model, recipe.model.added(stored), getattr(recipe.model, "revision", None))
    untrained = merged(model)
    kept = load_file(run / manifest.kept[0].path / "model.safetensors")
    names = {name: name if name in untrained else renamed(name) for name in kept}
    return all(names[name] in untrained and untrained[names[name]].equal(weight) for name, weight in kept.items())


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m pipeline.runs", description="The weights a run has kept.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("run", type=Path, metavar="RUN")
        if name == "show":
            command.add_argument("step", type=int, metavar="STEP")
        if name == "verify":
            words = "also build the untrained weights again, with the same torch, and compare them with step 0"
            command.add_argument("--rebuild", action="store_true", help=words)
            command.add_argument(OPTION, action="store_true", help=f"with --rebuild, {HELP}")
        if name == "prune":
            words = "all, last, log (one for each third of an octave), or numbers such as 0,1000; the others go"
            command.add_argument("--keep", required=True, metavar="STEPS", help=words)
            command.add_argument("--dry-run", action="store_true", help="only say what would go")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "rebuild-manifest":
            for line in rebuild(chosen.run):
                say(line)
            return 0
        if not exists(chosen.run, MANIFEST):
            hint = f"; {REBUILD} {chosen.run} makes one" if unlisted(chosen.run, Manifest()) else ""
            raise RecipeError(str(chosen.run), f"is not a run folder: it has no {MANIFEST}{hint}")
        if chosen.command == "prune":
            return _prune(chosen.run, chosen.keep, chosen.dry_run)
        if chosen.command == "show":
            return _show(chosen.run, chosen.step)
        if chosen.command == "list":
            return _list(chosen.run)
        return _verify(chosen.run, chosen.rebuild, chosen.trust_remote_code)
    except (*MISTAKES, OSError) as error:
        say(error, file=sys.stderr)
        return 2


def _megabytes(entry: Entry) -> float:
    return sum(facts["bytes"] for facts in entry.files.values()) / 1e6


def _list(run: Path) -> int:
    manifest = Manifest.load(run)
    for step, entry in manifest.chain().items():
        matches = "  ".join(
            f"{key.removeprefix('eval_').removesuffix('_exact_match')} {value:.3f}"
            for key, value in entry.metrics.items()
            if key.endswith("_exact_match")
        )
        size = "pruned" if step in manifest.pruned else f"{_megabytes(entry):.1f} MB"
        say(f"step{step:<10} {size:>11}  {matches}")
    for step in sorted(manifest.resumable):
        say(f"checkpoint-{step} can be resumed from")
    return 0


def _show(run: Path, step: int) -> int:
    manifest = Manifest.load(run)
    chain = manifest.chain()
    if step not in chain:
        raise RecipeError("show", f"step {step} was not kept; kept are {', '.join(map(str, chain)) or 'none'}")
    entry = chain[step]
    before = max((number for number in chain if number < step), default=None)
    say(f"{entry.path}{' (pruned: its weights were deleted)' if step in manifest.pruned else ''}")
    say(f"after {'nothing: it is the first' if before is None else f'step{before}'}; link {entry.link}")
    for key, value in entry.metrics.items():
        say(f"  {key:<40} {value:.6g}")
    for name, facts in entry.files.items():
        say(f"  {name:<40} {facts['bytes']:>14,} bytes  sha256 {facts['sha256']}")
    return 0


def _verify(run: Path, rebuild: bool, trusted: bool) -> int:
    found = list(verify(run))
    if rebuild and dict(found).get("steps/step0") is None and not is_rebuilt(run, trusted):
        found.append(("steps/step0", "is not what recipe.yaml builds: the run does not descend from its own seed"))
    for path, damage in found:
        say(f"{path}: {damage or 'ok'}")
    bad = sum(damage is not None for _, damage in found)
    say(f"{len(found) - bad} of {len(found)} folders are as they were written")
    return 1 if bad else 0


def _save(manifest: Manifest, run: Path) -> bool:
    """Return whether there was room for the manifest; a full disk is what one prunes for."""
    try:
        manifest.save(run)
    except DiskError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def _prune(run: Path, keep: str, is_rehearsal: bool) -> int:
    with RunLock(run, is_full=True):
        manifest = Manifest.load(run)
        check_steps(keep, "--keep")
        going = sorted(manifest.kept.keys() - set(choose_steps(manifest, keep)))
        size = sum(_megabytes(manifest.kept[step]) for step in going)
        if not is_rehearsal:
            # Off the list first: what a crash then leaves is a folder that is listed as pruned, and goes at a start.
            for step in going:
                manifest.pruned[step] = manifest.kept.pop(step)
            is_saved = _save(manifest, run)
            for step in going:
                remove(run, manifest.pruned[step])
                is_saved = is_saved or _save(manifest, run)  # there may be room for it now
            if not is_saved:
                manifest.save(run)
    word = "would go" if is_rehearsal else "deleted"
    say(f"{len(going)} steps {word}, {size:.1f} MB: {', '.join(map(str, going)) or 'none'}")
    return 0


if __name__ == "__main__":
    run_command(main)
