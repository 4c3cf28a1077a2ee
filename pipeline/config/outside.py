"""Settings from outside a recipe that would win over it in silence: accelerate's, torch's and DeepSpeed's.

What trains is what the recipe says. accelerate's configuration file and the options of `accelerate launch` arrive as
environment variables, and variables of an earlier session are left over; a value that contradicts the recipe is a line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.deepspeed import AUTO, check_deepspeed
from pipeline.config.recipe import Recipe, read_recipe
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.launcher import NUMBERS, START, processes
from pipeline.utils.paths import expanded
from pipeline.utils.suggest import did_you_mean

TRUE, FALSE = ("true", "1", "yes", "on", "y", "t"), ("false", "0", "no", "off", "n", "f")


def check_outside(recipe: Recipe, environ: Mapping[str, str] = os.environ, bf16: bool | None = None) -> None:
    """Check whether the environment, and what it names, agrees with a recipe.

    Called once without torch, and once more with what `bf16: auto` means on this machine.

    Raises:
        RecipeError: at the first variable that contradicts the recipe.
        ParameterError: at the first key that contradicts another one or the launcher.
    """
    training = recipe.training if bf16 is None else {**recipe.training, "bf16": bf16}
    batches = recipe.batches(processes(environ).world)
    batches["global_batch_size"] = recipe.options.global_batch_size or 0
    expanded(training["output_dir"], "output_dir")
    if training.get("max_steps") and training.get("num_train_epochs"):
        raise ParameterError(
            "num_train_epochs",
            f"would be ignored beside max_steps {training['max_steps']}; leave one of them out (--max_steps -1)",
        )
    _check_flags(environ)
    _check_device(training, environ)
    _check_precision(training, environ)
    _check_compiler(training, environ)
    _check_engine(training, environ)
    check_deepspeed(training, batches, environ if is_asked("DEEPSPEED", environ) else {})
    _check_numbers(training, batches, environ)
    _check_wandb(training, environ, "project" in recipe.tree.entries)


def uses_cpu(training: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the recipe or the launcher asks for the CPU."""
    return bool(training.get("use_cpu")) or _is_true("ACCELERATE_USE_CPU", environ)


