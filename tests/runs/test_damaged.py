"""A run folder whose files are absurd, missing or of another version is answered in a line, and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.circuits.tables import TableError, read_one
from pipeline.models.loading import tokenizer_of
from pipeline.report import __main__ as report
from pipeline.runs import __main__ as upkeep
from pipeline.runs.manifest import Manifest
from pipeline.runs.rebuild import damage_of
from pipeline.utils.errors import RecipeError
from tests.tiny import run_here, tree


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.with_name("run"), tmp_path / "run"))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)
ABSURD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "alias bomb": ("recipe.yaml", lambda file: file.write_text(BOMB)),
    "a tag": ("recipe.yaml", lambda file: file.write_text("!!python/object/apply:os.getcwd []")),
    "large recipe": ("recipe.yaml", lambda file: file.write_text("# " + "x" * 200_000)),
    "large manifest": ("manifest.json", lambda file: os.truncate(file, 1 << 40)),
    "deep manifest": ("manifest.json", lambda file: file.write_text("[" * 1_000_000)),
    "large metrics": ("metrics.jsonl", lambda file: os.truncate(file, 1 << 40)),
    "far step": ("metrics.jsonl", lambda file: file.write_text('{"step": 1e300}\n')),
    "long number": ("metrics.jsonl", lambda file: file.write_text(f'{{"step": 1, "loss": 1{"0" * 400}}}\n')),
    "large environment": ("environment.json", lambda file: os.truncate(file, 1 << 40)),
    "no environment": ("environment.json", lambda file: file.write_text("")),
    "large corpus": ("corpus/corpus.json", lambda file: os.truncate(file, 1 << 40)),
    "many rows": ("corpus/corpus.json", lambda file: file.write_text(json.dumps({"sizes": {"train": 10**400}}))),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_sizes_and_numbers_are_one_line_within_a_second(
    case: str, finished: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, spoil = ABSURD[case]
    spoil(run / name)
    began = time.monotonic()
    assert report.main([str(run)]) == 2
    message = capsys.readouterr().err
    assert time.monotonic() - began < 1 and message.count("\n") == 1 and Path(name).name in message


def test_a_tokenizer_and_a_table_are_plain_files_of_a_size(run: Path) -> None:
    os.truncate(run / "tokenizer" / "tokenizer.json", 1 << 40)
    with pytest.raises(RecipeError, match="and at most 268,435,456 are read"):
        tokenizer_of(run / "tokenizer")
    os.mkfifo(run / "step1.parquet")
    with pytest.raises(TableError, match="is not a plain file"):
        read_one(run / "step1.parquet")


def test_no_flipped_bit_of_a_checkpoint_breaks_its_rebuilding(tmp_path: Path) -> None:
    """Of names, sizes, places, compression, flags and versions; one that changes nothing which is read is no damage."""
    torch.save({"state": torch.arange(3.0)}, tmp_path / "optimizer.pt")
    content = (tmp_path / "optimizer.pt").read_bytes()
    assert damage_of(tmp_path, "optimizer.pt") is None
    found = Counter[str | None]()
    for place in range(len(content)):
        for mask in (1, 8, 128, 255):
            (tmp_path / "optimizer.pt").write_bytes(
                content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]
            )
            found[damage_of(tmp_path, "optimizer.pt")] += 1
    assert found.keys() <= {None, "is damaged", "is corrupted"} and found["is damaged"] > 500


def test_a_schedule_of_a_million_million_steps_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Manifest.load(run)
    entry = manifest.kept.pop(8)
    facts = {**json.loads((run / "manifest.json").read_text())}
    facts["kept"] = {str(10**14): {**facts["kept"]["8"], "path": f"steps/step{10**14}"}}
    (run / "manifest.json").write_text(json.dumps(facts))
    assert entry and upkeep.main(["verify", str(run)]) == 2
    assert "more than 1,000,000 kept steps" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["missing", "damaged"])
def test_a_missing_manifest_is_refused_and_rebuilt(
    loss: str, finished: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Manifest.load(run)
    if loss == "missing":
        (run / "manifest.json").unlink()
    else:
        (run / "manifest.json").write_text('{"kept": ')
    there = tree(run)
    for words in ([], ["--max_steps", "12"]):
        assert run_here(finished, "--output_dir", str(run), *words) == 2
        message = capsys.readouterr().err
        assert "python -m pipeline.runs rebuild-manifest" in message and message.count("\n") == 1
        assert tree(run) == there
    (run / "steps" / "step2" / "model.safetensors").write_bytes(b"torn")
    assert upkeep.main(["rebuild-manifest", str(run)]) == 0
    assert "steps/step2: model.safetensors is cut off; it is not listed" in capsys.readouterr().out
    now = Manifest.load(run)
    assert now.kept.keys() == before.kept.keys() - {2} and now.resumable.keys() == before.resumable.keys()
    assert not now.breaks() and now.kept[8].files == before.kept[8].files and now.kept[8].metrics
    assert now.finished and now.finished["step"] == 8
    assert (run / "steps" / "step2").exists()  # which is not ours to delete as long as it is on no list
    assert upkeep.main(["rebuild-manifest", str(run)]) == 2
    assert "is whole" in capsys.readouterr().err
    assert run_here(finished, "--output_dir", str(run)) == 0
    assert "is finished" in capsys.readouterr().out
    assert run_here(finished, "--output_dir", str(run), "--max_steps", "9") == 0


@pytest.mark.parametrize("change", [{"version": 2}, {"streams": 3}])
def test_a_newer_manifest_is_named_as_such(
    change: dict[str, int], finished: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads((run / "manifest.json").read_text()) | change
    (run / "manifest.json").write_text(json.dumps(facts))
    there = tree(run)
    for command in (
        lambda: run_here(finished, "--output_dir", str(run)),
        lambda: upkeep.main(["list", str(run)]),
        lambda: upkeep.main(["rebuild-manifest", str(run)]),
        lambda: report.main([str(run)]),
    ):
        assert command() == 2
        message = capsys.readouterr().err
        assert "a newer groklab wrote it" in message and message.count("\n") == 1
    assert tree(run) == there


def test_a_finished_run_without_a_checkpoint_is_not_begun_anew(
    finished: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in run.glob("checkpoint-*"):
        shutil.rmtree(folder)
    assert run_here(finished, "--output_dir", str(run), "--max_steps", "12") == 2
    assert "has no whole checkpoint to go on from" in capsys.readouterr().err
    assert sorted(Manifest.load(run).kept) == [0, 1, 2, 4, 8]
