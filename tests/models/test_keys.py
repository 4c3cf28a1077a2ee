"""Each key of a model turned alone: it changes the model that is built, or it is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
import torch

from pipeline.config.fields import parameters_of
from pipeline.config.registry import load, names
from pipeline.models.base import Architecture
from pipeline.utils.errors import ParameterError
from tests.turned import turned

# Keys that say something only where another one is set.
BESIDE = {
    ("gpt2", "preset"): {"n_embd": None, "n_head": None},
    ("gpt2_bare", "preset"): {"n_embd": None, "n_head": None},
    ("gpt2_looped", "temperature"): {"discrete": 1.0},
    ("pythia", "preset"): {"n_embd": None, "n_head": None},
}
for variant in ("bilinear", "factorized", "future_tokens", "kv_shift", "looped", "relu_attention"):
    BESIDE[f"gpt2_{variant}", "preset"] = BESIDE["gpt2", "preset"]
BESIDE["pythia_kv_shift", "preset"] = BESIDE["pythia", "preset"]

# Keys that say where a model comes from.
ORIGIN = {field.name for field in parameters_of(load("models", "pretrained", "test"))}
KEYS = [
    (name, field.name)
    for name in names("models")
    for field in parameters_of(load("models", name, "test"))
    if field.name not in ORIGIN
]


def built(architecture: Architecture) -> str:
    """A hash of the configuration and of the first weights."""
    torch.manual_seed(0)
    model = architecture.build(11)
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.flatten()[:64].numpy().tobytes())
    digest.update(str([weight.requires_grad for weight in model.parameters()]).encode())
    return digest.hexdigest()


@pytest.mark.parametrize(("name", "key"), KEYS, ids=map(".".join, KEYS))
def test_each_key_changes_the_model_or_is_refused(name: str, key: str) -> None:
    kind = load("models", name, "test")
    entry = dataclasses.replace(kind.tiny(), **BESIDE.get((name, key), {}))
    others = list(turned(entry, key))
    if key in kind.unused:
        assert not others
        with pytest.raises(ParameterError, match="would change nothing in"):
            dataclasses.replace(entry, **{key: "relu" if key == "activation" else 0.5})
    else:
        assert others and built(others[0]) != built(entry)


def test_keys_that_another_key_makes_idle_are_refused() -> None:
    looped = load("models", "gpt2_looped", "test").tiny()
    with pytest.raises(ParameterError, match="temperature: changes nothing without discrete"):
        dataclasses.replace(looped, temperature=2.0)
