"""Where trackers put a run's values, and that a restart continues the same tracked run."""

from __future__ import annotations

import netrc
import os
import secrets
from pathlib import Path

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
