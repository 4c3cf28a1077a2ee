"""Tables of analyses and the runs they look at: what is made again, what is not, and what must not keep a run back."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from pipeline import Run
from pipeline.circuits.__main__ import main
from pipeline.circuits.tables import TableError, is_made_of, read_one, read_table, write_table
from pipeline.runs.__main__ import main as checkpoints
from tests.bases import END, make_tokenizer
from tests.tiny import COMPOSITION, RECIPE, ROOT, run_here, write_recipe

SCRATCH = "{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of one block with a tokenizer of some 400 words, not trained."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    end = tokenizer.convert_tokens_to_ids(END)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_layer=1, n_embd=16, n_head=2, n_positions=16, bos_token_id=end, eos_token_id=end
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def continued(base: Path, text: str = COMPOSITION, more: str = "", model: str = "") -> str:
    return text.replace(SCRATCH, f"{{model_name_or_path: {base}, vocabulary: tokens{model}}}") + more


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that continued a base with words of its own, and its tables."""
    folder = tmp_path_factory.mktemp("run")
    text = continued(
        base, more="circuits: {logit_lens: {pairs: 10, steps: '0,4'}, attribution: {pairs: 4, steps: '4'}}\n"
    )
    assert run_here(write_recipe(folder, text), "--max_steps", "4") == 0
    return folder / "run"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


# What a recipe asks for is checked on what it will use, before training


def test_progress_of_other_token_ids_is_refused_before_training(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(write_recipe(tmp_path, continued(base, RECIPE, "circuits: {fourier: {}}\n"))) == 2
    error = capsys.readouterr().err
    assert "circuits.fourier.corpus: the elements of the group are other token ids in this model" in error
    assert error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_looked_at_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OPTConfig(vocab_size=len(tokenizer), max_position_embeddings=32, word_embed_proj_dim=16, **sizes)
    OPTForCausalLM(config).save_pretrained(tmp_path / "opt")
    tokenizer.save_pretrained(tmp_path / "opt")
    text = continued(tmp_path / "opt", more="circuits: {logit_lens: {pairs: 10}}\n")
    assert run_here(write_recipe(tmp_path, text)) == 2
    error = capsys.readouterr().err
    assert "circuits.logit_lens: cannot look at this model: OPTForCausalLM is no model that can be hooked" in error
    assert error.count("\n") == 1 and not (tmp_path / "run").exists()


# Looking at a run needs the run alone


def test_kept_steps_are_looked_at_without_the_base(run: Path, base: Path, tmp_path: Path) -> None:
    lent = shutil.copytree(base, tmp_path / "base")
    text = continued(lent, more="circuits: {logit_lens: {pairs: 10}}\n", model=", dtype: bfloat16")
    assert run_here(write_recipe(tmp_path, text), "--max_steps", "2") == 0
    here = tmp_path / "run"
    before = read_table(here, "logit_lens")
    shutil.rmtree(lent)
    shutil.rmtree(here / "circuits")
    assert main([str(here), "--analysis", "logit_lens,attribution", "--pairs", "10"]) == 0
    assert read_table(here, "logit_lens").equals(before)
    model = Run(here).model(step=2)
    kept = AutoModelForCausalLM.from_pretrained(here / "steps" / "step2", dtype=torch.float32).eval()
    tokens = torch.arange(5)[None]
    assert model.dtype == torch.float32 and torch.equal(model(tokens).logits, kept(tokens).logits)


def test_a_run_is_read_without_what_training_it_needed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe |= {"peft": {"method": "lora"}, "deepspeed": "nowhere.json", "report_to": ["wandb", "trackio"]}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = importlib.util.find_spec
    missing = ("peft", "trackio", "wandb", "deepspeed")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in missing else found(name, *more)
    )
    (copy / "circuits" / "logit_lens" / "step4.parquet").unlink()
    assert main([str(copy), "--analysis", "logit_lens", "--steps", "4", "--pairs", "10"]) == 0
    assert (copy / "circuits" / "logit_lens" / "step4.parquet").is_file()


@pytest.mark.parametrize("change", [{}, {"peft": {"method": "lora", "r": 2}}, {"peft": {"method": "dora", "r": 2}}])
def test_a_run_with_added_words_descends_from_its_base(
    base: Path, tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    if change:
        pytest.importorskip("peft", reason="the extra peft is not installed")
    text = continued(base, more=yaml.safe_dump(change) if change else "")
    assert run_here(write_recipe(tmp_path, text), "--max_steps", "1") == 0
    capsys.readouterr()
    assert checkpoints(["verify", str(tmp_path / "run"), "--rebuild"]) == 0
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("\nseed: 42\n", "\nseed: 43\n"))
    assert checkpoints(["verify", str(tmp_path / "run"), "--rebuild"]) == 1
    assert "does not descend from its own seed" in capsys.readouterr().out


