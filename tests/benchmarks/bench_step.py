"""The training step beside its baselines, in one run, as ratios; and what share of the machine's floor it reaches.

    python tests/benchmarks/bench_step.py [--rounds 5] [--model pythia] [--only '2 x 128'] [--small]

Baselines are described in `baselines.py`. Windows of all contestants take turns, and a number is the median over the
rounds: CPU seconds of one thread, or wall-clock seconds on a GPU.

The floor is the time of the arithmetic that cannot be left out, 2 FLOP a weight and token forward and 4 backward in the
blocks and at the answer positions of the head, at the speed that a large matrix product reaches, by torch or by
oneDNN, plus the bytes that AdamW moves (weights, gradients and two moments, read or written 7 times, 4 bytes each) at
the speed of a copy.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import statistics
import sys
from typing import Any

import torch
from baselines import (
    CompiledLoop,
    CompiledTrainer,
    Dispatched,
    EagerLoop,
    Launched,
    Ours,
    Reference,
    Setting,
    Size,
    StockTrainer,
)
from machine import device, note, write

from pipeline.kernels.onednn import multiply  # the path is set by `baselines`

SIZES = (Size(8, 768, 12, 64), Size(2, 128, 4, 512), Size(1, 128, 4, 512), Size(2, 128, 4, 64))
ON_GPU = (Size(8, 768, 12, 512), *SIZES[1:])  # the paper's batch
FEW = ("--corpus.num_entities=60", "--corpus.num_relations=20", "--corpus.out_degree=10", "--corpus.ratio=5")
SMALL = (Size(1, 32, 4, 32, FEW),)  # to see that it runs
BASELINES: dict[str, Any] = {"reference": Reference, "stock": StockTrainer, "eager": EagerLoop}
COMPILED: dict[str, Any] = {"compiled trainer": CompiledTrainer, "compiled": CompiledLoop, "launched": Launched}
ON_CPU: dict[str, Any] = {"dispatched": Dispatched}
IN_JAX = "jax scan"  # of GPT-2, where the extra `rivals` is installed
LEAST_SECONDS = 1.5  # of a window, so that small steps are averaged


def machine_speed(setting: Setting) -> tuple[float, float, float]:
    """FLOP/s of a large matrix product in the type that is trained in, by torch and by oneDNN; bytes/s of a copy."""
    on_gpu = setting.device.type == "cuda"
    n = 8192 if on_gpu else 1024
    a = torch.randn(n, n, device=setting.device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    block = torch.empty(1 << (30 if on_gpu else 27), dtype=torch.uint8, device=setting.device)
    other = torch.empty_like(block)

    def fastest(call: Any, times: int = 5) -> float:
        call()
        spent = []
        for _ in range(times):
            started = setting.now()
            call()
            spent.append(setting.now() - started)
        return min(spent)

    by_torch = by_other = 2 * n**3 / fastest(lambda: a @ a)
    if not on_gpu and torch.backends.mkldnn.is_available():
        by_other = 2 * n**3 / fastest(lambda: multiply(a, a))
    return by_torch, by_other, 2 * block.numel() / fastest(lambda: other.copy_(block))


def floor(setting: Setting, model: Any) -> dict[str, float]:
    """FLOP and bytes of a step that cannot be left out."""
    size, rows = setting.size, setting.rows
    weights = sum(weight.numel() for weight in model.parameters())
    (stack,) = (part for part in model.base_model.children() if isinstance(part, torch.nn.ModuleList))
    blocks = sum(weight.numel() for weight in stack.parameters())
    inputs, answers = rows.tokens_NT.shape[1] - 1, rows.shape.answer
    head = setting.vocabulary * size.width
    return {
        "parameters": weights,
        "flop": 6 * size.batch * (blocks * inputs + head * answers),
        "bytes": 7 * 4 * weights,
    }


def measure(size: Size, rounds: int, wanted: dict[str, Any], least: float) -> dict[str, Any]:
    setting = Setting.of(size, device())
    by_torch, by_onednn, copies = machine_speed(setting)
    contestants = {name: contestant(setting) for name, contestant in wanted.items()}
    samples: dict[str, list[float]] = {name: [] for name in wanted}
    for contestant in contestants.values():
        contestant.window(1)  # compiles, and captures its graph
    steps = {name: max(1, round(least / contestants[name].window(1))) for name in wanted}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            samples[name].append(contestant.window(steps[name]))
    seconds = {name: statistics.median(sample) for name, sample in samples.items()}
    lowest = floor(setting, setting.model(setting.vocabulary))
    lowest["seconds"] = lowest["flop"] / max(by_torch, by_onednn) + lowest["bytes"] / copies
    return {
        "size": size.name,
        "seconds_per_step": seconds,
        "samples": samples,
        "ours_is_faster_by": {name: seconds[name] / seconds["ours"] for name in wanted if name != "ours"},
        "floor": lowest,
        "share_of_floor": lowest["seconds"] / seconds["ours"],
        "flop_per_second": {"torch": by_torch, "oneDNN": by_onednn},
        "copied_bytes_per_second": copies,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="The training step beside its baselines.")
    parser.add_argument("--rounds", type=int, default=5, help="windows per contestant")
    parser.add_argument("--seconds", type=float, default=LEAST_SECONDS, help="length of a window")
    parser.add_argument("--model", default="gpt2", choices=("gpt2", "pythia"), help="that is trained; default gpt2")
    parser.add_argument("--only", default="", help="a part of a size's name, such as '2 x 128'")
    parser.add_argument("--without", default="", help="contestants to leave out, with commas")
    parser.add_argument("--small", action="store_true", help="a size of seconds, to see that it runs")
    chosen = parser.parse_args()
    on_gpu = device().type == "cuda"
    rivals: dict[str, Any] = {}
    if not on_gpu and chosen.model == "gpt2" and importlib.util.find_spec("jax"):
        from jax_scan import JaxScan

        rivals[IN_JAX] = JaxScan
    contestants = {**BASELINES, **(COMPILED if on_gpu else ON_CPU), **rivals, "ours": Ours}
    wanted = {name: made for name, made in contestants.items() if name not in chosen.without.split(",")}
    heads = ["size", *(f"{name} s" for name in wanted), *(f"x {name}" for name in [*wanted][:-1]), "floor s", "share"]
    print("  ".join(word.rjust(28 if word == "size" else max(11, len(word))) for word in heads))
    found: list[dict[str, Any]] = []
    sizes = SMALL if chosen.small else ON_GPU if on_gpu else SIZES
    sizes = tuple(dataclasses.replace(size, model=chosen.model) for size in sizes)
    named = [size for size in sizes if chosen.only in size.name]
    if not named:
        parser.error(f"--only {chosen.only}: is part of no size; they are: {'; '.join(size.name for size in sizes)}")
    for size in named:
        found.append(row := measure(size, chosen.rounds, wanted, chosen.seconds))
        numbers = [*row["seconds_per_step"].values(), *row["ours_is_faster_by"].values()]
        words = [f"{number:.4g}" for number in numbers]
        words += [f"{row['floor']['seconds']:.4g}", f"{row['share_of_floor']:.0%}"]
        widths = [max(11, len(head)) for head in heads[1:]]
        print(
            "  ".join([row["size"].rjust(28), *(word.rjust(width) for word, width in zip(words, widths))]), flush=True
        )
        for name, seconds in row["seconds_per_step"].items():
            if name != "ours":
                note(f"step {size.name}", row["seconds_per_step"]["ours"], name, seconds, "s", row["share_of_floor"])
        # After each size: what comes later may fail, or be out of time.
        path = write("step" if chosen.model == "gpt2" else f"step-{chosen.model}", found)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
