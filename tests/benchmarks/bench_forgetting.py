"""What a small GPT-NeoX forgets of its language while it learns two-hop facts: all weights, adapters, with replay.

    python -m tests.benchmarks.bench_forgetting [FOLDER]

Prints the table of recipes/README.md: perplexity of a held-out text before and after, and what was learned.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pipeline.run import main
from pipeline.runs.metrics import read_history
from tests.bases import make_base, make_texts

STEPS = 400
RECIPE = """
corpus: {{name: composition, num_entities: 30, num_relations: 6, out_degree: 4, ratio: 2, ood_fraction: 0.2}}
model: {{model_name_or_path: {base}, vocabulary: tokens}}
checkpoints: {{powers_of_two: false}}
callbacks:
  console: {{style: 'off'}}
  base_perplexity: {{source: {folder}/held_out.txt, length: 32}}
  adapter_drift: {{}}
max_steps: {steps}
global_batch_size: 64
learning_rate: {rate}
warmup_steps: 50
weight_decay: 0.1
eval_steps: 100
save_steps: {steps}
"""
REPLAY = "replay: {{source: {folder}/replay.txt, ratio: {ratio}, length: 32}}\n"
LORA = "peft: {{method: lora, r: 8, alpha: 16}}\n"
WAYS = {
    "all weights": ("2e-3", ""),
    "all weights, a tenth replayed": ("2e-3", REPLAY.replace("{ratio}", "0.1")),
    "all weights, half replayed": ("2e-3", REPLAY.replace("{ratio}", "0.5")),
    "LoRA of rank 8": ("3e-3", LORA),
    "LoRA of rank 8, half replayed": ("3e-3", LORA + REPLAY.replace("{ratio}", "0.5")),
}


def run(folder: Path) -> None:
    base = make_base(folder / "base", "gpt_neox", steps=300)
    make_texts(folder)
    lines = ["| trained | perplexity before | after | `train` | drift of the adapters |", "|---|---:|---:|---:|---:|"]
    for number, (name, (rate, more)) in enumerate(WAYS.items()):
        path = folder / f"way{number}.yaml"
        path.write_text((RECIPE + more).format(base=base, folder=folder, steps=STEPS, rate=rate))
        if status := main([str(path), "--output_dir", str(folder / f"way{number}")]):
            sys.exit(status)
        found: dict[str, list[float]] = {}
        for line in read_history(folder / f"way{number}"):
            for key in ("base_perplexity", "eval_train_exact_match", "adapter_drift"):
                if key in line:
                    found.setdefault(key, []).append(line[key])
        perplexity, drift = found["base_perplexity"], found.get("adapter_drift")
        cells = [name, f"{perplexity[0]:.2f}", f"{perplexity[-1]:.2f}", f"{found['eval_train_exact_match'][-1]:.3f}"]
        lines.append(f"| {' | '.join([*cells, f'{drift[-1]:.2f}' if drift else '–'])} |")
    print("\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder))
