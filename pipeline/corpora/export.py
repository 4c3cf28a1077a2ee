"""Corpora as others read them: text in Parquet, with a card. Nothing here decides what a corpus holds."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.registry import room_name
from pipeline.corpora.base import Examples
from pipeline.corpora.store import INDEX, StoredCorpus, as_text

if TYPE_CHECKING:  # what reads a recipe has no use for it
    import pyarrow as pa


def text_table(stored: StoredCorpus, block: Examples) -> pa.Table:
    """Examples with columns of text: prompt, answer, type, and each note, null where there is none."""
    import pyarrow as pa

    tokens = pa.array(stored.tokens)
    kind = pa.DictionaryArray.from_arrays(np.zeros(len(block), np.int8), [block.type]).cast(pa.string())
    text = {"prompt": as_text(stored, block.prompts), "answer": as_text(stored, block.answers), "type": kind}
    notes = {name: tokens.take(pa.array(note, mask=note < 0)) for name, note in block.notes.items()}
    return pa.table({**text, **notes})


def write_parquet(stored: StoredCorpus, folder: Path) -> None:
    """`<split>.parquet` with columns of text (prompt, answer, type, notes), vocabulary.json, corpus.json and a card."""
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for split in stored.sizes:
        writer = None
        for block in stored.blocks(split):
            table = text_table(stored, block)
            writer = writer or pq.ParquetWriter(folder / f"{split}.parquet", table.schema)
            writer.write_table(table)
        assert writer is not None  # no split is empty, see _generate
        writer.close()
    (folder / "vocabulary.json").write_text(json.dumps(stored.tokens), encoding="utf-8")
    (folder / INDEX).write_text(json.dumps(stored.describe(), indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(stored), encoding="utf-8")


def card(stored: StoredCorpus) -> str:
    """A dataset card that the Hub's viewer and `load_dataset` understand."""
    from pipeline.config.yaml_writer import dump
    from pipeline.utils.markdown import code, plain

    name = room_name(stored.corpus)
    # All splits together, and each as a config of its own.
    configs = {"default": list(stored.sizes), **{split: [split] for split in stored.sizes}}
    front = {
        "configs": [
            {"config_name": config, "data_files": [{"split": split, "path": f"{split}.parquet"} for split in splits]}
            for config, splits in configs.items()
        ],
        "task_categories": ["text-generation"],
        "tags": ["grokking", "synthetic", "reasoning"],
    }
    examples = []
    for split, size in stored.sizes.items():
        block = next(stored.blocks(split)).take(slice(0, 1))
        texts = [code(as_text(stored, part)[0]).replace("|", "\\|") for part in (block.prompts, block.answers)]
        examples.append(f"| {split} | {stored.role(split)} | {size:,} | {' | '.join(texts)} |")
    parameters = "\n".join(f"- {code(key)}: {plain(value)}" for key, value in stored.corpus.as_dict().items())
    return f"""---
{dump(front)}---

# {name}

{" ".join((inspect.getdoc(type(stored.corpus)) or "").split())}

Source: {stored.corpus.citation or "this repository"}. Vocabulary: {len(stored.tokens):,} tokens. Content hash:
`{stored.content_hash}`.

| split | role | examples | a prompt | its answer |
|---|---|---|---|---|
{chr(10).join(examples)}

## Parameters

{parameters}
"""
