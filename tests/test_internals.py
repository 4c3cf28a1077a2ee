"""Private parts of other libraries that the package uses: each is listed, and is still there, called as it is here."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import GPT2Config, PreTrainedTokenizerFast, Trainer

from tests.tiny import ROOT

HOME = ROOT / "pipeline"
# Private by their spelling, and documented.
PUBLIC = {"_asdict", "_fields", "_replace", "_exit"}
TRAINER = "training/trainer.py"


def parameters(owner: Any, name: str) -> str:
    return ", ".join(inspect.signature(getattr(owner, name)).parameters)


def schema(packet: Any) -> str:
    return ", ".join(argument.name for argument in packet.default._schema.arguments)


def methods_of_trainer() -> dict[str, str]:
    """Return the methods of Trainer that are called or overridden here, with their parameters in order."""
    watched = "trial, epoch, ignore_keys_for_eval, start_time"
    return {
        "_run_epoch": "self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial,"
        " ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch",
        "_maybe_log_save_evaluate": f"self, tr_loss, grad_norm, model, {watched}, learning_rate",
        "_save_checkpoint": "self, model, trial",
        "_get_output_dir": "self, trial",
        "_load_from_checkpoint": "self, resume_from_checkpoint, model",
        "_load_optimizer_and_scheduler": "self, checkpoint",
        "_load_rng_state": "self, checkpoint",
        "_get_learning_rate": "self",
        "_get_num_items_in_batch": "self, batch_samples, device",
    }


def has(owner: Any, name: str) -> Callable[[], bool]:
    return lambda: hasattr(owner, name)


def source_has(owner: Any, text: str) -> Callable[[], bool]:
    return lambda: text in inspect.getsource(owner)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
MODULE = sys.modules["torch.nn.modules.module"]
# Name -> whether the installed library still has it, as it is used here.
LISTED: dict[str, Callable[[], bool]] = {
    # transformers
    **{
        name: lambda name=name, expected=expected: parameters(Trainer, name) == expected
        for name, expected in methods_of_trainer().items()
    },
    "_tr_loss": source_has(Trainer, "self._tr_loss = torch.tensor(0.0"),
    "_globalstep_last_logged": source_has(Trainer, "self._globalstep_last_logged = self.state.global_step"),
    "_n_gpu": lambda: "self._n_gpu" in inspect.getsource(transformers.TrainingArguments.n_gpu.fget),
    "_attn_implementation": has(GPT2Config(), "_attn_implementation"),
    "_tied_weights_keys": has(transformers.GPT2LMHeadModel, "_tied_weights_keys"),
    "_from_model_config": has(transformers.GenerationConfig(), "_from_model_config"),
    "_init_weights": lambda: "module" in inspect.signature(transformers.GPT2LMHeadModel._init_weights).parameters,
    "_tokenizer": source_has(PreTrainedTokenizerFast.backend_tokenizer.fget, "return self._tokenizer"),
    # torch
    **{name: has(torch.nn.Linear(1, 1), name) for name in HOOKS},
    **{
        f"_global_{name[1:]}": has(MODULE, f"_global_{name[1:]}")
        for name in HOOKS
    },
    "_last_lr": source_has(torch.optim.lr_scheduler.LRScheduler.get_last_lr, "return self._last_lr"),
    "_parameters": has(torch.nn.Linear(1, 1), "_parameters"),
    "_DropoutNd": lambda: issubclass(torch.nn.Dropout, importlib.import_module("torch.nn.modules.dropout")._DropoutNd),
    "_dynamo": lambda: issubclass(importlib.import_module("torch._dynamo.exc").TorchDynamoException, Exception),
    "_foreach_norm": lambda: torch._foreach_norm([torch.tensor([3.0, 4.0])])[0].item() == 5,
    "_foreach_add_": lambda: foreach("_foreach_add_", [torch.ones(1)], 1) == 2,
    "_foreach_lerp_": lambda: foreach("_foreach_lerp_", [torch.full((1,), 3.0)], 0.5) == 2,
    "_optimizer_step_pre_hooks": has(torch.optim.Optimizer([torch.ones(1)], {}), "_optimizer_step_pre_hooks"),
    "_optimizer_step_post_hooks": has(torch.optim.Optimizer([torch.ones(1)], {}), "_optimizer_step_post_hooks"),
    "_linear_pointwise": lambda: (
        schema(torch.ops.mkldnn._linear_pointwise) == "X, W, B, attr, scalars, algorithm"
    ),
    "_reorder_linear_weight": lambda: schema(torch.ops.mkldnn._reorder_linear_weight) == "self, batch_size",
}  # fmt: skip


def foreach(name: str, others: list[torch.Tensor], factor: float) -> float:
    values = [torch.ones(1)]
    call = getattr(torch, name)
    call(values, others, alpha=factor) if name == "_foreach_add_" else call(values, others, factor)
    return values[0].item()


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != "" and name not in PUBLIC


@cache
def trees() -> dict[str, ast.Module]:
    return {path.relative_to(HOME).as_posix(): ast.parse(path.read_text()) for path in sorted(HOME.rglob("*.py"))}


def defined(tree: ast.Module) -> Iterator[str]:
    """Yield the private names that a file gives to its own functions, classes, fields and attributes of self."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def private_uses(trees: dict[str, ast.Module]) -> Iterator[tuple[str, int, str]]:
    """Yield file, line and name of each private name that is read, set, called or imported and is not our own.

    Behind `self`, a name is our own where any file of ours defines it, but for the Trainer's in its subclass;
    behind anything else, where the same file defines it.
    """
    everywhere = {name for tree in trees.values() for name in defined(tree)}
    of_trainer = methods_of_trainer().keys() | {"_tr_loss"}
    for file, tree in trees.items():
        here = set(defined(tree))
        for node in ast.walk(tree):
            found: list[str] = []
            if isinstance(node, ast.Attribute):
                if ast.unparse(node.value) in ("self", "cls", "super()"):
                    ours = node.attr in everywhere and not (file == TRAINER and node.attr in of_trainer)
                else:
                    ours = node.attr in here
                found = [] if ours else [node.attr]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in ("pipeline", ""):
                found = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                found = [part for alias in node.names for part in alias.name.split(".")]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
                found = [str(node.args[1].value)] if isinstance(node.args[1], ast.Constant) else []
            elif isinstance(node, ast.Constant) and node.value in HOOKS:  # names in a tuple, for getattr
                found = [node.value]
            yield from ((file, getattr(node, "lineno", 0), name) for name in found if is_private(name))


