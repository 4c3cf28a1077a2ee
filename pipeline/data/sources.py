"""Where natural text comes from: files, folders and datasets, opened as `datasets` reads them."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.utils.errors import ParameterError
from pipeline.utils.files import sha256
from pipeline.utils.paths import expanded

# Ending -> builder of datasets, and its options. A file may be compressed beyond that, as .jsonl.gz is.
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("text", {}),
    ".md": ("text", {}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".ndjson": ("json", {}),
    ".parquet": ("parquet", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".arrow": ("arrow", {}),
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def open_rows(source: str, config: str | None, split: str) -> Any:
    """The rows of a split of a source, as a stream that can skip some.

    A folder is read by the rules of `datasets`: which files are data, and of which split, follows from their names or
    from the front matter of a README.md; hidden files are none. One that was saved by `save_to_disk` is loaded.

    Raises:
        ParameterError: when there is no such source or split, or it is not clear how to read it.
    """
    import datasets
    from huggingface_hub.utils.logging import set_verbosity_error

    from pipeline.utils.network import hub_unreachable

    set_verbosity_error()  # it warns of every README.md without front matter
    path = expanded(source, "source")
    if is_whole(path) and split != "train":
        raise ParameterError("split", f"{source} has no splits, and cannot be asked for {split}; write split: train")
    if config is not None and (is_whole(path) or _is_saved(path)):
        raise ParameterError("config", f"{source} has no configurations, and cannot be asked for {config}")
    if path.is_file():
        name, options = _reader(source, [path])
        return datasets.load_dataset(name, data_files=[glob.escape(str(path))], split=split, streaming=True, **options)
    if _is_saved(path):
        saved: Any = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.DatasetDict):
            if split not in saved:
                raise ParameterError("split", f"{source} has no {split}; allowed: {', '.join(saved)}")
            saved = saved[split]
        return saved.to_iterable_dataset()
    if path.is_dir():
        return _folder_builder(path, source, config).as_streaming_dataset(split=split)
    if reason := hub_unreachable():
        raise ParameterError("source", f"{source} is no file here, and the Hub cannot be reached ({reason})")
    return datasets.load_dataset(source, config, split=split, streaming=True)


def content_hash(source: str, config: str | None, split: str, known: dict[Path, str]) -> str | None:
    """A hash of the files here that a split of a source is read from; None where it is read from elsewhere.

    Args:
        source: As of `open_rows`, like the next two.
        config: Configuration of a dataset.
        split: Of a folder or a dataset.
        known: Hashes of files that were read before, to which those of this source are added.

    Raises:
        ParameterError: as `open_rows`.
    """
    files = _files_of_split(source, config, split)
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:  # in the order in which they are read
        if file not in known:
            known[file] = sha256(file)
        digest.update(f"{_suffix(file)} {known[file]}\n".encode())
    return digest.hexdigest()


def _files_of_split(source: str, config: str | None, split: str) -> list[Path]:
    """The files here that a split of a source is read from, in their order."""
    path = expanded(source, "source")
    if path.is_file():
        return [path]
    if _is_saved(path):
        part = path if is_whole(path) else path / split
        return sorted(part.glob("*.arrow"))
    if not path.is_dir():
        return []
    found = _folder_builder(path, source, config).config.data_files or {}
    return [Path(name) for part, names in found.items() if str(part) == split for name in names if Path(name).is_file()]


def is_whole(path: Path) -> bool:
    """Whether a source is one without splits: a file, or a single dataset that was saved."""
    return path.is_file() or (path / "state.json").is_file()


def _is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`, of a dataset or of several splits."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _folder_builder(path: Path, source: str, config: str | None) -> Any:
    """What of `datasets` reads a folder."""
    import datasets
    from datasets.data_files import DataFilesDict, get_data_patterns

    card = path / "README.md"
    if card.is_file() and "\nconfigs:" in card.read_text(encoding="utf-8", errors="replace"):
        return datasets.load_dataset_builder(str(path), config)
    base = glob.escape(str(path))
    try:
        found = DataFilesDict.from_patterns(get_data_patterns(base), base)
    except FileNotFoundError:  # of datasets, where no file is visible
        found = {}
    files = [Path(file) for part in found.values() for file in part]
    # What datasets passes over, as endings in upper case, is read by the same rules.
    name, options = _reader(source, files)
    chosen = {
        str(part): [glob.escape(file) for file in names if _suffix(Path(file)) in READERS]
        for part, names in found.items()
    }
    if config not in (None, "default"):
        raise ParameterError("config", f"{source} has no configuration {config}; its README.md names none")
    return datasets.load_dataset_builder(name, data_files=chosen, **options)


def _suffix(file: Path) -> str:
    endings = [ending.lower() for ending in file.suffixes]
    while endings and endings[-1] in COMPRESSED:
        endings.pop()
    return endings[-1] if endings else ""


def _reader(source: str, files: Iterable[Path]) -> tuple[str, dict[str, Any]]:
    """How files are read, which are all of one kind."""
    endings = {_suffix(file) for file in files} & READERS.keys()
    kinds = {READERS[ending][0] for ending in endings}
    if len(kinds) != 1 or (".tsv" in endings and len(endings) > 1):
        raise ParameterError("source", f"{source} has no files of one kind of {', '.join(READERS)}")
    return READERS[endings.pop()]
