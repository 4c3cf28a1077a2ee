"""Every accelerate config, on two real processes over gloo: trains, saves, resumes, and its weights load anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.config.trainer_keys import keys
from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import read_history
from pipeline.runs.verify import verify
from tests.kills import Runner, join
from tests.tiny import COMPOSITION, ROOT, run_here, write_recipe

CONFIGS = ROOT / "accelerate_configs"
NAMES = ("cpu", "fsdp2", "multi_gpu", "single_gpu", "zero1", "zero2", "zero3")
ENGINES = ("cpu", "zero1", "zero2", "zero3")  # multi_gpu is what cpu is, but for the number of processes
WATCHED = ("loss", "grad_norm", "eval_train_loss", "eval_id_loss", "eval_ood_loss")
EXACT = ("eval_train_exact_match", "eval_id_exact_match", "final_id_exact_match", "final_ood_exact_match")
# Dropout's random numbers depend on how the batch is divided. Four micro-batches on two processes.
# The order of rows is one in which Adam does not blow rounding up.
TEXT = COMPOSITION.replace("dropout: 0.1", "dropout: 0.0") + "per_device_train_batch_size: 4\ndata_seed: 0\n"
# Sums in another order: float32 rounding, over 24 steps of Adam. Measured: 2.6e-6 at most.
CLOSE = 2e-5


def curves(run: Path, keys: tuple[str, ...]) -> list[float]:
    return [line[key] for line in read_history(run) for key in keys if key in line and line["step"] != 12]


def history(run: Path, keys: tuple[str, ...]) -> list[float]:
    """All that was logged under these keys, of a run in one piece."""
    return [line[key] for line in read_history(run) for key in keys if key in line]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, without accumulation."""
    folder = tmp_path_factory.mktemp("alone")
    assert run_here(write_recipe(folder, TEXT), "--per_device_train_batch_size", "32") == 0
    return folder / "run"


def test_every_config_is_here_and_holds_no_hyperparameter() -> None:
    assert sorted(path.stem for path in CONFIGS.iterdir()) == list(NAMES)
    for name in NAMES:
        config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        flat = {*config, *config.get("deepspeed_config", {}), *config.get("fsdp_config", {})}
        assert not flat & {key for key in keys() if key not in ("fsdp_config",)}
        assert not any("batch" in key or "accumulation" in key or "clipping" in key for key in flat)


@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=[pytest.mark.slow] if name in ("cpu", "zero1") else []) for name in ENGINES]
)
def test_an_engine_trains_saves_resumes_and_its_weights_load(engine: str, alone: Path, tmp_path: Path) -> None:
    recipe, config = write_recipe(tmp_path, TEXT), CONFIGS / f"{engine}.yaml"
    straight, parts, fewer = (tmp_path / name for name in ("straight", "parts", "fewer"))
    Runner(recipe, 2, config=config).run(straight)
    assert json.loads((straight / "environment.json").read_text())[0]["processes"] == 2
    log = (tmp_path / "straight.log").read_text()
    assert "24 steps of 32 rows = 2 x 4 x 4" in log and log.count("starts in") == 1
    checkpoint = straight / "checkpoint-24"
    assert bool(list(checkpoint.glob("global_step24/*_optim_states.pt"))) == engine.startswith("zero")

    pairs = zip(curves(straight, WATCHED), curves(alone, WATCHED))
    print(f"{engine}: at most {max(abs(one / other - 1) for one, other in pairs):.1e} off a single process")
    assert curves(straight, WATCHED) == pytest.approx(curves(alone, WATCHED), rel=CLOSE)
    assert curves(straight, EXACT) == curves(alone, EXACT)

    # Resumed by as many processes: the same bits.
    Runner(recipe, 2, ("--max_steps", "12"), config=config).run(parts)
    shutil.copytree(parts, fewer)
    Runner(recipe, 2, config=config).run(parts)
    final = "steps/step24/model.safetensors"
    ours, theirs = load_file(parts / final), load_file(straight / final)
    assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)
    assert all(damage is None for _, damage in verify(parts))

    # By one process: as if it had been alone, or not at all.
    one = Runner(recipe, 1, config=config)
    if engine == "zero3":
        assert join(one.start(fewer)) == [2]
        assert "cannot be divided exactly among 1" in (tmp_path / "fewer.log").read_text()
        assert max(Manifest.load(fewer).resumable) == 12
    else:
        one.run(fewer)
        assert curves(fewer, WATCHED) == pytest.approx(curves(alone, WATCHED), rel=CLOSE)
        assert not (fewer / ".universal.draft").exists()
        assert all(damage is None for _, damage in verify(fewer))

    model = AutoModelForCausalLM.from_pretrained(straight / "steps" / "step24")
    other = AutoModelForCausalLM.from_pretrained(alone / "steps" / "step24")
    tokens = torch.arange(12).reshape(4, 3)
    torch.testing.assert_close(model(tokens).logits, other(tokens).logits, rtol=1e-3, atol=1e-3)


VARIANTS = [
    "gpt2_kv_shift",
    "pythia_kv_shift",
    "gpt2_bilinear",
    "gpt2_factorized",
    "gpt2_relu_attention",
    "memory_mosaics",
    "gpt2_future_tokens",
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["cpu", "zero2"])
@pytest.mark.parametrize("model", VARIANTS)
def test_a_variant_is_trained_the_same_by_ddp_and_zero2(model: str, engine: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TEXT.replace("name: gpt2,", f"name: {model},"))
    words = ("--max_steps", "12")
    assert run_here(recipe, *words, "--per_device_train_batch_size", "32") == 0
    alone, two = tmp_path / "run", tmp_path / "two"
    Runner(recipe, 2, words, config=CONFIGS / f"{engine}.yaml").run(two)
    assert json.loads((two / "environment.json").read_text())[0]["processes"] == 2
    assert bool(list(two.glob("checkpoint-12/global_step12/*_optim_states.pt"))) == (engine == "zero2")
    assert history(two, WATCHED) == pytest.approx(history(alone, WATCHED), rel=2e-4)
    one, other = (
        AutoModelForCausalLM.from_pretrained(run / "steps" / "step12", trust_remote_code=True) for run in (alone, two)
    )
    assert type(one).__name__ == type(other).__name__ != "GPT2LMHeadModel"
    tokens = torch.arange(12).reshape(4, 3)
    torch.testing.assert_close(one(tokens).logits, other(tokens).logits, rtol=1e-3, atol=1e-3)


def test_fsdp_on_cpu_is_refused_and_not_replaced(tmp_path: Path) -> None:
    runner = Runner(write_recipe(tmp_path, TEXT), 2, config=CONFIGS / "fsdp2.yaml")
    assert 2 in join(runner.start(tmp_path / "run"))
    assert "accelerate has none on CPU, and would train without it" in (tmp_path / "run.log").read_text()
    assert not (tmp_path / "run" / "manifest.json").exists()
