"""`recipes/launch.slurm` on a real Slurm of two nodes: limits, preemption, cancelling and dead nodes lose nothing.

python -m pytest -m slurm tests/sweep/test_slurm.py
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runs.checkpoints import newest_good
from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import read_history
from pipeline.runs.verify import verify
from pipeline.sweep.slurm import array_file
from tests.kills import differences
from tests.slurm_cluster import Cluster
from tests.tiny import RECIPE, ROOT, write_recipe

SCRIPT = ROOT / "recipes" / "launch.slurm"
STEPS = 1200  # a thousand after the first ones, in which Slurm preempts, cancels, misses a node
SAVED = 200
TEXT = RECIPE.replace("every: [[10, null]]", "every: [[400, null]]").replace("max_steps: 24", f"max_steps: {STEPS}")
TEXT = TEXT.replace("eval_steps: 6", "eval_steps: 800").replace("save_steps: 6", f"save_steps: {SAVED}")
TEXT = TEXT.replace("logging_steps: 3", "logging_steps: 100")


def test_it_is_clean_for_shellcheck() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    result = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_a_rehearsal_prints_what_would_start() -> None:
    environment = {**os.environ, "SLURM_JOB_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "123"}
    environment |= {"SLURM_ARRAY_TASK_ID": "5", "ENGINE": "zero2", "PYTHON": sys.executable}
    command = ["bash", str(SCRIPT), "--dry-run", "recipes/quickstart.yaml", "--seed", "%a", "--run_name", "two words"]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"4 nodes x 8 processes, zero2, from {ROOT}\n")
    words = started(said)
    at = words.index("--config_file")
    assert words[at + 1] == f"{ROOT}/accelerate_configs/zero2.yaml"
    assert words[at + 2 :][:6] == ["--num_machines", "4", "--num_processes", "32", "--machine_rank", "@NODE@"]
    told = ["-m", "pipeline.run", "recipes/quickstart.yaml", "--seed", "5", "--run_name", "two words"]
    assert words[-len(told) - 2 :] == ["--main_process_port", "20123", *told]
    assert "two words would be in runs/quickstart" in said and "NCCL_SOCKET_IFNAME" in said
    assert "--cpus-per-task 32" in said and "--mem 64G" in said and "warning" not in said


def started(said: str) -> list[str]:
    """The words of the command that a rehearsal prints, as bash reads them."""
    line = said.partition("the job would start:\n")[2]
    script = f"set -- {line}\nprintf '%s\\0' \"$@\""
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def test_a_rehearsal_reads_the_options_of_sbatch_and_the_recipe() -> None:
    own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")} | {"PYTHON": sys.executable}
    command = ["bash", str(SCRIPT), "--dry-run"]

    def rehearse(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words], cwd=ROOT, env=own, capture_output=True, text=True)

    asked = ("--nodes", "2", "--gpus-per-node=h100:4", "-c", "8", "--mem=100G", "--time", "8:00:00")
    said = rehearse(*asked, "recipes/quickstart.yaml").stdout
    assert said.startswith(f"2 nodes x 4 processes, multi_gpu, from {ROOT}\n") and "NCCL_DEBUG" in said
    assert "warning" not in said and "hint: --" not in said
    assert f"  sbatch {' '.join(asked)} {SCRIPT} recipes/quickstart.yaml\n" in said
    assert rehearse("--gpus=8", "-N", "2", "recipes/quickstart.yaml").stdout.startswith(
        "2 nodes x 4 processes, multi_gpu"
    )
    assert "warning: no GPU was asked for" in rehearse("recipes/quickstart.yaml").stdout
    for words, hint in (
        (("recipes/quickstart.yaml", "--sed", "1"), "did you mean seed?"),
        (("--gpus-per-node", "3", "recipes/quickstart.yaml"), "global_batch_size"),  # 512 is no multiple of 3
    ):
        refused = rehearse(*words)
        assert refused.returncode == 2 and hint in refused.stderr and refused.stderr.count("\n") == 1
        assert refused.stdout == ""
    assert not list(ROOT.glob(".status-*"))


@pytest.mark.parametrize("word", ["x y", "a\nb", "a,b", "$(touch hacked)", "`touch hacked`", "it's", "%a", "*", "\\n"])
def test_a_job_of_an_array_takes_its_own_words(word: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs, of\na sweep"
    runs.write_bytes(array_file([["a.yaml", "--seed=0"], ["b c.yaml", "--seed=1", f"--run_name={word}"], ["d.yaml"]]))
    environment = {
        **os.environ,
        "RUNS": str(runs),
        "SLURM_ARRAY_TASK_ID": "1",
        "REPOSITORY": str(ROOT),
        "PYTHON": sys.executable,
    }
    command = ["bash", str(SCRIPT), "--dry-run"]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    words = started(said)  # bash quotes each word so that it reads it again as it was
    told = ["-m", "pipeline.run", "b c.yaml", "--seed=1", f"--run_name={word}", "--use_cpu", "true"]
    assert words[-len(told) :] == told
    assert f"--config_file {ROOT}/accelerate_configs/" in said
    assert [path.name for path in tmp_path.iterdir()] == [runs.name]


def test_a_missing_recipe_is_one_line() -> None:
    result = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("no recipe; sbatch recipes/launch.slurm")
    assert result.stderr.count("\n") == 1


class Jobs:
    """Jobs of one recipe, submitted from a folder that looks like the repository."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.home = Path(tempfile.mkdtemp(prefix="groklab-jobs-"))
        for name in ("pipeline", "recipes", "accelerate_configs"):
            (self.home / name).symlink_to(ROOT / name)
        self.recipe = write_recipe(self.home, TEXT)

    def submit(self, run: str, *options: str, words: tuple[str, ...] = ()) -> str:
        command = ["sbatch", "--parsable", f"--chdir={self.home}", "--nodes=2", *options]
        command += [str(SCRIPT), str(self.recipe), "--output_dir", str(self.home / run), *words]
        return self.cluster.run(*command, PYTHON=sys.executable, SLURM_SUBMIT_DIR=str(self.home)).strip()

    def wait_for_step(self, run: str, step: int) -> None:
        deadline = time.monotonic() + 300
        while not any(line["step"] >= step for line in read_history(self.home / run)):
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def wait_for_start(self, run: str, number: int) -> None:
        deadline = time.monotonic() + 300
        while not (self.home / run / "environment.json").is_file() or len(self.starts(run)) < number:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def finish(self, job: str, seconds: float = 600) -> str:
        """Waits for the end of a job, through its requeues; returns its log."""
        state = self.cluster.wait(job, seconds=seconds)
        assert state == "COMPLETED", f"{state}\n{self.logs()}"
        return (self.home / f"groklab-{job}.out").read_text()

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in self.home.glob("*.out"))

    def starts(self, run: str) -> list[dict[str, object]]:
        return json.loads((self.home / run / "environment.json").read_text())


