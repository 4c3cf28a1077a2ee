"""Evaluation of a run's steps, of folders and of models of others: against its own log, and against transformers."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline import Run
from pipeline.evaluate.__main__ import main
from tests.bases import TEXT
from tests.hub_server import TOKEN, HubServer, hub
from tests.tiny import COMPOSITION, json_of, run_here, run_process, write_recipe


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two-hop facts whose evaluations while training take 20 rows of a split."""
    folder = tmp_path_factory.mktemp("evaluate")
    words = ("--max_steps", "60", "--max_eval_samples", "20", "--eval_steps", "20", "--checkpoints.every", "[[20, 60]]")
    assert run_here(write_recipe(folder, COMPOSITION), *words) == 0
    return folder / "run"


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Any:
    """The rows that the command gives as JSON."""

    return lambda *words: json_of(main, capsys, *words)


def logged(path: Path, prefix: str) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    found: dict[int, dict[str, float]] = {}
    for line in lines:
        found.setdefault(line["step"], {}).update({k: v for k, v in line.items() if k.startswith(prefix)})
    return found


def test_numbers_are_those_of_the_log(path: Path, evaluate: Any) -> None:
    last = logged(path, "final_")[60]
    rows = evaluate(path)
    assert {row["split"] for row in rows} == {"train", "id", "ood", "id_atomic", "ood_atomic", "train_inferred"}
    assert {row["step"] for row in rows} == {60}
    for row in rows:
        split = row["split"]
        assert row["exact_match"] == last[f"final_{split}_exact_match"]
        assert row["loss"] == pytest.approx(last[f"final_{split}_loss"], rel=1e-6)
    for split in ("id", "ood"):
        (row,) = [row for row in rows if row["split"] == split]
        assert row["greedy_exact_match"] == last[f"final_{split}_greedy_exact_match"]
    evaluated = logged(path, "eval_")
    rows = evaluate(path, "--rows", 20, "--steps", "0,20,60", "--decode", 0)
    assert len(rows) == 18 and {row["exact_match"] for row in rows} > {0.0}
    for row in rows:
        assert row["exact_match"] == evaluated[row["step"]][f"eval_{row['split']}_exact_match"]
        assert row["loss"] == pytest.approx(evaluated[row["step"]][f"eval_{row['split']}_loss"], rel=1e-6)
        assert row["greedy_exact_match"] is None and row["greedy_rows"] == 0


