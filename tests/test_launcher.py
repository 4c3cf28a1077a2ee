"""What a launcher's user sees: one line for a mistake, whatever the number of processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.launcher import LAUNCHER
from tests.tiny import RECIPE, ROOT, free_port, run_process, write_recipe

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
        ("python -m pytest tests/test_launcher.py -k accelerate", False),
        ("srun accelerate launch pipeline/run.py", False),
    ],
)
def test_only_a_launcher_is_ended(command: str, is_one: bool) -> None:
    assert bool(LAUNCHER.match(command)) == is_one
