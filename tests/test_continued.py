"""Continued pretraining, for real: small bases in folders, text and tokens, adapters, replay, and what goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.adapters import merged, switched_off
from pipeline.data import Rows
from pipeline.history import read_history
from pipeline.manifest import Manifest
from pipeline.models.continued import Continued
from pipeline.recipe import read_recipe
from pipeline.run import prepare, train
from pipeline.store import build
from pipeline.texts import Replay, Texts
from pipeline.weights import RENAMED
from tests.bases import make_base, make_texts, sentences
from tests.tiny import COMPOSITION, run_here, run_process, write_recipe

TEXT = "templates: {default: 'the {p1} of {p0} is {answer}', '*inferred*': 'the {p2} of the {p1} of {p0} is {answer}'}"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with gpt2/, gpt_neox/, replay.txt and held_out.txt."""
    folder = tmp_path_factory.mktemp("bases")
    for family in ("gpt2", "gpt_neox"):
        make_base(folder / family, family)
    make_texts(folder)
    return folder


def recipe_of(bases: Path, family: str, model: str = f"vocabulary: text, {TEXT}", more: str = "") -> str:
    """A recipe that continues a base on two-hop facts, and watches its perplexity."""
    text = COMPOSITION.replace(
        "{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}",
        f"{{model_name_or_path: {bases / family}, {model}}}",
    )
    watch = f"base_perplexity: {{source: {bases / 'held_out.txt'}, length: 32}}, adapter_drift: {{}}"
    return text.replace("callbacks: {", f"callbacks: {{{watch}, ").replace("style: plain", "style: 'off'") + more


def logged(run: Path, key: str) -> dict[int, float]:
    return {line["step"]: line[key] for line in read_history(run) if key in line}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_it_begins_with_the_base_s_weights_and_words(bases: Path, family: str, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path, recipe_of(bases, family)), [f"--output_dir={tmp_path / 'run'}"])
    trainer = prepare(recipe)
    base = load_file(bases / family / "model.safetensors")
    state = trainer.model.state_dict()
    assert all(state[name if name in state else RENAMED[name]].equal(weight) for name, weight in base.items())
    tokenizer, row = AutoTokenizer.from_pretrained(bases / family), trainer.splits["id"]
    length, answer = int(row.prompt_N[0]), int(row.answer_N[0])
    text = tokenizer.decode(row.tokens_NT[0, : length + answer])
    # The words of the template with those of the fact, and the space before the answer with the answer.
    assert text.startswith("the r_") and " of the r_" in text and " is e_" in text and "<" not in text
    assert tokenizer.decode(row.tokens_NT[0, :length]).endswith(" is")
    assert tokenizer(text)["input_ids"] == row.tokens_NT[0, : length + answer].tolist()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("new", ["mean", "normal"])