def test_a_damaged_manifest_of_a_base_is_one_line(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "manifest.json").write_text('{"kept": ')
    text = continued(copy)
    assert run_here(write_recipe(tmp_path, text), "--output_dir", str(tmp_path / "next")) == 2
    error = capsys.readouterr().err
    assert "model.model_name_or_path: " in error and "manifest.json is damaged" in error and error.count("\n") == 1


# Damaged tables


def without_values(content: bytes) -> bytes:
    """The bytes of a table with one changed in the middle of its values, which its footer does not tell."""
    place = len(content) // 3
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def another(content: bytes) -> bytes:
    """Another table that claims to be made of the same."""
    metadata = pq.read_schema(pa.BufferReader(content)).metadata
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"step": [4], "price": ["high"]}).replace_schema_metadata(metadata), sink)
    return sink.getvalue().to_pybytes()


DAMAGES: dict[str, Any] = {
    "empty": lambda content: b"",
    "garbage": lambda content: b"PAR1" + bytes(range(256)) + b"PAR1",
    "cut": lambda content: content[: len(content) // 2],
    "a byte": without_values,
    "no parquet": lambda content: b"step,layer\n4,0\n",
    "another schema": another,
    "without metadata": lambda content: another(content).replace(b"groklab", b"grokbal"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_made_again(copy: Path, damage: str) -> None:
    path = copy / "circuits" / "logit_lens" / "step4.parquet"
    content, whole = path.read_bytes(), read_one(path)
    path.write_bytes(DAMAGES[damage](content))
    (copy / "circuits" / "logit_lens" / "step4 (copy).parquet").write_bytes(b"")  # of the user's
    assert main([str(copy), "--analysis", "logit_lens", "--steps", "0,4", "--pairs", "10"]) == 0
    assert read_one(path).equals(whole) and path.read_bytes() == content


@pytest.mark.parametrize("damage", ["empty", "another schema"])
def test_a_damaged_table_does_not_keep_a_run_from_finishing(run: Path, tmp_path: Path, damage: str) -> None:
    """One that the recipe asks for is made again; of another analysis the report says how."""
    shutil.copytree(run, tmp_path / "run")
    shutil.copy(run.parent / "tiny.yaml", tmp_path)
    here = tmp_path / "run"
    assert main([str(here), "--analysis", "similarity,attention", "--steps", "0,4", "--pairs", "10"]) == 0
    for name in ("logit_lens/step4", "attention/step4", "similarity/all"):
        path = here / "circuits" / f"{name}.parquet"
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert run_here(tmp_path / "tiny.yaml", "--max_steps", "6") == 0
    assert read_table(here, "logit_lens")["step"].unique().to_pylist() == [0, 4]
    page = (here / "report.md").read_text()
    assert "--analysis attention` computes" in page and "mean reciprocal rank" in page


def test_a_table_is_whole_or_another(tmp_path: Path) -> None:
    path, table = tmp_path / "a" / "step1.parquet", pa.table({"step": [1, 1], "value": [0.5, None]})
    write_table(tmp_path, "a/step1.parquet", table, {"weights": "a"})
    assert is_made_of(path, {"weights": "a"}) and not is_made_of(path, {"weights": "b"})
    assert read_one(path).equals(table) and os.listdir(path.parent) == [path.name]
    with pytest.raises(TableError, match="is no whole table"):
        read_one(tmp_path / "a")


def test_a_table_with_a_flipped_bit_is_an_error_or_the_same(tmp_path: Path) -> None:
    path, table = tmp_path / "step1.parquet", pa.table({"step": [1, 1], "name": ["a", "b"], "value": [0.5, None]})
    write_table(tmp_path, path.name, table, {"weights": "a"})
    content, refused = path.read_bytes(), 0
    for place in range(len(content)):
        for mask in (1, 128):
            path.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
            try:
                read_one(path)
            except TableError:
                refused += 1
    assert refused > len(content)


def test_two_commands_at_once_do_not_break_each_other(copy: Path) -> None:
    """Each computes all tables and draws the report, and both end with what one alone makes."""
    script = (
        "import sys, pipeline.circuits.hooks; from pipeline.report import __main__\n"
        "from pipeline.circuits.__main__ import main\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "sys.exit(main(sys.argv[1:]) or __main__.main(sys.argv[1:2]))"
    )
    words = [str(copy), "--analysis", "logit_lens,similarity", "--pairs", "10", "--steps", "0,4"]
    assert main(words) == 0
    alone = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    shutil.rmtree(copy / "circuits")
    shutil.rmtree(copy / "figures")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        assert process.stdout and process.stdin and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == {
        path: content for path, content in alone.items() if (copy / path).exists() or "circuits" not in path.parts
    }
