"""Questions to a run: against transformers, numpy and the rows of its corpus."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import Run
from pipeline.ask.__main__ import main
from pipeline.ask.answers import likeliest
from pipeline.ask.prompt import bar
from tests.bases import TEXT
from tests.tiny import COMPOSITION, json_of, run_here, run_process, write_recipe


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ask")
    assert run_here(write_recipe(folder, COMPOSITION), "--max_steps", "60", "--callbacks.console.style", "off") == 0
    return folder / "run"


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    """What the command gives as JSON, of each step."""

    return lambda *words: json_of(main, capsys, *words)


def probabilities(run: Run, prompt: str, answer: str) -> float:
    """How likely plain transformers finds an answer."""
    ids, labels = run.tokenizer(prompt)["input_ids"], run.tokenizer(answer)["input_ids"]
    with torch.no_grad():
        p = run.model()(torch.tensor([ids + labels])).logits[0].softmax(-1)
    return float(torch.stack([p[len(ids) - 1 + i, label] for i, label in enumerate(labels)]).prod())


@pytest.mark.parametrize(
    ("split", "standing"),
    [("id", "held out, in id"), ("ood", "held out, in ood"), ("train_inferred", "trained, and in the probe train_i")],
)
def test_a_two_hop_prompt_has_its_bridge_and_its_facts(split: str, standing: str, path: Path, ask: Any) -> None:
    run = Run(path)
    row = run.rows(split).iloc[0]
    head, first, second = re.findall("<.*?>", row.prompt)
    (found,) = ask(path, row.prompt)
    assert found["standing"].startswith(standing) and found["right"] == row.answer.removesuffix("</a>")
    assert found["notes"] == {"bridge": row.bridge}
    train = run.rows("train").set_index("prompt").answer
    for fact, prompt in zip(found["facts"], (head + first, row.bridge + second), strict=True):
        assert fact["prompt"] == prompt and fact["splits"][0] == "train"
        assert fact["answer"] + "</a>" == train[prompt]
        assert fact["probability"] == pytest.approx(probabilities(run, prompt, train[prompt]), rel=1e-4)
    assert found["facts"][0]["answer"] == row.bridge and found["facts"][1]["answer"] == found["right"]
    assert found["right_probability"] == pytest.approx(probabilities(run, row.prompt, row.answer), rel=1e-4)
    assert [each["answer"] for each in ask(path, f"{head[1:-1]} {first[1:-1]} {second[1:-1]}")[0]["answers"]] == [
        each["answer"] for each in found["answers"]
    ]


def test_a_composition_that_stands_in_no_split_is_answered_by_its_facts(path: Path, ask: Any) -> None:
    run = Run(path)
    facts = {}
    for prompt, answer in zip(run.rows("train").prompt, run.rows("train").answer):
        if len(words := re.findall("<.*?>", prompt)) == 2:
            facts[tuple(words)] = answer.removesuffix("</a>")
    known = {prompt for split in run.folder.splits for prompt in run.rows(split).prompt}
    composed = ((h, r1, r2) for (h, r1), b in facts.items() for (e, r2) in facts if e == b)
    head, first, second = next(words for words in composed if "".join(words) not in known)
    (found,) = ask(path, head + first + second)
    assert found["standing"] == "stands in no split: neither trained nor measured" and found["splits"] == []
    assert found["right"] == facts[facts[head, first], second] and len(found["facts"]) == 2
    relation = next(r for r in (f"<r_{i}>" for i in range(6)) if (head, r) not in facts)
    (unknown,) = ask(path, f"{head} {relation} {second}")
    assert unknown["right"] is None and unknown["facts"] == [] and len(unknown["answers"]) == 5


def test_answers_are_the_likeliest_of_all(path: Path, ask: Any) -> None:
    """Every answer of two tokens, by brute force; `</a>` ends one, so that one of a token is there too."""
    run, prompt = Run(path), Run(path).rows("id").prompt[0]
    model, tokenizer = run.model(), run.tokenizer
    ids = tokenizer(prompt)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("</a>")
    with torch.no_grad():
        first = model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        second = model(torch.tensor([[*ids, token] for token in range(len(first))])).logits[:, -1].double().softmax(-1)
    both = {(a, b): float(first[a] * second[a, b]) for a in range(len(first)) if a != end for b in range(len(first))}
    both[(end,)] = float(first[end])
    best = sorted(both.items(), key=lambda each: -each[1])[:5]
    found = likeliest(model, ids, 2, {end}, 5)
    assert [tuple(answer) for answer, _ in found] == [answer for answer, _ in best]
    assert [p for _, p in found] == pytest.approx([p for _, p in best], rel=1e-4)
    shown = ask(path, prompt)[0]["answers"]
    assert [each["probability"] for each in shown] == pytest.approx([p for _, p in best], rel=1e-4)
    words = [tokenizer.convert_ids_to_tokens([token for token in answer if token != end]) for answer, _ in best]
    assert [each["answer"] for each in shown] == ["".join(each) for each in words]


def test_the_answer_over_steps_is_that_of_each_step(path: Path, ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = Run(path).rows("id_atomic").prompt[0]
    results = ask(path, prompt, "--steps", "0,8,60")
    assert [found["step"] for found in results] == [0, 8, 60]
    for found in results:
        assert found == ask(f"{path}@{found['step']}", prompt)[0]
    assert results[0]["right_probability"] < results[-1]["right_probability"]
    assert main([str(path), prompt, "--steps", "0,8,60"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == str(path) and len(said) == 6 and [line.split()[0] for line in said[3:]] == ["0", "8", "60"]
    assert main([str(path), prompt, "--top", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{path}, step 60" and said[1].startswith(
        f"{prompt}   trained, and in the probe id_atomic; right "
    )
    assert [bar(0.5, 4), bar(1, 4), bar(0, 4)] == ["██", "████", ""]


def test_a_run_in_the_words_of_its_base_takes_words_of_the_corpus_and_text(
    bases: Path, tmp_path: Path, ask: Any
) -> None:
    text = COMPOSITION[: COMPOSITION.index("model:")]
    text += f"model: {{model_name_or_path: {bases / 'gpt2'}, vocabulary: text, {TEXT}}}\n"
    text += (
        "max_steps: 2\nglobal_batch_size: 8\neval_steps: 2\nlearning_rate: 1e-3\ncallbacks: {console: {style: 'off'}}\n"
    )
    assert run_here(write_recipe(tmp_path, text)) == 0
    run = Run(tmp_path / "run")
    row = run.rows("id").iloc[0]
    e, r1, r2 = (word.strip("<>") for word in re.findall("<.*?>", row.prompt))
    (found,) = ask(run.path, row.prompt)
    assert found["standing"] == "held out, in id"
    written, answer = f"the {r2} of the {r1} of {e} is", row.answer.removesuffix("</a>").strip("<>")
    assert found["right_probability"] == pytest.approx(probabilities(run, written, f" {answer}"), rel=1e-4)
    (free,) = ask(run.path, written)
    assert free["right"] is None and free["standing"] == "is no prompt in the words of the corpus"
    assert len(free["answers"]) == 5


def test_a_session_answers_lines(path: Path, tmp_path: Path) -> None:
    prompt = Run(path).rows("ood").prompt[0]
    lines = f"{prompt}\n@0\n{prompt}\nsteps\n? id_atomic\n<e_1> <r_99>\n@3\n? od\nhelp\n\n{prompt}\n"
    import subprocess
    import sys

    from tests.tiny import ROOT

    command = [sys.executable, "-m", "pipeline.ask", str(path)]
    said = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert said.returncode == 0
    out, wrong = said.stdout, [line for line in said.stderr.splitlines() if line]
    assert out.count(f"{prompt}   held out, in ood; right is ") == 3 and out.count(", step 0\n") == 2
    assert "trained, and in the probe id_atomic" in out and "a prompt of a split, drawn at random" in out
    assert wrong[-3].startswith("prompt: '<r_99>' is no word of the corpus; nearest: <r_")
    assert wrong[-2] == "@3: was not kept; kept are 0, 1, 2, 4, 8, 10, 16, 20, 30, 32, 40, 50, 60"
    assert wrong[-1].startswith("?: there is no split 'od'; ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["<e_1> <r_1> <pad>"], "prompt: '<pad>' is no word of the corpus"),
        (["<e_99> <r_1>"], "prompt: '<e_99>' is no word of the corpus; nearest: <e_9>, <e_29>, <e_19>"),
        ([""], "prompt: is empty; the corpus has prompts such as <e_"),
        (["e_1 " * 9], "prompt: has 10 tokens with its answer, and the model has 8 positions"),
        (["<e_1>", "--steps", "3"], "steps: step 3 was not kept"),
        (["<e_1>", "--steps", "few"], "--steps: 'few' is not all, last, log"),
        (["<e_1>", "--top", "0"], "--top: 0 is not a whole number >= 1"),
        (["--steps", "log"], "command line: --steps and --format go with a prompt"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([str(path), *words]) == 2
    shown = capsys.readouterr()
    assert not shown.out and shown.err.count("\n") == 1 and said in shown.err


def test_an_unknown_number_has_its_neighbours_named(kept_run: Path) -> None:
    said = run_process("-m", "pipeline.ask", str(kept_run), "3 12 =")
    assert said.returncode == 2 and said.stderr == "prompt: '12' is no word of the corpus; nearest: 10, 9, 8\n"
