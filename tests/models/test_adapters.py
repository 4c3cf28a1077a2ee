"""Low-rank adapters, for real: they train alone, resume, are kept merged, and circuits run on what is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline import Run
from pipeline.circuits import __main__ as explaining
from pipeline.circuits._pairs import source_of
from pipeline.circuits.logit_lens import LogitLens
from pipeline.config.recipe import read_recipe
from pipeline.models.adapters import Peft, merged, switched_off
from pipeline.training.session import prepare
from tests.bases import logged, recipe_of
from tests.kills import Runner, join
from tests.tiny import ROOT, run_here, write_recipe

HEAD = "embed_out.weight"


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
    # Typed as text, it is one model like any other.
    write = transformers.pipeline("text-generation", model=str(run / "steps" / "step24"))
    prompt = "the r_1 of e_2 is"
    ids = write.tokenizer(prompt, return_tensors="pt")["input_ids"]
    written = write(prompt, max_new_tokens=1, do_sample=False)[0]["generated_text"]
    assert written == prompt + write.tokenizer.decode(whole(ids).logits[0, -1].argmax())
    drift, kl = logged(run, "adapter_drift"), logged(run, "adapter_drift_kl")
    assert drift[0] == pytest.approx(0, abs=1e-6) and kl[0] == pytest.approx(0, abs=1e-5)
    assert drift[24] > drift[6] > 0 and kl[24] > 0
    assert logged(run, "base_perplexity").keys() == drift.keys()


def test_adapters_switched_off_are_the_base(bases: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    model = AutoModelForCausalLM.from_pretrained(bases / "gpt2").eval()
    tokens = torch.randint(0, 300, (3, 9))
    before = model(tokens).logits
    Peft(r=2).into(model)
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


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_circuits_run_on_the_merged_model_in_its_tokens(
    family: str, bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    from peft import PeftModel

    more = "\npeft: {r: 4}\ncircuits: {logit_lens: {pairs: 8, split: train, steps: last}}\n"
    path = write_recipe(tmp_path, recipe_of(bases, family, "vocabulary: tokens", more))
    assert run_here(path, "--max_steps", "12") == 0
    run = tmp_path / "run"
    # The words that were added are trained beside the adapters.
    first, last = (load_file(run / "steps" / f"step{n}" / "model.safetensors") for n in (0, 12))
    (words,) = [name for name in first if name.endswith(("wte.weight", "embed_in.weight"))]
    assert not first[words].equal(last[words])
    # What is analysed is what training ended with: the last layer's lens shows the adapted model's own prediction.
    step = AutoModelForCausalLM.from_pretrained(run / "steps" / "step12")
    step.load_state_dict(step.state_dict() | {key: value for key, value in first.items() if key in step.state_dict()})
    for part in (step.get_input_embeddings(), step.get_output_embeddings()):
        part.weight.data = (
            last[words] if part is step.get_input_embeddings() or family == "gpt2" else last[HEAD]
        ).clone()
    adapted = PeftModel.from_pretrained(step, run / "steps" / "step12" / "adapter").eval()
    looked = Run(run)
    pairs = LogitLens(pairs=8, split="train").choose(source_of(looked.folder))
    clean = torch.from_numpy(pairs.clean).long()
    at = torch.from_numpy(pairs.lengths) - 1
    with torch.no_grad():
        chances = adapted(clean).logits[torch.arange(len(pairs)), at].softmax(-1)
    answers = torch.from_numpy(pairs.answers[:, :1]).long()
    table = looked.table("logit_lens")
    shown = table[(table.target == "answer") & (table.layer == table.layer.max()) & (table.position == at.max().item())]
    assert shown.probability.item() == pytest.approx(chances.gather(1, answers).mean().item(), rel=1e-3)
    # And as one model with a tokenizer of its own, the same.
    words_of = (
        "--model",
        str(run),
        "--revision",
        "step12",
        "--analysis",
        "logit_lens",
        "--split",
        "train",
        "--pairs",
        "8",
    )
    assert explaining.main([str(run), *words_of, "--output", str(tmp_path / "one")]) == 0
    one = pq.read_table(tmp_path / "one" / "logit_lens.parquet").to_pandas()
    pd.testing.assert_frame_equal(one, table, check_dtype=False, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_of_the_embeddings_only_added_rows_are_trained_and_decay(family: str, bases: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    from peft import AutoPeftModelForCausalLM

    text = recipe_of(bases, family, "vocabulary: tokens", "\npeft: {r: 4}\n")
    text = text.replace("global_batch_size: 32", "global_batch_size: 64")  # products large enough for oneDNN
    path = write_recipe(tmp_path, text.replace("weight_decay: 0.1", "weight_decay: 1.0"))
    assert run_here(path, "--max_steps", "6") == 0
    assert run_here(path, "--max_steps", "12") == 0  # resumed
    run = tmp_path / "run"
    base = load_file(bases / family / "model.safetensors")
    first, last = (load_file(run / "steps" / f"step{n}" / "model.safetensors") for n in (0, 12))
    old = len(AutoTokenizer.from_pretrained(bases / family))
    new = len(AutoTokenizer.from_pretrained(run / "steps" / "step12"))
    matrices = [name for name in last if name.endswith(("wte.weight", "embed_in.weight", HEAD))]
    assert len(matrices) == (1 if family == "gpt2" else 2) and new > old
    for name in matrices:
        assert last[name][:old].equal(base[name][:old]) and last[name][new:].equal(first[name][new:])
        moved = (last[name] != first[name]).any(1)
        assert moved[old:new].all()
        # Of a word that no row shows, the embedding only shrinks.
        if name != HEAD and family == "gpt_neox":
            unseen = new - 1
            shrunk = first[name][unseen] * (1 - 1e-2) ** 12  # by learning rate x weight decay at every step
            assert torch.allclose(last[name][unseen], shrunk, rtol=1e-4, atol=1e-7)
    # It is trained by the short forward all the same.
    trainer = prepare(read_recipe(path, [f"--output_dir={tmp_path / 'other'}"]))
    assert not any("forward" in note for note in trainer.notes), trainer.notes
    # All that moved is in the drift, by the weights that are kept.
    changed = [name for name in last if not last[name].equal(first[name])]
    parts = {name: slice(old, new) if name in matrices else slice(None) for name in changed}
    moved_by = sum(float((last[n][rows] - first[n][rows]).square().sum()) for n, rows in parts.items())
    whole = sum(float(first[n][rows].square().sum()) for n, rows in parts.items())
    assert logged(run, "adapter_drift")[12] == pytest.approx((moved_by / whole) ** 0.5, rel=1e-3)
    # The adapter's folder and the base are the whole model.
    restored = AutoPeftModelForCausalLM.from_pretrained(run / "steps" / "step12" / "adapter").eval()
    kept = AutoModelForCausalLM.from_pretrained(run / "steps" / "step12").eval()
    tokens = torch.randint(0, new, (4, 9), generator=torch.Generator().manual_seed(0))
    tokens[:, ::2] = torch.randint(old, new, (4, 5), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(restored(tokens).logits, kept(tokens).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "model", "peft", "message"),
    [
        ("gpt2", "vocabulary: text", "targets: [lm_head]", "lm_head: the output projection shares its weights with"),
        ("gpt2", "vocabulary: text", "targets: [wte, c_attn]", "wte: the input embedding shares its weights with"),
        ("gpt_neox", "vocabulary: tokens", "targets: [embed_in]", "holds the embeddings of added words"),
        (
            "gpt2",
            "vocabulary: text",
            "targets: [c_attn, c_porj]",
            "'c_porj' is no layer of GPT2LMHeadModel; did you mean",
        ),
        ("gpt2", "vocabulary: text", "targets: [ln_1]", "ln_1: peft has no adapter for that"),
        ("gpt2", "vocabulary: text, freeze: ['transformer.h.0.*']", "r: 2", "which model.freeze keeps as it is"),
    ],
)
def test_adapters_that_cannot_be_right_are_refused(
    family: str, model: str, peft: str, message: str, bases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    path = write_recipe(tmp_path, recipe_of(bases, family, model, f"\npeft: {{{peft}}}\n"))
    assert run_here(path) == 2
    error = capfd.readouterr().err
    assert "peft.targets: " in error and message in error and error.count("\n") == 1, error


def test_an_adapter_on_an_untied_output_projection_is_kept_merged(bases: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    path = write_recipe(tmp_path, recipe_of(bases, "gpt_neox", more="\npeft: {r: 4, targets: [lm_head, embed_in]}\n"))
    assert run_here(path, "--max_steps", "6") == 0
    base = load_file(bases / "gpt_neox" / "model.safetensors")
    kept = load_file(tmp_path / "run" / "steps" / "step6" / "model.safetensors")
    assert {name for name in base if not kept[name].equal(base[name])} == {HEAD, "gpt_neox.embed_in.weight"}


def test_circuits_of_a_model_in_text_take_pairs_in_text(
    bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert run_here(write_recipe(tmp_path, recipe_of(bases, "gpt2")), "--max_steps", "2") == 0
    capsys.readouterr()
    assert explaining.main([str(run), "--analysis", "logit_lens"]) == 2
    error = capsys.readouterr().err
    assert "need one token a word" in error and "--data FILE" in error and error.count("\n") == 1
    pair = {"clean": "the r_1 of e_2 is", "corrupted": "the r_1 of e_3 is", "answer": " a", "corrupted_answer": " old"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    words = ("--analysis", "logit_lens,attribution", "--data", str(tmp_path / "pairs.jsonl"))
    assert explaining.main([str(run), *words]) == 0
    assert explaining.main(["--model", str(run / "steps" / "step2"), *words, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "attribution.parquet").is_file()


@pytest.mark.parametrize("engine", ["zero2", pytest.param("cpu", marks=pytest.mark.slow)])
def test_two_processes_train_adapters_as_one_does(engine: str, bases: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    text = recipe_of(bases, "gpt_neox", "vocabulary: tokens", "\npeft: {r: 4}\nper_device_train_batch_size: 4\n")
    recipe = write_recipe(tmp_path, text.replace("logging_steps: 3", "logging_steps: 1"))
    assert run_here(recipe, "--output_dir", str(tmp_path / "one")) == 0
    two = Runner(recipe, 2, config=ROOT / "accelerate_configs" / f"{engine}.yaml")
    two.run(tmp_path / "two")
    assert json.loads((tmp_path / "two" / "environment.json").read_text())[0]["processes"] == 2
    for key in ("loss", "eval_id_loss", "base_perplexity", "adapter_drift_kl"):
        one, ours = logged(tmp_path / "one", key), logged(tmp_path / "two", key)
        assert ours == pytest.approx(one, rel=2e-5, abs=1e-6) and len(ours) > 4, key
    # Stopped and started again, by as many and by one.
    Runner(recipe, 2, ("--max_steps", "12"), config=two.config).run(tmp_path / "parts")
    shutil.copytree(tmp_path / "parts", tmp_path / "fewer")
    two.run(tmp_path / "parts")
    Runner(recipe, 1, config=two.config).run(tmp_path / "fewer")
    final = "steps/step24/model.safetensors"
    weights, parts, one, fewer = (load_file(tmp_path / name / final) for name in ("two", "parts", "one", "fewer"))
    assert weights.keys() == one.keys() and all(parts[key].equal(weight) for key, weight in weights.items())
    for other in (weights, fewer):
        assert all(torch.allclose(other[key], weight, atol=1e-4) for key, weight in one.items())
    assert (tmp_path / "two" / "steps" / "step24" / "adapter" / "adapter_model.safetensors").is_file()


def test_adapters_under_zero3_are_refused_in_a_line(bases: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    recipe = write_recipe(tmp_path, recipe_of(bases, "gpt2", more="\npeft: {r: 4}\n"))
    assert 2 in join(Runner(recipe, 2, config=ROOT / "accelerate_configs" / "zero3.yaml").start(tmp_path / "run"))
    said = (tmp_path / "run.log").read_text()
    assert said.count("peft: needs whole weights, which ZeRO-3 and FSDP do not keep; ZeRO-2 does") == 1, said
