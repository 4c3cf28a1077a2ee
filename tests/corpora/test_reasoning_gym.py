"""Questions by level: of a file, and where the extra is installed those of reasoning-gym, worked out by Python."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from pipeline.corpora.__main__ import main
from pipeline.corpora.reasoning_gym import ReasoningGym, pieces
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import Fact, facts

IS_THERE = importlib.util.find_spec("reasoning_gym") is not None
needs_gym = pytest.mark.skipif(not IS_THERE, reason="the extra gym is not installed")


def text_of(tokens: tuple[str, ...]) -> str:
    """The text that tokens are of, lines as `/`."""
    return " ".join("/" if token == "<n>" else token for token in tokens).replace(" ##", "")


def asked(fact: Fact) -> tuple[str, str]:
    assert fact.prompt[-1] == "<answer>" and fact.answer[-1] == "<eos>"
    return text_of(fact.prompt[:-1]), text_of(fact.answer[:-1])


def test_text_is_cut_into_letters_and_single_characters() -> None:
    assert pieces("12 + 7 = ?") == ["1", "##2", "+", "7", "=", "?"]
    assert pieces(" It's <n> \n\nUP2 ") == ["It", "##'", "##s", "<", "##n", "##>", "<n>", "<n>", "UP", "##2"]
    assert pieces("##a a_b naïve") == ["#", "###", "##a", "a", "##_", "##b", "naïve"]
    assert text_of(tuple(pieces("a <b> ##\n c-12"))) == "a <b> ## / c-12"


def test_questions_of_a_file_are_split_by_their_levels(tmp_path: Path) -> None:
    rows = [(f"How much is {a} x {b}?", str(a * b), max(a, b) // 4) for a in range(12) for b in range(12)]
    for name in ("questions.csv", "questions.jsonl"):
        path = tmp_path / name
        if name.endswith(".csv"):
            path.write_text("answer,level,question\n" + "\n".join(f"{c},{level},{q}" for q, c, level in rows))
        else:
            items = [{"question": q, "answer": c, "level": level, "metadata": {}} for q, c, level in [*rows, *rows[:9]]]
            path.write_text("\n".join(map(json.dumps, items)))
        stored = build(ReasoningGym(path=str(path), trained_level=1, harder_levels=1, test_rows=12))
        assert stored.sizes == {"train": 64 - 12, "id": 12, "level_2": 12}
        found = {split: dict(map(asked, facts(stored, split))) for split in stored.sizes}
        levels = {question: level for question, _, level in rows}
        for split, answers in found.items():
            for question, answer in answers.items():
                one, other = question.removeprefix("How much is ").removesuffix("?").split(" x ")
                assert int(answer) == int(one) * int(other)
                assert (levels[question] == 2) == (split == "level_2") and levels[question] <= 2


def test_a_recipe_trains_on_them(tmp_path: Path) -> None:
    from tests.tiny import RECIPE, run_here, write_recipe

    corpus = f"{{name: reasoning_gym, path: {ReasoningGym.tiny(tmp_path).path}, harder_levels: 1}}"
    text = RECIPE.replace("{name: group, group: Z11, train_fraction: 0.5, template: a b = c}", corpus)
    recipe = write_recipe(tmp_path, text.replace("n_positions: 8", "n_positions: 32"))
    assert run_here(recipe, "--max_steps", "2", "--global_batch_size", "8", "--circuits", "{}") == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("question,answer\na?,\n", "line 2: answer is no text or empty"),
        ("question,answer,level\na?,b,hard\n", "line 2: level is 'hard'; allowed: a whole number from 0 on"),
        ("question,reply\na?,b\n", "answer"),
        ("question,answer\na?,b\n", "has 1 questions up to level 1, too few to hold out some"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(content)
    assert main(["reasoning_gym", "--path", str(path)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("command line: path: ") and said.count("\n") == 1


def test_a_level_without_a_question_is_named(tmp_path: Path) -> None:
    tiny = ReasoningGym.tiny(tmp_path)
    with pytest.raises(ParameterError, match="there is no question of level 3 that is not trained") as error:
        build(ReasoningGym(path=tiny.path))
    assert error.value.key == "harder_levels"


@pytest.mark.skipif(IS_THERE, reason="reasoning-gym is installed")
def test_without_the_package_it_is_named() -> None:
    with pytest.raises(ParameterError, match=r"pip install 'groklab\[gym\]'"):
        ReasoningGym().check_here()


@needs_gym
def test_sums_of_reasoning_gym_are_right_and_grow_with_their_level() -> None:
    stored = build(ReasoningGym(train_rows=300, test_rows=40))
    assert stored.sizes["id"] == stored.sizes["level_2"] == stored.sizes["level_3"] == 40
    for split in stored.sizes:
        for fact in facts(stored, split):
            question, answer = asked(fact)
            sum_asked = question.partition(":")[2].removesuffix("=").strip()
            assert int(answer) == sum((-1) ** (sign == "-") * int(term) for sign, term in signed(sum_asked))
            terms = len(signed(sum_asked))
            # Level n has n + 2 terms.
            assert terms in (2, 3) if split in ("train", "id") else terms == int(split[-1]) + 2


def signed(sum_asked: str) -> list[tuple[str, str]]:
    words = ["+", *sum_asked.split()]
    return list(zip(words[::2], words[1::2], strict=True))


@needs_gym
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dataset": "chain_sums"}, "no levels of a dataset 'chain_sums'; did you mean chain_sum?"),
        ({"harder_levels": 99}, "asks for level 100; chain_sum has levels 0 to 10"),
        ({"dataset": "propositional_logic"}, "questions without one answer"),
    ],
)
def test_what_reasoning_gym_lacks_is_named(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        build(ReasoningGym(**parameters))
