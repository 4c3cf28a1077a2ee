"""A resolved recipe read again is the same, whatever it says; and which keys make it another one."""

from __future__ import annotations

import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.fields import Parameters, parameters_of
from pipeline.config.recipe import Options, Paper, flat
from pipeline.config.registry import load
from pipeline.config.trainer_keys import keys
from pipeline.config.trainer_policy import FREE
from pipeline.runs.checkpoints import KeepSchedule
from tests.config.test_recipe import BASE, HEAD, recipe_of

# Random recipes: a value for any type that a parameter or a key can have, within its bounds.

# Half of the texts look like something else.
TRAPS = ("2e-5", "1e5", "no", "nO", "~", "null", "1_0", "", "a: b", "# c", "'", "[x]", "<<", "a\nb", "\x85")
texts = st.one_of(st.text(st.characters(codec="utf-8"), max_size=9), st.sampled_from(TRAPS))
blocks = st.dictionaries(st.text("abc_-1", min_size=1, max_size=5), texts)
pairs = st.lists(st.tuples(st.integers(1, 9), st.one_of(st.none(), st.integers(9, 99))).map(list))
steps = st.one_of(st.integers(1, 10**6), st.floats(0, 1, exclude_min=True, exclude_max=True))


def values(kind: Any, bounds: Any) -> st.SearchStrategy[Any]:
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return st.one_of([values(option, bounds) for option in get_args(kind)])
    low, high = bounds.get("ge", bounds.get("gt", 0)), bounds.get("le", bounds.get("lt", 1000))
    return {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(int(low) + ("gt" in bounds), int(high) - ("lt" in bounds)),
        float: st.floats(low, high, exclude_min="gt" in bounds, exclude_max="lt" in bounds),
        str: texts,
        list: st.lists(texts),
        tuple: pairs,
        dict: blocks,
    }[get_origin(kind) or kind]


def fields(kind: type[Parameters], *left_out: str) -> st.SearchStrategy[dict[str, Any]]:
    types = get_type_hints(kind)
    chosen = [field for field in parameters_of(kind) if field.name not in left_out]
    return st.fixed_dictionaries(
        {}, optional={field.name: values(types[field.name], field.metadata) for field in chosen}
    )


def entry(room: str, name: str, *left_out: str) -> st.SearchStrategy[dict[str, Any]]:
    return fields(load(room, name, ""), *left_out).map(lambda block: {"name": name, **block})


# Keys whose values must go together, or must be there on the machine, take part with a few values or none.
TOGETHER = {
    "fp16",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "optim_args",
    "gradient_accumulation_steps",
    "max_steps",
}
TOGETHER |= {"report_to", "deepspeed", "fsdp_config", "output_dir", "push_to_hub", "hub_model_id"}
TOGETHER |= {"activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"}
FEW = {
    **dict.fromkeys(("eval_steps", "save_steps", "logging_steps", "warmup_steps"), steps),
    "per_device_train_batch_size": st.sampled_from([1, 2, 8]),
    "num_train_epochs": st.floats(0.1, 100),
}
flat_keys = st.fixed_dictionaries(
    {"max_steps": st.integers(1, 10**9)},
    optional={name: values(key.kind, key.metadata) for name, key in keys().items() if name not in TOGETHER} | FEW,
)
trees = st.builds(
    lambda flat_keys, options, **blocks: {**blocks, **flat_keys, **options},
    corpus=st.one_of(
        entry("corpora", "group", "group", "operation", "template"),
        st.builds(dict, name=st.just("composition"), seed=st.integers(0, 2**40), probe_cap=st.integers(1, 10**4)),
    ),
    model=st.one_of(entry("models", "gpt2", "n_embd", "n_head"), entry("models", "pythia", "n_embd", "n_head")),
    checkpoints=fields(KeepSchedule),
    callbacks=fields(load("callbacks", "weight_norm", "")).map(lambda block: {"weight_norm": block}),
    paper=fields(Paper),
    flat_keys=flat_keys,
    options=fields(Options, "global_batch_size"),
)


