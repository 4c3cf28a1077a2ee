"""Where trackers put a run's values, and that a restart continues the same tracked run."""

from __future__ import annotations

import netrc
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.config.coerce import untyped
from pipeline.config.identity import decides
from pipeline.config.yaml_nodes import Block
from pipeline.utils.errors import RecipeError, in_one_line
from pipeline.utils.files import write_text
from pipeline.utils.inside import exists, read_text, refuse_links
from pipeline.utils.log import log
from pipeline.utils.network import unreachable

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe
    from pipeline.runs.folder import RunFolder

RUN_ID = "tracker_id"
LENGTH = ("max_steps", "num_train_epochs")  # a run that is made longer stays the same


def prepare_trackers(trackers: list[str], folder: Path, project: str) -> None:
    """Sets what wandb and tensorboard read from the environment, where the user has not set it.

    Without a key wandb would ask for a login and stop a job, and where nobody answers it would fail after minutes: it
    then works offline, and says so.
    """
    for name in ("wandb", "tensorboard"):  # whose libraries write by path
        refuse_links(folder, name)
    if "tensorboard" in trackers:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    if "wandb" in trackers:
        os.environ.setdefault("WANDB_PROJECT", project)
        os.environ.setdefault("WANDB_DIR", str(folder))
        os.environ.setdefault("WANDB_RUN_ID", _run_id(folder))
        os.environ.setdefault("WANDB_RESUME", "allow")
        os.environ.setdefault("WANDB_SILENT", "true")
        if "WANDB_MODE" not in os.environ:
            server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
            reason = "has no key" if not _has_wandb_key() else unreachable(server) and f"cannot reach {server}"
            if reason:
                os.environ["WANDB_MODE"] = "offline"
                log.info(
                    f"wandb {reason}, so it logs offline; send it later with: wandb sync {folder}/wandb/offline-run-*"
                )


def shield(callbacks: Iterable[Any], is_ended_early: Callable[[], bool]) -> None:
    """Lets a run go on when a tracker fails after it has begun: metrics.jsonl has every value anyway.

    A tracker's own process hears the SIGTERM that Slurm sends to all, and dies while the run is still saving. What a
    tracker does at the end of training it does once all is logged, see `finish_trackers`, unless training ended early.
    """
    for callback in callbacks:
        if type(callback).__module__.startswith("transformers.integrations"):
            for event in ("on_log", "on_save", "on_evaluate", "on_step_end", "on_train_end", "on_predict"):
                setattr(callback, event, _shielded(callback, getattr(callback, event)))
            callback.on_train_end = _postponed(callback, callback.on_train_end, is_ended_early)


def _postponed(callback: Any, end: Callable[..., Any], is_ended_early: Callable[[], bool]) -> Callable[..., Any]:
    """Trackio's client says that its run is finished, and begins anew, for each value that is logged after its end."""

    def end_or_wait(*args: Any, **kwargs: Any) -> None:
        if is_ended_early():
            end(*args, **kwargs)
        else:
            callback.at_end = partial(end, *args, **kwargs)

    return end_or_wait


def _shielded(callback: Any, act: Callable[..., Any]) -> Callable[..., Any]:
    def try_to(*args: Any, **kwargs: Any) -> Any:
        if getattr(callback, "has_failed", False):
            return None
        with _surviving(type(callback).__name__, "and is left out", "metrics.jsonl goes on"):
            return act(*args, **kwargs)
        callback.has_failed = True  # only what has failed comes here
        return None

    return try_to


@contextmanager
def _surviving(who: str, how: str, what_stays: str) -> Iterator[None]:
    """Says in a line that a tracker has failed: what only watches a run does not end it, nor keep others from theirs.

    Trackers raise what their libraries do: of the network, of threads that have died, bugs of their own.
    """
    try:
        yield
    except Exception as error:  # no class in common, as said above
        log.info(f"{who} has failed {how}: {in_one_line(error)}; {what_stays}")


