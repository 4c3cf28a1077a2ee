"""Mistakes of users, each said in one line: what, where, what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST = 1000  # characters of a message


class RecipeError(Exception):
    """A mistake in a recipe or on the command line, as one line: where, what, what is allowed."""

    def __init__(self, where: str, message: str):
        if len(message) > LONGEST:  # the middle is a long value; what is allowed comes last
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        self.where, self.message = where, message
        line = f"{where}: {message}"
        super().__init__("".join(letter if letter.isprintable() else " " for letter in line))


class ParameterError(ValueError):
    """A value that its parameter does not allow.

    `key` names the parameter, dotted when it lies in a block (`corpus.ratio`).
    """

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message

    def inside(self, block: str) -> ParameterError:
        """Return the same mistake, where the parameter is seen from outside its block."""
        return ParameterError(f"{block}.{self.key}", self.message)


class MismatchError(ValueError):
    """Things that are right in themselves and do not go together, such as a model and pairs of prompts, in one line."""


class UnsupportedError(TypeError):
    """A model of a kind that is not known here, in one line."""


# What is a mistake of the user's, and says so in one line; any other error is one of the program.
MISTAKES = (RecipeError, ParameterError, MismatchError, UnsupportedError)


def in_one_line(error: BaseException, most: int = LONGEST) -> str:
    """Return what an error says, in one line of at most so many characters."""
    return " ".join(str(error).split())[:most]


@contextmanager
def as_mistake(mistake: Callable[[Exception], Exception]) -> Iterator[None]:
    """Raises, for whatever a library makes of what it was given to read, a mistake of the user's with it as its cause.

    Within stand calls of libraries alone: safetensors, tokenizers, datasets, transformers, json and the Hub's client
    have no class in common.

    Args:
        mistake: Makes it from the library's error.
    """
    try:
        yield
    except MISTAKES:
        raise
    except Exception as error:  # no class in common, as said above
        raise mistake(error) from error
