"""Others read a kept step: transformers' own tools always, further libraries where they are installed.

`pytest -m readers` runs those of the extras `lens` and `eval`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

from pipeline.config.registry import names
from pipeline.runs.folder import RunFolder
from tests.read_runs import ARCHITECTURES, CORPORA, KEPT, WITHOUT_END, examples, keep

LIBRARIES = {"lm_eval": "eval", "transformer_lens": "lens", "nnsight": "lens", "nnterp": "lens"}


def needs(library: str) -> Any:
    """Marks a test that is for one of the libraries of the extras."""
    is_there = importlib.util.find_spec(library) is not None
    return pytest.mark.skipif(not is_there, reason=f"{library} is of the extra {LIBRARIES[library]}, not installed")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> folder of a kept step; each is trained once."""
    folder, found = tmp_path_factory.mktemp("others"), dict[str, Path]()

    def step(name: str) -> Path:
        if name not in found:
            found[name] = keep(folder, name)
        return found[name]

    return step


def opened(step: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(step, trust_remote_code=True).eval()
    return model, AutoTokenizer.from_pretrained(step)


def asked(step: Path) -> tuple[Any, Any, list[int]]:
    """The model of a kept step, its tokenizer, and a prompt."""
    return *opened(step), examples(step)[0][0]


def greedy(model: Any, step: Path, prompt: list[int]) -> list[int]:
    """The most probable continuation, token by token: to the end of an answer, or as long as the step says."""
    ids = list(prompt)
    for _ in range(GenerationConfig.from_pretrained(step).max_new_tokens or 0):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == model.config.eos_token_id:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_step_says_how_it_is_used(name: str, kept: Any) -> None:
    step = kept(name)
    model, tokenizer = opened(step)
    config = json.loads((step / "config.json").read_text())
    assert config["use_cache"] is True and config["eos_token_id"] == tokenizer.eos_token_id is not None
    generation = GenerationConfig.from_pretrained(step)
    generation.validate(strict=True)
    assert generation.eos_token_id in (tokenizer.eos_token_id, [tokenizer.eos_token_id])
    assert generation.pad_token_id == tokenizer.pad_token_id
    stored = RunFolder(step.parent.parent).stored
    assert generation.max_new_tokens == max(
        block.answers.shape[1] for split in stored.sizes for block in stored.blocks(split)
    )
    assert (
        tokenizer.model_max_length == 64
        and AutoTokenizer.from_pretrained(step.parent.parent / "tokenizer").eos_token_id == tokenizer.eos_token_id
    )
    # No end was added: rows of the embedding are those that are trained.
    assert len(tokenizer) == model.config.vocab_size == model.get_input_embeddings().weight.shape[0]
    # Where the corpus has an end of answers it is that, and else a token that no row holds.
    ends = {answer[-1] for _, answer in examples(step)}
    assert (ends == {tokenizer.eos_token_id}) == (KEPT[name][0] not in WITHOUT_END)
    held = {token for prompt, answer in examples(step, 1000) for token in (*prompt, *answer)}
    assert (tokenizer.eos_token_id in held) == (KEPT[name][0] not in WITHOUT_END)


@pytest.mark.parametrize("name", KEPT)
def test_generation_ends_where_the_answer_does(name: str, kept: Any) -> None:
    step = kept(name)
    model, tokenizer = opened(step)
    write = pipeline("text-generation", model=str(step), trust_remote_code=True)
    for prompt, _ in examples(step, 6):
        expected = greedy(model, step, prompt)
        generated = model.generate(torch.tensor([prompt]))[0, len(prompt) :]
        assert generated.tolist() == expected
        text = tokenizer.decode(prompt)
        assert tokenizer(text)["input_ids"] == prompt
        written = write(text, return_full_text=False)[0]["generated_text"]
        assert written.split() == tokenizer.decode(expected, skip_special_tokens=True).split()


# The extras


def task_files(folder: Path, step: Path, tokenizer: Any) -> list[str]:
    """Two tasks of lm-evaluation-harness on held-out rows: choices by probability, and answers by generation."""
    rows = examples(step)
    answers = sorted({tokenizer.decode(answer) for _, answer in rows})[:4]
    lines = []
    for prompt, answer in rows:
        true = tokenizer.decode(answer)
        choices = sorted({true, *answers})[:5] if true in answers else [true, *answers[:3]]
        lines.append(
            {"prompt": tokenizer.decode(prompt), "choices": choices, "gold": choices.index(true), "answer": true}
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shared = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "rows.jsonl"}}}}}
test_split: test
doc_to_text: "{{{{prompt}}}}"
target_delimiter: "{" " if " " in lines[0]["prompt"] else ""}"
"""
    (folder / "choices.yaml").write_text(
        f"task: ours_choices\noutput_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: gold\n{shared}"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    (folder / "answers.yaml").write_text(
        f"task: ours_answers\noutput_type: generate_until\ndoc_to_target: answer\n{shared}"
        "generation_kwargs: {do_sample: false, max_gen_toks: 4, until: []}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: false}]\n"
    )
    return ["ours_choices", "ours_answers"]


@needs("lm_eval")
@pytest.mark.readers
@pytest.mark.parametrize("name", KEPT)
def test_lm_evaluation_harness_scores_as_by_hand(name: str, kept: Any, tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    step = kept(name)
    model, tokenizer = opened(step)
    tasks = task_files(tmp_path, step, tokenizer)
    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(step), "trust_remote_code": True, "dtype": "float32"},
        tasks=tasks,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        device="cpu",
        batch_size=4,
        bootstrap_iters=0,
        log_samples=True,
    )
    assert results is not None
    rows = examples(step)
    samples = sorted(results["samples"]["ours_choices"], key=lambda sample: sample["doc_id"])
    for (prompt, _), sample in zip(rows, samples, strict=True):
        for choice, (score, _) in zip(sample["doc"]["choices"], sample["filtered_resps"], strict=True):
            ids = tokenizer(choice)["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
            by_hand = sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(ids))
            assert float(score) == pytest.approx(by_hand, abs=1e-4)
    for (prompt, answer), sample in zip(
        rows, sorted(results["samples"]["ours_answers"], key=lambda sample: sample["doc_id"]), strict=True
    ):
        ours = tokenizer.decode(greedy(model, step, prompt), skip_special_tokens=True)
        assert sample["filtered_resps"][0].split() == ours.split()
        assert sample["exact_match"] == (ours.strip() == tokenizer.decode(answer).strip())


@needs("transformer_lens")
@pytest.mark.readers
@pytest.mark.parametrize("name", [name for name in KEPT if KEPT[name][1] in ("gpt2", "pythia")])
def test_transformer_lens_reads_it(name: str, kept: Any) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    step = kept(name)
    model, tokenizer, prompt = asked(step)
    bridge = TransformerBridge.boot_transformers(str(step), device="cpu")
    tokens = bridge.to_tokens(tokenizer.decode(prompt), prepend_bos=False)
    assert tokens.tolist() == [prompt]
    logits, cache = bridge.run_with_cache(tokens)
    found = model(tokens, output_hidden_states=True)
    torch.testing.assert_close(logits, found.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(cache["blocks.0.hook_resid_pre"], found.hidden_states[0], atol=1e-5, rtol=0)


@needs("nnsight")
@pytest.mark.readers
@pytest.mark.parametrize("name", KEPT)
def test_nnsight_reads_it(name: str, kept: Any) -> None:
    from nnsight import LanguageModel

    step = kept(name)
    model, tokenizer, prompt = asked(step)
    traced = LanguageModel(str(step), device_map="cpu", trust_remote_code=True, dispatch=True)
    blocks = traced.gpt_neox.layers if KEPT[name][1].startswith("pythia") else traced.transformer.h
    with torch.no_grad(), traced.trace(tokenizer.decode(prompt)):
        state = blocks[0].output.save()
        logits = traced.lm_head.output.save()
    state = state[0] if isinstance(state, tuple) else state
    tokens = torch.tensor([prompt])
    torch.testing.assert_close(logits, model(tokens).logits, atol=1e-5, rtol=0)
    if len(blocks) > 1 or KEPT[name][1] != "gpt2_looped":
        assert state.shape[-1] == model.config.hidden_size


@needs("nnterp")
@pytest.mark.readers
@pytest.mark.parametrize("name", [name for name in KEPT if KEPT[name][1] in ("gpt2", "pythia")])
def test_nnterp_reads_it(name: str, kept: Any) -> None:
    from nnterp import StandardizedTransformer

    step = kept(name)
    model, tokenizer, prompt = asked(step)
    standard = StandardizedTransformer(str(step), device_map="cpu", trust_remote_code=True)
    with torch.no_grad(), standard.trace(tokenizer.decode(prompt)):
        last = standard.layers_output[0].save()
        logits = standard.logits.save()
    torch.testing.assert_close(logits, model(torch.tensor([prompt])).logits, atol=1e-5, rtol=0)
    assert last.shape == (1, len(prompt), 16)


def test_every_corpus_and_architecture_is_read() -> None:
    assert {corpus.partition("_eos")[0] for corpus in CORPORA} == set(names("corpora"))
    assert {architecture for _, architecture in KEPT.values()} == set(ARCHITECTURES)
