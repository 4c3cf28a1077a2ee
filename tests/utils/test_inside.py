"""What stands in a run folder neither leads out of it nor decides what is deleted."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.report import __main__ as report
from pipeline.runs import __main__ as upkeep
from pipeline.runs.checkpoints import seal
from pipeline.runs.manifest import Manifest
from pipeline.runs.verify import verify
from pipeline.utils import inside
from pipeline.utils.drafts import clean, draft_folder, new_folder, write_inside
from pipeline.utils.errors import RecipeError
from pipeline.utils.inside import append_to, read_json, remove_listed, remove_tree
from tests.kept_steps import checkpoint, torn
from tests.kept_steps import write_run as write_steps
from tests.tiny import run_here, tree


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.with_name("run"), tmp_path / "run"))


COMMANDS: dict[str, Callable[[Path, Path], int]] = {
    "longer": lambda recipe, run: run_here(recipe, "--output_dir", str(run), "--max_steps", "10"),
    "report": lambda recipe, run: report.main([str(run)]),
    "prune": lambda recipe, run: upkeep.main(["prune", str(run), "--keep", "last"]),
    "verify": lambda recipe, run: upkeep.main(["verify", str(run)]),
}


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("lock.json", ("longer", "prune")),
        ("manifest.json", ("longer", "report", "prune", "verify")),
        ("metrics.jsonl", ("longer", "report")),
        ("figures", ("report",)),
        ("tokenizer", ("longer",)),
        ("steps", ("longer", "prune", "verify")),
        ("recipe.yaml", ("longer", "report")),
        ("environment.json", ("longer", "report")),
        ("corpus", ("longer", "report")),
    ],
)
def test_a_link_that_leads_out_is_one_line(
    name: str, commands: tuple[str, ...], finished: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    if (run / name).exists():
        shutil.move(run / name, outside / name)
    else:
        (outside / name).write_text("theirs\n")
    (run / name).symlink_to(outside / name)
    before = tree(outside)
    for command in commands:
        status = COMMANDS[command](finished, run)
        message = capsys.readouterr().err
        if command == "verify" and name == "steps":
            assert status in (1, 2)  # it says of each step that it leads out
        else:
            assert status == 2 and message.count("\n") == 1 and name in message, (command, message)
        assert tree(outside) == before, command


def test_files_that_are_replaced_leave_what_a_link_in_their_place_leads_to(run: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    for name in ("report.md", "report.html", ".report.md.draft"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(tmp_path / "theirs")
    assert report.main([str(run)]) == 0
    assert (tmp_path / "theirs").read_text() == "theirs" and not (run / "report.md").is_symlink()


THEIRS = (
    "checkpoint-8-backup/weights",
    "checkpoint-24/weights",
    "steps/best/notes.md",
    "steps/notes/a",
    "steps/step7/a",
    "steps/step8/notes.md",
    "checkpoint-4/notes.md",
    ".x.draft.md",
    ".draft-mine/a",
    "circuits/notes/.a.draft",
    "tokenizer/notes.md",
)


def test_what_a_user_puts_into_a_run_survives_everything(
    finished: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in THEIRS:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(f"theirs: {name}")
    # Training goes back to step 4, so that step 8 is deleted and written anew.
    (run / "checkpoint-8" / "optimizer.pt").write_text("torn")
    assert run_here(finished, "--output_dir", str(run), "--max_steps", "12") == 0
    assert "steps/step8 stays: it holds files that are not of this run" in capsys.readouterr().out
    assert upkeep.main(["prune", str(run), "--keep", "last"]) == 0
    left = tree(run)
    for name in THEIRS:
        assert f"theirs: {name}".encode() in left.values(), name
    assert max(Manifest.load(run).resumable) == 12


def test_a_folder_of_projects_in_the_place_of_steps_is_left_alone(
    finished: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "steps")
    for name in ("step1", "step8", "work"):
        (tmp_path / "projects" / name).mkdir(parents=True)
        (tmp_path / "projects" / name / "model.safetensors").write_text("years of work")
    (run / "steps").symlink_to(tmp_path / "projects")
    before = tree(tmp_path / "projects")
    assert run_here(finished, "--output_dir", str(run), "--max_steps", "12") == 2
    assert "steps: is a link" in capsys.readouterr().err
    assert tree(tmp_path / "projects") == before


def test_a_run_folder_that_is_itself_a_link_is_its_user_s_choice(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    assert run_here(finished, "--output_dir", str(tmp_path / "run")) == 0
    assert all(damage is None for _, damage in verify(tmp_path / "scratch"))
    assert (tmp_path / "run").is_symlink() and not list((tmp_path / "scratch").glob(".draft*"))


def test_what_a_crash_leaves_goes_and_a_namesake_stays(tmp_path: Path) -> None:
    run = write_steps(tmp_path / "run")
    torn(run, 20)  # of a crash
    checkpoint(run, 25)  # of nobody knows whom
    (run / "steps" / "step9").mkdir()
    from pipeline.runs.checkpoints import rewind

    rewind(run, Manifest.load(run), 15)
    assert not (run / "checkpoint-20").exists() and not list(run.glob(".draft*"))
    assert (run / "checkpoint-25").is_dir() and (run / "steps" / "step9").is_dir()


def test_a_crash_between_list_and_deletion_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.runs import checkpoints

    run = write_steps(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "remove", lambda *_: None)  # killed before it deletes
        checkpoint(run, 20)
        seal(run, 20, most=2)
        checkpoints.rewind(run, Manifest.load(run), 20)
    assert (run / "checkpoint-10").exists() and 10 not in Manifest.load(run).resumable
    checkpoints.rewind(run, Manifest.load(run), 20)
    assert not (run / "checkpoint-10").exists() and (run / "checkpoint-15").exists()


def test_deleting_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text("theirs")
    run = tmp_path / "run"
    (run / "draft" / "inner").mkdir(parents=True)
    (run / "draft" / "inner" / "out").symlink_to(tmp_path / "outside")
    with inside.opened(run) as folder:
        remove_tree(folder, "draft")
    (run / "steps").symlink_to(tmp_path / "outside")
    with pytest.raises(RecipeError, match="is a link"):
        remove_listed(run, "steps", ["a"])
    assert not (run / "draft").exists() and (tmp_path / "outside" / "a").read_text() == "theirs"


def test_drafts_of_those_who_write_stay_and_of_those_who_are_gone_do_not(tmp_path: Path) -> None:
    with draft_folder(tmp_path, "steps/step4") as draft:
        (draft.path / "a").write_text("a")
        clean(tmp_path, is_owner=True)
        assert (draft.path / "a").exists()
        gone = f".draft-{'0' * 16}.steps.step5"
        (tmp_path / gone / "step5").mkdir(parents=True)
        (tmp_path / f".draft-{'0' * 16}").write_text("half")
        (tmp_path / ".draft-notes").write_text("mine")
        (tmp_path / ".x.draft.md").write_text("mine")
        clean(tmp_path, is_owner=True)
        assert sorted(path.name for path in tmp_path.glob(".*")) == sorted(
            [draft.home.name, ".draft-notes", ".x.draft.md"]
        )
    assert not draft.home.exists()


def test_a_draft_in_which_there_is_a_link_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a link"), new_folder(tmp_path, "steps/step4") as folder:
        (folder / "a").symlink_to("/etc/passwd")
    assert not (tmp_path / "steps" / "step4").exists() and not list(tmp_path.glob(".draft*"))


def test_only_plain_files_of_a_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "twice").write_text("{}")
    os.link(tmp_path / "twice", tmp_path / "linked")
    began = time.monotonic()
    for name, message in {
        "pipe": "is not a plain file",
        "device": "is a link",
        "large": "has 1,099,511,627,776 bytes, and at most 1,048,576 are read",
        "deep": "is damaged",
    }.items():
        with pytest.raises(RecipeError, match=message):
            read_json(tmp_path, name)
    with pytest.raises(RecipeError, match="is a hard link"):
        append_to(tmp_path, "linked")
    with pytest.raises(RecipeError, match="leads out"):
        write_inside(tmp_path, "../elsewhere", b"")
    assert time.monotonic() - began < 1
