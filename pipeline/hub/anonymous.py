"""What tells of a machine, taken out of what is pushed: paths, the home folder, the names of host and user."""

from __future__ import annotations

import getpass
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

DROPPED = ("host", "user", "home", "cwd")  # keys that say nothing else
# An absolute path inside a text, of two names at least, so that a division is none; and one of another system.
INSIDE = r"(?<![\w./\\~])(?:~[\w.-]*(?:/[^\s/'\"`,:;|<>()\[\]{}=]+)+|(?:/[^\s/'\"`,:;|<>()\[\]{}=]+){2,})/?"
WINDOWS = r"(?<!\w)(?:[A-Za-z]:|\\)\\[^\s'\"`,:;|<>()\[\]{}=]+"


class Anonymous:
    """Takes the names of this machine, and of those that a run was started on, out of texts."""

    def __init__(self, run: Path, hosts: Iterable[object] = ()):
        names = {platform.node(), *(str(host) for host in hosts)}
        names |= {name.partition(".")[0] for name in names}
        self._hosts = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
        self._user = _user()
        known = (run.resolve(), run.absolute(), Path.cwd(), Path.home())
        self._known = sorted({str(path) for path in known if len(path.parts) > 1}, key=len, reverse=True)

    def path(self, text: str) -> str:
        """Returns a text with each absolute path cut down to its last name."""
        text = re.sub(r"file://+(?:localhost)?(?=/)", "", text)
        head, sign, value = text.partition("=") if text.startswith("-") else ("", "", text)
        if value.startswith(("/", "~/")) and len(PurePosixPath(value).parts) > 1 and "\n" not in value:
            return f"{head}{sign}{PurePosixPath(value).name}"
        for known in self._known:  # they may hold spaces
            text = re.sub(rf"{re.escape(known)}(?=[/\s'\"`,;:]|$)", "~/.", text)
        text = re.sub(INSIDE, lambda found: PurePosixPath(found[0]).name, text)
        return re.sub(WINDOWS, lambda found: PureWindowsPath(found[0]).name, text)

    def text(self, text: str) -> str:
        """Returns a text without paths, hosts and the user; a Hub name such as user/model stays."""
        text = self.path(text)
        for host in self._hosts:
            text = re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", "host", text)
        if self._user and not re.fullmatch(r"(?:[^=]*=)?[\w.-]+/[\w.-]+", text):
            text = re.sub(rf"(?<![\w.-]){re.escape(self._user)}(?=[/@\\]|$)", "user", text)
        return text

    def values(self, value: Any) -> Any:
        """Returns the value of a JSON file with every text and key in it made anonymous."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.values(item) for key, item in value.items() if key not in DROPPED}
        return [self.values(item) for item in value] if isinstance(value, (list, tuple)) else value

    def paths(self, value: Any) -> Any:
        """Returns the value of a recipe or a configuration with every path in it cut down, and nothing else changed."""
        if isinstance(value, str):
            return self.path(value)
        if isinstance(value, Mapping):
            return {key: self.paths(item) for key, item in value.items()}
        return [self.paths(item) for item in value] if isinstance(value, (list, tuple)) else value


def _user() -> str:
    """The name of the user; empty where it is a role's."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""
    return "" if name in ("root", "nobody") else name