def test_words_become_tokens_whose_embeddings_are_drawn_as_asked(bases: Path, family: str, new: str) -> None:
    stored = build(read_recipe(write_recipe(bases, COMPOSITION, f"{family}-{new}")).corpus)
    model_of = Continued(str(bases / family), vocabulary="tokens", new_embeddings=new)
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(model_of.for_corpus(stored))
    base, tokenizer = AutoModelForCausalLM.from_pretrained(bases / family), model_of.tokenizer(stored)
    size = len(AutoTokenizer.from_pretrained(bases / family))
    ids = model_of.token_ids(stored)
    assert len(set(ids)) == len(stored.tokens) and min(ids) >= size
    for part in ("get_input_embeddings", "get_output_embeddings"):
        old, now = getattr(base, part)().weight[:size], getattr(models[0], part)().weight
        assert now[:size].equal(old) and now.equal(getattr(models[1], part)().weight)
        added = now[size : len(tokenizer)]
        assert len(added) == len(stored.tokens) and len(added.unique(dim=0)) == len(added)
        if new == "mean":
            spread = 0.1 * old.std(0).mean().item()
            assert (added - old.mean(0)).std().item() == pytest.approx(spread, rel=0.3)
        else:
            assert added.std().item() == pytest.approx(0.02, rel=0.15)
    assert models[0].config.vocab_size == len(models[0].get_input_embeddings().weight) >= len(tokenizer)
    tied = models[0].get_input_embeddings().weight is models[0].get_output_embeddings().weight
    assert tied == (family == "gpt2")
    rows = model_of.rows(stored, "id")
    text = tokenizer.decode(rows.tokens_NT[0, : int(rows.prompt_N[0])])
    assert tokenizer(text)["input_ids"] == rows.tokens_NT[0, : int(rows.prompt_N[0])].tolist()


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_adapters_train_alone_resume_and_are_kept_merged(bases: Path, family: str, method: str, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    from peft import PeftModel

    text = recipe_of(bases, family, more=f"\npeft: {{method: {method}, r: 4, alpha: 8}}\n")
    path = write_recipe(tmp_path, text)
    assert run_here(path, "--max_steps", "12") == 0
    assert run_here(path, "--max_steps", "24") == 0  # resumed from step 12
    straight = write_recipe(tmp_path, text, "straight")
    assert run_here(straight, "--max_steps", "24", "--output_dir", str(tmp_path / "straight")) == 0
    run = tmp_path / "run"
    kept = load_file(run / "steps" / "step24" / "model.safetensors")
    again = load_file(tmp_path / "straight" / "steps" / "step24" / "model.safetensors")
    assert all(kept[name].equal(weight) for name, weight in again.items())
    base = load_file(bases / family / "model.safetensors")
    assert kept.keys() == base.keys()
    # Every linear layer of the blocks has moved, and nothing else has.
    moved = {name for name in base if not kept[name].equal(base[name])}
    layers = ("c_attn", "c_proj", "c_fc", "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    assert moved == {name for name in base if name.split(".")[-2] in layers and name.endswith("weight")}
    first = load_file(run / "steps" / "step0" / "model.safetensors")
    assert all(torch.allclose(first[name], base[name], atol=1e-6) for name in base)
    # The adapter beside it is one of peft's, and says the same.
    tokens = torch.randint(0, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    whole = AutoModelForCausalLM.from_pretrained(run / "steps" / "step24").eval()
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(bases / family), run / "steps" / "step24" / "adapter"
    ).eval()
    assert torch.allclose(whole(tokens).logits, adapted(tokens).logits, atol=1e-4)
    drift, kl = logged(run, "adapter_drift"), logged(run, "adapter_drift_kl")
    assert drift[0] == pytest.approx(0, abs=1e-6) and kl[0] == pytest.approx(0, abs=1e-5)
    assert drift[24] > drift[6] > 0 and kl[24] > 0
    assert logged(run, "base_perplexity").keys() == drift.keys()


def test_adapters_switched_off_are_the_base(bases: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    from pipeline.adapters import Peft

    model = AutoModelForCausalLM.from_pretrained(bases / "gpt2").eval()
    tokens = torch.randint(0, 300, (3, 9))
    before = model(tokens).logits
    Peft(r=2).into(model, train_embeddings=False)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert not torch.allclose(model(tokens).logits, before)
    with switched_off(model):
        assert model(tokens).logits.equal(before)
    assert trained == {name for name, weight in model.named_parameters() if weight.requires_grad}
    plain = AutoModelForCausalLM.from_pretrained(bases / "gpt2").eval()
    plain.load_state_dict(merged(model))
    assert torch.allclose(plain(tokens).logits, model(tokens).logits, atol=1e-4)


def test_circuits_run_on_the_merged_model_in_its_tokens(bases: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    more = "\npeft: {r: 4}\ncircuits: {logit_lens: {pairs: 8, steps: last}}\n"
    path = write_recipe(tmp_path, recipe_of(bases, "gpt_neox", "vocabulary: tokens", more))
    assert run_here(path, "--max_steps", "2") == 0
    assert (tmp_path / "run" / "circuits" / "logit_lens" / "step2.parquet").is_file()
    # The words that were added are trained beside the adapters.
    first, last = (load_file(tmp_path / "run" / "steps" / f"step{n}" / "model.safetensors") for n in (0, 2))
    assert not first["gpt_neox.embed_in.weight"].equal(last["gpt_neox.embed_in.weight"])


def test_frozen_parts_stay_as_they_are(bases: Path, tmp_path: Path) -> None:
    freeze = "vocabulary: text, freeze: ['transformer.wte*', '*.attn.*'], " + TEXT
    assert run_here(write_recipe(tmp_path, recipe_of(bases, "gpt2", freeze)), "--max_steps", "4") == 0
    base = load_file(bases / "gpt2" / "model.safetensors")
    kept = load_file(tmp_path / "run" / "steps" / "step4" / "model.safetensors")
    same = {name for name in base if kept[name].equal(base[name])}
    assert same == {name for name in base if name.startswith("transformer.wte") or ".attn." in name}


def test_all_tokens_are_trained_where_asked(bases: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, recipe_of(bases, "gpt2"))
    rows = {
        kind: prepare(read_recipe(path, [f"--output_dir={tmp_path / kind}", f"--loss_tokens={kind}"])).train_rows
        for kind in ("answer", "all")
    }
    lengths = rows["answer"].prompt_N + rows["answer"].answer_N
    assert (rows["all"].prompt_N == 1).all() and (rows["all"].answer_N == lengths - 1).all()
    batch = rows["all"].__getitems__(torch.arange(4))
    for row, labels in zip(rows["all"].tokens_NT[:4], batch["labels"]):
        real = labels >= 0
        assert labels[real].equal(row[1 : 1 + int(real.sum())])


def test_replay_has_its_share_of_the_rows_and_keeps_more_of_the_base(bases: Path, tmp_path: Path) -> None:
    replay = f"\nreplay: {{source: {bases / 'replay.txt'}, ratio: 0.5, length: 32}}\n"
    perplexities = {}
    for name, more in {"without": "", "with": replay}.items():
        path = write_recipe(tmp_path, recipe_of(bases, "gpt_neox", more=more), name)
        assert run_here(path, "--output_dir", str(tmp_path / name)) == 0
        perplexities[name] = logged(tmp_path / name, "base_perplexity")
    assert perplexities["with"][0] == perplexities["without"][0] < 60  # it knows the language; a guess has 400
    assert perplexities["with"][24] < perplexities["without"][24]
    assert perplexities["without"][24] > 1.5 * perplexities["without"][0]


def test_replayed_rows_are_those_of_the_text_in_order(bases: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bases / "gpt2")
    ones = torch.ones(6, dtype=torch.int64)
    rows = Replay(str(bases / "replay.txt"), length=16, ratio=0.25).mixed_with(
        Rows(torch.zeros(6, 5, dtype=torch.int64), ones, ones), tokenizer
    )
    assert len(rows) == 8 and rows.answer_N.tolist() == [1] * 6 + [15] * 2
    lines = sentences(400, 0).splitlines()
    stream = [token for line in lines[:8] for token in [*tokenizer(line)["input_ids"], tokenizer.eos_token_id]]
    assert rows.tokens_NT[6:].flatten().tolist() == stream[:32]
    folder = bases / "jsonl"
    folder.mkdir()
    for number in (1, 0):
        (folder / f"{number}.jsonl").write_text(json.dumps({"text": lines[number]}) + "\n")
    assert list(Texts(str(folder)).documents()) == lines[:2]


def test_a_stage_starts_from_the_grokked_step_of_the_last(tmp_path: Path) -> None:
    assert run_here(write_recipe(tmp_path), "--callbacks.progress.style", "off") == 0
    run = tmp_path / "run"
    manifest = Manifest.load(run)
    assert manifest.finished is not None
    manifest.finished = {**manifest.finished, "grok_step": 9}  # kept next is 10
    manifest.save(run)
    corpus = "{name: group, group: Z13, train_fraction: 0.5, template: a b = c}"
    first = "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}"
    from tests.tiny import RECIPE

    text = RECIPE.replace(first, corpus).replace(
        "{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}",
        f"{{model_name_or_path: {run}, revision: grok, vocabulary: tokens}}",
    )
    path = write_recipe(tmp_path, text, "second")
    trainer = prepare(read_recipe(path, [f"--output_dir={tmp_path / 'second'}"]))
    kept = load_file(run / "steps" / "step10" / "model.safetensors")["transformer.wte.weight"]
    now = trainer.model.get_input_embeddings().weight
    # Words that it knew have their rows; 11 and 12 are new.
    assert now[: len(kept)].equal(kept) and len(now) == len(kept) + 2
    train(trainer)
    assert (tmp_path / "second" / "steps" / "step24" / "tokenizer.json").is_file()


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


def _lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_tokenizer, "its tokenizer cannot be read"),
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
    assert "circuits: need one token a word; write model.vocabulary: tokens" in capfd.readouterr().err


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
