"""A recipe: YAML and command-line overrides, read into one typed, frozen object before any work is done.

Flat keys are `TrainingArguments` fields and the few of `Options`; blocks are the pipeline's own. Precedence: default <
YAML < command line. There is no inheritance and no interpolation: a recipe can be read alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import trainer_keys as arguments
from pipeline.config.batch_size import global_batch_of
from pipeline.config.blocks import KEYS, entries, entry, filled
from pipeline.config.coerce import fill, written
from pipeline.config.fields import Parameters, default_of, parameters_of
from pipeline.config.identity import decides
from pipeline.config.options import Options, Paper
from pipeline.config.registry import ROOMS, load, names, room_name
from pipeline.config.renamed import MOVED, rename_old
from pipeline.config.requirements import check_here
from pipeline.config.trainer_policy import DEFAULTS, FREE
from pipeline.config.trust import KEY, OPTION, trusts
from pipeline.config.yaml_nodes import COMMAND_LINE, STAGE, Block, Scalar, override, place, read, split_stage
from pipeline.config.yaml_writer import lists, resolved_recipe
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.launcher import processes
from pipeline.utils.paths import expanded


@dataclass(frozen=True)
class Recipe:
    """A recipe in which every value has its type and its default.

    What a block becomes is a class of a room above this one, so its type is not named here.
    """

    corpus: Any  # corpora.base.Corpus
    model: Any  # models.base.Architecture
    objective: Any  # objectives.base.Objective
    optimizer: Mapping[str, Any]  # optim.base.Optimizer and GradientTransform
    collator: Mapping[str, Any]  # collators.base.Collator
    peft: Any  # models.adapters.Peft or None
    replay: Any  # data.text.Replay or None
    checkpoints: Any  # runs.checkpoints.KeepSchedule
    callbacks: Mapping[str, Parameters]
    circuits: Mapping[str, Any]  # circuits.base.Explanation
    paper: Paper
    options: Options
    training: Mapping[str, Any]  # arguments of TrainingArguments; all those that decide what is trained
    source: str = field(compare=False)
    tree: Block = field(compare=False, repr=False)  # as it was written
    words: tuple[str, ...] = field(default=(), compare=False)  # of the command line, those for its earlier stages too

    @property
    def blocks(self) -> dict[str, Parameters | None]:
        """What its blocks have become, by dotted keys."""
        return {
            "corpus": self.corpus,
            "model": self.model,
            "objective": self.objective,
            **{f"optimizer.{name}": part for name, part in self.optimizer.items()},
            **{f"collator.{name}": part for name, part in self.collator.items()},
            "peft": self.peft,
            "replay": self.replay,
            **{f"callbacks.{name}": callback for name, callback in self.callbacks.items()},
            **{f"circuits.{name}": analysis for name, analysis in self.circuits.items()},
        }

    @property
    def name(self) -> str:
        return str(self.training["run_name"])

    @property
    def output_dir(self) -> Path:
        return expanded(self.training["output_dir"], "output_dir")

    def located(self, error: ParameterError) -> RecipeError:
        """Return a mistake that showed up after reading, with its place in the recipe."""
        return RecipeError(place(self.tree, error.key) or self.source, str(error))

    def resolved(self) -> dict[str, Any]:
        """Plain values, defaults written out; reading them again gives the same recipe."""
        return {
            "corpus": {"name": room_name(self.corpus), **self.corpus.as_dict()},
            "model": {"name": room_name(self.model), **self.model.as_dict()},
            "objective": {"name": room_name(self.objective), **self.objective.as_dict()},
            "optimizer": {name: part.as_dict() for name, part in self.optimizer.items()},
            "collator": {name: part.as_dict() for name, part in self.collator.items()},
            **{key: part.as_dict() for key, part in (("peft", self.peft), ("replay", self.replay)) if part},
            "checkpoints": self.checkpoints.as_dict(),
            "callbacks": {name: callback.as_dict() for name, callback in self.callbacks.items()},
            "circuits": {name: analysis.as_dict() for name, analysis in self.circuits.items()},
            "paper": self.paper.as_dict(),
            **self.options.as_dict(),
            **self.training,
        }

    def to_yaml(self) -> str:
        return resolved_recipe(self.resolved())

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return where another resolved recipe trains something else, as `key: theirs there, ours here`."""
        ours, theirs = flat(lists(self.resolved())), flat(lists(self._whole(other)))
        return [
            f"{key}: {written(theirs.get(key))} there, {written(ours.get(key))} here"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
            and decides(key)
            and not (key in ("max_steps", "num_train_epochs") and self.may_be_longer)
        ]

    def _whole(self, other: Mapping[str, Any]) -> dict[str, Any]:
        """Another resolved recipe, with defaults for what its corpus, model or objective lacked yet."""
        found = dict(other)
        for key, part in (("corpus", self.corpus), ("model", self.model), ("objective", self.objective)):
            if isinstance(block := other.get(key), Mapping):
                defaults = {field.name: default_of(field) for field in parameters_of(type(part))}
                found[key] = {**defaults, **block}
        return found

    def batches(self, processes: int) -> dict[str, int]:
        """Rows per device and micro-batches per update, for this many processes, as TrainingArguments has them."""
        total = self.options.global_batch_size
        assert total is not None  # filled in by read_recipe
        share = total // processes
        # On other processes than its author had, a device may take fewer rows at a time than it could.
        most = min(self.training.get("per_device_train_batch_size", total), share)
        rows = next(rows for rows in range(most, 0, -1) if share % rows == 0)
        return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": share // rows}

    @property
    def may_be_longer(self) -> bool:
        """Whether more steps leave the first ones as they are: no schedule depends on the last step."""
        constant = self.training["lr_scheduler_type"] in ("constant", "constant_with_warmup")
        return constant and not 0 < self.training["warmup_steps"] < 1


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested blocks as dotted keys; an entry without parameters has an empty block as its value."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= (
            flat(item, f"{prefix}{key}.")
            if isinstance(item, Mapping) and (item or not prefix)
            else {f"{prefix}{key}": item}
        )
    return found


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file and command-line words such as `--corpus.ratio 18`, and checks everything that can be.

    Raises:
        RecipeError: at the first mistake: where, what, what is allowed.
    """
    recipe = _read_file(path, overrides)
    try:
        check_here(recipe.training, recipe.blocks)
    except ParameterError as error:
        raise recipe.located(error) from None
    if trusts(recipe.model) and place(recipe.tree, KEY) != COMMAND_LINE:
        raise RecipeError(place(recipe.tree, KEY), f"{KEY}: only the command line can say so; add {OPTION} to it")
    return recipe


def read_kept_recipe(path: str | Path, overrides: Sequence[str] = (), trusted: bool = False) -> Recipe:
    """Reads a run folder's recipe; code that comes with its base model may run if `trusted`, whatever it says itself.

    Raises:
        RecipeError: at the first mistake: where, what, what is allowed.
    """
    recipe = _read_file(path, overrides, is_kept=True)
    if trusts(recipe.model) and not trusted:
        return _read_file(path, [*overrides, f"--{KEY}=false"], is_kept=True)
    return recipe


def _read_file(path: str | Path, overrides: Sequence[str], is_kept: bool = False) -> Recipe:
    tree = read(path)
    if is_kept:
        rename_old(tree)
    own, stage = split_stage(overrides)
    override(tree, own)
    try:
        recipe = _recipe(str(path), tree, 1 if is_kept else processes().world)
        if stage and (not getattr(recipe.model, "recipe", None) or recipe.model.weights):
            raise RecipeError(COMMAND_LINE, f"{STAGE}{stage[0][2:].partition('=')[0]}: {path} has no earlier stage")
        return dataclasses.replace(recipe, words=tuple(overrides))
    except ParameterError as error:
        raise RecipeError(place(tree, error.key) or str(path), str(error)) from None


def _recipe(source: str, tree: Block, world: int) -> Recipe:
    options = [field.name for field in parameters_of(Options)]
    for key in tree.entries:
        if key not in (*arguments.keys(), *options, *KEYS):
            raise _unknown(key, tree, options)
    chosen = fill(Options, Block({key: node for key, node in tree.entries.items() if key in options}, tree.where))
    training = _training(source, tree)
    recipe = Recipe(
        source=source,
        tree=tree,
        corpus=entry("corpora", tree),
        model=entry("models", tree),
        objective=entry("objectives", tree, "next_token"),
        optimizer=entries("optim", "optimizer", tree),
        collator=entries("collators", "collator", tree),
        peft=filled("peft", tree) if "peft" in tree.entries else None,
        replay=filled("replay", tree) if "replay" in tree.entries else None,
        checkpoints=filled("checkpoints", tree),
        callbacks=entries("callbacks", "callbacks", tree),
        circuits=entries("circuits", "circuits", tree),
        paper=filled("paper", tree),
        options=chosen,
        training=training,
    )
    arguments.check(training)
    for key, part in (("peft", recipe.peft), ("replay", recipe.replay)):
        if part and room_name(recipe.model) != "pretrained":
            raise ParameterError(key, "is for a model that is continued; write model: {model_name_or_path: ...}")
    _check_together(recipe, chosen)
    return dataclasses.replace(
        recipe, options=dataclasses.replace(chosen, global_batch_size=global_batch_of(chosen, training, world))
    )


def _check_together(recipe: Recipe, options: Options) -> None:
    """Raises ParameterError for blocks that exclude each other."""
    objective = room_name(recipe.objective)
    if options.fork and recipe.objective.from_start:
        problem = f"objective {objective} compares with the model that training starts from, which a fork has not"
        raise ParameterError("fork", f"{problem}; write model: {{model_name_or_path: RUN, revision: stepN}}")
    if recipe.replay and recipe.objective.per == "row":
        raise ParameterError("replay", f"has tokens to train, and objective {objective} trains whole rows")
    if recipe.replay and recipe.objective.from_start:
        raise ParameterError("replay", f"does not go together with objective {objective}, which has rows of its own")
    for name in recipe.collator:
        if recipe.replay:
            raise ParameterError(f"collator.{name}", "does not go together with replay; leave one of them out")
        if recipe.model.rewords:
            problem = "changes words of the corpus, and the model has texts of them"
            raise ParameterError(f"collator.{name}", f"{problem}; write model.vocabulary: tokens")


def _training(source: str, tree: Block) -> dict[str, Any]:
    """Return the keys of TrainingArguments that are given, and the defaults of those that decide what is trained."""
    known = arguments.keys()
    training = {name: key.default for name, key in known.items() if name not in FREE and key.default is not None}
    training |= DEFAULTS
    training |= {"output_dir": f"runs/{Path(source).stem}", "run_name": Path(source).stem}
    for key, node in tree.entries.items():
        if key in known:
            value = arguments.read_value(key, node)
            if value is not None or key == "save_total_limit":
                training[key] = value
    return training


def _unknown(key: str, tree: Block, options: Sequence[str]) -> ParameterError:
    """Why a key at the top level is not allowed; a parameter of the chosen corpus or model belongs into its block."""
    if "." in key:
        return ParameterError(key, "dotted keys are for the command line; in a recipe, write a block")
    for room in ("corpora", "models"):
        given = tree.entries.get(ROOMS[room])
        name = given.entries.get("name") if isinstance(given, Block) else None
        kind = load(room, name.text, "") if isinstance(name, Scalar) and name.text in names(room) else None
        if kind and key in (field.name for field in parameters_of(kind)):
            return ParameterError(
                key, f"unknown key; {ROOMS[room]}.{key} is one: write it into the block {ROOMS[room]}"
            )
    if key in MOVED:
        return ParameterError(key, f"is part of a block now, such as {MOVED[key]}")
    return arguments.refuse(key, [*KEYS, *options])
