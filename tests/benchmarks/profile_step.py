"""Where our training step's time goes on a GPU: kernels, their time, and the gaps between them.

    python tests/benchmarks/profile_step.py [--small]

A gap is time in which no kernel runs between the first and the last of the profiled steps. On a CPU, operators take the
place of kernels.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

import torch
from baselines import Ours, Setting
from bench_step import ON_GPU, SMALL, floor, machine_speed
from machine import device, write
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

WARM_UP, STEPS = 10, 20
MOST = 15  # kernels that are named


class Profiled(TrainerCallback):
    """Profiles so many steps after those that warm up, and ends training."""

    def __init__(self, setting: Setting):
        self.setting = setting
        on_gpu = setting.device.type == "cuda"
        self.profile = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARM_UP:
            self.setting.now()
            self.profile.start()
        elif state.global_step == WARM_UP + STEPS:
            self.setting.now()
            self.profile.stop()
            control.should_training_stop = True


def spans(events: Any, on_gpu: bool) -> list[tuple[float, float, str]]:
    """Begin and end in microseconds, and name, of what ran on the device, in order."""
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    ran = [event for event in events if event.device_type == kind and (on_gpu or event.cpu_parent is None)]
    return sorted((event.time_range.start, event.time_range.end, event.name) for event in ran)


def describe(ran: list[tuple[float, float, str]]) -> dict[str, Any]:
    """Kernels a step, the share of time in which none runs, and the names that take most of it."""
    busy, reached = 0.0, ran[0][0]
    for start, end, _ in ran:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    total = reached - ran[0][0]
    spent: Counter[str] = Counter()
    for start, end, name in ran:
        spent[name[:80]] += end - start
    return {
        "kernels_per_step": len(ran) / STEPS,
        "seconds_per_step": total / STEPS / 1e6,
        "share_in_gaps": 1 - busy / total,
        "microseconds_per_step": {name: spend / STEPS for name, spend in spent.most_common(MOST)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Kernels and gaps of the training step.")
    parser.add_argument("--small", action="store_true", help="a size of seconds, to see that it runs")
    chosen = parser.parse_args()
    found = []
    for size in SMALL if chosen.small else ON_GPU:
        setting = Setting.of(size, device())
        ours, watch = Ours(setting), Profiled(setting)
        ours.trainer.add_callback(watch)
        ours.trainer.train()
        by_torch, by_onednn, copies = machine_speed(setting)
        lowest = floor(setting, ours.trainer.model)
        least = lowest["flop"] / max(by_torch, by_onednn) + lowest["bytes"] / copies
        said = describe(spans(watch.profile.events(), setting.device.type == "cuda"))
        found.append(
            {"size": size.name, **said, "floor_seconds": least, "share_of_floor": least / said["seconds_per_step"]}
        )
        print(
            f"{size.name}: {said['kernels_per_step']:.0f} kernels a step, {said['share_in_gaps']:.0%} in gaps",
            flush=True,
        )
        path = write("profile", found)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
