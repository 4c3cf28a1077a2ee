"""What is wrong with a base, a text or a template is one line, before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.config.recipe import read_recipe
from pipeline.training.session import prepare
from tests.bases import make_texts, make_tokenizer, recipe_of
from tests.tiny import COMPOSITION, run_here, run_process, write_recipe


@pytest.fixture
def broken(bases: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bases / "gpt2", tmp_path / "broken"))


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _unknown(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt7", "architectures": ["GPT7"]}))


def _too_few_rows(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"][:300].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))


def _torn(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _shard_missing(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def _shard_torn(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:100])


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_tokenizer, "its tokenizer cannot be read: it has no tokenizer.json, nor vocab.json and merges.txt"),
        (_empty, "is no folder of a model: it has no config.json, and no recipe.yaml"),
        (shutil.rmtree, "broken: there is no such folder"),
        (_shard_missing, "its weights cannot be read"),
        (_shard_torn, "its weights cannot be read"),
        (_unknown, "its architecture is none that transformers knows"),
        (_too_few_rows, "tokens, and its embeddings only 300 rows"),
        (_torn, "its weights cannot be read"),
        (_lacking, "lacks weights of its architecture: transformer.h.1.mlp.c_fc.weight"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(
    broken: Path, damage: object, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    damage(broken)
    path = write_recipe(tmp_path, recipe_of(broken.parent, "broken"))
    assert run_here(path) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and f"{path}:3: model.model_name_or_path: " in error and message in error, error


@pytest.mark.parametrize(
    ("content", "is_kept"),
    [
        ('{"max_new_tokens": -1, "eos_token_id": 0}', False),
        ('{"early_stopping": "perhaps"}', False),
        ('{"eos_token_id": "x"}', False),
        ("[1]", False),
        ('{"temperature": ', True),  # transformers makes one of config.json
        ('{"eos_token_id": 3, "max_new_tokens": 7}', True),
    ],
)
def test_a_base_s_generation_config_does_not_fail_when_a_step_is_kept(
    broken: Path, content: str, is_kept: bool, tmp_path: Path
) -> None:
    (broken / "generation_config.json").write_text(content)
    make_texts(broken.parent)
    recipe = read_recipe(
        write_recipe(tmp_path, recipe_of(broken.parent, "broken")), [f"--output_dir={tmp_path / 'run'}"]
    )
    trainer = prepare(recipe)
    notes = [note for note in trainer.notes if "generation_config.json" in note]
    assert len(notes) == (not is_kept) and not any("\n" in note for note in notes)
    trainer.model.save_pretrained(tmp_path / "kept")
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "kept").generation_config
    assert kept.eos_token_id == (3 if 'max_new_tokens": 7' in content else 0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{model_name_or_path: ''}", "model.model_name_or_path: is missing"),
        ("{model_name_or_path: x/y, templates: {default: '{answer}'}}", "is not a prompt that ends with one {answer}"),
        ("{model_name_or_path: x/y, templates: {atomic: 'a {answer}'}}", "model.templates: has no default"),
        ("{model_name_or_path: x/y, revision: [1]}", "model.revision: "),
        ("{model_name_or_path: x/y, revison: main}", "did you mean revision?"),
    ],
)
def test_mistakes_in_the_block_are_found_without_torch(model: str, message: str, tmp_path: Path) -> None:
    text = COMPOSITION.replace("{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}", model)
    path = write_recipe(tmp_path, text)
    code = f"import sys, pipeline.run as r; s = r.main([{str(path)!r}]); sys.exit(9 if 'torch' in sys.modules else s)"
    result = run_process("-c", code)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("vocabulary: text, templates: {default: 'the {p7} is {answer}'}", "allowed: {prompt}, {p0}, {p1}"),
        ("vocabulary: text, templates: {default: '{p0} is {answer}'}", "prompts of id read as prompts of train do"),
        ("vocabulary: text, freeze: ['*']", "model.freeze: leaves no weight to train; name fewer"),
        ("vocabulary: text, freeze: [nothing]", "model.freeze: 'nothing' is no weight of GPT2LMHeadModel"),
        ("vocabulary: text, revision: step3", "which has no revisions"),
    ],
)
def test_what_does_not_fit_the_corpus_or_the_base(
    bases: Path, model: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_here(write_recipe(tmp_path, recipe_of(bases, "gpt2", model))) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_circuits_of_text_are_refused_before_training(
    bases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, recipe_of(bases, "gpt2", more="\ncircuits: {logit_lens: {}}\n"))
    assert run_here(path) == 2
    assert "circuits: of a corpus need one token a word; write model.vocabulary: tokens, or" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--replay.source", "{bases}/none.txt"), "replay.source: "),
        (("--replay.source", "{bases}/gpt2/model.safetensors"), "has no files of one kind of .txt"),
        (("--replay.source", "{bases}/replay.txt", "--replay.column", "body"), "replay.column: "),
        (("--replay.source", "{bases}/replay.txt", "--replay.length", "100000"), "fewer than one row of 100000"),
        (("--callbacks.base_perplexity.source", "{bases}/none.txt"), "callbacks.base_perplexity.source: "),
    ],
)
def test_texts_that_cannot_be_read_are_one_line(
    words: tuple[str, ...], message: str, bases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, recipe_of(bases, "gpt2"))
    assert run_here(path, *(word.format(bases=bases) for word in words)) == 2
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1, error


def on_bloom(folder: Path) -> str:
    """A recipe that continues a Bloom, whose configuration states no longest sequence."""
    from transformers import BloomConfig, BloomForCausalLM

    tokenizer = make_tokenizer()
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=16, n_layer=1, n_head=2)
    BloomForCausalLM(config).save_pretrained(folder / "bloom")
    tokenizer.save_pretrained(folder / "bloom")
    model = f"{{model_name_or_path: {folder / 'bloom'}, vocabulary: tokens}}"
    return COMPOSITION.replace("{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}", model)


def test_a_base_without_a_table_of_positions_is_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path, on_bloom(tmp_path))
    assert run_here(path, "--max_steps", "2") == 0
    assert "BloomForCausalLM is not declared to be of the family gpt2 or gpt_neox" in capsys.readouterr().out
    assert (tmp_path / "run" / "steps" / "step2" / "model.safetensors").is_file()
