"""What goes wrong in reading a base, by whatever library, as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.parameters import ParameterError

NO_VOCABULARY = "it has no vocabulary"
KEY = "model.model_name_or_path"


@contextmanager
def readable(name: str, what: str) -> Iterator[None]:
    """Turns what goes wrong in reading `what` of the base `name` into one line that says what is missing."""
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # it warns of every attempt
    try:
        yield
    except ParameterError:
        raise
    except Exception as error:  # safetensors, tokenizers, json, the Hub: no class in common; it stays the cause
        raise ParameterError(KEY, f"{name}: {_reason(what, error)}") from error


def _reason(what: str, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    text = " ".join(str(error).split())
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
