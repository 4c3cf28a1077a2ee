"""Embeddings that are forgotten while DeepSpeed or FSDP2 divides them: what one process with whole weights has."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from pipeline.callbacks._sharded import check_replaceable, check_whole, forget, replace, whole
from pipeline.config.recipe import read_recipe
from pipeline.runs.metrics import read_history
from pipeline.training.session import prepare, train
from pipeline.utils.errors import ParameterError
from tests.kills import PRELOAD, Runner, join, launcher_environment
from tests.tiny import COMPOSITION, RECIPE, ROOT, free_port, run_here, write_recipe

CONFIGS = ROOT / "accelerate_configs"
MODELS = {
    "tied": "{name: gpt2, n_layer: 1, n_embd: 15, n_head: 3, n_positions: 8, dropout: 0.0}",
    "untied": "{name: pythia, n_layer: 1, n_embd: 16, n_head: 2, n_inner: 32, n_positions: 8}",
}
MEASURED = ("forced_", "opposing_")
POS = "pos_icl, vocabulary_size: 40, unseen: 6, train_rows: 400, eval_rows: 40}"
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 2e-5}
# A bias of keys changes no attention: its gradient is rounding alone, whose sign Adam steps by.
IDLE = ("c_attn.bias stepped", "c_attn.bias computed", "key_value.bias stepped", "key_value.bias computed")


# The end of step 4 comes before the forgetting, with which the step after it begins.
WATCHED = ("begin1", "end4", "begin4", "end5", "end7")


class Recorder(TrainerCallback):
    """Writes weights, moments and step counts after a forgetting, and after the steps that follow."""

    def __init__(self, trainer: Any, folder: Path):
        self.trainer, self.folder = trainer, folder

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.record(f"begin{state.global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.record(f"end{state.global_step}")

    def record(self, when: str) -> None:
        if when not in WATCHED:
            return
        found = {}
        for name, weight in self.trainer.model.named_parameters():
            found |= {f"{name} {key}": value for key, value in self.of(weight).items()}
        if self.trainer.is_world_process_zero():
            save_file({key: value.detach().clone().contiguous() for key, value in found.items()}, self.folder / when)

    def of(self, weight: Any) -> dict[str, torch.Tensor]:
        """By DeepSpeed's own public functions, where it is there, and by torch's."""
        if not self.trainer.is_deepspeed_enabled:
            state = self.trainer.loop.optimizer.state.get(weight, {})
            return {
                "stepped": weight,
                "computed": weight,
                **{key: state[key] for key in ("exp_avg", "exp_avg_sq") if key in state},
            }
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        with deepspeed.zero.GatheredParameters([weight]):
            computed = weight.detach().clone()
        found = {"stepped": safe_get_full_fp32_param(weight), "computed": computed}
        for key in ("exp_avg", "exp_avg_sq") if self.trainer.state.global_step else ():
            is_third = hasattr(weight, "ds_id")
            found[key] = safe_get_full_optimizer_state(weight, key) if is_third else self.joined(weight, key)
        return found

    def joined(self, weight: Any, key: str) -> torch.Tensor:
        """The state of a weight under ZeRO-1 and 2, whose public function knows that of the first group alone."""
        zero, found = self.trainer.optimizer.optimizer, torch.zeros(weight.numel())
        for number, weights in enumerate(zero.bit16_groups):
            if weight._hp_mapping is not None and any(weight is other for other in weights):
                here, there = weight._hp_mapping.lp_fragment_address, weight._hp_mapping.hp_fragment_address
                flat = zero.optimizer.state[zero.single_partition_of_fp32_groups[number]][key]
                found[here.start : here.start + here.numel] = flat[there.start : there.start + there.numel]
        dist.all_reduce(found)
        return found.view_as(weight)


def recorded(words: list[str], folder: Path) -> int:
    folder.mkdir(exist_ok=True)
    trainer = prepare(read_recipe(Path(words[0]), words[1:]))
    trainer.add_callback(Recorder(trainer, folder))
    train(trainer)
    return 0


def work(words: list[str], folder: Path, environment: dict[str, str], log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    recorded(words, folder)
    sys.stdout.flush()
    os._exit(0)


def on_two(target: Any, log: Path, *given: Any, config: Path | None = None) -> None:
    """A function on two processes, which may have an accelerate config."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    shared |= launcher_environment(config, 2) if config else {}
    started = []
    for rank in ("0", "1"):
        process = context.Process(target=target, args=(*given, {**shared, "RANK": rank, "LOCAL_RANK": rank}, log))
        process.start()
        started.append(process)
    assert join(started, 900) == [0, 0], log.read_text()[-3000:] if log.exists() else "no log"


