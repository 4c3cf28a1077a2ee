"""What the training step is timed against: ways to train the same model on the same rows.

Each is built for a size and gives `window(steps)`: seconds per step over so many steps, after two that warm up.

- `Reference`: settings of Wang et al. 2024: 52,464 words, padding to 10 tokens, loss at every position, a DataLoader.
- `StockTrainer`: transformers' Trainer as it comes, with the task's own vocabulary and sequences of their own length.
- `EagerLoop`: what a careful engineer writes by hand: rows on the device, batches by index, hidden states reduced to
  the answer positions before the head, fused AdamW, no logging.
- On a CPU also `Dispatched`: this package without its compiled update; and, for GPT-2, `JaxScan` of `jax_scan.py`.
- On a GPU also `CompiledLoop` and `CompiledTrainer`: the same two with torch.compile; `Launched`: ours without a graph.

All clip gradients, have dropout 0.1, the learning rate of the recipe, and bf16 autocast on a GPU. Models are those of
transformers with their own defaults: GPT-2's `gelu_new` among them, and Pythia's output projection of its own.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from pipeline.config.recipe import read_recipe
from pipeline.corpora.store import build
from pipeline.data.labels import IGNORED
from pipeline.data.rows import Rows, load_rows
from pipeline.training.session import prepare

ROOT = Path(__file__).parent.parent.parent
RECIPE = ROOT / "recipes" / "grok_gpt2.yaml"
REFERENCE_VOCABULARY, REFERENCE_LENGTH = 52_464, 10
WARM_UP = 2
logging.set_verbosity_error()


@dataclass(frozen=True)
class Size:
    """A model and a batch."""

    layers: int
    width: int
    heads: int
    batch: int
    words: tuple[str, ...] = ()  # overrides of the recipe
    model: str = "gpt2"  # or pythia

    @property
    def name(self) -> str:
        return f"{self.layers} x {self.width}, batch {self.batch}{', pythia' * (self.model == 'pythia')}"


@dataclass(frozen=True)
class Setting:
    """A size on a device, with the rows of the recipe's corpus."""

    size: Size
    device: torch.device
    rows: Rows
    vocabulary: int

    @classmethod
    def of(cls, size: Size, device: torch.device) -> Setting:
        stored = build(read_recipe(RECIPE, list(size.words)).corpus)
        return cls(size, device, load_rows(stored, "train"), len(stored.tokens))

    def model(self, vocabulary: int) -> PreTrainedModel:
        torch.manual_seed(0)
        size = self.size
        model: PreTrainedModel
        if size.model == "gpt2":
            config = GPT2Config(vocab_size=vocabulary, n_layer=size.layers, n_embd=size.width, n_head=size.heads)
            model = GPT2LMHeadModel(config)
        else:
            model = GPTNeoXForCausalLM(
                GPTNeoXConfig(
                    vocab_size=vocabulary, num_hidden_layers=size.layers, hidden_size=size.width,
                    num_attention_heads=size.heads, intermediate_size=4 * size.width,
                    attention_dropout=0.1, hidden_dropout=0.1,
                )
            )  # fmt: skip
        return model.to(self.device)

    @cached_property
    def labels(self) -> torch.Tensor:
        """The tokens where they are part of an answer, for the loss of transformers, which shifts them itself."""
        place_T = torch.arange(self.rows.tokens_NT.shape[1])
        start_N1, stop_N1 = self.rows.prompt_N[:, None], (self.rows.prompt_N + self.rows.answer_N)[:, None]
        return self.rows.tokens_NT.where((place_T >= start_N1) & (place_T < stop_N1), IGNORED)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()

    def now(self) -> float:
        """Seconds, with the device's work done: of this process's CPU time, or on a GPU of the clock on the wall."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def _window(setting: Setting, step: Callable[[], object], steps: int) -> float:
    for _ in range(WARM_UP):
        step()
    started = setting.now()
    for _ in range(steps):
        step()
    return (setting.now() - started) / steps


class Reference:
    """The reference's settings, in plain torch."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.model = setting.model(REFERENCE_VOCABULARY).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1)
        missing = REFERENCE_LENGTH - setting.rows.tokens_NT.shape[1]
        tokens = F.pad(setting.rows.tokens_NT, (0, missing), value=REFERENCE_VOCABULARY - 1)
        dataset = TensorDataset(tokens, F.pad(setting.labels, (0, missing), value=IGNORED))
        self.batches = self._endless(DataLoader(dataset, batch_size=setting.size.batch, shuffle=True))

    @staticmethod
    def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
        while True:
            yield from loader

    def step(self) -> None:
        tokens, labels = (part.to(self.setting.device) for part in next(self.batches))
        with self.setting.autocast():
            loss = self.model(input_ids=tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def window(self, steps: int) -> float:
        return _window(self.setting, self.step, steps)


class EagerLoop:
    """The loop by hand."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.model = setting.model(setting.vocabulary).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
        self.tokens_NT = setting.rows.tokens_NT.to(setting.device)
        self.answer_NA = (
            setting.rows.prompt_N[:, None] + torch.arange(setting.rows.shape.answer)
        ).to(setting.device)  # fmt: skip
        self.order = torch.empty(0, dtype=torch.int64)

    def step(self) -> None:
        batch = self.setting.size.batch
        if len(self.order) < batch:
            self.order = torch.randperm(len(self.tokens_NT), device=self.setting.device)
        chosen, self.order = self.order[:batch], self.order[batch:]
        tokens_BT, answer_BA = self.tokens_NT[chosen], self.answer_NA[chosen]
        with self.setting.autocast():
            hidden_BLD = self.model.base_model(tokens_BT[:, :-1], use_cache=False).last_hidden_state
            hidden_BAD = hidden_BLD[torch.arange(batch, device=chosen.device)[:, None], answer_BA - 1]
            logits_BAV = self.model.get_output_embeddings()(hidden_BAD)
            loss = F.cross_entropy(logits_BAV.float().flatten(0, 1), tokens_BT.gather(1, answer_BA).flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def window(self, steps: int) -> float:
        return _window(self.setting, self.step, steps)


class CompiledLoop(EagerLoop):
    """The loop by hand, whose blocks torch compiles."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.model.base_model.compile()


class _Watch(TrainerCallback):
    """Times the steps of a Trainer after those that warm up."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.steps = self.began = self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARM_UP:
            self.began = self.setting.now()
        elif state.global_step == WARM_UP + self.steps:
            self.seconds = (self.setting.now() - self.began) / self.steps
            control.should_training_stop = True


class _TrainerWindows:
    """A Trainer that is started anew for every window."""

    setting: Setting
    trainer: Trainer

    def window(self, steps: int) -> float:
        watch = _Watch(self.setting)
        watch.steps = steps
        self.trainer.add_callback(watch)
        self.trainer.train()
        self.trainer.remove_callback(watch)
        return watch.seconds


class StockTrainer(_TrainerWindows):
    """The Trainer as it comes."""

    def __init__(self, setting: Setting, **more: Any):
        self.setting = setting
        dataset = [
            {"input_ids": tokens, "labels": labels}
            for tokens, labels in zip(setting.rows.tokens_NT.tolist(), setting.labels.tolist())
        ]
        arguments = TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=setting.size.batch,
            max_steps=10**6,
            learning_rate=1e-4,
            weight_decay=0.1,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=setting.device.type == "cpu",
            bf16=setting.device.type == "cuda",
            **more,
        )
        self.trainer = Trainer(setting.model(setting.vocabulary), arguments, train_dataset=dataset)
        self.trainer.remove_callback(PrinterCallback)


class CompiledTrainer(StockTrainer):
    """The Trainer with `torch_compile_mode: reduce-overhead`, which records CUDA graphs."""

    def __init__(self, setting: Setting):
        super().__init__(setting, torch_compile=True, torch_compile_mode="reduce-overhead", dataloader_drop_last=True)


class Ours(_TrainerWindows):
    """This package, by its recipe; `words` are overrides as on the command line."""

    def __init__(self, setting: Setting, *words: str):
        self.setting = setting
        size = setting.size
        model = f"n_layer: {size.layers}, n_embd: {size.width}, n_head: {size.heads}, dropout: 0.1"
        overrides = {
            "model": f"{{name: {size.model}, {model}}}",
            "global_batch_size": size.batch,
            "output_dir": tempfile.mkdtemp(),
            "eval_strategy": "no",
            "save_strategy": "no",
            "checkpoints.every": "[]",
            "callbacks.console.style": "off",
            "use_cpu": str(setting.device.type == "cpu").lower(),
        }
        words = (*size.words, *words)
        recipe = read_recipe(RECIPE, [*(f"--{key}={value}" for key, value in overrides.items()), *words])
        self.trainer = prepare(recipe)


class Dispatched(Ours):
    """This package without its compiled update: operators of torch, as on a machine without a compiler."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        self.trainer.loop.compiled = None


class Launched(Ours):
    """This package, each of whose kernels is launched from Python."""

    def __init__(self, setting: Setting):
        super().__init__(setting)
        vars(self.trainer.loop)["captured"] = None