def test_groups_are_what_transformers_says_of_their_rows(path: Path, evaluate: Any) -> None:
    """Every row judged alone, by the model's own forward."""
    run = Run(path)
    model, tokenizer = run.model(20), run.tokenizer
    frame = run.rows("train")
    right, loss = [], []
    for prompt, answer in zip(frame.prompt, frame.answer):
        ids, labels = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"]
        with torch.no_grad():
            log_p = model(torch.tensor([ids + labels])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        right.append(log_p.argmax(-1).tolist() == labels)
        loss.append(float(-log_p[range(len(labels)), labels].sum()))
    tokens = frame.prompt.map(lambda text: re.findall("<.*?>", text))
    frame = frame.assign(right=right, loss=loss, hops=tokens.map(len) - 1, relation=tokens.map(lambda each: each[-1]))
    rows = evaluate(f"{path}@20", "--split", "train", "--by", "hops,relation,bridge")
    assert rows[0]["by"] is None and rows[0]["rows"] == len(frame)
    for name in ("hops", "relation", "bridge"):
        found = {row["value"]: row for row in rows if row["by"] == name}
        groups = dict(iter(frame.groupby(frame[name].astype(object).fillna("-"))))
        assert len(found) == len(groups) > 1
        for value, group in groups.items():
            row = found[None if value == "-" else str(value)]
            assert row["rows"] == len(group) and row["exact_match"] == pytest.approx(group.right.mean())
            assert row["loss"] == pytest.approx(group.loss.sum() / (2 * len(group)), rel=1e-4)
            decoded = row["greedy_exact_match"]
            assert decoded is None or 0 <= decoded <= 1
        assert sum(row["greedy_rows"] for row in found.values()) == rows[0]["greedy_rows"] == min(256, len(frame))


def test_one_instance_of_the_model_takes_the_weights_of_all_steps(
    path: Path, evaluate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.models import loading

    built, shape_of = [], loading.shape_of
    monkeypatch.setattr(loading, "shape_of", lambda *facts: built.append(facts) or shape_of(*facts))
    rows = evaluate(path, "--steps", "all", "--split", "ood")
    assert [row["step"] for row in rows] == Run(path).steps and len(built) == 1
    assert len({row["loss"] for row in rows}) == len(rows)


def test_formats_say_the_same(path: Path, tmp_path: Path, evaluate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = (path, "--split", "id,ood", "--by", "relation")
    rows = evaluate(*words)
    for name in ("out.csv", "out.json", "deep/out.parquet"):
        assert main([*map(str, words), "--output", str(tmp_path / name)]) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == rows
    frames = [pd.read_csv(tmp_path / "out.csv"), pd.read_parquet(tmp_path / "deep" / "out.parquet")]
    for frame in frames:
        assert list(frame.columns) == list(rows[0])
        pd.testing.assert_frame_equal(frame, pd.DataFrame(rows), check_dtype=False)
    capsys.readouterr()
    assert main([*map(str, words), "--format", "csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == len(rows)
    assert main([*map(str, words)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{path} on composition, content hash ") and len(said) == 2 + len(rows)


def test_a_kept_step_is_the_same_as_a_model_of_anybodys(path: Path, tmp_path: Path, evaluate: Any) -> None:
    rows = evaluate(f"{path}@20")
    assert evaluate(path / "steps" / "step20") == rows
    AutoModelForCausalLM.from_pretrained(path / "steps" / "step20").save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(path / "tokenizer").save_pretrained(tmp_path / "model")
    given = [f"--corpus.{key}={value}" for key, value in Run(path).recipe.corpus.as_dict().items() if value is not None]
    theirs = evaluate(tmp_path / "model", "--corpus", "composition", *given)
    for ours, other in zip(rows, theirs, strict=True):
        assert other["model"] == str(tmp_path / "model") and other["step"] is None
        assert {key: other[key] for key in ("split", "rows", "exact_match", "greedy_exact_match")} == {
            key: ours[key] for key in ("split", "rows", "exact_match", "greedy_exact_match")
        }
        assert other["loss"] == pytest.approx(ours["loss"], rel=1e-5)


def test_another_corpus_of_the_same_words(path: Path, evaluate: Any) -> None:
    facts = {row["split"]: row for row in evaluate(path)}
    others = {row["split"]: row for row in evaluate(path, "--corpus.seed", 5)}
    assert others["id"]["loss"] > facts["id"]["loss"] and others["id_atomic"]["loss"] > facts["id_atomic"]["loss"]


def test_a_model_of_others_reads_the_text_of_a_template(bases: Path, evaluate: Any) -> None:
    corpus = ("--corpus", "group", "--corpus.group", "Z5", "--corpus.template", "a b = c")
    rows = evaluate(bases / "gpt2", *corpus, "--template", "the {p0} and {p1} is {answer}")
    model, tokenizer = (kind.from_pretrained(bases / "gpt2") for kind in (AutoModelForCausalLM, AutoTokenizer))
    losses, tokens = 0.0, 0
    for a in range(5):
        for b in range(5):
            head, text = f"the {a} and {b} is", f"the {a} and {b} is {(a + b) % 5}"
            ids, start = tokenizer(text)["input_ids"], len(tokenizer(head)["input_ids"])
            with torch.no_grad():
                log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            losses -= float(sum(log_p[i - 1, ids[i]] for i in range(start, len(ids))))
            tokens += len(ids) - start
    counts = [row["rows"] for row in rows]
    assert counts == [8, 17]  # 0.3 of 25
    per_row = tokens // 25
    assert sum(row["loss"] * row["rows"] * per_row for row in rows) == pytest.approx(losses, rel=1e-4)
    plain = evaluate(bases / "gpt2", *corpus)
    assert plain[0]["loss"] != rows[0]["loss"]
    assert plain == evaluate(bases / "gpt2", *corpus, "--template", "{prompt} {answer}")


def test_a_run_in_the_words_of_its_base_is_measured_by_its_templates(
    bases: Path, tmp_path: Path, evaluate: Any
) -> None:
    text = COMPOSITION[: COMPOSITION.index("model:")]
    text += f"model: {{model_name_or_path: {bases / 'gpt2'}, vocabulary: text, {TEXT}}}\n"
    text += (
        "max_steps: 2\nglobal_batch_size: 8\neval_steps: 2\nlearning_rate: 1e-3\ncallbacks: {console: {style: 'off'}}\n"
    )
    assert run_here(write_recipe(tmp_path, text)) == 0
    last = logged(tmp_path / "run", "final_")[2]
    for row in evaluate(tmp_path / "run"):
        assert row["exact_match"] == last[f"final_{row['split']}_exact_match"]
        assert row["loss"] == pytest.approx(last[f"final_{row['split']}_loss"], rel=1e-6)


def test_names_on_the_hub(kept_run: Path, server: HubServer, tmp_path: Path) -> None:
    pushed = hub(server, "push", str(kept_run), "--repo", "user/tiny", "--steps", "0,8,29", "--quick")
    assert pushed.returncode == 0, pushed.stderr
    environment = {**server.environment, "HF_TOKEN": TOKEN, "GROKLAB_CACHE": str(tmp_path), "HF_HOME": str(tmp_path)}

    def rows(*words: str) -> Any:
        said = run_process("-m", "pipeline.evaluate", *words, "--format", "json", cwd=tmp_path, **environment)
        assert said.returncode == 0 and said.stdout.startswith("[\n"), said.stdout[:300] + said.stderr
        return [{key: row[key] for key in ("step", "split", "exact_match")} for row in json.loads(said.stdout)]

    assert main([str(kept_run), "--steps", "0,8,29", "--output", str(tmp_path / "here.json")]) == 0
    here = json.loads((tmp_path / "here.json").read_text())
    found = rows("user/tiny", "--steps", "all")
    assert found == [{key: row[key] for key in ("step", "split", "exact_match")} for row in here]
    corpus = Run(kept_run).recipe.corpus.as_dict()
    words = [f"--corpus.{key}={value}" for key, value in corpus.items()]
    (outside,) = [rows("user/tiny", "--revision", "step8", "--corpus", "group", *words)]
    assert [row["exact_match"] for row in outside] == [row["exact_match"] for row in here if row["step"] == 8]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}m"], "there is no such folder; did you mean {run}?"),
        (["{base}-not"], "{base}-not: there is no such folder"),
        (["{run}/steps"], "is no folder of a run, with recipe.yaml, nor of a model, with config.json"),
        (["{run}@3"], "step 3 was not kept; kept are 0, 1, 2, 4"),
        (["{run}", "--steps", "3"], "steps: step 3 was not kept"),
        (["{run}", "--steps", "some"], "--steps: 'some' is not all, last, log, or numbers such as 0,1000"),
        (["{run}", "--split", "odd"], "--split: there is no split 'odd'; allowed: train, id, ood"),
        (
            ["{run}", "--by", "relatoin"],
            "have no relatoin; did you mean relation? allowed: type, length, answer_length",
        ),
        (["{run}", "--corpus", "group"], "does not know 0, a word of this corpus"),
        (["{run}", "--corpus.ratoi", "3"], "corpus.ratoi: composition has no such key; did you mean ratio?"),
        (["{run}", "--corpora", "group"], "--corpora is no option here; allowed: model, corpus"),
        (["{run}", "--revision", "step8"], "--revision: is for a model of the Hub; write {run}@STEP"),
        (["{run}", "--format", "parquet"], "--format: parquet is for a file; add --output FILE"),
        (["{run}", "--rows", "0"], "--rows: 0 is not a whole number >= 1"),
        (["{run}", "--template", "{{answer}} {{prompt}}"], "templates.default: '{answer} {prompt}' is not a prompt"),
        (["{run}/steps/step20@4"], "is the folder of one model, which has no steps"),
        (["{base}"], "--corpus: is needed, as {base} is no run; allowed: "),
        (["{base}", "--corpus", "grop"], "'grop'"),
        (["{base}", "--corpus", "group", "--steps", "all"], "--steps: is for a run; {base} is one model"),
        (
            ["{base}", "--corpus", "group", "--template", "{{p9}} {{answer}}"],
            "--template: '{p9} {answer}' does not fit",
        ),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], said: str, path: Path, bases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    names = {"run": path, "base": bases / "gpt2"}
    assert main([word.format(**names) for word in words]) == 2
    shown = capsys.readouterr()
    assert not shown.out and shown.err.count("\n") == 1
    assert (said.format(**names) if "{run}" in said or "{base}" in said else said) in shown.err
