"""Terminals that lack characters, readers that end early, and files whose encoding nobody's settings decide."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import ROOT, run_here, run_process, write_recipe

ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
# Modules whose `open` has no text, or is no file.
NOT_FILES = ("os", "tarfile", "webbrowser", "Image")


def without_encoding(tree: ast.AST) -> Iterator[int]:
    """The lines that read or write text, or start a process, in whatever encoding the user's settings say."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = (
            node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
        )
        words = {word.arg: word.value for word in node.keywords}
        is_method = isinstance(node.func, ast.Attribute)
        if name in ("read_text", "write_text") and is_method:
            bad = "encoding" not in words and len(node.args) < (1 if name == "read_text" else 2)
        elif name in ("open", "fdopen", "NamedTemporaryFile") and owner not in NOT_FILES:
            mode = words.get(
                "mode", node.args[0 if is_method else 1] if len(node.args) > (0 if is_method else 1) else None
            )
            text = mode.value if isinstance(mode, ast.Constant) else "r" if mode is None else "b"
            bad = isinstance(text, str) and "b" not in text and "encoding" not in words
        else:
            bad = (
                bool({"text", "universal_newlines"} & words.keys())
                and "encoding" not in words
                and owner == "subprocess"
            )
        if bad:
            yield node.lineno


def test_every_text_file_is_read_and_written_in_utf8() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "pipeline").rglob("*.py"))
        for line in without_encoding(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, 'write encoding="utf-8"'


@pytest.mark.parametrize(
    ("line", "is_bad"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("write_text(path, text)", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("path.open('w', encoding='utf-8')", False),
        ("path.open('w')", True),
        ("os.open(path, os.O_RDONLY)", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, text=True, encoding='utf-8')", False),
    ],
)
def test_the_test_sees_what_it_forbids(line: str, is_bad: bool) -> None:
    assert bool(list(without_encoding(ast.parse(line)))) == is_bad


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    assert run_here(write_recipe(folder)) == 0
    return folder / "run"


COMMANDS = {
    "corpora": ("-m", "pipeline.corpora", "group", "--group", "Z5"),
    "help": ("-m", "pipeline.run", "--help"),
    "list": ("-m", "pipeline.runs", "list", "RUN"),
    "report": ("-m", "pipeline.report", "RUN"),
    "push": ("-m", "pipeline.hub", "push", "RUN", "--repo", "user/name", "--dry-run"),
}


@pytest.mark.parametrize("name", ["corpora", "help", "list"])
def test_a_terminal_without_utf8_shows_what_it_can(name: str, run: Path) -> None:
    result = run_process(*(str(run) if word == "RUN" else word for word in COMMANDS[name]), **ASCII)
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    assert result.stdout.isascii() and len(result.stdout) > 100


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_ends_early_is_no_error(name: str, run: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [str(run) if word == "RUN" else word for word in COMMANDS[name]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE, timeout=120
    )
    os.close(writer)
    assert result.returncode == 0 and not result.stderr, result.stderr.decode()


def test_a_run_whose_output_nobody_reads_trains_to_its_end(run: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m pipeline.run {write_recipe(tmp_path)} --max_steps 8 --output_dir {tmp_path}/run"
    shell = ["bash", "-c", f"set -o pipefail; {command} 2>&1 | head -1"]
    result = subprocess.run(shell, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120)
    assert result.returncode == 0 and result.stdout.count("\n") == 1 and not result.stderr
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_output_on_a_full_disk_is_a_line_and_a_status(run: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "pipeline.runs", "list", str(run)],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, encoding="utf-8", timeout=60,
        )  # fmt: skip
    assert result.returncode == 1 and result.stderr == "the output could not be written: No space left on device\n"


def test_a_status_file_that_cannot_be_written_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROKLAB_STATUS", str(tmp_path / "nowhere" / "status"))
    assert run_here(write_recipe(tmp_path), "--learning_rat", "1") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "did you mean learning_rate" in first
    assert second == f"GROKLAB_STATUS: {tmp_path}/nowhere/status cannot be written: No such file or directory; it is 2"


def test_deepspeed_does_not_say_first_that_there_is_no_gpu() -> None:
    code = """
from pipeline.utils.terminal import run_command
def main():
    from deepspeed.accelerator import get_accelerator
    print(get_accelerator().device_name())
    return 0
run_command(main)
"""
    said = run_process("-c", code, CUDA_VISIBLE_DEVICES="")
    assert (said.stdout, said.returncode) == ("cpu\n", 0), said.stderr


@pytest.mark.parametrize("is_launched", [True, False])
def test_a_process_of_several_ends_before_python_is_taken_apart(is_launched: bool) -> None:
    """Threads of a process group, which outlive it, aborted a process there at times, after all was saved."""
    code = """
import atexit
from pipeline.utils.terminal import run_command
class Kept:
    def __del__(self):
        print("taken apart")
def main():
    global kept
    kept = Kept()
    atexit.register(print, "what a library does at an exit")
    return 75
run_command(main)
"""
    said = run_process("-c", code, **({"LOCAL_RANK": "1"} if is_launched else {}))
    apart = [] if is_launched else ["taken apart"]
    assert (said.stdout.splitlines(), said.returncode) == (["what a library does at an exit", *apart], 75), said.stderr
