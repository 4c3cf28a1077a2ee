"""Where trackers put a run's values, and that a restart continues the same tracked run."""

from __future__ import annotations

import netrc
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.files import write_text

RUN_ID = "tracker_id"


def prepare_trackers(trackers: list[str], folder: Path, project: str) -> None:
    """Sets what wandb and tensorboard read from the environment, where the user has not set it.

    Without a key wandb would ask for a login and stop a job, so it then works offline, and says so.
    """
    if "tensorboard" in trackers:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    if "wandb" in trackers:
        os.environ.setdefault("WANDB_PROJECT", project)
        os.environ.setdefault("WANDB_DIR", str(folder))
        os.environ.setdefault("WANDB_RUN_ID", _run_id(folder))
        os.environ.setdefault("WANDB_RESUME", "allow")
        os.environ.setdefault("WANDB_SILENT", "true")
        if "WANDB_MODE" not in os.environ and not _has_wandb_key():
            os.environ["WANDB_MODE"] = "offline"
            print(f"wandb has no key, so it logs offline; send it later with: wandb sync {folder}/wandb/offline-run-*")


def shield(callbacks: Iterable[Any]) -> None:
    """Lets a run go on when a tracker fails after it has begun: metrics.jsonl has every value anyway.

    A tracker's own process hears the SIGTERM that Slurm sends to all, and dies while the run is still saving.
    """
    for callback in callbacks:
        if type(callback).__module__.startswith("transformers.integrations"):
            for event in ("on_log", "on_save", "on_evaluate", "on_step_end", "on_train_end", "on_predict"):
                setattr(callback, event, _shielded(callback, getattr(callback, event)))


def _shielded(callback: Any, act: Callable[..., Any]) -> Callable[..., Any]:
    def try_to(*args: Any, **kwargs: Any) -> Any:
        if getattr(callback, "has_failed", False):
            return None
        try:
            return act(*args, **kwargs)
        except Exception as error:
            callback.has_failed = True
            print(f"{type(callback).__name__} has failed and is left out: {error}; metrics.jsonl goes on", flush=True)
            return None

    return try_to


def _run_id(folder: Path) -> str:
    path = folder / RUN_ID
    if not path.exists():
        write_text(path, secrets.token_hex(4))
    return path.read_text()


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(os.environ.get("WANDB_HOST", "api.wandb.ai")) is not None
    except (OSError, netrc.NetrcParseError):
        return False
