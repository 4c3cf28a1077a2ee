"""The compiled library: kept once for a machine, safe to load, and gone without where it cannot be had."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.kernels import native_code
from pipeline.kernels.native_code import NotCompiledError, load


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A cache of its own, into which a library that was compiled before is put in place of compiling; the places."""
    load()
    (library,) = (Path(os.environ["GROKLAB_CACHE"]) / "kernels").glob(f"*{native_code._key()}*")
    made: list[Path] = []

    def put(path: Path) -> None:
        made.append(path)
        shutil.copy(library, path)

    monkeypatch.setattr(native_code, "_compile", put)
    monkeypatch.setenv("GROKLAB_CACHE", str(tmp_path / "cache"))
    return made


def test_it_is_compiled_once_for_a_source_and_a_way_to_compile(
    compiled: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load().groklab_room and load().groklab_room
    assert len(compiled) == 1
    monkeypatch.setattr(native_code, "FLAGS", (*native_code.FLAGS, "-g"))
    load()
    assert len(set(compiled)) == 2 and len(compiled) == 2


def test_a_torn_library_is_compiled_again(compiled: list[Path], tmp_path: Path) -> None:
    torn = tmp_path / "cache" / "kernels" / f"step-{native_code._key()}.so"
    torn.parent.mkdir(mode=0o700, parents=True)
    torn.write_bytes(b"\x7fELF")
    assert load().groklab_room and compiled == [torn]


@pytest.mark.parametrize("place", ["folder", "file"])
def test_code_that_others_may_write_is_not_loaded(place: str, compiled: list[Path]) -> None:
    load()
    (compiled[0].parent if place == "folder" else compiled[0]).chmod(0o777)
    with pytest.raises(NotCompiledError, match=f"others may write to .*{'kernels' if place == 'folder' else 'step-'}"):
        load()


def test_no_compiler_and_one_that_fails_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROKLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native_code, "COMPILER", "g++-of-nobody")
    with pytest.raises(NotCompiledError, match=r"^there is no g\+\+-of-nobody$"):
        load()
    broken = tmp_path / "broken-g++"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'a.h: error: no such header' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(native_code, "COMPILER", str(broken))
    with pytest.raises(NotCompiledError, match=r"broken-g\+\+ failed: a.h: error: no such header$"):
        load()
    assert not [*(tmp_path / "cache" / "kernels").iterdir()]
    monkeypatch.setattr(native_code.sys, "platform", "darwin")
    with pytest.raises(NotCompiledError, match="written for Linux"):
        load()


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GROKLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotCompiledError, match="file"):
        load()
