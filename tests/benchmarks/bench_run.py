"""What a run does beside steps: start-up, evaluation, saving, the Trainer's own overhead, and memory.

    python tests/benchmarks/bench_run.py [CASE ...] [--rounds 9]

Each case is measured in a process of its own: CPU seconds of one thread, or wall-clock seconds on a GPU.

- `startup`: from the interpreter's start to the first step of grok_gpt2.yaml, with its corpus in the cache.
- `loading`: the paper's training rows from the cache to the device, beside a plain read of their file.
- `overhead`: share of a step of 2 x 128, batch 64, that is not its update: events, logging, schedule, the loop itself.
- `evaluation`: share of training time at a recipe's own schedule, for each recipe that a CPU trains.
- `mixed`: a pass forward and backward of 512 rows, a tenth of them text of 64 tokens and the others facts of 5: whole,
  over cut by length.
- `saving`: share of 1,000 steps of the paper's model for which training waits while one step is kept, the seconds that
  the writer then needs, and those of a plain write of as many bytes.
- `memory`: peak of the process (of the device, on a GPU) after 3 steps of the paper's recipe, beside the bytes of
  weights, gradients, moments and rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BEGAN = time.process_time(), time.time()
LIMITS = {
    ("startup", "seconds_to_training"): 8.0,
    ("overhead", "share"): 0.05,
    **{("evaluation", f"{name}_share"): 0.02 for name in ("quickstart", "composition_small", "grok_gpt2")},
    ("saving", "share"): 0.01,
}

# case -> its own number, and what stands beside it
BESIDE = {
    "loading": ("seconds", "plain read", "seconds_of_a_plain_read", "s"),
    "overhead": ("seconds_per_step", "update alone", "seconds_per_update", "s"),
    "mixed": ("seconds_cut", "rows at full length", "seconds_whole", "s"),
    "saving": ("seconds_written", "plain write", "seconds_of_a_plain_write", "s"),
    "memory": ("peak", "weights, moments, rows", "floor", "bytes"),
}


def startup() -> dict[str, float]:
    from baselines import Ours, Setting, Size
    from machine import device

    from transformers import TrainerCallback  # isort: skip

    found: dict[str, float] = {}

    class Watch(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            found.update(seconds_to_training=time.process_time() - BEGAN[0], wall_seconds=time.time() - BEGAN[1])

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            found.setdefault("seconds_to_first_step", time.process_time() - BEGAN[0])

    trainer = Ours(Setting.of(Size(8, 768, 12, 64), device())).trainer
    trainer.add_callback(Watch())
    trainer.args.max_steps = 1
    trainer.train()
    return found


def loading() -> dict[str, float]:
    from baselines import RECIPE
    from machine import device

    from pipeline.config.recipe import read_recipe
    from pipeline.corpora.store import build
    from pipeline.data.rows import load_rows

    where = device()
    stored = build(read_recipe(RECIPE).corpus)
    file = stored.folder / "train.arrow"
    seconds, plain = [], []
    for _ in range(5):
        started = time.perf_counter()
        rows = load_rows(stored, "train").to(where)
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        size = len(file.read_bytes())
        plain.append(time.perf_counter() - started)
    made = sum(part.numel() * 8 for part in (rows.tokens_NT, rows.prompt_N, rows.answer_N))
    best = min(seconds)
    return {
        "rows": len(rows), "seconds": best, "bytes_per_second": made / best,
        "file_bytes": size, "seconds_of_a_plain_read": min(plain),
    }  # fmt: skip


def overhead(rounds: int) -> dict[str, float]:
    from baselines import Ours, Setting, Size
    from machine import device

    setting = Setting.of(Size(2, 128, 4, 64), device())
    ours = Ours(setting)
    ours.window(5)
    trainer = ours.trainer
    weights = list(trainer.model.parameters())
    order = trainer.get_train_dataloader().batch_sampler
    events = trainer.callback_handler
    silent: dict[str, Any] = {
        name: lambda args, state, control: control for name in ("on_pre_optimizer_step", "on_optimizer_step")
    }
    shares, steps = [], 60
    for _ in range(rounds):
        whole = ours.window(steps)
        events.__dict__.update(silent)
        rows = [order.update_rows(step) for step in range(steps)]
        started = setting.now()
        for chosen in rows:
            trainer.loop.update(trainer.model, weights, chosen)
        bare = (setting.now() - started) / steps
        for name in silent:
            del events.__dict__[name]
        shares.append((whole, bare))
    whole, bare = (statistics.median(column) for column in zip(*shares))
    return {"seconds_per_step": whole, "seconds_per_update": bare, "share": 1 - bare / whole}


def evaluation() -> dict[str, float]:
    import tempfile

    import torch
    from machine import device

    sys.path.insert(0, str(ROOT))
    from pipeline.config.recipe import read_recipe
    from pipeline.runs.metrics import read_history
    from pipeline.training.session import prepare

    device()
    found: dict[str, float] = {}
    for name in ("quickstart", "composition_small"):
        words = ["--max_steps=300", f"--output_dir={tempfile.mkdtemp()}", "--save_strategy=no", "--stop_when=never"]
        words += ["--checkpoints.powers_of_two=false", "--callbacks.console.style=off", "--checkpoints.every=[]"]
        recipe = read_recipe(ROOT / "recipes" / f"{name}.yaml", words)
        trainer = prepare(recipe)
        trainer.args.eval_on_start = False
        trainer.train()
        lines = [line for line in read_history(recipe.output_dir) if "evaluation_share" in line]
        found[f"{name}_share"] = lines[-1]["evaluation_share"]
    # The paper's recipe by rows: an evaluation's, of which 2,048 are timed, beside 1,000 steps, of which 2 are.
    from baselines import Ours, Setting, Size

    ours = Ours(Setting.of(Size(8, 768, 12, 512), device()), "--max_eval_samples=350")
    step = ours.window(2)
    rows = sum(min(350, len(part)) for part in ours.trainer.splits.values())
    ours.trainer.evaluate()
    started = ours.setting.now()
    ours.trainer.evaluate()
    seconds = (ours.setting.now() - started) / rows * sum(len(part) for part in ours.trainer.splits.values())
    recipe = read_recipe(ROOT / "recipes" / "grok_gpt2.yaml")
    found |= {
        "grok_gpt2_seconds": seconds,
        "grok_gpt2_share": seconds / (seconds + recipe.training["eval_steps"] * step),
    }
    assert torch.isfinite(torch.tensor(seconds))
    return found


def mixed() -> dict[str, float]:
    import torch
    from baselines import Setting, Size
    from machine import device

    from pipeline.data.labels import IGNORED
    from pipeline.data.rows import Batch, Rows, joined
    from pipeline.kernels.forward import install, short_logits

    setting = Setting.of(Size(2, 128, 4, 512), device())
    torch.manual_seed(0)
    text = Rows(torch.randint(0, 2000, (1000, 64)), torch.ones(1000, dtype=torch.int64), torch.full((1000,), 63))
    facts = setting.rows.first(9000)
    rows = joined([facts, text]).to(setting.device)
    model = setting.model(setting.vocabulary).train()
    install(model)

    def spent(batches: list[Batch]) -> float:
        started = setting.now()
        for batch in batches:
            logits = short_logits(model, batch).flatten(0, 1).float()
            torch.nn.functional.cross_entropy(logits, batch["labels"].flatten(), ignore_index=IGNORED).backward()
        return setting.now() - started

    seconds: dict[str, list[float]] = {"whole": [], "cut": []}
    for _ in range(5):
        chosen = torch.randperm(len(rows))[:512]
        seconds["whole"].append(spent([rows.__getitems__(chosen.to(setting.device))]))
        seconds["cut"].append(spent(rows.pieces(chosen)))
    whole, cut = (statistics.median(sample) for sample in seconds.values())
    return {"seconds_whole": whole, "seconds_cut": cut, "ratio": whole / cut}


def saving() -> dict[str, float]:
    import torch
    from baselines import Ours, Setting, Size
    from machine import device

    from pipeline.utils.files import sync

    ours = Ours(Setting.of(Size(8, 768, 12, 512), device()))
    step = ours.window(2)
    trainer = ours.trainer
    run = trainer.recipe.output_dir
    trainer.keep_step({})  # takes memory for the copies, once
    trainer.saving.writer.wait()
    waited, written = [], []
    for number in range(3):
        trainer.state.global_step = 1000 + number
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        trainer.keep_step({})
        waited.append(time.perf_counter() - started)
        trainer.saving.writer.wait()
        written.append(time.perf_counter() - started)
    content = (run / "steps" / "step1000" / "model.safetensors").read_bytes()
    started = time.perf_counter()
    (run / "plain").write_bytes(content)
    sync(run / "plain")
    plain = time.perf_counter() - started
    seconds = statistics.median(waited)
    return {
        "bytes": len(content), "seconds_waited": seconds, "seconds_written": statistics.median(written),
        "seconds_of_a_plain_write": plain, "seconds_per_step": step, "share": seconds / (1000 * step),
    }  # fmt: skip


def memory() -> dict[str, float]:
    import torch
    from baselines import Ours, Setting, Size
    from machine import device

    ours = Ours(Setting.of(Size(8, 768, 12, 512), device()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ours.window(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    weights = sum(weight.numel() * 4 for weight in ours.trainer.model.parameters())
    rows = ours.trainer.train_rows.tokens_NT.numel() * 8
    found = {"peak": peak, "before_training": before, "floor": 4 * weights + rows}
    if torch.cuda.is_available():
        found["peak"] = torch.cuda.max_memory_allocated()
    return {**found, "x_floor": found["peak"] / found["floor"]}


ROOT = Path(__file__).parent.parent.parent
CASES: dict[str, Any] = {
    case.__name__: case for case in (startup, loading, overhead, evaluation, mixed, saving, memory)
}


def main() -> int:
    parser = argparse.ArgumentParser(description="What a run does beside steps.")
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=9, help="windows of overhead")
    parser.add_argument("--measure", choices=CASES, help="measure this case in this process, and print it as JSON")
    chosen = parser.parse_args()
    if chosen.measure:
        case = CASES[chosen.measure]
        print(json.dumps(case(chosen.rounds) if case is overhead else case()))
        return 0
    if unknown := {*chosen.cases} - {*CASES}:
        parser.error(f"no case {min(unknown)}; there are: {', '.join(CASES)}")
    found, broken = {}, 0
    for name in chosen.cases or CASES:
        command = [sys.executable, __file__, "--rounds", str(chosen.rounds), "--measure", name]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(result.stdout.splitlines()[-1])
        words = ", ".join(f"{key} {value:.4g}" for key, value in found[name].items())
        over = [
            f"{key} > {limit:g}" for (case, key), limit in LIMITS.items() if case == name and found[name][key] > limit
        ]
        broken += len(over)
        print(f"{name}: {words}{'  BROKEN: ' * bool(over)}{', '.join(over)}", flush=True)
    from machine import note, write

    for name, (ours, against, theirs, unit) in BESIDE.items():
        if name in found:
            note(name, found[name][ours], against, found[name][theirs], unit)
    if "startup" in found:
        note("startup", found["startup"]["seconds_to_training"], "limit", LIMITS["startup", "seconds_to_training"], "s")
    print(write("run", found))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