def overrides() -> Iterator[tuple[str, str]]:
    """Yield each private method of another library that a class of ours overrides, with that class."""
    for path in sorted(HOME.rglob("*.py")):
        name = ".".join(("pipeline", *path.relative_to(HOME).with_suffix("").parts))
        if path.name == "__main__.py" or "shipped" in name:
            continue
        module = importlib.import_module(name)
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__ == name:
                foreign = [base for base in kind.__mro__ if base.__module__.split(".")[0] in LIBRARIES]
                for attribute, value in vars(kind).items():
                    written = getattr(value, "__module__", None) == name  # and not by a metaclass
                    if written and is_private(attribute) and any(attribute in vars(base) for base in foreign):
                        yield kind.__name__, attribute


LIBRARIES = {"transformers", "accelerate", "torch", "deepspeed", "huggingface_hub", "peft", "datasets"}


def test_every_private_use_is_listed() -> None:
    new = [use for use in private_uses(trees()) if use[2] not in LISTED]
    assert not new, f"list them in {Path(__file__).name}, with what is needed of them: {new}"


def test_what_is_listed_is_used() -> None:
    used = {name for _, _, name in private_uses(trees())} | {name for _, name in overrides()}
    assert not LISTED.keys() - used


def test_overridden_methods_are_listed() -> None:
    assert not [use for use in overrides() if use[1] not in LISTED]


@pytest.mark.parametrize(
    "line",
    [
        "accelerator._inner", "hub._token = 1", "from torch._C import thing", "import peft._base",
        "getattr(x, '_hidden')", "super()._call_hook()", "self._inner_training_loop()",
    ],
)  # fmt: skip
def test_a_new_use_is_found(line: str) -> None:
    found = [name for _, _, name in private_uses({**trees(), "new.py": ast.parse(line)}) if name not in LISTED]
    assert found, line


@pytest.mark.parametrize("name", LISTED)
def test_the_library_still_has(name: str) -> None:
    assert LISTED[name](), f"{name} is gone or is called in another way"