def _run_id(folder: Path) -> str:
    if not exists(folder, RUN_ID):
        write_text(folder / RUN_ID, secrets.token_hex(4))
    name = read_text(folder, RUN_ID, 100)
    if not re.fullmatch(r"\w{1,64}", name, re.ASCII):
        raise RecipeError(str(folder / RUN_ID), "is damaged; delete it, and the trackers show a new run")
    return name


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(os.environ.get("WANDB_HOST", "api.wandb.ai")) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def tracked_name(recipe: Recipe) -> str:
    """What trackers call a run: the recipe, the values that differ from it, and the seed; run_name where it is written.

    `grok_gpt2-ratio=18-weight_decay=0.3-seed0`
    """
    if "run_name" in recipe.tree.entries:
        return recipe.name
    values = [
        f"{key.rpartition('.')[2]}={value}"
        for key, value in _from_command_line(recipe.tree)
        if decides(key) and key not in (*LENGTH, "seed")
    ]
    return "-".join([recipe.name, *values, f"seed{recipe.training['seed']}"])


def _from_command_line(block: Block, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values that were typed on the command line, with their dotted keys."""
    for key, node in block.entries.items():
        if isinstance(node, Block) and not node.entries and prefix == "callbacks." and node.where == "command line":
            yield f"{prefix}{key}", "on"
        elif isinstance(node, Block):
            yield from _from_command_line(node, f"{prefix}{key}.")
        elif node.where == "command line":
            yield f"{prefix}{key}", str(untyped(node))


def finish_trackers(
    trackers: list[str], results: RunFolder, name: str, project: str, send_steps: bool, callbacks: Iterable[Any] = ()
) -> None:
    """Gives the trackers what is known at the end: fit, gen and grok step, final numbers, the figures of the report.

    send_steps: also every kept step, as an artifact of wandb's. A tracker that fails leaves the run finished, and the
    others what is theirs. `callbacks` are those of the training; what trackers have put off is done last.
    """
    given: dict[str, Callable[[_Results], None]] = {
        "wandb": partial(_to_wandb, name=name, send_steps=send_steps),
        "tensorboard": _to_tensorboard,
        "trackio": partial(_to_trackio, name=name, project=project),
    }
    found = _Results.of(results)
    for tracker in filter(given.__contains__, trackers):
        with _surviving(tracker, "at the end", "the report has everything"):
            given[tracker](found)
    for callback in callbacks:
        if end := getattr(callback, "at_end", None):
            with _surviving(type(callback).__name__, "at the end", "the report has everything"):
                end()
    if "trackio" in trackers:
        with _surviving("trackio", "at the end", "the report has everything"):
            import trackio

            if trackio.context_vars.current_run.get() is not None:  # as after an end without training
                trackio.finish()


class _Results(NamedTuple):
    """What trackers are given at the end: the run, its numbers, those that are known alone, and its figures."""

    run: RunFolder
    numbers: dict[str, Any]
    known: dict[str, Any]
    figures: list[Path]

    @classmethod
    def of(cls, run: RunFolder) -> _Results:
        numbers: dict[str, Any] = dict(run.grok.summary())
        numbers |= {key: series.values[-1] for key, series in run.series.items() if key.startswith("final_")}
        known = {key: value for key, value in numbers.items() if value is not None}
        return cls(run, numbers, known, sorted((run.path / "figures").glob("*.png")))


def _to_wandb(found: _Results, name: str, send_steps: bool) -> None:
    import wandb

    if wandb.run is None:
        return
    wandb.run.summary.update(found.numbers)  # null takes the place of what an earlier start has sent
    wandb.run.log({f"figures/{picture.stem}": wandb.Image(str(picture)) for picture in found.figures})
    for number, entry in found.run.manifest.kept.items() if send_steps else ():
        artifact = wandb.Artifact(f"{name}-step{number}".replace("=", "-"), "model", metadata=entry.metrics)
        artifact.add_dir(str(found.run.path / entry.path))
        wandb.run.log_artifact(artifact)


def _to_tensorboard(found: _Results) -> None:
    from matplotlib.image import imread
    from torch.utils.tensorboard import SummaryWriter

    step = found.run.last_step
    with SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"]) as writer:
        for key, value in found.known.items():
            writer.add_scalar(f"summary/{key}", value, step)
        for picture in found.figures:
            writer.add_image(f"figures/{picture.stem}", imread(picture)[..., :3], step, dataformats="HWC")


def _to_trackio(found: _Results, name: str, project: str) -> None:
    import trackio

    if trackio.context_vars.current_run.get() is None:
        trackio.init(project=project, name=name, resume="allow", embed=False)
    images = {f"figures/{picture.stem}": trackio.Image(str(picture)) for picture in found.figures}
    trackio.log({**{f"summary/{key}": value for key, value in found.known.items()}, **images}, step=found.run.last_step)
