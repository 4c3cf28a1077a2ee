"""The flat keys are those of the installed transformers, and whatever it refuses is refused in one line."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import yaml
from torch.utils.checkpoint import checkpoint
from transformers import SchedulerType, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.training_args import OptimizerNames
from transformers.utils.logging import log_levels

from pipeline.config import trainer_policy as policy
from pipeline.config.coerce import untyped
from pipeline.config.fields import parameters_of
from pipeline.config.recipe import Options, read_recipe
from pipeline.config.trainer_keys import keys, read_value, refuse, trackers
from pipeline.config.yaml_nodes import Block, Scalar, parse
from pipeline.training.arguments import training_arguments
from pipeline.utils.errors import ParameterError, RecipeError

FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}
HEAD = "corpus: {name: group}\nmodel: {name: gpt2}\n"


def test_the_keys_are_the_fields_of_the_installed_transformers() -> None:
    assert set(keys()) == FIELDS.keys() - policy.REFUSED.keys()
    assert policy.REFUSED.keys() <= FIELDS.keys()
    assert not policy.REMOVED.keys() & FIELDS.keys()


def test_the_policy_speaks_of_keys_that_there_are() -> None:
    ours = {field.name for field in parameters_of(Options)}
    assert policy.FREE - ours - keys().keys() <= {"activation_checkpointing", "activation_checkpointing_kwargs"}
    named: list[Iterable[str]] = [policy.BOUNDS, policy.HELP, policy.REFUSED_VALUES, policy.DEFAULTS, policy.NO_DEFAULT]
    assert {key for group in named for key in group} <= keys().keys()
    assert not ours & FIELDS.keys()


def choices(kind: Any) -> set[str]:
    literals = [option for option in (kind, *get_args(kind)) if get_origin(option) is Literal]
    return {choice for option in literals for choice in get_args(option)}


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("optim", OptimizerNames),
        ("lr_scheduler_type", SchedulerType),
        ("eval_strategy", IntervalStrategy),
        ("logging_strategy", IntervalStrategy),
        ("save_strategy", SaveStrategy),
        ("log_level", [*log_levels, "passive"]),
        ("log_level_replica", [*log_levels, "passive"]),
        ("ddp_backend", FIELDS["ddp_backend"].metadata["choices"]),
    ],
)
def test_choices_are_those_of_transformers(key: str, names: Iterable[Any]) -> None:
    refused = policy.REFUSED_VALUES.get(key, {})
    everything = {getattr(name, "value", name) for name in names}
    assert choices(keys()[key].kind) == everything - refused.keys()
    assert refused.keys() <= everything


def test_defaults_and_help_are_transformers_own() -> None:
    for name, key in keys().items():
        if name not in policy.NO_DEFAULT and name not in policy.DEFAULTS:
            assert key.default == FIELDS[name].default, name
        assert key.help, name
    assert keys()["optim"].default == FIELDS["optim"].default
    assert keys()["eval_delay"].help == " ".join(FIELDS["eval_delay"].metadata["help"].split())


@pytest.mark.parametrize("name", keys())
def test_every_default_typed_back_is_accepted(name: str) -> None:
    default = FIELDS[name].default
    tree = parse(yaml.safe_dump({name: default}), "file")
    assert isinstance(tree, Block)
    assert read_value(name, tree.entries[name]) == (None if (name, default) == ("max_steps", -1) else default)


def test_trackers_are_those_of_transformers() -> None:
    assert set(trackers()) == set(INTEGRATION_TO_CALLBACK)
    assert policy.TRACKER_PACKAGES.keys() <= set(trackers())


def test_checkpointing_arguments_are_those_of_torch() -> None:
    known = inspect.signature(checkpoint).parameters.keys() - {"function", "context_fn", "args", "kwargs"}
    # The first is among torch's keyword arguments without a name of its own, the others are transformers'.
    assert set(policy.CHECKPOINTING) == known | {"preserve_rng_state", "every_n_layers", "offload"}


# As users of transformers write them, with the value that TrainingArguments is to get.
WRITTEN = {
    "learning_rate: 2e-5": 2e-5,
    "warmup_steps: 0.1": 0.1,
    "warmup_steps: 1e3": 1000,
    "eval_strategy: no": "no",
    "lr_scheduler_type: cosine_with_min_lr": "cosine_with_min_lr",
    "lr_scheduler_kwargs: {min_lr: 1e-5}": {"min_lr": 1e-5},
    "report_to: none": "none",
    "report_to: [wandb, tensorboard]": ["wandb", "tensorboard"],
    "optim: adafactor": "adafactor",
    "optim_args: momentum=0.9,nesterov=true": "momentum=0.9,nesterov=true",
    "save_total_limit: null": None,
    "bf16: auto": "auto",
    "bf16: true": True,
    "tf32: false": False,
    "fsdp: true": True,
    "fsdp: full_shard auto_wrap": "full_shard auto_wrap",
    "deepspeed: configs/zero2.json": "configs/zero2.json",
    "deepspeed: {zero_optimization: {stage: 2}, train_batch_size: auto}": {
        "zero_optimization": {"stage": 2},
        "train_batch_size": "auto",
    },
    "gradient_checkpointing_kwargs: {use_reentrant: false}": {"use_reentrant": False},
    "include_num_input_tokens_seen: non_padding": "non_padding",
    "include_num_input_tokens_seen: true": True,
    "trackio_static_space_id: false": False,
    "debug: underflow_overflow": "underflow_overflow",
    "neftune_noise_alpha: 5": 5.0,
    "torch_compile_mode: max-autotune": "max-autotune",
    "max_steps: -1": None,
}


@pytest.mark.parametrize("line", WRITTEN)
def test_values_as_users_write_them(line: str) -> None:
    tree = parse(line, "file")
    assert isinstance(tree, Block)
    ((key, node),) = tree.entries.items()
    value = read_value(key, node)
    assert value == WRITTEN[line] and type(value) is type(WRITTEN[line])


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in policy.REFUSED_VALUES.items() for value in values]
)
def test_refused_values_say_why(key: str, value: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_value(key, Scalar(value, "file:1"))
    assert str(caught.value) == f"file:1: {key}: {value} is not for recipes: {policy.REFUSED_VALUES[key][value]}"


@pytest.mark.parametrize("key", [*policy.REFUSED, *policy.REMOVED])
def test_refused_and_removed_keys_say_why(key: str) -> None:
    reason = policy.REFUSED.get(key) or policy.REMOVED[key]
    message = str(refuse(key, []))
    assert message.startswith(f"{key}: ") and message.endswith(reason)
    # What to write instead exists.
    if "write " in reason:
        instead = reason.partition("write ")[2].partition(",")[0].partition(":")[0]
        assert instead in keys()


def arguments_of(tmp_path: Path, text: str, *words: str) -> TrainingArguments:
    path = tmp_path / "recipe.yaml"
    path.write_text(HEAD + text)
    recipe = read_recipe(path, words)
    return training_arguments(recipe.training, recipe.batches(1))


def test_training_arguments_of_a_recipe(tmp_path: Path) -> None:
    found = arguments_of(
        tmp_path, "max_steps: 50\nglobal_batch_size: 64\nper_device_train_batch_size: 16\nbf16: auto\nuse_cpu: true"
    )
    assert (found.max_steps, found.per_device_train_batch_size, found.gradient_accumulation_steps) == (50, 16, 4)
    assert (found.lr_scheduler_type, found.eval_steps, found.report_to, found.bf16) == (
        "constant_with_warmup",
        100,
        [],
        False,
    )
    assert found.save_total_limit is None  # only checkpoints.seal rotates
    assert all(getattr(found, key) == value for key, value in policy.FIXED.items())
    assert found.n_gpu <= 1


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor", "adagrad", "rmsprop"])
def test_optimizers_of_torch_and_transformers_are_accepted(optim: str, tmp_path: Path) -> None:
    assert arguments_of(tmp_path, f"max_steps: 5\noptim: {optim}").optim == optim


SCHEDULE_ARGUMENTS = {
    "cosine_with_min_lr": "{min_lr: 0}",
    "cosine_warmup_with_min_lr": "{min_lr: 0}",
    "warmup_stable_decay": "{num_decay_steps: 2}",
}


@pytest.mark.parametrize("schedule", sorted(choices(keys()["lr_scheduler_type"].kind)))
def test_every_schedule_is_accepted(schedule: str, tmp_path: Path) -> None:
    text = (
        f"max_steps: 5\nlr_scheduler_type: {schedule}\nlr_scheduler_kwargs: {SCHEDULE_ARGUMENTS.get(schedule, 'null')}"
    )
    assert arguments_of(tmp_path, text).lr_scheduler_type == schedule


@pytest.mark.parametrize(
    ("has_it", "lines", "precision"),
    [
        (True, "", "high"),
        (True, "tf32: true", "high"),
        (True, "tf32: false", "highest"),
        (True, "use_cpu: true", "highest"),
        (False, "", "highest"),
    ],
)
def test_tf32_is_set_so_that_a_compiler_can_read_it(
    has_it: bool, lines: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.is_torch_tf32_available", lambda: has_it)
    before = torch.get_float32_matmul_precision()
    try:
        arguments_of(tmp_path, f"max_steps: 5\n{lines}")
        assert torch.get_float32_matmul_precision() == precision  # which raises an error after other ways to set it
        assert torch.backends.cuda.matmul.allow_tf32 == (precision == "high")
    finally:
        torch.set_float32_matmul_precision(before)


def lacks(package: str) -> Any:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is not None, reason=f"with {package} here nothing is refused"
    )


no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU here nothing is refused")


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        pytest.param("bf16: true", "bf16", "no GPU here has it; write auto", marks=no_gpu),
        pytest.param("tf32: true", "tf32", "requires Ampere", marks=no_gpu),
        pytest.param("optim: grokadamw", "optim", "Please install grokadamw", marks=lacks("grokadamw")),
        pytest.param("optim: adamw_8bit", "optim", "You need to install `bitsandbytes`", marks=lacks("bitsandbytes")),
        ("optim: sgd\noptim_args: momentum=fast", "optim", "could not convert string to float: 'fast'"),
        ("fsdp: true", "fsdp", "needs several processes; start them with accelerate launch"),
        ("debug: nothing", "training arguments", "nothing is not a valid DebugOption"),
        ("lr_scheduler_type: cosine_with_min_lr", "lr_scheduler_kwargs", "One of min_lr or min_lr_rate should be set"),
        ("lr_scheduler_type: warmup_stable_decay", "lr_scheduler_kwargs", "missing 1 required .* 'num_decay_steps'"),
        (
            "lr_scheduler_type: linear\nlr_scheduler_kwargs: {a: 1}",
            "lr_scheduler_kwargs",
            "unexpected keyword argument 'a'",
        ),
    ],
)
def test_what_transformers_refuses_is_one_line(text: str, key: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        arguments_of(tmp_path, f"max_steps: 5\n{text}")
    assert caught.value.key == key and "\n" not in str(caught.value)


def test_a_backend_waits_for_several_processes(tmp_path: Path) -> None:
    assert arguments_of(tmp_path, "max_steps: 5\nddp_backend: gloo\nuse_cpu: true").ddp_backend is None


def test_all_keys_of_a_recipe_at_once(tmp_path: Path) -> None:
    """Every default of transformers, written into a recipe, builds the same arguments as an empty one."""
    written = {name: FIELDS[name].default for name in keys() if name not in (*policy.NO_DEFAULT, *policy.DEFAULTS)}
    short = arguments_of(tmp_path, "max_steps: 5\noutput_dir: run\nrun_name: a").to_dict()
    assert (
        arguments_of(
            tmp_path, "max_steps: 5\n" + yaml.safe_dump({**written, "output_dir": "run", "run_name": "a"})
        ).to_dict()
        == short
    )
    assert untyped(parse(yaml.safe_dump(written), "file")) == written
