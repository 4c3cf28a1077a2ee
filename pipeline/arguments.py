"""The flat keys of a recipe: the fields of TrainingArguments, read from the installed transformers' source.

Importing `TrainingArguments` takes seconds, because it imports torch and half of transformers; its source is parsed in
a twentieth of one. A test holds the two equal, so that a key that transformers removes is refused by the next recipe.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional, Union, get_args

from pipeline.deepspeed_config import filled_deepspeed
from pipeline.habits import HABITS
from pipeline.launcher import processes
from pipeline.outside import uses_cpu
from pipeline.parameters import ParameterError
from pipeline.paths import expanded
from pipeline.policy import (
    BOUNDS,
    CHECKPOINTING,
    DEFAULTS,
    FIXED,
    HELP,
    KINDS,
    NO_DEFAULT,
    OURS,
    REFUSED,
    REFUSED_VALUES,
    REMOVED,
)
from pipeline.reading import Node, RecipeError, Scalar
from pipeline.rooms import choose
from pipeline.values import convert

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True)
class Key:
    """A flat key: its type, its default here, its help, and its bounds as in `param`."""

    kind: Any
    default: Any
    help: str
    metadata: dict[str, Any] = field(default_factory=dict)


def _source(module: str) -> ast.Module:
    """The syntax tree of a transformers module, which is not imported."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.submodule_search_locations
    return ast.parse((Path(spec.submodule_search_locations[0]) / f"{module}.py").read_text(encoding="utf-8"))


def _enums(*trees: ast.Module) -> dict[str, tuple[str, ...]]:
    """Name -> values, of each class derived from ExplicitEnum."""
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    return {
        node.name: tuple(
            line.value.value
            for line in node.body
            if isinstance(line, ast.Assign)
            and isinstance(line.value, ast.Constant)
            and isinstance(line.value.value, str)
        )
        for node in classes
        if any(isinstance(base, ast.Name) and base.id == "ExplicitEnum" for base in node.bases)
    }


def _fields(tree: ast.Module) -> Iterator[tuple[str, ast.expr, dict[str, Any]]]:
    """Name, annotation, and default and metadata where they are literals, of each field of TrainingArguments."""
    arguments = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments")
    for line in arguments.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(line.value, ast.Call):
            words = {word.arg: word.value for word in line.value.keywords if word.arg}
            facts = {"default": _literal(words.get("default"))}
            metadata = words.get("metadata")
            for key, value in zip(metadata.keys, metadata.values) if isinstance(metadata, ast.Dict) else ():
                facts[_literal(key)] = _literal(value)
            yield line.target.id, line.annotation, facts


def _literal(node: ast.expr | None) -> Any:
    try:
        return node and ast.literal_eval(node)
    except ValueError:
        return None  # computed; what matters of it is in policy.py


def _kind(annotation: ast.expr, enums: dict[str, tuple[str, ...]], choices: list[str] | None) -> Any:
    """The type of an annotation, where an enum stands for its values (transformers writes `SomeEnum | str`)."""
    found = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    for name in found & enums.keys():
        return Literal[enums[name]]
    known = {"Any": Any, "Union": Union, "Optional": Optional, "Literal": Literal}
    try:
        kind = eval(compile(ast.Expression(annotation), "TrainingArguments", "eval"), known)
    except NameError:
        return Any
    return Literal[tuple(choices)] | None if choices else kind


@functools.cache
def keys() -> dict[str, Key]:
    """Every flat key that a recipe may use, by name, in transformers' order."""
    training_args = _source("training_args")
    enums = _enums(training_args, _source("trainer_utils"))
    known = {}
    for name, annotation, facts in _fields(training_args):
        if name in REFUSED:
            continue
        kind = KINDS.get(name) or _kind(annotation, enums, facts.get("choices"))
        if name in REFUSED_VALUES:
            kind = Literal[tuple(choice for choice in get_args(kind) if choice not in REFUSED_VALUES[name])]
        help = HELP.get(name) or " ".join((facts.get("help") or "").split()).replace("%%", "%")
        default = None if name in NO_DEFAULT else DEFAULTS.get(name, facts["default"])
        known[name] = Key(kind, default, help, BOUNDS.get(name, {}))
    return known


@functools.cache
def trackers() -> tuple[str, ...]:
    """What `report_to` may name."""
    tree = _source("integrations/integration_utils")
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INTEGRATION_TO_CALLBACK"
    )
    assert isinstance(table, ast.Dict)
    return tuple(str(_literal(key)) for key in table.keys)


def refuse(key: str, others: Iterable[str]) -> ParameterError:
    """Why a flat key is not allowed: removed, decided by the pipeline, or unknown (then the closest of all keys)."""
    if key in REMOVED:
        return ParameterError(key, f"current transformers has no such key; {REMOVED[key]}")
    if key in REFUSED:
        return ParameterError(key, f"is not for recipes: {REFUSED[key]}")
    if habit := HABITS.get(key.lower().replace("-", "_")):
        meant = habit if " " in habit else f"did you mean {habit}?"
        return ParameterError(key, f"unknown key; {meant}")
    return ParameterError(key, f"unknown key{choose(key, [*others, *keys()], '--help lists all')}")


def read_value(key: str, node: Node) -> Any:
    """The value of a flat key; None where it says no more than leaving the key out.

    Raises:
        RecipeError: when the key does not take it.
    """
    text = node.text if isinstance(node, Scalar) else None
    reason = REFUSED_VALUES.get(key, {}).get(text or "")
    if reason:
        raise RecipeError(node.where, f"{key}: {text} is not for recipes: {reason}")
    if key == "max_steps" and text == "-1":  # transformers' way to say that epochs are counted
        return None
    return convert(node, keys()[key].kind, key, keys()[key].metadata)


