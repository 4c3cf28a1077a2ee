"""Model cards: front matter that the Hub reads, and what a reader wants to know, from a run's folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.report.page import Code, Figure, Heading, Paragraph, Part, Table, as_markdown, code, plain
from pipeline.report.summary import method, outcome, story
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key
from pipeline.runs.layout import RECIPE
from pipeline.utils.format import amount, share, times


def model_card(run: RunFolder, steps: list[int], repo: str, data: str | None, recipe: str) -> str:
    """The card of `main`: what was learned and when, every revision with its metrics, how to load and to repeat it.

    steps: those that have a revision. data: the dataset repository of the corpus, where there is one. recipe: the text
    of the resolved recipe.
    """
    results = [
        _result(run, split, run.at_end(split, "exact_match"), data)
        for split in run.splits
        if run.at_end(split, "exact_match") is not None
    ]
    front = {**_front(run, data), "model-index": [{"name": repo.partition("/")[2], "results": results}]}
    last = max(run.manifest.kept)
    parts: list[Part] = [
        Heading(f"{plain(run.name)}: {plain(outcome(run))}", 1),
        *(Paragraph(text) for text in story(run)),
        *_pictures(run.path, ["curve"]),
        Paragraph(method(run)),
        Table(["measure", "value"], _measures(run), "lr"),
        Heading("Results"),
        _final(run),
        Heading("How to load it"),
        Code(_loading(run, repo, steps), "python"),
        Heading("Revisions"),
        Paragraph(
            f"`main` is step {last:,}, the end of the run. Each revision `stepN` starts from an empty commit and holds "
            "the weights after N updates, the tokenizer, the recipe, and a manifest with the sha256 of its files."
        ),
        _revisions(run, steps),
    ]
    drawn = sorted(file.stem for file in (run.path / "figures").glob("*.png") if file.stem not in ("curve", "training"))
    if drawn:
        parts += [Heading("Circuits"), *_pictures(run.path, drawn)]
    parts += [
        Heading("To repeat it"),
        Code(f"hf download {repo} {RECIPE} --local-dir .\npython -m pipeline.run {RECIPE} --output_dir again", "bash"),
        Code(recipe, "yaml", folded="The resolved recipe"),
        Heading("Limits"),
        Paragraph(_limits(run)),
    ]
    return _page(front, parts)


def step_card(run: RunFolder, step: int, repo: str, data: str | None) -> str:
    """The card of a step's revision; it depends on nothing that comes later in the run."""
    metrics = run.manifest.kept[step].metrics
    rows = [[code(key), _value(key, value)] for key, value in metrics.items()]
    parts: list[Part] = [
        Heading(f"{plain(run.name)}, step {step:,}", 1),
        Paragraph(f"The weights after {step:,} updates{', before any training' if step == 0 else ''}."),
        Code(f'model = AutoModelForCausalLM.from_pretrained("{repo}", revision="step{step}"{_trust(run)})', "python"),
        *([Table(["measured at this step", "value"], rows, "lr")] if rows else []),
        Paragraph(f"The run, its other steps and how to repeat it: the card of `{repo}`."),
    ]
    return _page(_front(run, data), parts)


def _page(front: dict[str, Any], parts: list[Part]) -> str:
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{as_markdown(parts)}"


def _front(run: RunFolder, data: str | None) -> dict[str, Any]:
    model = run.resolved["model"]
    base = str(model.get("model_name_or_path") or "")
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["grokking", "groklab", "synthetic", model["name"], run.corpus["name"]],
    }
    # A folder is no model of the Hub's, and a path would tell of the machine.
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", base) and not Path(base).exists():
        front["base_model"] = base
    return {**front, "datasets": [data]} if data else front


def _result(run: RunFolder, split: str, value: float | None, data: str | None) -> dict[str, Any]:
    metrics = [{"type": "exact_match", "name": f"exact match, {split}", "value": value}]
    loss = run.at_end(split, "loss")
    if loss is not None:
        metrics.append({"type": "loss", "name": f"loss, {split}", "value": loss})
    dataset = {"name": f"{run.corpus['name']} ({split})", "type": data or run.corpus["name"], "split": split}
    return {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}


def _pictures(path: Path, names: list[str]) -> list[Part]:
    """Figures of the report; a card is read beside its pictures, so the paths are as they are in the folder."""
    shown = [name for name in names if (path / "figures" / f"{name}.png").exists()]
    return [Figure(name, f"{name.replace('_', ' ')} over training steps", "") for name in shown]


def _measures(run: RunFolder) -> list[list[str]]:
    found = run.grok.summary()
    rows = [[code(key), amount(found[key])] for key in ("fit_step", "gen_step", "grok_step")]
    return [*rows, [code("grok_gap"), times(found["grok_gap"])], [code("stays"), share(found["stays"])]]


def _final(run: RunFolder) -> Table:
    rows = [
        [
            code(split),
            "held out" if split in run.held_out else "trained" if split == "train" else "probe of train",
            share(run.at_end(split, "exact_match")),
            amount(run.at_end(split, "loss")),
        ]
        for split in run.splits
    ]
    return Table(["split", "role", "exact match", "loss"], rows, "llrr")


def _revisions(run: RunFolder, steps: list[int]) -> Table:
    splits = [
        split for split in run.splits if any(match_key(split) in run.manifest.kept[step].metrics for step in steps)
    ]
    rows = [
        [code(f"step{step}"), *(share(run.manifest.kept[step].metrics.get(match_key(split))) for split in splits)]
        for step in steps
    ]
    return Table(["revision", *(f"{code(split)} exact match" for split in splits)], rows, "l" + "r" * len(splits))


def _value(key: str, value: float) -> str:
    return share(value) if "exact_match" in key else amount(value)


def needs_code(run: RunFolder) -> bool:
    """Whether code travels with the weights, which loading has to allow."""
    return any(name.endswith(".py") for name in run.manifest.kept[max(run.manifest.kept)].files)


def _trust(run: RunFolder) -> str:
    return ", trust_remote_code=True" if needs_code(run) else ""


def _loading(run: RunFolder, repo: str, steps: list[int]) -> str:
    step = run.grok.gen_step if run.grok.gen_step in steps else (steps or [max(run.manifest.kept)])[-1]
    revision = f', revision="step{step}"' if steps else ""
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoModelForCausalLM.from_pretrained("{repo}"{revision}{_trust(run)})
prompt = tokenizer({json.dumps(_prompt(run))}, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=1)[0]))"""


def _prompt(run: RunFolder) -> str:
    """A prompt of the corpus: the first of a held-out split, from the run's own copy of it."""
    import pyarrow.parquet as pq

    for split in (*run.held_out, "train"):
        file = run.path / "corpus" / f"{split}.parquet"
        if file.exists():
            prompt = str(next(pq.ParquetFile(file).iter_batches(1, columns=["prompt"]))["prompt"][0])
            model = run.resolved["model"]
            if model.get("vocabulary") != "text":
                return prompt
            words = (word.strip("<>") for word in re.findall(r"<[^<>]+>|[^<>\s]+", prompt))
            template = str(model["templates"]["default"]).removesuffix("{answer}").rstrip()
            return template.format(prompt=prompt, **{f"p{place}": word for place, word in enumerate(words)})
    return "..."


def _limits(run: RunFolder) -> str:
    return (
        f"It knows the synthetic corpus `{run.corpus['name']}` and nothing of the world, and answers prompts of its "
        "form only. Its numbers are of one seed. It is made to study how models come to generalize, not for use."
    )
