"""Command lines whose mistakes are one line: where, what, what is allowed."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from pipeline.utils.suggest import did_you_mean

REQUIRED = "the following arguments are required: "
# What argparse says of a value, by how it begins, and what is said here.
VALUES = {
    r"invalid int value: (?P<value>.*)": "{value} is not a whole number",
    r"invalid float value: (?P<value>.*)": "{value} is not a number",
    r"ignored explicit argument (?P<value>.*)": "takes no value, and is given {value}",
    r"expected one argument": "needs a value behind it",
    r"expected at least one argument": "needs a value behind it",
}


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names, and answers a mistake in one line, with status 2.

    Args:
        is_open: Whether `parse_known_args` leaves what is no option here to its caller, such as keys of a recipe.
    """

    def __init__(self, *arguments: Any, is_open: bool = False, **settings: Any):
        self.is_open, self.options, self.words = is_open, list[str](), list[str]()
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        self.options += [name for name in names if name.startswith("--") and name != "--help"]
        return super().add_argument(*names, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        self.words = list(sys.argv[1:] if args is None else args)
        found, rest = super().parse_known_args(args, namespace)
        if rest and not self.is_open:
            self.refuse(rest)
        return found, rest

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Say which of the words that are left over is the first mistake."""
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        if not options:
            self.error(f"{words[0]!r} is one word too many; {self.prog} --help says what is taken")
        self.error(f"{options[0]} is no option here{did_you_mean(options[0], self.options)}")

    def error(self, message: str) -> NoReturn:
        """End the process with a line for a mistake; an option that is misspelt is one rather than a missing one."""
        if message.startswith(REQUIRED):
            missing = message.removeprefix(REQUIRED).split(", ")
            for word in self.words:
                name = word.partition("=")[0]
                if name.startswith("--") and name not in self.options and get_close_matches(name, missing, 1, 0.7):
                    message = f"{name} is no option here{did_you_mean(name, self.options)}"
                    break
        print("".join(sign if sign.isprintable() else " " for sign in in_words(message)), file=sys.stderr)
        sys.exit(2)


def in_words(message: str) -> str:
    """A message of argparse as the messages of this package are: `--rows: 'x' is not a whole number`."""
    if message.startswith(REQUIRED):
        names = message.removeprefix(REQUIRED).split(", ")
        return f"command line: {' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    found = re.fullmatch(r"argument (?P<name>.+?): (?P<said>.*)", message, re.DOTALL)
    if not found:
        return f"command line: {message}"
    said = found["said"]
    if choice := re.fullmatch(r"invalid choice: (?P<value>.*?) \(choose from (?P<names>.*)\)", said, re.DOTALL):
        names = [name.strip().strip("'\"") for name in choice["names"].split(",")]
        value = choice["value"].strip("'\"")
        said = f"there is no {value!r}{did_you_mean(value, names)}"
    for pattern, words in VALUES.items():
        if matched := re.fullmatch(pattern, said, re.DOTALL):
            said = words.format(**matched.groupdict())
    return f"{found['name']}: {said}"
