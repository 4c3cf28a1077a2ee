"""What a recipe needs of this machine to be trained. Looking at a run that is there needs none of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from pipeline.config.fields import Parameters
from pipeline.config.trainer_policy import TRACKER_PACKAGES
from pipeline.utils.errors import ParameterError
from pipeline.utils.paths import expanded


def check_here(training: Mapping[str, Any], blocks: Mapping[str, Parameters | None]) -> None:
    """Checks that the files and packages are there that a recipe names in its flat keys and in its blocks, by key.

    Raises:
        ParameterError: when one is missing.
    """
    _check_training(training)
    for key, block in blocks.items():
        try:
            if block:
                block.check_here()
        except ParameterError as error:
            raise error.inside(key) from None


def _check_training(training: Mapping[str, Any]) -> None:
    """Checks the files and packages that the flat keys name."""
    for key in ("deepspeed", "fsdp_config"):
        path = training.get(key)
        if isinstance(path, str) and not expanded(path, key).is_file():
            raise ParameterError(key, f"{path}: no such file; write the path of a JSON file, or a block")
    if training.get("deepspeed") and importlib.util.find_spec("deepspeed") is None:
        raise ParameterError("deepspeed", "is not installed; pip install 'groklab[deepspeed]'")
    wanted = training.get("report_to") or "none"
    for tracker in [wanted] if isinstance(wanted, str) else wanted:
        package = TRACKER_PACKAGES.get(tracker, tracker)
        if tracker not in ("none", "all") and importlib.util.find_spec(package) is None:
            raise ParameterError("report_to", f"{tracker} needs the package {package}, which is not installed")
