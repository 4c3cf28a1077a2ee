"""Where trackers put a run's values, and that a restart continues the same tracked run."""

from __future__ import annotations

import netrc
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.coerce import untyped
from pipeline.config.identity import decides
from pipeline.config.yaml_nodes import Block
from pipeline.utils.errors import RecipeError
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
        try:
            return act(*args, **kwargs)
        except Exception as error:  # whatever it is, a bug of the tracker's too, training does not end for what watches
            callback.has_failed = True
            log.info(f"{type(callback).__name__} has failed and is left out: {error}; metrics.jsonl goes on")
            return None

    return try_to


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

    send_steps: also every kept step, as an artifact of wandb's. A tracker that fails leaves the run finished.
    `callbacks` are those of the training; what trackers have put off is done last.
    """
    try:
        _finish(trackers, results, name, project, send_steps)
        for end in filter(None, (getattr(callback, "at_end", None) for callback in callbacks)):
            end()
        if "trackio" in trackers:
            import trackio

            if trackio.context_vars.current_run.get() is not None:  # as after an end without training
                trackio.finish()
    except Exception as error:  # whatever it is: the run is trained and reported, and is finished without the tracker
        log.info(f"a tracker has failed: {error}; the report has everything")


def _finish(trackers: list[str], results: RunFolder, name: str, project: str, send_steps: bool) -> None:
    step = results.last_step
    found = results.grok.summary()
    facts = {key: value for key, value in found.items() if value is not None}
    facts |= {key: series.values[-1] for key, series in results.series.items() if key.startswith("final_")}
    pictures = sorted((results.path / "figures").glob("*.png"))
    if "wandb" in trackers:
        import wandb

        if wandb.run is not None:
            wandb.run.summary.update({**found, **facts})  # null takes the place of what an earlier start has sent
            wandb.run.log({f"figures/{picture.stem}": wandb.Image(str(picture)) for picture in pictures})
            for number, entry in results.manifest.kept.items() if send_steps else ():
                artifact = wandb.Artifact(f"{name}-step{number}".replace("=", "-"), "model", metadata=entry.metrics)
                artifact.add_dir(str(results.path / entry.path))
                wandb.run.log_artifact(artifact)
    if "tensorboard" in trackers:
        from matplotlib.image import imread
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"]) as writer:
            for key, value in facts.items():
                writer.add_scalar(f"summary/{key}", value, step)
            for picture in pictures:
                writer.add_image(f"figures/{picture.stem}", imread(picture)[..., :3], step, dataformats="HWC")
    if "trackio" in trackers:
        import trackio

        if trackio.context_vars.current_run.get() is None:
            trackio.init(project=project, name=name, resume="allow", embed=False)
        images = {f"figures/{picture.stem}": trackio.Image(str(picture)) for picture in pictures}
        trackio.log({**{f"summary/{key}": value for key, value in facts.items()}, **images}, step=step)
