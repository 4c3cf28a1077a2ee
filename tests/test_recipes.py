"""Every shipped recipe is read, built at its full size, and trained a few steps."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from pipeline.config.recipe import read_recipe
from pipeline.config.registry import room_name
from pipeline.runs.metrics import read_history
from pipeline.training.session import prepare, train
from tests.bases import make_base, make_texts
from tests.tiny import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
# Small batches and few rows to evaluate, since some of these models are made for a GPU; the model is as it is.
SHORT = {
    "max_steps": 2,
    "global_batch_size": 8,
    "max_eval_samples": 4,
    "save_strategy": "no",
    "checkpoints.initial": "false",
    "checkpoints.powers_of_two": "false",
    "callbacks.console.style": "off",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands in for the Hub: gpt2/, gpt_neox/ and two texts."""
    folder = tmp_path_factory.mktemp("base")
    for family in ("gpt2", "gpt_neox"):
        make_base(folder / family, family, steps=1)
    make_texts(folder)
    return folder


def stand_ins(path: Path, base: Path) -> dict[str, Path | str]:
    """Overrides that give a recipe a small base and texts from here in the place of the Hub's."""
    recipe = read_recipe(path)
    if room_name(recipe.model) == "gpt2_factorized":  # whose other model would have to know the words of the corpus
        return {"model.recipe": "null", "model.rank": "8"}
    name = str(recipe.model.as_dict()["model_name_or_path"])
    found: dict[str, Path | str] = {"model.model_name_or_path": base / ("gpt_neox" if "pythia" in name else "gpt2")}
    found |= {"model.revision": "null", "model.recipe": "null"}
    if recipe.replay:
        found |= {"replay.source": base / "replay.txt", "replay.config": "null"}
    if room_name(recipe.objective) == "language_feedback":
        found |= {"objective.keep": "all", "objective.prompts": "16"}  # what stands in writes nothing that is right
    if "base_perplexity" in recipe.callbacks:
        prefix = "callbacks.base_perplexity"
        found |= {f"{prefix}.source": base / "held_out.txt", f"{prefix}.config": "null"}
    return found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_trains(path: Path, base: Path, tmp_path: Path) -> None:
    is_continued = re.search(r"^  (model_name_or_path|recipe): ", path.read_text(), re.MULTILINE)
    if "\npeft:" in path.read_text():
        pytest.importorskip("peft", reason="the extra peft is not installed")
    values = {**SHORT, **(stand_ins(path, base) if is_continued else {})}
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    trainer = prepare(read_recipe(path, [*words, "--output_dir", str(tmp_path / "run")]))
    train(trainer)
    assert trainer.state.global_step == 2
    losses = [line["loss"] for line in read_history(tmp_path / "run") if "loss" in line]
    # Fresh weights know nothing: the first loss is near that of a guess among all tokens. So do those that stand in.
    # A preference between two answers is a coin's.
    kinds = 2 if trainer.recipe.objective.per == "row" else trainer.model.config.vocab_size
    # Of several tokens ahead, each further one counts by the objective's decay.
    decay, ahead = getattr(trainer.recipe.objective, "decay", 0.0), getattr(trainer.model.config, "n_future", 1)
    guesses = math.log(kinds) * sum(decay**n for n in range(ahead))
    assert losses[0] == pytest.approx(guesses, rel=0.25)
    assert (tmp_path / "run" / "steps" / "step2" / "model.safetensors").is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_header_says_what_to_expect(path: Path) -> None:
    header = re.match(r"(#.*\n)+", path.read_text())
    assert header
    for word in ("Paper", "Hardware", "Expect"):
        assert re.search(rf"^# {word} ", header[0], re.MULTILINE), f"{path.name} does not say: {word}"


# Recipes in the setting of a paper: tokens of the task, rows of the embedding, and the rows of the authors' embedding.
OF_A_PAPER = {
    "grok_gpt2": (2206, 2216, 52464),
    "composition_looped": (2206, 2216, 52464),
    "comparison": (1106, 1120, 51368),
    "complex_reasoning": (1106, 1120, 51368),
    "nanda_mod113": (114, 128, 114),
    "group_s5": None,
    "composition_recurrent": None,
    "k_hop": None,
}


@pytest.mark.parametrize("name", OF_A_PAPER)
def test_a_header_that_names_a_paper_s_setting_says_where_it_differs(name: str) -> None:
    path = ROOT / "recipes" / f"{name}.yaml"
    header = " ".join(re.match(r"(#.*\n)+", path.read_text())[0].replace("#", " ").split())
    assert " Differs from the authors' code" in header
    if sizes := OF_A_PAPER[name]:
        recipe = read_recipe(path)
        tokens = recipe.corpus.tokens()
        assert (len(recipe.corpus.vocabulary()), len(tokens)) == sizes[:2]
        for word in (f"{sizes[0]:,} tokens", f"{sizes[1]:,} rows", f"{sizes[2]:,}"):
            assert word in header, word


def test_every_recipe_with_a_paper_s_numbers_says_where_it_differs() -> None:
    titled = {path.stem for path in RECIPES if read_recipe(path).paper.title}
    assert titled <= OF_A_PAPER.keys()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_table_of_recipes_has_it(path: Path) -> None:
    assert f"[{path.stem}]({path.name})" in (ROOT / "recipes" / "README.md").read_text()


def test_the_paper_s_corpus_has_its_golden_counts() -> None:
    from pipeline.corpora.store import build

    sizes = build(read_recipe(ROOT / "recipes" / "grok_gpt2.yaml").corpus).sizes
    assert sizes["train"] == 40_000 + 342_000
    assert (sizes["id"], sizes["train_inferred"], sizes["id_atomic"], sizes["ood_atomic"]) == (3000, 3000, 3000, 2000)
    assert 1900 < sizes["ood"] < 2100
