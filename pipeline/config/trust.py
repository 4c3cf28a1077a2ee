"""Code that comes with a model: whose it is, and whether it runs.

What is read never decides that, be it a recipe, a folder or a repository. A model whose code is a modeling file of
this package, now or in an earlier release, is built by this package's class, and the file beside its weights is not
imported. Any other code runs only where the command line says `--trust-remote-code`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pipeline.config.fields import Parameters
from pipeline.utils.errors import ParameterError
from pipeline.utils.files import sha256

OPTION = "--trust-remote-code"
HELP = "run the code that comes with a model"
KEY = "model.trust_remote_code"
GRANTED = f"--{KEY}=true"  # the option as an override of a recipe

# The SHA-256 of every modeling file that was released: kept steps hold a copy of the one that they were made with.
RELEASED = {
    "modeling_gpt2_bare": (
        "58bc66c58744cb49052cda3118255e84ee09f370ccd37a8ae494531420e66e08",
        "0c33757107407bcfccd6ae8a3d91be32a3a9dc056ee760e30e3fa2c991897d22",
    ),
    "modeling_gpt2_bilinear": ("d0aceb978643173f2f97609e10ae9611cb8f91cf234740ddaea0493395c11c0b",),
    "modeling_gpt2_factorized": ("a6f836f0d3f665b752f686c301017702ef4e0e277bfcde3f6ec2745f10473847",),
    "modeling_gpt2_future_tokens": ("4adfc57335368d9444f03dd06f9723d6728ce83d3a2cb36b108d5edd0c78a94f",),
    "modeling_gpt2_kv_shift": ("995496f46a7e12bc251761f32e674614f3fddc524d2235c184bf37891f009385",),
    "modeling_gpt2_looped": (
        "b50eb44515fcf71bcf4e42dac8f500869b1401856b49e09fe737016eb9176ab6",
        "df0be1bb73257d0dab5d03cb53c7861fa0e177811aa41dd4a414779cdb111f39",
        "211203b31cdaec1a3a330b85f6bc3c51fc742092bbdc04d29b55ddc7fc76a22a",
    ),
    "modeling_gpt2_relu_attention": ("831e3705c22e7ed8d376d5376f12f7423bd5fa30d709bc600075f5b04a00e610",),
    "modeling_memory_mosaics": ("d2e9df517a99f98a03d3f6258b4b3ccc980b41c4a81fe868f6d7d60226769ccf",),
    "modeling_pythia_kv_shift": ("74dfd6494e4881b35e01093c415f3a26e53deb25a73564e580ea90f327e64ebb",),
}


def without_option(words: list[str]) -> list[str]:
    """Returns command-line words with `--trust-remote-code` as the override that it stands for."""
    others = [word for word in words if word not in (OPTION, OPTION.replace("-r", "_r").replace("-c", "_c"))]
    return [*others, GRANTED] if len(others) < len(words) else words


def trusts(model: Parameters) -> bool:
    """Return whether code that comes with a model may run, by what its parameters say."""
    return bool(model.as_dict().get(KEY.rpartition(".")[2]))


def runs_code(name: str, granted: bool, **where: Any) -> bool:
    """Returns what `from_pretrained` is to get as `trust_remote_code` for a folder or a repository.

    Classes of this package that the model needs are made known to transformers.

    Args:
        granted: whether the command line trusts the code.
        where: `revision` and `local_files_only`, as for from_pretrained.

    Raises:
        ParameterError: when the model needs code that is not of this package, and that was not granted.
    """
    if granted:
        return True
    from transformers import CONFIG_MAPPING, PreTrainedConfig
    from transformers.utils import cached_file

    config, _ = PreTrainedConfig.get_config_dict(name, **where)
    family, references = str(config.get("model_type")), config.get("auto_map")
    references = references if isinstance(references, dict) else {}
    ours = f"modeling_{family}"
    if not references or (ours not in _released() and family in CONFIG_MAPPING):
        return False  # transformers has code of its own, or says that it has none
    modules = sorted({str(reference).rpartition("--")[2].partition(".")[0] for reference in references.values()})
    for module in modules:
        known = _released().get(module, ()) if module == ours else ()
        if not known or sha256(Path(str(cached_file(name, f"{module}.py", **where)))) not in known:
            raise ParameterError(
                KEY, f"{name} comes with code that is not of this package, {module}.py; {OPTION} would run it"
            )
    _register(family)
    return False


def _released() -> dict[str, tuple[str, ...]]:
    """Return the hashes that each modeling file of this package has or had, by its name."""
    files = (Path(__file__).parents[1] / "models").glob("modeling_*.py")
    return {file.stem: (*RELEASED.get(file.stem, ()), sha256(file)) for file in files}


def _register(family: str) -> None:
    """Makes this package's classes known to transformers as those of a model_type."""
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

    module = importlib.import_module(f"pipeline.models.modeling_{family}")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    config = next(kind for kind in kinds if issubclass(kind, PreTrainedConfig))
    model = next(kind for kind in kinds if issubclass(kind, PreTrainedModel))
    AutoConfig.register(family, config, exist_ok=True)
    AutoModelForCausalLM.register(config, model, exist_ok=True)
    config.register_for_auto_class()
    model.register_for_auto_class("AutoModelForCausalLM")
