"""What was found of a claim: as JSON that can be recorded, and as tables."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.claims.base import REACHED, Claim, Found, Target, interval, verdict
from pipeline.claims.runner import recipe_path
from pipeline.config.registry import load, names, room_name
from pipeline.runs.environment import revision
from pipeline.utils.errors import RecipeError
from pipeline.utils.format import MISSING, amount
from pipeline.utils.inside import read_json

VERSION = 1
BEGIN, END = "<!-- claims: written by python -m pipeline.claims --table -->", "<!-- end of claims -->"


def description(claim: Claim, found: Found) -> dict[str, Any]:
    """All that is known of a claim's runs, without a path or a name of this machine."""
    complete = all(found.arms.values())
    return {
        "version": VERSION,
        "claim": room_name(claim),
        "paper": asdict(claim.paper),
        "budget": claim.budget,
        "seeds": list(claim.seeds),
        "command": f"python -m pipeline.claims {room_name(claim)} --budget {claim.budget} "
        f"--seeds {','.join(map(str, claim.seeds))}",
        "revision": revision(),
        "machine": machine(),
        "recipe": {
            "name": claim.recipe,
            "sha256": hashlib.sha256(recipe_path(claim).read_bytes()).hexdigest(),
        },
        "arms": {arm: {"overrides": dict(overrides), "runs": list(_runs(found, arm))}
                 for arm, overrides in claim.arms().items()},
        "targets": [_judge_target(claim, target, found if complete else None) for target in claim.targets],
    }  # fmt: skip


def _runs(found: Found, arm: str) -> Iterator[dict[str, Any]]:
    for one in found.arms[arm]:
        start = one.run.starts[-1] if one.run.starts else {}
        seconds = one.run.latest("seconds")
        yield {
            "seed": one.seed,
            "steps": one.run.last_step,
            "seconds": None if seconds is None else round(seconds),
            "corpus": one.run.corpus["content_hash"],
            "revision": start.get("revision"),
            "device": start.get("device"),
            "packages": start.get("packages", {}),
            "values": dict(one.values),
        }


def _judge_target(claim: Claim, target: Target, found: Found | None) -> dict[str, Any]:
    values = claim.numbers(target, found) if found else []
    judgement = "not judged" if claim.budget == "smoke" else verdict(target, values, len(claim.seeds))
    middle, low, high, reached, of = interval(values)
    return {
        "name": target.name, "paper": target.paper, "holds": target.bounds, "median": middle, "low": low, "high": high,
        "reached": reached, "of": of, "verdict": judgement,
    }  # fmt: skip


def machine() -> str:
    """The processor and how many cores of it this process has, or the GPU."""
    import torch

    from pipeline.sweep.jobs import cores

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        facts = ""
    model = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    return f"{(count := cores())} core{'s' * (count > 1)} of {model.group(1).strip() if model else platform.machine()}"


def ours(judged: Mapping[str, Any]) -> str:
    """The number of a target with its interval, and how many runs have it where that is not all."""
    if judged["median"] is None:
        return MISSING
    words = amount(judged["median"])
    if judged["of"] > 1:
        words += f" ({amount(judged['low'])} to {amount(judged['high'])})"
    return words if judged["reached"] == judged["of"] else f"{words}, {judged['reached']} of {judged['of']}"


def recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """The recorded results by the names of their claims.

    Raises:
        RecipeError: when one is damaged, or of a later version.
    """
    found = {}
    for name in names("claims"):
        if (folder / f"{name}.json").is_file():
            facts = read_json(folder, f"{name}.json")
            if not isinstance(facts, dict) or facts.get("version") != VERSION or facts.get("claim") != name:
                raise RecipeError(str(folder / f"{name}.json"), "is no result of this claim that can be read here")
            found[name] = facts
    return found


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The recorded results as Markdown, for recipes/README.md."""
    lines = []
    for name, facts in results.items():
        kind: Any = load("claims", name, "claims")
        seeds = len(facts["seeds"])
        lines += [
            f"### {name}", "", _first_line(kind), "",
            f"{facts['paper']['authors']}, {facts['paper']['where']} (arXiv {facts['paper']['arxiv']}); "
            f"{seeds} seed{'s' * (seeds > 1)}, {facts['machine']}:", "", "```bash", facts["command"], "```", "",
            "| number | paper | holds where | ours | verdict |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for judged in facts["targets"]:
            cells = (judged["name"], judged["paper"], judged["holds"], ours(judged), judged["verdict"])
            lines.append(f"| {' | '.join(cells)} |")
        if "paper" in kind.costs:
            lines += ["", f"At the paper's size: not run ({kind.costs['paper']}); `--budget paper` does."]
        lines += ["", f"![{name}](results/{name}.png)", ""]
    return "\n".join([*lines, *_not_run(results)]).rstrip()


def _not_run(results: Mapping[str, Any]) -> list[str]:
    """The numbers of papers for which nothing is recorded, with the commands that measure them."""
    missing: dict[str, Any] = {name: load("claims", name, "claims") for name in names("claims") if name not in results}
    lines = [
        "### Not run yet", "", "Numbers that claims measure on a CPU (`--budget cpu`) or a GPU (`--budget paper`):", "",
        "| claim | number | paper | command |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, kind in missing.items():
        for target in kind.targets:
            lines.append(f"| {name} | {target.name} | {target.paper} | `python -m pipeline.claims {name}` |")
    return lines if missing else []


def _first_line(kind: type[Claim]) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def missed(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The targets that do not hold in all seeds as Markdown, for docs/what-did-not-work.md."""
    lines = ["| claim | number | paper | holds where | ours | verdict |", "|---|---|---|---|---|---|"]
    for name, facts in results.items():
        for judged in facts["targets"]:
            if judged["verdict"] != REACHED:
                cells = (judged["name"], judged["paper"], judged["holds"], ours(judged), judged["verdict"])
                lines.append(f"| [{name}](../recipes/README.md#{name}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def reaching(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What each arm gets right of facts that are never composed in training, as Markdown, for docs/what-reaches-ood.md.

    Arms are those that measure both `ood` and `ood_atomic`; claims of `ood @ ARM` without a record have their command.
    """
    lines = ["| claim | arm | steps | `id` | `ood` | `ood_atomic` |", "|---|---|---|---|---|---|"]
    for name, facts in results.items():
        for arm, made in facts["arms"].items():
            values = [run["values"] for run in made["runs"]]
            if values and all({"ood", "ood_atomic"} <= {*each} for each in values):
                steps = [run["steps"] for run in made["runs"]]
                few, many = (f"{end:,}" for end in (min(steps), max(steps)))
                cells = [_over_seeds([each.get(split) for each in values]) for split in ("id", "ood", "ood_atomic")]
                told = few if few == many else f"{few} to {many}"
                lines.append(f"| [{name}](../recipes/README.md#{name}) | {arm} | {told} | {' | '.join(cells)} |")
    for name in names("claims"):
        kind: Any = load("claims", name, "claims")
        arms = [target.name.removeprefix("ood @ ") for target in kind.targets if target.name.startswith("ood @ ")]
        if name not in results:
            lines += [f"| {name} | {arm} | | | not run: `python -m pipeline.claims {name}` | |" for arm in arms]
    return "\n".join(lines)


def _over_seeds(values: Sequence[float | None]) -> str:
    """The median of an arm's seeds with its interval; without one where it is not measured."""
    middle, low, high, reached, of = interval(values)
    return ours({"median": middle, "low": low, "high": high, "reached": reached, "of": of})


def with_table(text: str, written: str) -> str:
    """A document with what stands between its two marks written anew.

    Raises:
        RecipeError: when it lacks them.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RecipeError("--table", f"the document lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{written}\n\n{END}{after}"