class Quoting(yaml.SafeDumper):
    """Quotes every text, so that only its type says what a value is."""


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_a_resolved_recipe_read_again_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    recipe = recipe_of(folder, yaml.dump(tree, Dumper=Quoting))
    resolved = recipe.resolved()
    assert all(
        resolved[key] == value for key, value in tree.items() if not isinstance(value, dict) and value is not None
    )
    assert recipe_of(folder, recipe.to_yaml()) == recipe
    # Any reader of YAML finds the same values in it.
    loaded = yaml.safe_load(recipe.to_yaml())
    assert loaded == json.loads(json.dumps(resolved))
    assert recipe.differences(loaded) == []


def test_a_resolved_recipe_says_all_that_decides_what_is_trained(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, BASE)
    training = {name for name, key in keys().items() if name not in FREE and key.default is not None}
    resolved = flat(recipe.resolved())
    assert training <= resolved.keys()
    assert {
        "corpus.seed",
        "model.n_layer",
        "decay_embeddings",
        "global_batch_size",
        "checkpoints.every",
    } <= resolved.keys()
    assert recipe.to_yaml().startswith("# ") and "\nlearning_rate: 5.0e-05\n" in recipe.to_yaml()


def test_differences_are_the_keys_that_decide_what_is_trained(tmp_path: Path) -> None:
    here = recipe_of(tmp_path, BASE)

    def differences(*words: str) -> list[str]:
        return here.differences(yaml.safe_load(recipe_of(tmp_path, BASE, *words).to_yaml()))

    assert differences() == []
    assert differences("--seed", "42", "--corpus.seed", "0", "--bf16", "false") == []  # the defaults, typed
    watched = ("--output_dir", "x", "--eval_steps", "7", "--stop_when", "grokked", "--paper.title", "x")
    assert differences(*watched, "--callbacks.weight_norm", "{}") == []
    assert differences("--use_cpu", "--per_device_train_batch_size", "8", "--global_batch_size", "512") == []
    assert differences("--max_steps", "20", "--learning_rate", "0.1", "--corpus.seed", "1", "--weight_decay", "1") == [
        "corpus.seed: 1 there, 0 here",
        "learning_rate: 0.1 there, 5e-05 here",
        "weight_decay: 1.0 there, 0.0 here",
    ]
    assert differences("--model.n_layer", "2", "--checkpoints.every", "[[5, null]]", "--data_seed", "3") == [
        "checkpoints.every: [[5, null]] there, [] here",
        "data_seed: 3 there, null here",
        "model.n_layer: 2 there, null here",
    ]


def test_a_parameter_that_a_run_was_begun_without_is_as_its_default(tmp_path: Path) -> None:
    words = ("--corpus.name", "composition", "--corpus.num_entities", "40")
    theirs = yaml.safe_load(recipe_of(tmp_path, BASE, *words).to_yaml())
    del theirs["corpus"]["bridge"]
    assert recipe_of(tmp_path, BASE, *words).differences(theirs) == []
    assert recipe_of(tmp_path, BASE, *words, "--corpus.bridge", "said").differences(theirs) == [
        "corpus.bridge: silent there, said here"
    ]


@pytest.mark.parametrize(
    ("lines", "may"),
    [
        ("", True),
        ("lr_scheduler_type: constant", True),
        ("warmup_steps: 10", True),
        ("warmup_steps: 0.1", False),
        ("lr_scheduler_type: cosine", False),
    ],
)
def test_more_steps_are_another_recipe_where_the_schedule_depends_on_them(
    lines: str, may: bool, tmp_path: Path
) -> None:
    here, longer = (recipe_of(tmp_path, f"{HEAD}max_steps: {steps}\n{lines}\n") for steps in (10, 20))
    assert longer.differences(here.resolved()) == ([] if may else ["max_steps: 10 there, 20 here"])
