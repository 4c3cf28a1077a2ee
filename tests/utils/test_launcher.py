"""What a launcher's user sees: one line for a mistake, whatever the number of processes."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from pipeline.runs.lock import RunLock
from pipeline.utils.errors import RecipeError
from pipeline.utils.exit_status import MISTAKE, exit_status
from pipeline.utils.launcher import LAST_WORDS, LAUNCHER
from pipeline.utils.signals import SAVED, stop_signals
from tests.kills import Runner, join
from tests.tiny import RECIPE, ROOT, free_port, run_process, write_recipe
from tests.utils.test_signals import ENDLESS

CPU = ("--config_file", str(ROOT / "accelerate_configs" / "cpu.yaml"))
ONE = ("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


@pytest.mark.parametrize("words", [CPU, ONE], ids=["two", "one"])
def test_a_mistake_under_a_launcher_is_one_line_without_its_traceback(words: tuple[str, ...], tmp_path: Path) -> None:
    recipe, status = write_recipe(tmp_path, f"{RECIPE}learning_rat: 1\n"), tmp_path / "status"
    launch = ["-m", "accelerate.commands.launch", *words, "--main_process_port", str(free_port())]
    result = run_process(*launch, str(ROOT / "pipeline" / "run.py"), str(recipe), GROKLAB_STATUS=str(status))
    assert result.returncode != 0
    assert result.stderr.startswith(f"{recipe}:13: learning_rat: unknown key; did you mean learning_rate?")
    assert result.stderr.count("\n") == 1 and not result.stdout
    assert status.read_text() == "2\n"


def test_a_process_that_comes_after_its_launcher_has_ended_says_nothing_again(tmp_path: Path) -> None:
    """No signal reaches it, and the folder that torch's launcher has made says that another one has spoken."""
    recipe, words = write_recipe(tmp_path, f"{RECIPE}learning_rat: 1\n"), (str(ROOT / "pipeline" / "run.py"),)
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    said = []
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
        named = place | {"RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_ERROR_FILE": str(tmp_path / rank / "e.json")}
        result = run_process(*words, str(recipe), **named)
        assert result.returncode == 2
        said.append(result.stderr.count("learning_rat: unknown key"))
    assert said == [1, 0]


def test_a_process_that_is_ended_while_it_reads_its_recipe_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its launcher ended it because another one has found the same, which its handler could only note."""
    for name, value in {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value or "127.0.0.1")

    def ended() -> int:
        with stop_signals(is_bound=True):
            os.kill(os.getpid(), signal.SIGTERM)
            raise RecipeError("r.yaml", "a mistake")

    began = time.monotonic()
    assert exit_status(ended) == MISTAKE and time.monotonic() - began < LAST_WORDS / 2
    assert not capsys.readouterr().err.count("a mistake")


def test_what_only_the_first_process_finds_ends_the_others_too(tmp_path: Path) -> None:
    """They wait for it, inside of torch, where no signal is heard."""
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    with RunLock(run):
        launch = ["-m", "accelerate.commands.launch", *CPU, "--main_process_port", str(free_port())]
        words = [str(ROOT / "pipeline" / "run.py"), str(recipe), "--output_dir", str(run), "--use_cpu", "true"]
        result = run_process(*launch, *words)
    assert result.returncode != 0 and f"output_dir: {run} is in use by pid {os.getpid()}" in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    deadline = time.monotonic() + 30
    while any(str(recipe) in words_of(process) for process in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def words_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def hears(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("seconds", [0.0, 1.5])
def test_a_signal_to_one_process_while_it_starts_ends_all_after_a_step(seconds: float, tmp_path: Path) -> None:
    runner = Runner(write_recipe(tmp_path, ENDLESS), 2)
    processes = runner.start(tmp_path / "run")
    pid = processes[1].pid or 0
    deadline = time.monotonic() + 60
    while not hears(pid, signal.SIGTERM):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(seconds)  # far from its first step
    os.kill(pid, signal.SIGTERM)
    assert join(processes, 90) == [SAVED, SAVED]
    said = (tmp_path / "run.log").read_text()
    assert "stopped by SIGTERM after step" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("command", "is_one"),
    [
        ("/usr/bin/python3.11 /usr/bin/accelerate launch pipeline/run.py r.yaml", True),
        ("python /home/me/.venv/bin/torchrun --nproc-per-node 2 pipeline/run.py r.yaml", True),
        ("python -u -m accelerate.commands.launch pipeline/run.py r.yaml", True),
        ("/x/bin/python -m torch.distributed.run -m pipeline.run r.yaml", True),
        ("bash -c accelerate launch pipeline/run.py r.yaml", False),
        (
            "python -c from multiprocessing.forkserver import main; main(['pipeline.run', 'accelerate.commands.'])",
            False,
        ),
        ("python -m pytest tests/utils/test_launcher.py -k accelerate", False),
        ("srun accelerate launch pipeline/run.py", False),
    ],
)
def test_only_a_launcher_is_ended(command: str, is_one: bool) -> None:
    assert bool(LAUNCHER.match(command)) == is_one
