"""A run as a static Space: its report, and what it answered at each step, computed beforehand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from pipeline.data.templates import ENDS
from pipeline.hub import live_app
from pipeline.hub.anonymous import Anonymous
from pipeline.hub.cards import needs_code
from pipeline.hub.contents import CARD, MAIN, public_recipe
from pipeline.hub.repository import HOUSEKEEPING, HubError, Remote
from pipeline.plots.style import svg
from pipeline.report.page import Answers, Code, Figure, Heading, Paragraph, Part, Table, as_html, narrow_svgs
from pipeline.report.run_report import page_of
from pipeline.report.summary import outcome
from pipeline.report.view import ALL_OF_IT
from pipeline.runs.folder import RunFolder
from pipeline.utils.drafts import write_inside
from pipeline.utils.format import size
from pipeline.utils.inside import opened

INDEX, APP = "index.html", "app.py"
NEW = (INDEX, APP, CARD, "style.css", HOUSEKEEPING)  # what the Hub itself may put into a new static Space
TAG = "groklab"


def contents(run: RunFolder, answers: Answers) -> dict[str, bytes]:
    """The files of a Space, which name nothing of this machine."""
    names = Anonymous(run.path, [start.get("host") for start in run.starts])
    page = page_of(run, ALL_OF_IT, public_recipe(run, names))
    first = next((i for i, part in enumerate(page.parts) if isinstance(part, Figure)), len(page.parts))
    shown: list[Part] = [
        *page.parts[:first],
        Heading("What it answers, step by step"),
        Paragraph("Move the slider. Prompts were drawn once, of what is trained and of what is held out."),
        answers,
        *page.parts[first:],
    ]
    text = as_html(
        names.text(page.title),
        [_public(part, names) for part in shown],
        {name: svg(figure).decode() for name, figure in page.figures.items()},
        narrow=narrow_svgs(page.narrow),
    )
    card = _card(names.text(f"{run.name} {outcome(run)}"), "static", INDEX, "The report of a run, with its answers.")
    return {INDEX: text.encode("utf-8", "replace"), CARD: card}


def live_contents(run: RunFolder, model: str, steps: list[int], examples: list[str], length: int) -> dict[str, bytes]:
    """The files of a Space that answers live, by gradio, with the steps of a repository that the run was pushed to.

    Args:
        run: The run.
        model: The repository, as USER/NAME.
        steps: Those that are offered.
        examples: Prompts to begin with.
        length: The most tokens of an answer.
    """
    names = Anonymous(run.path, [start.get("host") for start in run.starts])
    title = names.text(f"{run.name} {outcome(run)}")
    about = {
        "title": title, "model": model, "steps": steps, "examples": examples, "length": length, "ends": ENDS,
        "trust_remote_code": needs_code(run),
    }  # fmt: skip
    return {
        APP: Path(live_app.__file__).read_bytes(),
        "live.json": (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"),
        "requirements.txt": b"torch\ntransformers\n",
        CARD: _card(title, "gradio", APP, "Live answers of a run, at each of its kept steps."),
    }


def _card(title: str, sdk: str, app: str, about: str) -> bytes:
    """The card of a Space, by which the Hub knows how to show it."""
    front = {"title": title[:80], "sdk": sdk, "app_file": app, "pinned": False, "tags": [TAG, "grokking"]}
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{about}\n".encode("utf-8", "replace")


def _public(part: Part, names: Anonymous) -> Part:
    """A part of a page whose texts name nothing of this machine."""
    if isinstance(part, (Heading, Paragraph, Code)):
        return dataclasses.replace(part, text=names.text(part.text))
    if isinstance(part, Table):
        return dataclasses.replace(part, rows=[[names.text(cell) for cell in row] for row in part.rows])
    if isinstance(part, Figure):
        return dataclasses.replace(part, alt=names.text(part.alt), caption=names.text(part.caption))
    return part


def write_space(files: Mapping[str, bytes], folder: Path) -> Iterator[str]:
    """Writes a Space into a folder, which any server of files shows; yields a line.

    Raises:
        HubError: when something else lies there.
    """
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - files.keys()):
        raise HubError(f"--output {folder}: holds something else; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with opened(folder):
        for name, content in files.items():
            write_inside(folder, name, content)
    if APP in files:
        yield f"{folder / APP}: pip install gradio, then python {folder / APP} shows it"
    else:
        yield f"{folder / INDEX}: {size(len(files[INDEX]))}; python -m http.server --directory {folder} shows it"


def push_space(files: Mapping[str, bytes], repo: str, private: bool | None, replace: bool) -> Iterator[str]:
    """Sends a Space to the Hub; yields a line.

    Raises:
        HubError: when a repository of that name holds anything but a Space that was made here.
    """
    remote = Remote(repo, "space")
    remote.create(private)
    there = remote.listing(MAIN) or {}
    is_ours = CARD in there and (INDEX in there or APP in there) and TAG.encode() in remote.content(MAIN, CARD)
    if not replace and not is_ours and not remote.is_new():
        remote.refuse(MAIN, sorted(there.keys() - {HOUSEKEEPING}))
    sent = remote.upload(MAIN, dict(files), "report and answers of a run", lambda name: replace or name in NEW)
    if damage := remote.damage(MAIN, dict(files), read_back=bool(sent)):
        raise HubError(f"{repo}: {damage[0]}")
    yield f"{repo}: {'sent' if sent else 'there already'}; it is shown at https://huggingface.co/spaces/{repo}"
