"""What stands outside a recipe never wins over it in silence: launchers, accelerate, DeepSpeed, torch, trackers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.deepspeed import filled_deepspeed
from pipeline.config.outside import check_outside
from pipeline.config.recipe import Recipe, read_recipe
from pipeline.runs.environment import changes, describe_environment
from pipeline.utils.errors import RecipeError
from pipeline.utils.launcher import Processes, processes
from tests.tiny import RECIPE, run_here, run_process, write_recipe

TWO = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
DEEPSPEED = {**TWO, "ACCELERATE_USE_DEEPSPEED": "true"}
WHOLE = {
    **dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto"),
    "gradient_clipping": "auto",
    "zero_optimization": {"stage": 2},
}


# The processes


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, Processes()),
        ({"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}, Processes()),
        ({"WORLD_SIZE": "1"}, Processes()),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "node1"}, Processes()),
        ({**TWO}, Processes(1, 2, 1)),
        ({**TWO, "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, Processes(3, 4, 1)),
        ({"PMI_SIZE": "2", **TWO}, Processes(1, 2, 1)),
        ({"PMI_SIZE": "1"}, Processes()),
    ],
)
def test_a_launcher_that_says_everything_is_believed(told: dict[str, str], expected: Processes) -> None:
    assert processes(told) == expected


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK: is missing beside WORLD_SIZE 2; start with accelerate launch"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "LOCAL_RANK: is missing beside RANK 0 and WORLD_SIZE 2; start with"),
        ({"RANK": "1"}, "LOCAL_RANK: is missing beside RANK 1; start with"),
        ({"LOCAL_RANK": "0"}, "RANK: is missing beside LOCAL_RANK 0; start with"),
        ({"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}, "MASTER_ADDR: is missing"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "LOCAL_RANK: is missing"),
        *(({name: value for name, value in TWO.items() if name != gone}, f"{gone}: is missing beside") for gone in TWO),
        *(({**TWO, name: ""}, f"{name}: is ") for name in TWO),
        *(({**TWO, name: "x"}, f"{name}: 'x' is not a whole number") for name in ("RANK", "LOCAL_RANK", "MASTER_PORT")),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: 'two' is not a whole number"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE: '-1' is not a whole number"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK: is set and empty; start with accelerate launch, or: unset LOCAL_RANK"),
        ({**TWO, "WORLD_SIZE": "0"}, "RANK: 1 is not below 0"),
        ({**TWO, "RANK": "2"}, "RANK: 2 is not below 2"),
        ({**TWO, "RANK": "0"}, "LOCAL_RANK: 1 is not below 1"),
        ({**TWO, "MASTER_PORT": "0"}, "MASTER_PORT: 0 is not a port"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE: 2 processes were started by MPI"),
        ({"PMI_SIZE": "4"}, "PMI_SIZE: 4 processes were started by MPI"),
    ],
)
def test_half_of_a_launcher_is_a_line(told: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        processes(told)
    assert str(caught.value).startswith(f"environment: {message}")


@pytest.mark.parametrize(
    "told",
    [{"WORLD_SIZE": "2", "RANK": "0"}, {"LOCAL_RANK": ""}, {"LOCAL_RANK": "1"}, {"WORLD_SIZE": "2", "RANK": "1"}],
)
def test_a_run_under_half_a_launcher_ends_in_one_line(told: dict[str, str], tmp_path: Path) -> None:
    result = run_process("-m", "pipeline.run", str(write_recipe(tmp_path)), cwd=tmp_path, **told)
    assert result.returncode == 2 and result.stderr.startswith("environment: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


# The recipe against everything else


def recipe_of(folder: Path, lines: str = "", *words: str) -> Recipe:
    return read_recipe(write_recipe(folder, f"{RECIPE}{lines}"), words)


def complaint(recipe: Recipe, told: dict[str, str], bf16: bool | None = None) -> str:
    with pytest.raises((RecipeError, ValueError)) as caught:
        check_outside(recipe, told, bf16)
    return str(caught.value)


# What accelerate's launcher says of itself, whatever it is asked for.
NEUTRAL = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    "ACCELERATE_USE_CPU": "False",
    "OMP_NUM_THREADS": "2",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", {}),
        ("", NEUTRAL),
        ("bf16: true", NEUTRAL),
        ("bf16: auto", {**NEUTRAL, "ACCELERATE_MIXED_PRECISION": "bf16"}),
        ("bf16: true", {**NEUTRAL, "ACCELERATE_MIXED_PRECISION": "bf16"}),
        ("use_cpu: true", {**NEUTRAL, "ACCELERATE_USE_CPU": "true", "ACCELERATE_TORCH_DEVICE": "cpu"}),
        ("torch_compile: true", {**NEUTRAL, "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}),
        ("torch_compile_backend: eager", {"ACCELERATE_DYNAMO_BACKEND": "EAGER"}),
        ("per_device_train_batch_size: 4", {**DEEPSPEED, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"}),
        ("", {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "ACCELERATE_GRADIENT_CLIPPING": "auto"}),
        ("", {**DEEPSPEED, "ACCELERATE_GRADIENT_CLIPPING": "1.0"}),
        ("", {**TWO, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}),
        ("report_to: wandb", {"WANDB_DISABLED": "false", "WANDB_PROJECT": "x", "WANDB_LOG_MODEL": "false"}),
        ("", {"WANDB_DISABLED": "true"}),
        ("", {"FSDP_VERSION": "2", "ACCELERATE_USE_FSDP": "false"}),
    ],
)
def test_what_agrees_with_the_recipe_is_accepted(lines: str, told: dict[str, str], tmp_path: Path) -> None:
    check_outside(recipe_of(tmp_path, lines), told)


@pytest.mark.parametrize(
    ("lines", "told", "message"),
    [
        ("bf16: false", {"ACCELERATE_MIXED_PRECISION": "bf16"}, "ACCELERATE_MIXED_PRECISION: bf16 contradicts bf16: false"),
        ("", {"ACCELERATE_MIXED_PRECISION": "bf16"}, "ACCELERATE_MIXED_PRECISION: bf16 contradicts bf16: false"),
        ("bf16: true", {"ACCELERATE_MIXED_PRECISION": "fp16"}, "ACCELERATE_MIXED_PRECISION: fp16 contradicts fp16: false"),
        ("", {"ACCELERATE_MIXED_PRECISION": "fp8"}, "ACCELERATE_MIXED_PRECISION: 'fp8' is not for recipes"),
        ("", {"ACCELERATE_MIXED_PRECISION": ""}, "ACCELERATE_MIXED_PRECISION: '' is unknown; allowed: no, bf16, fp16"),
        ("", {"ACCELERATE_MIXED_PRECISION": "bf6"}, "ACCELERATE_MIXED_PRECISION: 'bf6' is unknown; did you mean bf16?"),
        ("", {"ACCELERATE_USE_CPU": ""}, "ACCELERATE_USE_CPU: '' is not true or false"),
        ("use_cpu: false", {"ACCELERATE_USE_CPU": "true"}, "ACCELERATE_USE_CPU: true contradicts use_cpu: false"),
        ("", {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "x"}, "ACCELERATE_USE_CPU: accelerate launch --cpu starts one"),
        ("", {"ACCELERATE_TORCH_DEVICE": "cuda:1"}, "ACCELERATE_TORCH_DEVICE: 'cuda:1' would decide where"),
        ("", {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "ACCELERATE_DYNAMO_BACKEND: 'INDUCTOR' contradicts torch_compile"),
        ("torch_compile: true", {"ACCELERATE_DYNAMO_BACKEND": "eager"}, "ACCELERATE_DYNAMO_BACKEND: 'eager' contradicts"),
        ("torch_compile: true", {"ACCELERATE_DYNAMO_MODE": "max-autotune"}, "ACCELERATE_DYNAMO_MODE: 'max-autotune'"),
        ("torch_compile: true", {"TORCHDYNAMO_DISABLE": "1"}, "TORCHDYNAMO_DISABLE: 1 contradicts torch_compile"),
        ("torch_compile: true", {"ACCELERATE_DYNAMO_USE_FULLGRAPH": "true"}, "ACCELERATE_DYNAMO_USE_FULLGRAPH: true"),
        ("", {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS: '4' contradicts"),
        ("", {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "x"}, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS: 'x' contradicts"),
        ("", {"ACCELERATE_GRADIENT_CLIPPING": "0.5"}, "ACCELERATE_GRADIENT_CLIPPING: '0.5' contradicts max_grad_norm: 1"),
        ("", {"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED: true, and no launcher has started"),
        ("", {"ACCELERATE_USE_DEEPSPEED": "1"}, "ACCELERATE_USE_DEEPSPEED: 1 is read in two ways; write true"),
        ("", {"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP: true, and no launcher has started"),
        ("", {"ACCELERATE_USE_MEGATRON_LM": "true"}, "ACCELERATE_USE_MEGATRON_LM: true is not for recipes"),
        ("", {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "ACCELERATE_USE_PARALLELISM_CONFIG: true is not for recipes"),
        ("", {**DEEPSPEED, "ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP: true beside ACCELERATE_USE_DEEPSPEED"),
        ("", {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "x"}, "ACCELERATE_DEEPSPEED_ZERO_STAGE: 'x' is unknown"),
        ("fsdp: true", {**TWO, "FSDP_VERSION": "1"}, "FSDP_VERSION: '1' would decide beside fsdp"),
        ("", {"OMP_NUM_THREADS": ""}, "OMP_NUM_THREADS: '' is not a number of threads"),
        ("", {"OMP_NUM_THREADS": "0"}, "OMP_NUM_THREADS: '0' is not a number of threads"),
        ("", {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD: would let a checkpoint run"),
        ("tf32: false", {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE: 1 contradicts tf32"),
        ("tf32: true", {"NVIDIA_TF32_OVERRIDE": "0"}, "NVIDIA_TF32_OVERRIDE: 0 contradicts tf32: true"),
        ("report_to: wandb", {"WANDB_DISABLED": "true"}, "WANDB_DISABLED: true contradicts report_to: wandb"),
        ("report_to: wandb\nproject: a", {"WANDB_PROJECT": "b"}, "WANDB_PROJECT: 'b' contradicts project: a"),
        ("report_to: wandb", {"WANDB_LOG_MODEL": "end"}, "WANDB_LOG_MODEL: 'end' would send other weights"),
    ],
)  # fmt: skip
def test_a_contradiction_is_a_line(lines: str, told: dict[str, str], message: str, tmp_path: Path) -> None:
    assert complaint(recipe_of(tmp_path, lines), told).startswith(f"environment: {message}")


@pytest.mark.parametrize(
    ("lines", "told", "message"),
    [
        ("fp16: true\nuse_cpu: true", {}, "fp16: does nothing on a CPU"),
        ("fp16: true", {"ACCELERATE_USE_CPU": "true"}, "fp16: does nothing on a CPU"),
        ("deepspeed: {zero_optimization: {stage: 2}}", {}, "deepspeed: needs a launcher, for one process too"),
        ("deepspeed: {zero_optimization: {stage: 2}}", DEEPSPEED, "deepspeed: is in the recipe, and the launcher asks"),
        ("fsdp: true", {}, "fsdp: needs a launcher, for one process too"),
        ("num_train_epochs: 1", {}, "num_train_epochs: would be ignored beside max_steps 24"),
    ],
)
def test_keys_that_would_do_nothing_are_a_line(lines: str, told: dict[str, str], message: str, tmp_path: Path) -> None:
    assert complaint(recipe_of(tmp_path, lines), told).startswith(message)


def test_epochs_on_the_command_line_beside_steps_in_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert run_here(recipe, "--num_train_epochs", "1") == 2
    assert capsys.readouterr().err.startswith("command line: num_train_epochs: would be ignored beside max_steps 24")
    assert recipe_of(tmp_path, "", "--num_train_epochs", "1", "--max_steps", "-1").training["num_train_epochs"] == 1


def test_bf16_auto_is_held_against_the_launcher_once_it_is_decided(tmp_path: Path) -> None:
    recipe, told = recipe_of(tmp_path, "bf16: auto"), {"ACCELERATE_MIXED_PRECISION": "bf16"}
    check_outside(recipe, told)
    check_outside(recipe, told, bf16=True)
    assert "bf16 contradicts bf16: false" in complaint(recipe, told, bf16=False)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"optimizer": {"type": "Adam"}}, "optimizer is not allowed: the recipe alone says what is trained"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler is not allowed"),
        ({"zero_optimisation": {}}, "zero_optimisation is not allowed: the recipe alone says what is trained; did you mean"),
        ({"curriculum_learning": {}}, "curriculum_learning is not allowed"),
        ({"gradient_clipping": 0.3}, "gradient_clipping 0.3 contradicts max_grad_norm: 1.0 of the recipe"),
        ({"gradient_accumulation_steps": 8}, "gradient_accumulation_steps 8 contradicts gradient_accumulation_steps: 1"),
        ({"train_batch_size": 32}, "train_batch_size 32 contradicts global_batch_size: 16"),
        ({"train_micro_batch_size_per_gpu": 4}, "train_micro_batch_size_per_gpu 4 contradicts per_device_train_batch_size: 8"),
        ({"bf16": {"enabled": True}}, "bf16.enabled true contradicts bf16: false of the recipe"),
        ({"fp16": {"enabled": True}}, "fp16.enabled true contradicts fp16: false of the recipe"),
    ],
)  # fmt: skip
def test_a_deepspeed_configuration_says_how_and_not_what(
    config: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({**WHOLE, **config}))
    recipe = recipe_of(tmp_path, f"deepspeed: {path}")
    assert complaint(recipe, TWO) == f"deepspeed: {message}" or complaint(recipe, TWO).startswith(
        f"deepspeed: {message}"
    )
    told = {**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    assert complaint(recipe_of(tmp_path), told).startswith(f"{path}: {message}")


def test_what_a_deepspeed_configuration_leaves_out_is_the_recipes(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    recipe = recipe_of(tmp_path, f"deepspeed: {path}")
    check_outside(recipe, TWO)
    # DeepSpeed alone would not clip, whatever max_grad_norm says.
    assert filled_deepspeed(recipe.training) == {**WHOLE, "zero_optimization": {"stage": 1}}
    told = {**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    assert "train_micro_batch_size_per_gpu is missing" in complaint(recipe_of(tmp_path), told)
    path.write_text(json.dumps(WHOLE))
    check_outside(recipe_of(tmp_path), told)
    for text in ("{", "[]", ""):
        path.write_text(text)
        assert complaint(recipe_of(tmp_path), told).startswith(f"{path}: {path} ")


# What was in force


def test_what_was_in_force_is_recorded_for_each_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, record = write_recipe(tmp_path), tmp_path / "run" / "environment.json"
    words = ("--use_cpu", "true", "--bf16", "true", "--max_steps")
    assert run_here(recipe, *words, "6") == 0
    (start,) = json.loads(record.read_text())
    facts = {key: start[key] for key in ("device", "threads", "processes", "engine", "precision")}
    assert facts == {"device": "CPU, 1 thread", "threads": 1, "processes": 1, "engine": "none", "precision": "bf16"}
    # Gone on with under another torch, which is said in a line.
    record.write_text(json.dumps([{**start, "packages": {**start["packages"], "torch": "2.0.0"}}]))
    capsys.readouterr()
    assert run_here(recipe, *words, "8") == 0
    torch = start["packages"]["torch"]
    assert f"since the last start: torch 2.0.0 -> {torch}; bits may differ" in capsys.readouterr().out
    assert len(json.loads(record.read_text())) == 2


@pytest.mark.parametrize("content", ["", "{", "7", "[7]"])
def test_a_damaged_record_of_starts_is_a_line(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, record = write_recipe(tmp_path), tmp_path / "run" / "environment.json"
    assert run_here(recipe, "--max_steps", "2") == 0
    record.write_text(content)
    capsys.readouterr()
    assert run_here(recipe, "--max_steps", "4") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{record}: ") and said.count("\n") == 1
    record.unlink()
    assert run_here(recipe, "--max_steps", "4") == 0


def test_changes_are_those_that_can_change_bits() -> None:
    before = describe_environment({"device": "CPU, 1 thread"})
    now = {**before, "device": "NVIDIA H100", "host": "other", "command": ["x"]}
    assert changes(before, now) == ["device CPU, 1 thread -> NVIDIA H100"]
    assert changes({}, now) == []  # of a start that said nothing