def recipe_of(folder: Path, model: str, chosen: dict[str, Any]) -> Path:
    text = COMPOSITION.replace("{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}", model)
    text = text.replace("{console: {style: plain, seconds: 0}}", json.dumps({"embedding_forgetting": chosen}))
    text = text.replace("learning_rate: 1e-2", "learning_rate: 3e-3")
    return write_recipe(folder, text + "data_seed: 0\nper_device_train_batch_size: 8\n")


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], when: str = "") -> None:
    # For a step by chance only what is computed with is replaced.
    passed = (*IDLE, "stepped") if when.startswith("by chance") else IDLE
    for key in (key for key in one if not key.endswith(passed)):
        torch.testing.assert_close(other[key], one[key], msg=partial("{}, {}: {}".format, when, key), **CLOSE)


FORGOTTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("tied", {"every": 4}),
    "all": ("untied", {"every": 4, "optimizer_reset": "all"}),
    "none": ("tied", {"every": 4, "optimizer_reset": "none"}),
    "by chance": ("untied", {"probability": 0.5, "until": 5}),
}
QUICK = [("zero2", "tied"), ("zero2", "by chance"), ("zero3", "tied")]
SLOW = [("zero1", "tied"), ("zero2", "all"), ("zero2", "none"), ("zero3", "by chance"), ("zero3", "all")]


@pytest.mark.parametrize(("engine", "case"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)])
def test_an_engine_forgets_what_one_process_does(engine: str, case: str, tmp_path: Path) -> None:
    model, chosen = FORGOTTEN[case]
    recipe = recipe_of(tmp_path, MODELS[model], chosen)
    words = [str(recipe), "--max_steps", "7", "--use_cpu", "true", "--output_dir"]
    recorded([*words, str(tmp_path / "run"), "--per_device_train_batch_size", "32"], tmp_path / "alone")
    on_two(
        work, tmp_path / "log", [*words, str(tmp_path / "two")], tmp_path / "both", config=CONFIGS / f"{engine}.yaml"
    )
    assert bool(list(tmp_path.glob("two/checkpoint-7/global_step7/*_optim_states.pt")))
    for when in WATCHED:
        one, other = load_file(tmp_path / "alone" / when), load_file(tmp_path / "both" / when)
        assert one.keys() <= other.keys() and any(key.endswith("exp_avg_sq") for key in one)
        assert_close(one, other, f"by chance, {when}" if "probability" in chosen and when < "end" else when)
    if chosen.get("every"):
        before, after = (load_file(tmp_path / "both" / when) for when in ("end4", "begin4"))
        embedding = {"tied": "transformer.wte.weight exp_avg", "untied": "gpt_neox.embed_in.weight exp_avg"}[model]
        assert bool(after[embedding].any()) == (chosen.get("optimizer_reset") == "none") and before[embedding].any()


def test_another_number_of_processes_goes_on_with_what_was_forgotten(tmp_path: Path) -> None:
    """Step counts that differ from weight to weight pass through DeepSpeed's universal checkpoints."""
    recipe = recipe_of(tmp_path, MODELS["untied"], {"every": 4})
    assert run_here(recipe, "--max_steps", "9", "--per_device_train_batch_size", "32") == 0
    two = tmp_path / "two"
    Runner(recipe, 2, ("--max_steps", "6"), config=CONFIGS / "zero2.yaml").run(two)
    Runner(recipe, 1, ("--max_steps", "9"), config=CONFIGS / "zero2.yaml").run(two)
    one, other = (load_file(run / "steps" / "step9" / "model.safetensors") for run in (tmp_path / "run", two))
    assert_close({f"{key} stepped": value for key, value in one.items()}, {f"{key} stepped": other[key] for key in one})


