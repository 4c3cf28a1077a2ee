"""Kept steps as models: their shape, their tokenizer, and their weights into a model that is already there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runs.checkpoints import choose_steps
from pipeline.runs.folder import RunFolder
from pipeline.utils.errors import MismatchError, RecipeError, as_mistake, in_one_line
from pipeline.utils.inside import MEGABYTE, exists, read_bytes, refuse_links

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# GPT-NeoX's output projection: its name in files, and in models of current transformers.
RENAMED = {"embed_out": "lm_head"}

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
MOST_BYTES = 256 * MEGABYTE


def shape_of(step: Path, granted: bool) -> PreTrainedModel:
    """A model of the shape of a kept step in float32, with weights of its own; `granted`: its code may run.

    Raises:
        ParameterError: when it comes with code that is not of this package, and that was not granted.
        MismatchError: when no model can be built from its configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from pipeline.config.trust import runs_code

    with as_mistake(lambda error: MismatchError(f"{step}: config.json is of no model: {in_one_line(error, 200)}")):
        trusted = runs_code(str(step), granted)
        config = AutoConfig.from_pretrained(step, trust_remote_code=trusted)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, trust_remote_code=trusted, dtype=torch.float32
        )
    return model


def load_step(
    run: RunFolder, step: int | None = None, device: Any = "cpu", into: PreTrainedModel | None = None
) -> PreTrainedModel:
    """The model at a kept step (None: the last) in float32 and eval mode, from what lies in its folder alone.

    Args:
        run: The run that kept it.
        step: Its number.
        device: Where it is put.
        into: A model of this run that gives its place.

    Raises:
        ParameterError: when the step was not kept.
        MismatchError: when its weights are not those that were kept.
    """
    (step,) = choose_steps(run.manifest, "last" if step is None else str(step))
    entry = run.manifest.kept[step]
    if damage := entry.damage(run.path):
        raise MismatchError(f"{run.path}/{entry.path}: {damage}")
    model = shape_of(run.path / entry.path, run.trusted).to(device) if into is None else into
    load_weights(model, run.path / entry.path)
    return model.eval()


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a run folder.

    Raises:
        RecipeError: when it cannot be read.
    """
    from transformers import AutoTokenizer

    refuse_links(folder.parent, folder.name)
    for name in TOKENIZER_FILES:  # which transformers would read whatever they are
        if exists(folder, name):
            read_bytes(folder, name, MOST_BYTES)
    with as_mistake(lambda error: RecipeError(str(folder), f"is no tokenizer: {in_one_line(error, 200)}")):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer


def load_weights(model: Any, folder: Path) -> None:
    """Copies the weights of a `steps/stepN` or `checkpoint-N` folder into a model of the same sizes, on its device.

    Raises:
        MismatchError: when a weight is missing, of another shape or not finite, or the folder has one too many.
    """
    from safetensors.torch import load_file

    places = model.state_dict(keep_vars=True)
    weights = {
        name if name in places else renamed(name): weight
        for name, weight in load_file(folder / "model.safetensors").items()
    }
    # A tied weight has two names and is stored under one of them.
    filled = {id(places[name]) for name in weights if name in places}
    missing = [name for name, place in places.items() if id(place) not in filled]
    wrong = [name for name, weight in weights.items() if name not in places or places[name].shape != weight.shape]
    if missing or wrong:
        raise MismatchError(f"{folder} does not fit {type(model).__name__}: {', '.join(missing[:3] + wrong[:3])}")
    if name := not_finite(weights):
        raise MismatchError(f"{folder}: {name} is not finite")
    model.load_state_dict(weights, strict=False)


def not_finite(weights: Mapping[str, Any]) -> str | None:
    """The name of the first weight that has a value which is no finite number; None where all are."""
    floats = ((name, weight) for name, weight in weights.items() if weight.is_floating_point())
    return next((name for name, weight in floats if not weight.isfinite().all()), None)


def renamed(name: str) -> str:
    """The name in a model of a weight, or of a part of an adapter, that has another one in files."""
    layer, _, rest = name.partition(".")
    return f"{RENAMED.get(layer, layer)}.{rest}"