@pytest.fixture(scope="module")
def jobs(cluster: Cluster) -> Iterator[Jobs]:
    jobs = Jobs(cluster)
    yield jobs
    shutil.rmtree(jobs.home)


@pytest.fixture(scope="module")
def straight(jobs: Jobs) -> Path:
    """A run that nobody disturbed, on two nodes."""
    log = jobs.finish(jobs.submit("straight"))
    assert "starts in" in log and log.count("starts in") == 1
    return jobs.home / "straight"


@pytest.mark.slurm
def test_two_nodes_train_together(straight: Path, jobs: Jobs) -> None:
    (start,) = jobs.starts("straight")
    assert start["processes"] == 2
    assert Manifest.load(straight).finished["step"] == STEPS
    assert not list(jobs.home.glob(".status*"))


@pytest.mark.slurm
def test_a_job_at_its_time_limit_saves_requeues_itself_and_finishes(straight: Path, jobs: Jobs) -> None:
    # Slurm warns within 30 s of the job's start, and training begins some seconds after it: the run is to be longer
    # than what is left, and hardly more, on any machine.
    last = read_history(straight)[-1]
    steps = 400 * math.ceil(30 * last["step"] / last["seconds"] / 400)
    words = ("--report_to", "wandb", "--max_steps", str(steps))
    job = jobs.submit("limit", "--time=2", "--signal=USR1@90", words=words)
    jobs.wait_for_start("limit", 2)
    # Once is enough: a slow machine would come back from the queue every 30 s.
    jobs.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    log = jobs.finish(job)
    starts = jobs.starts("limit")
    assert len(starts) >= 2 and f"back into the queue as job {job}" in log
    # The warning may come while it starts, which then takes one step.
    assert re.search("SIG(USR1|TERM): ending (this step|after the first step) and saving", log)
    assert Manifest.load(jobs.home / "limit").finished["step"] == steps
    assert not differences(jobs.home / "limit", straight, steps)
    tracked = list((jobs.home / "limit" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(tracked) >= 2 and len({path.name for path in tracked}) == 1  # one tracked run


@pytest.mark.slurm
def test_a_preempted_job_saves_and_goes_on_later(straight: Path, jobs: Jobs) -> None:
    job = jobs.submit("preempted")
    jobs.wait_for_step("preempted", 100)
    words = [
        "sbatch",
        "--parsable",
        "--partition=urgent",
        "--nodes=2",
        "--exclusive",
        f"--output={jobs.home}/urgent",
    ]
    urgent = jobs.cluster.run(*words, "--wrap", "srun sleep 3").strip()
    assert jobs.cluster.wait(urgent, seconds=90) == "COMPLETED"
    log = jobs.finish(job)
    assert "SIGTERM: ending this step and saving" in log and len(jobs.starts("preempted")) == 2
    assert not differences(jobs.home / "preempted", straight)


@pytest.mark.slurm
def test_a_cancelled_job_stays_cancelled_and_its_run_can_be_resumed(straight: Path, jobs: Jobs) -> None:
    run = jobs.home / "cancelled"
    job = jobs.submit("cancelled")
    jobs.wait_for_step("cancelled", 100)
    jobs.cluster.run("scancel", job)
    assert jobs.cluster.wait(job, "CANCELLED") == "CANCELLED"
    jobs.cluster.wait(job, "CANCELLED", "GONE")
    time.sleep(3)
    assert jobs.cluster.state(job) == "CANCELLED" and len(jobs.starts("cancelled")) == 1
    step, passed_over = newest_good(run, Manifest.load(run))
    assert step is not None and step >= 100
    jobs.finish(jobs.submit("cancelled"))
    assert not differences(run, straight), passed_over


@pytest.mark.slurm
def test_a_dead_node_costs_the_steps_since_the_last_checkpoint(straight: Path, jobs: Jobs) -> None:
    job = jobs.submit("node")
    jobs.wait_for_step("node", SAVED)
    jobs.cluster.kill_node("node2")
    jobs.cluster.wait(job, "PENDING", seconds=120)
    jobs.cluster.start_node("node2")
    jobs.finish(job)
    assert len(jobs.starts("node")) >= 2  # more, where a machine under load answers Slurm late
    assert not differences(jobs.home / "node", straight)


@pytest.mark.slurm
def test_a_mistake_is_told_once_and_not_requeued(jobs: Jobs) -> None:
    job = jobs.submit("mistake", words=("--learning_rat", "1"))
    assert jobs.cluster.wait(job) == "FAILED"
    log = (jobs.home / f"groklab-{job}.out").read_text()
    assert "did you mean learning_rate" in log
    assert "ExitCode=2:0" in jobs.cluster.run("scontrol", "show", "job", job)


@pytest.mark.slurm
def test_an_array_is_a_sweep(jobs: Jobs) -> None:
    words = ("--seed", "%a", "--max_steps", "20", "--output_dir", str(jobs.home / "sweep-%a"))
    job = jobs.submit("none", "--nodes=1", "--array=0-1", words=words)
    for index in (0, 1):
        assert jobs.cluster.wait(f"{job}_{index}") == "COMPLETED", jobs.logs()
        run = jobs.home / f"sweep-{index}"
        assert f"seed: {index}\n" in (run / "recipe.yaml").read_text()
        assert all(damage is None for _, damage in verify(run))
