"""Text as Markdown: words that read as they are, and HTML of the little markup that pages use.

Text of ours may hold `code` and **bold**.
Text that was read, from a folder or a recipe, goes through `plain` or `code`.
"""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

SIGNS = r"\\`*_\[\]<>|#~&$"  # that Markdown, or what shows it, may take for its own
REPLACEMENT = "\ufffd"  # of a character that no page can show
# What pages use and no more: no HTML, no links, no pictures.
_INLINE = MarkdownIt("zero").enable(["escape", "backticks", "emphasis"])


def printable(text: object) -> str:
    """Any text on one line, without characters that control what shows it."""
    return "".join(sign if sign.isprintable() else REPLACEMENT for sign in " ".join(str(text).split()))


def plain(text: object) -> str:
    """Any text so that it reads as it is, on one line."""
    return re.sub(f"([{SIGNS}])", r"\\\1", printable(text))


def code(text: object) -> str:
    """Any text as code, on one line; nothing where there is none."""
    words = printable(text)
    if not words:
        return ""
    ticks = "`" * (max(map(len, re.findall("`+", words)), default=0) + 1)
    space = " " if words[:1] == "`" or words[-1:] == "`" else ""
    return f"{ticks}{space}{words}{space}{ticks}"


def inline(text: str) -> str:
    """Return the HTML of a text with markup; whatever else it holds is shown as it is."""
    return str(_INLINE.renderInline(text))


def harmless(text: str) -> str:
    """Return the same Markdown in which tags, links and pictures are shown as they are written."""

    def escape(found: re.Match[str]) -> str:
        return found[0] if len(found[0]) > 1 else f"\\{found[0]}"

    return re.sub(r"\\.|(`+)(?!`).+?(?<!`)\1(?!`)|[<\[]", escape, text, flags=re.DOTALL)
