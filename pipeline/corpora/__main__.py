"""The corpora on the command line: what there is, what one looks like, and writing it out. See USAGE."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pipeline.config.coerce import fill, written
from pipeline.config.fields import Parameters, param, parameters_of
from pipeline.config.help import help_text, wants_help
from pipeline.config.registry import load, names, room_name
from pipeline.config.yaml_nodes import Block, override
from pipeline.corpora.babi import write_babi
from pipeline.corpora.base import Corpus
from pipeline.corpora.export import write_parquet
from pipeline.corpora.published import write_published
from pipeline.corpora.store import StoredCorpus, as_text, build
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.markdown import printable
from pipeline.utils.paths import expanded
from pipeline.utils.terminal import in_a_line, run_command

USAGE = """\
usage: python -m pipeline.corpora                            lists the corpora
       python -m pipeline.corpora NAME [--key value ...]     builds one and shows what it holds
       python -m pipeline.corpora NAME --help                shows its parameters

  --export FOLDER                       writes it as <split>.parquet with a card, for load_dataset
  --export FOLDER --format published    writes it as the files of Wang et al. 2024
  --export FOLDER --format babi         writes the corpus babi as the files of Weston et al. 2015
"""
WIDTH = 120  # columns, where the output is no terminal
SHOWN = 2  # examples of each type in a split


@dataclass(frozen=True)
class Export(Parameters):
    """Where to write a corpus, and how."""

    export: str | None = param(None, "a folder that is new or empty")
    format: Literal["parquet", "published", "babi"] = param("parquet", "of the files")

    def __post_init__(self) -> None:
        super().__post_init__()
        folder = expanded(self.export or "", "export")
        if self.export is not None and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ParameterError("export", f"{self.export} is there and not an empty folder; name a new one")

    def write(self, stored: StoredCorpus) -> None:
        write = {"parquet": write_parquet, "published": write_published, "babi": write_babi}[self.format]
        try:
            write(stored, expanded(self.export or "", "export"))
        except OSError as error:
            raise ParameterError("export", f"{self.export} cannot be written: {error.strerror}") from None


@in_a_line
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 a mistake on the command line."""
    argv = sys.argv[1:] if argv is None else argv
    # Text of a corpus is never markup. Where nobody measures the width, it is not cut to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, highlight=False, emoji=False)
    try:
        if not argv or argv[0] in ("--help", "-h"):
            console.print(USAGE, listing())
            return 0
        name, *words = argv
        kind: Any = load("corpora", name, "corpus")
        if wants_help(argv):
            print(help_text(["--help", name]))
            return 0
        corpus, export = read_words(name, kind, words)
        started = time.perf_counter()
        stored = build(corpus)
        console.print(preview(stored, time.perf_counter() - started))
        if export.export:
            export.write(stored)
            console.print(f"written to {export.export}")
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    except ParameterError as error:
        print(f"command line: {error}", file=sys.stderr)
        return 2
    return 0


def read_words(name: str, kind: type[Corpus], words: Sequence[str]) -> tuple[Corpus, Export]:
    """The corpus with its parameters, and where to write it, from words such as `--ratio 18 --export folder`.

    Raises:
        RecipeError, ParameterError: at the first mistake.
    """
    tree = Block({}, "command line")
    override(tree, words)
    ours = {field.name: tree.entries.pop(field.name) for field in parameters_of(Export) if field.name in tree.entries}
    if "format" in ours and "export" not in ours:
        raise ParameterError("format", "says how to export; add --export FOLDER")
    return fill(kind, tree, owner=name), fill(Export, Block(ours, tree.where))


def listing() -> Table:
    table = _console_table("corpus", "what it holds")
    for name in names("corpora"):
        table.add_row(name, _first_line(load("corpora", name, "corpus")))
    return table


def preview(stored: StoredCorpus, seconds: float) -> Group:
    """Parameters, sizes, roles, vocabulary, hash, and some examples of every split."""
    corpus = stored.corpus
    parameters = _console_table("parameter", "value", "")
    for field in parameters_of(corpus):
        parameters.add_row(field.name, written(getattr(corpus, field.name)), Text(field.metadata["help"], "dim"))
    splits, examples = _console_table("split", "examples", "role"), _console_table("type", "prompt", "answer")
    splits.columns[1].justify = "right"
    for split, size in stored.sizes.items():
        splits.add_row(split, f"{size:,}", stored.role(split))
        examples.add_row(Text(split, "bold"))
        for kind, prompt, answer in _examples(stored, split):
            examples.add_row(f"  {kind}", prompt, answer)
    tokens, words = len(stored.tokens), len(corpus.vocabulary())
    facts = (
        f"vocabulary   {words:,} tokens, {tokens:,} with padding and reserved ones\n"
        f"content hash {stored.content_hash}\n"
        f"cache        {stored.folder}, ready in {seconds:.2f} s\n"
    )
    return Group(f"{room_name(corpus)}: {_first_line(type(corpus))}\n", parameters, "", splits, "", examples, "", facts)


def _examples(stored: StoredCorpus, split: str) -> Iterator[tuple[str, str, str]]:
    """The type, prompt and answer of the first examples of each type."""
    seen = set()
    for block in stored.blocks(split):
        if block.type not in seen:
            first = block.take(slice(0, SHOWN))
            texts = (as_text(stored, part).to_pylist() for part in (first.prompts, first.answers))
            for prompt, answer in zip(*texts):
                yield printable(block.type), printable(prompt), printable(answer)
        seen.add(block.type)


def _console_table(*header: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    return table


def _first_line(kind: type[Parameters]) -> str:
    return (inspect.getdoc(kind) or "").split("\n")[0]


if __name__ == "__main__":
    run_command(main)