def is_asked(engine: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the launcher was told to use DEEPSPEED or FSDP."""
    return _is_true(f"ACCELERATE_USE_{engine}", environ)


def _contradiction(name: str, message: str) -> RecipeError:
    return RecipeError("environment", f"{name}: {message}")


def _is_true(name: str, environ: Mapping[str, str]) -> bool:
    """Return a flag as accelerate reads it; False where it is not set."""
    if name not in environ:
        return False
    text = environ[name].strip().lower()
    if text not in (*TRUE, *FALSE):
        raise _contradiction(name, f"{environ[name]!r} is not true or false; correct it, or: unset {name}")
    return text in TRUE


def _check_flags(environ: Mapping[str, str]) -> None:
    """Engines that this pipeline has no part for, and flags that libraries read in different ways."""
    for name in sorted(environ):
        if name.startswith("ACCELERATE_USE_") and _is_true(name, environ):
            if name.removeprefix("ACCELERATE_USE_") not in ("CPU", "DEEPSPEED", "FSDP"):
                raise _contradiction(
                    name, f"{environ[name]} is not for recipes; unset {name}, or choose another config"
                )
            if environ[name].strip().lower() != "true":  # transformers takes 1 for true, and accelerate does not
                raise _contradiction(name, f"{environ[name]} is read in two ways; write true, or: unset {name}")
    if _is_true("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", environ):
        raise _contradiction(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
            "would let a checkpoint run code; unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        )


def _check_device(training: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    by_launcher = _is_true("ACCELERATE_USE_CPU", environ)
    if by_launcher and training.get("use_cpu") is False:
        raise _contradiction("ACCELERATE_USE_CPU", f"{environ['ACCELERATE_USE_CPU']} contradicts use_cpu: false")
    # accelerate launch --cpu --num_processes 2 starts one process, and sets an address for the others.
    if by_launcher and environ.get("MASTER_ADDR") and not any(name in environ for name in NUMBERS):
        raise _contradiction(
            "ACCELERATE_USE_CPU",
            "accelerate launch --cpu starts one process whatever --num_processes says; write accelerate launch "
            "--config_file accelerate_configs/cpu.yaml, and --use_cpu true behind the recipe",
        )
    device = environ.get("ACCELERATE_TORCH_DEVICE")
    if device is not None and not (device == "cpu" and training.get("use_cpu")):
        raise _contradiction(
            "ACCELERATE_TORCH_DEVICE",
            f"{device!r} would decide where the run trains; write --use_cpu true, or set CUDA_VISIBLE_DEVICES",
        )


def _check_precision(training: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    name = "ACCELERATE_MIXED_PRECISION"
    asked = environ.get(name, "no").strip().lower()
    known = ("no", "bf16", "fp16")
    if asked not in known:
        what = "is not for recipes" if asked == "fp8" else "is unknown"
        raise _contradiction(name, f"{environ[name]!r} {what}{did_you_mean(asked, known)}")
    for key in ("bf16", "fp16"):
        if asked == key and not training[key]:
            written = str(training[key]).lower()
            raise _contradiction(
                name, f"{key} contradicts {key}: {written}; write --{key} true, or leave it to the recipe with no"
            )
    if training["fp16"] and uses_cpu(training, environ):
        raise ParameterError("fp16", "does nothing on a CPU; write bf16: auto, or leave it out")
    for name, contradicted in {
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": {True: False},  # only turns it on
        "NVIDIA_TF32_OVERRIDE": {True: False, False: True},
    }.items():
        if environ.get(name, "").strip() and contradicted.get(_is_true(name, environ)) is training.get("tf32", "null"):
            raise _contradiction(
                name, f"{environ[name]} contradicts tf32: {str(training['tf32']).lower()}; unset {name}"
            )


def _check_compiler(training: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    keys = ("torch_compile", "torch_compile_backend", "torch_compile_mode")
    compiled = any(training.get(key) for key in keys)
    backend = (training.get("torch_compile_backend") or "inductor") if compiled else "no"
    name = "ACCELERATE_DYNAMO_BACKEND"
    asked = environ.get(name, "no").strip().lower()
    if asked not in ("no", backend):
        instead = (
            f"torch_compile_backend: {backend}" if compiled else "torch_compile, which the recipe does not ask for"
        )
        raise _contradiction(
            name, f"{environ[name]!r} contradicts {instead}; write it into the recipe, or set it to no"
        )
    if not compiled:
        return
    name, mode = "ACCELERATE_DYNAMO_MODE", training.get("torch_compile_mode") or "default"
    if environ.get(name, "default") not in ("default", mode):
        raise _contradiction(name, f"{environ[name]!r} contradicts torch_compile_mode: {mode}; unset {name}")
    flags = ("FULLGRAPH", "DYNAMIC", "REGIONAL_COMPILATION")
    off = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
    for name in (*off, *(f"ACCELERATE_DYNAMO_USE_{flag}" for flag in flags)):
        if environ.get(name, "").strip() and _is_true(name, environ):
            raise _contradiction(name, f"{environ[name]} contradicts torch_compile of the recipe; unset {name}")


def _check_engine(training: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """DeepSpeed and FSDP are asked for in one place, and by processes that a launcher started."""
    for key, engine, prefixes in (
        ("deepspeed", "DEEPSPEED", ("ACCELERATE_DEEPSPEED_",)),
        ("fsdp", "FSDP", ("FSDP_",)),
    ):
        name = f"ACCELERATE_USE_{engine}"
        by_launcher, by_recipe = is_asked(engine, environ), bool(training.get(key))
        if by_launcher and by_recipe:
            raise ParameterError(key, f"is in the recipe, and the launcher asks for another ({name}); leave one out")
        if by_launcher and "LOCAL_RANK" not in environ:
            raise _contradiction(
                name, f"{environ[name]}, and no launcher has started this process; {START}, or: unset {name}"
            )
        if by_recipe and "LOCAL_RANK" not in environ:
            raise ParameterError(
                key, f"needs a launcher, for one process too; {START} --multi_gpu pipeline/run.py RECIPE"
            )
        left_over = sorted(other for other in environ if other.startswith(prefixes)) if by_recipe else ()
        # transformers sets this one for itself
        for other in (other for other in left_over if other != "FSDP_CPU_RAM_EFFICIENT_LOADING"):
            raise _contradiction(other, f"{environ[other]!r} would decide beside {key} of the recipe; unset {other}")
    if is_asked("DEEPSPEED", environ) and is_asked("FSDP", environ):
        raise _contradiction("ACCELERATE_USE_FSDP", "true beside ACCELERATE_USE_DEEPSPEED; choose one of them")
    stage = environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0")
    if is_asked("DEEPSPEED", environ) and stage not in ("0", "1", "2", "3"):
        raise _contradiction("ACCELERATE_DEEPSPEED_ZERO_STAGE", f"{stage!r} is unknown; allowed: 0, 1, 2, 3")


def _check_numbers(training: Mapping[str, Any], batches: Mapping[str, int], environ: Mapping[str, str]) -> None:
    """What accelerate's configuration can say of the batch, of clipping, and of threads."""
    for name, key, wanted in (
        (
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
            "gradient_accumulation_steps",
            batches["gradient_accumulation_steps"],
        ),
        ("ACCELERATE_GRADIENT_CLIPPING", "max_grad_norm", training["max_grad_norm"]),
    ):
        text = environ.get(name, AUTO).strip().lower()
        if text not in (AUTO, "none") and _number_in(text) != wanted:
            raise _contradiction(name, f"{environ[name]!r} contradicts {key}: {wanted} of the recipe; set it to auto")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        words = environ.get(name, "1").split(",")  # OpenMP allows a number for each level of nesting
        if not all(word.strip().isdigit() and int(word) for word in words):
            raise _contradiction(name, f"{environ[name]!r} is not a number of threads; correct it, or: unset {name}")


def _number_in(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _check_wandb(training: Mapping[str, Any], environ: Mapping[str, str], names_project: bool) -> None:
    """Variables of wandb that would turn it off, or send what the recipe does not ask for."""
    asked = training.get("report_to") or []
    if "wandb" not in (asked if isinstance(asked, list) else [asked]):
        return
    if environ.get("WANDB_DISABLED", "").strip().lower() in TRUE:
        raise _contradiction("WANDB_DISABLED", "true contradicts report_to: wandb; unset it, or write report_to: none")
    project = environ.get("WANDB_PROJECT", training["project"])
    if names_project and project != training["project"]:
        raise _contradiction("WANDB_PROJECT", f"{project!r} contradicts project: {training['project']}; unset it")
    if environ.get("WANDB_LOG_MODEL", "false").strip().lower() not in ("", "false"):
        said = f"{environ['WANDB_LOG_MODEL']!r} would send other weights than the kept steps"
        raise _contradiction("WANDB_LOG_MODEL", f"{said}; write track_steps: true, and unset WANDB_LOG_MODEL")


def read_here(path: str | Path, overrides: Sequence[str]) -> Recipe:
    """Reads a recipe that is to be trained here, where nothing from outside may contradict it.

    Raises:
        RecipeError: at the first mistake.
    """
    recipe = read_recipe(path, overrides)
    try:
        check_outside(recipe)
    except ParameterError as error:
        raise recipe.located(error) from None
    return recipe