def test_what_measures_whole_weights_finds_the_same_under_zero2(tmp_path: Path) -> None:
    """By forward passes, by rows that are replaced for a moment, and by gradients of functions of the weights."""
    text = RECIPE.replace("group, group: Z11, train_fraction: 0.5, template: a b = c}", POS)
    watching = {"forced_choice": {}, "opposing_signals": {"every": 2, "rows": 64, "top": 8, "iterations": 3}}
    text = text.replace("{console: {style: plain, seconds: 0}}", json.dumps(watching)).replace("0.1}", "0.0}")
    recipe = write_recipe(tmp_path, text + "data_seed: 0\nper_device_train_batch_size: 8\n")
    words = ("--max_steps", "6")
    assert run_here(recipe, *words, "--per_device_train_batch_size", "16") == 0
    Runner(recipe, 2, words, config=CONFIGS / "zero2.yaml").run(tmp_path / "two")
    alone, two = (
        [(key, line[key]) for line in read_history(tmp_path / run) for key in line if key.startswith(MEASURED)]
        for run in ("run", "two")
    )
    assert [key for key, _ in alone] == [key for key, _ in two]
    assert {"forced_choice_unseen", "opposing_cosine", "opposing_sharpness"} <= {key for key, _ in alone}
    assert [value for _, value in two] == pytest.approx([value for _, value in alone], rel=1e-2, abs=1e-4)


def divided(folder: Path, environment: dict[str, str], log: Path) -> None:
    """A model that torch's FSDP2 divides: weights are replaced, and moments forgotten."""
    os.environ.update(environment)
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 5, bias=False))  # 7 and 5 rows on two processes
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.arange(7)).square().sum().backward()
    optimizer.step()
    embedding, other = model[0].weight, model[1].weight
    kept = {key: value.full_tensor() for key, value in optimizer.state[other].items() if value.ndim}
    replace(embedding, torch.arange(21.0).view(7, 3))
    forget(optimizer, [embedding])
    found = {"embedding": whole(embedding), "logits": model(torch.arange(7)).detach(), "other": whole(other)}
    assert len(embedding.to_local()) == 4 - dist.get_rank()
    assert not any(
        value.any() for value in [v.full_tensor() if v.ndim else v for v in optimizer.state[embedding].values()]
    )
    assert all(value.equal(optimizer.state[other][key].full_tensor()) for key, value in kept.items())
    assert optimizer.state[other]["step"] == 1
    if dist.get_rank() == 0:
        save_file(found, folder / "found")
    dist.destroy_process_group()
    os._exit(0)


def test_weights_that_fsdp2_divides_are_replaced_and_forgotten(tmp_path: Path) -> None:
    on_two(divided, tmp_path / "log", tmp_path)
    found = load_file(tmp_path / "found")
    rows = torch.arange(21.0).view(7, 3)
    assert found["embedding"].equal(rows)
    torch.testing.assert_close(found["logits"], rows @ found["other"].T)


class Engine:
    """What a callback asks a trainer of its engine."""

    def __init__(self, stage: int = 0, fsdp: int = 0):
        self.is_deepspeed_enabled, self.is_fsdp_enabled = stage > 0, fsdp > 0
        plugins = {"deepspeed_plugin": {"zero_stage": stage}, "fsdp_plugin": {"fsdp_version": fsdp}}
        state = type("State", (), {name: type("Plugin", (), keys) for name, keys in plugins.items()})
        self.accelerator = type("Accelerator", (), {"state": state})


@pytest.mark.parametrize("engine", [Engine(), Engine(1), Engine(2), Engine(3), Engine(fsdp=1), Engine(fsdp=2)])
def test_engines_that_a_callback_cannot_serve_are_refused(engine: Any) -> None:
    whole_there = not engine.is_fsdp_enabled and engine.accelerator.state.deepspeed_plugin.zero_stage < 3
    for check, is_fine in (
        (check_whole, whole_there),
        (check_replaceable, engine.accelerator.state.fsdp_plugin.fsdp_version != 1),
    ):
        if is_fine:
            check(engine, "choices")
        else:
            with pytest.raises(ParameterError, match=r"callbacks\.choices: .* (take zero2|take fsdp_version 2)"):
                check(engine, "choices")
