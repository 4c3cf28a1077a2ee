"""Every logged value, as a line of metrics.jsonl, whatever report_to says."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar

from pipeline.callbacks.base import Callback
from pipeline.runs.metrics import METRICS, last_line
from pipeline.utils.files import append
from pipeline.utils.inside import append_to


@dataclass
class MetricsLog(Callback):
    """Appends `{"step", "seconds", ...}` to the run folder; seconds count training time over all restarts."""

    always: ClassVar[bool] = True
    priority: ClassVar[int] = 10

    _file: FileIO | None = field(default=None, init=False, repr=False)
    _started: float = field(default=0.0, init=False, repr=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._open(Path(args.output_dir))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        file = self._open(Path(args.output_dir))
        line = {"step": state.global_step, "seconds": round(time.monotonic() - self._started, 3), **logs}
        # JSON has no word for a number that is not finite.
        finite = {
            key: value if not isinstance(value, float) or math.isfinite(value) else None for key, value in line.items()
        }
        append(file, (json.dumps(finite) + "\n").encode())

    def _open(self, run: Path) -> FileIO:
        if self._file is None:
            past = last_line(run)
            self._started = time.monotonic() - ((past.get("seconds") or 0.0) if past else 0.0)
            self._file = append_to(run, METRICS)
        return self._file