def check(training: dict[str, Any]) -> None:
    """Whether the keys fit together, as far as can be told without torch. Makes whole numbers of steps int.

    Raises:
        ParameterError: when they do not.
    """
    if "max_steps" not in training and "num_train_epochs" not in training:
        raise ParameterError("max_steps", "how long to train is missing; write max_steps or num_train_epochs")
    for key in ("eval_steps", "save_steps", "logging_steps", "warmup_steps"):
        steps = training[key]
        if steps >= 1:
            if steps != int(steps):
                raise ParameterError(key, f"{steps} is neither a whole number of steps nor a share of them below 1")
            training[key] = int(steps)
    if training["bf16"] is True and training["fp16"]:
        raise ParameterError("fp16", "is true beside bf16: true; choose one of them")
    if not training["output_dir"].strip() or not training["output_dir"].isprintable():
        raise ParameterError("output_dir", f"{training['output_dir']!r} is not the name of a folder")
    if training["lr_scheduler_type"] == "constant" and training["warmup_steps"]:
        raise ParameterError("warmup_steps", "a constant rate has none; write lr_scheduler_type: constant_with_warmup")
    if training["lr_scheduler_type"].startswith("constant") and training.get("lr_scheduler_kwargs"):
        raise ParameterError(
            "lr_scheduler_kwargs", f"{training['lr_scheduler_type']} takes none; see lr_scheduler_type"
        )
    for mapping in (training.get("optim_args") or "").replace(" ", "").split(","):
        if mapping and mapping.count("=") != 1:
            raise ParameterError("optim_args", f"{mapping!r} is not name=value; write them as text: a=1,b=2")
    for key in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        for name in training.get(key) or ():
            if name not in CHECKPOINTING:
                raise ParameterError(key, f"unknown key {name}{choose(name, CHECKPOINTING)}")
    repository = training.get("hub_model_id")
    if training.get("push_to_hub") and not repository:
        raise ParameterError("hub_model_id", "is missing beside push_to_hub; write user/name")
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ParameterError("hub_model_id", f"{repository!r} is not user/name")
    _check_trackers(training.get("report_to") or "none")


def _check_trackers(wanted: str | list[str]) -> None:
    if wanted in ("none", "all", ["none"], ["all"]):
        return
    for tracker in [wanted] if isinstance(wanted, str) else wanted:
        if tracker in ("none", "all"):
            raise ParameterError("report_to", f"{tracker} stands alone, without other trackers")
        if tracker not in trackers():
            raise ParameterError("report_to", f"unknown tracker {tracker!r}{choose(tracker, ['none', *trackers()])}")


def training_arguments(training: Mapping[str, Any], batches: Mapping[str, int]) -> TrainingArguments:
    """The Trainer's arguments: those of a recipe, for this machine.

    Raises:
        ParameterError: when transformers refuses them, or the optimizer or schedule that they ask for.
    """
    import torch
    from torch import nn
    from torch.optim import SGD
    from transformers import Trainer, TrainingArguments, get_scheduler
    from transformers.utils import is_torch_bf16_gpu_available, is_torch_tf32_available

    values = {**training, **batches, **FIXED}
    for key in OURS:
        values.pop(key, None)
    values["output_dir"] = str(expanded(training["output_dir"], "output_dir"))
    if isinstance(training.get("fsdp_config"), str):
        values["fsdp_config"] = str(expanded(training["fsdp_config"], "fsdp_config"))
    values["save_total_limit"] = None  # checkpoints.seal rotates, and only over checkpoints that are whole
    if processes().world == 1:
        values.pop("ddp_backend", None)  # which would ask for a process group
    values["deepspeed"] = filled_deepspeed(training)
    values["use_cpu"] = on_cpu = uses_cpu(training)
    has_bf16 = is_torch_bf16_gpu_available() and not on_cpu
    if values["bf16"] is True and not has_bf16 and not on_cpu:
        raise ParameterError("bf16", "no GPU here has it; write auto to take it where there is one, or use_cpu: true")
    values["bf16"] = has_bf16 if values["bf16"] == "auto" else values["bf16"]
    has_tf32 = is_torch_tf32_available() and not on_cpu
    wanted = values.pop("tf32", None)
    if wanted and not has_tf32:
        values["tf32"] = True  # is refused below

    with _refusals_of("training arguments"):
        arguments = TrainingArguments(**values)
    # Not by the Trainer, which sets it in a way after which torch.compile cannot read it (torch 2.11 to 2.13).
    torch.set_float32_matmul_precision("high" if has_tf32 and wanted is not False else "highest")
    if arguments.fp16 and arguments.device.type == "cpu":
        raise ParameterError("fp16", "does nothing on a CPU; write bf16: auto, or leave it out")
    if arguments.fsdp and arguments.world_size == 1:
        raise ParameterError("fsdp", "needs several processes; start them with accelerate launch")
    # Made once for nothing, so that a missing package or a wrong argument is known before any work.
    with _refusals_of("optim"):
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    steps = max(arguments.max_steps, 1)
    with _refusals_of("lr_scheduler_kwargs"):
        get_scheduler(
            arguments.lr_scheduler_type,
            SGD(nn.Linear(1, 1).parameters(), lr=arguments.learning_rate),
            num_warmup_steps=arguments.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=training.get("lr_scheduler_kwargs"),
        )
    # Without a launcher, one process drives one device: the Trainer would otherwise use torch's old DataParallel, which
    # multiplies the batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@contextlib.contextmanager
def _refusals_of(what: str) -> Iterator[None]:
    """Turns an error of transformers into one line about the key that it names, or else about `what`."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        text = " ".join(str(error).split())
        named = [word for word in re.findall(r"\w+", text) if word in keys()]
        raise ParameterError(named[0] if named else what, text) from None
