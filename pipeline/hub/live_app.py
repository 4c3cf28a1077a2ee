"""Live answers of a run on the Hub: a gradio app that needs live.json beside it, and gradio, torch and transformers.

`python -m pipeline.hub space RUN --live USER/NAME` puts it into a Space, where this package is not.
"""

from __future__ import annotations

import difflib
import functools
import json
from pathlib import Path
from typing import Any

MOST = 5  # answers that are shown


def settings(folder: Path) -> dict[str, Any]:
    """What is shown: title, model, steps, examples, the most tokens of an answer, and the words that end one."""
    found: dict[str, Any] = json.loads((folder / "live.json").read_text(encoding="utf-8"))
    return found


@functools.lru_cache(maxsize=4)
def load(model: str, step: int, trusted: bool) -> tuple[Any, Any]:
    """The model of a step and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    revision = f"step{step}"
    loaded = AutoModelForCausalLM.from_pretrained(model, revision=revision, trust_remote_code=trusted)
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trusted)
    return loaded.float().eval(), tokenizer


def tokens_of(tokenizer: Any, prompt: str) -> list[int]:
    """The tokens of a prompt.

    Raises:
        ValueError: when it is empty, or has a word that the model does not know, with the nearest ones.
    """
    ids: list[int] = tokenizer(prompt)["input_ids"]
    unknown = tokenizer.unk_token_id
    if not ids:
        raise ValueError("write a prompt, such as one of the examples")
    if unknown in ids:
        known = [word for word, token in tokenizer.get_vocab().items() if token != unknown]
        pieces = prompt.replace("<", " <").replace(">", "> ").split()
        words = [word for word in pieces if unknown in tokenizer(word)["input_ids"]]
        near = difflib.get_close_matches(words[0], known, n=3, cutoff=0.3) if words else []
        raise ValueError(f"{words[0] if words else prompt!r} is no word of the model; nearest: {', '.join(near)}")
    return ids


def answers(prompt: str, step: int, about: dict[str, Any], most: int = MOST) -> dict[str, float]:
    """The likeliest answers with their probabilities, each begun by another token and gone on with greedily."""
    import torch

    model, tokenizer = load(about["model"], int(step), about["trust_remote_code"])
    ids = tokens_of(tokenizer, prompt)
    ends = {token for word in about["ends"] if (token := tokenizer.get_vocab().get(word)) is not None}
    found = dict[str, float]()
    with torch.no_grad():
        first = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
        for p, token in zip(*(each.tolist() for each in first.topk(min(most, len(first))))):
            answer = [token]
            while len(answer) < about["length"] and answer[-1] not in ends:
                next_p, next_token = model(torch.tensor([ids + answer])).logits[0, -1].softmax(-1).max(-1)
                answer, p = [*answer, int(next_token)], p * float(next_p)
            text = tokenizer.decode([token for token in answer if token not in ends])
            found[text] = found.get(text, 0.0) + p
    return found


def interface(about: dict[str, Any]) -> Any:
    """The page: a prompt, a slider over the kept steps, and the likeliest answers as bars."""
    import gradio

    steps = about["steps"]

    def ask(prompt: str, place: float) -> Any:
        try:
            return answers(prompt, steps[int(place)], about), f"step {steps[int(place)]:,}"
        except ValueError as error:
            raise gradio.Error(str(error)) from None

    with gradio.Blocks(title=about["title"]) as page:
        gradio.Markdown(f"# {about['title']}\n\nThe model of each kept step, from `{about['model']}`.")
        prompt = gradio.Textbox(about["examples"][0], label="prompt")
        place = gradio.Slider(0, len(steps) - 1, len(steps) - 1, step=1, label="kept step, from first to last")
        at, shown = gradio.Markdown(), gradio.Label(label="likeliest answers", num_top_classes=MOST)
        gradio.Examples([[each] for each in about["examples"]], [prompt])
        for change in (prompt.submit, place.change, page.load):
            change(ask, [prompt, place], [shown, at])
    return page


if __name__ == "__main__":
    interface(settings(Path(__file__).parent)).launch()
