"""What goes wrong in reading a base, by whatever library, as one line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.utils.errors import ParameterError, as_mistake, in_one_line

NO_VOCABULARY = "it has no vocabulary"
KEY = "model.model_name_or_path"


@contextmanager
def readable(name: str, what: str) -> Iterator[None]:
    """Turns what goes wrong in reading `what` of the base `name` into one line that says what is missing."""
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # it warns of every attempt
    with as_mistake(lambda error: ParameterError(KEY, f"{name}: {_reason(what, error)}")):
        yield


def usable_generation_config(name: str, config: Any, **where: Any) -> tuple[Any, str | None]:
    """What `from_pretrained` is to take for a base's generation_config.json, and a line where that is another one.

    One that cannot be loaded or saved would fail when the first step is kept. In its place comes a plain one with the
    token ids of the model's configuration; None stands for the base's own.
    """
    from transformers import GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(name, **where)
        with tempfile.TemporaryDirectory() as folder:
            found.save_pretrained(folder)
            GenerationConfig.from_pretrained(folder)
        ids = (found.bos_token_id, found.pad_token_id, *_listed(found.eos_token_id))
        if wrong := [number for number in ids if number is not None and not isinstance(number, int)]:
            raise TypeError(f"{wrong[0]!r} is no token id")
    except OSError:  # there is none, or none that is JSON: transformers makes one of the configuration
        return None, None
    except (ValueError, TypeError, AttributeError) as error:  # a value of the file that is not allowed, or no such kind
        plain = {key: getattr(config, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        reason = in_one_line(error, 160)
        return GenerationConfig(
            **plain
        ), f"kept steps have a plain generation_config.json, the base's is not valid: {reason}"
    return None, None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def check_saved(name: str, model: Any) -> None:
    """Saves and loads the configurations of a model, and compares the sizes that its weights would be loaded into.

    Raises:
        ParameterError: when a kept step could not be written, or not be loaded again.
    """
    import torch

    with readable(name, "configuration"), tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        config = type(model.config).from_pretrained(folder)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            twin = type(model)(config)
    sizes = {key: weight.shape for key, weight in twin.state_dict().items()}
    wrong = [key for key, weight in model.state_dict().items() if sizes.get(key) != weight.shape]
    if wrong:
        raise ParameterError(
            KEY, f"{name}: a kept step could not be loaded again, by the size of {', '.join(wrong[:3])}"
        )


def _reason(what: str, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    text = in_one_line(error)
    for kind, words in {
        GatedRepoError: "is gated; ask for access on its page, and log in with hf auth login",
        RevisionNotFoundError: "has no such revision; its page on the Hub lists them",
        RepositoryNotFoundError: "is neither a folder here nor a repository on the Hub that you may read",
    }.items():
        if any(isinstance(link, kind) for link in chain):
            return words
    if "gated repo" in text:
        return "is gated; ask for access on its page, and log in with hf auth login"
    if "not a valid git identifier" in text or "is not a valid revision" in text:
        return "has no such revision; its page on the Hub lists them"
    if "not a local folder and is not a valid model identifier" in text:
        return "is neither a folder here nor a repository on the Hub that you may read"
    if (
        any("Offline" in type(link).__name__ or "ConnectError" in type(link).__name__ for link in chain)
        or "couldn't connect" in text.lower()
        or "offline" in text.lower()
    ):
        return f"its {what} is not here, and the Hub cannot be reached"
    if what == "tokenizer" and (NO_VOCABULARY in text or "instantiate the backend tokenizer" in text):
        return "its tokenizer cannot be read: it has no tokenizer.json, nor vocab.json and merges.txt"
    if "does not recognize this architecture" in text or "model_type" in text or "Unrecognized" in text:
        return f"its architecture is none that transformers knows: {text[:160]}"
    return f"its {what} cannot be read ({type(error).__name__}: {text[:160]})"
