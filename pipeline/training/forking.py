"""Beginning a run at a step of another one: whether its weights fit, and an optimizer under other keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.config.outside import is_asked
from pipeline.config.recipe import Recipe
from pipeline.corpora.store import StoredCorpus
from pipeline.runs import forks
from pipeline.runs.checkpoints import newest_good
from pipeline.runs.manifest import Manifest
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def has_checkpoint(recipe: Recipe) -> bool:
    """Return whether the run goes on from a checkpoint of its own, which is whole."""
    manifest = Manifest.load(recipe.output_dir)
    return bool(manifest.resumable) and newest_good(recipe.output_dir, manifest)[0] is not None


def check_fork(fork: forks.Fork, recipe: Recipe, model: PreTrainedModel, stored: StoredCorpus) -> list[str]:
    """Check that the parent's weights and vocabulary are those of this recipe, and return where the corpora differ.

    Args:
        fork: Where it begins.
        recipe: Of the fork.
        model: With the adapters of the recipe, where it has some.
        stored: The corpus of the recipe.

    Raises:
        ParameterError: with the first weight or the word that differs.
    """
    from safetensors import safe_open

    if any(is_asked(engine) or recipe.training.get(engine.lower()) for engine in ("DEEPSPEED", "FSDP")):
        raise ParameterError(forks.KEY, "does not go together with DeepSpeed or FSDP")
    differing = forks.compare_corpus(fork, stored)
    if differing:
        from pipeline.models.loading import tokenizer_of

        theirs, ours = tokenizer_of(fork.parent / "tokenizer").get_vocab(), recipe.model.tokenizer(stored).get_vocab()
        if odd := sorted(word for word in {*theirs, *ours} if theirs.get(word) != ours.get(word)):
            raise ParameterError(
                forks.KEY, f"{fork.parent} has another vocabulary: {odd[0]!r} is {theirs.get(odd[0], 'missing')} "
                f"there, {ours.get(odd[0], 'missing')} here ({'; '.join(differing)})"
            )  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {}
    for name in fork.entry.files:
        if name.endswith(".safetensors") and "/" not in name:
            with safe_open(fork.parent / fork.entry.path / name, "pt") as file:
                names = list(file.keys())
                shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in names}
    ours = {key: tuple(weight.shape) for key, weight in model.named_parameters()}
    for key in sorted({*shapes, *ours}):
        there, here = shapes.get(key), ours.get(key)
        if there != here and not (there and key in dict(model.named_buffers())) and not _is_tied(model, key):
            raise ParameterError(
                forks.KEY, f"{fork.parent} has another architecture: {key} is {there or 'missing'} there, "
                f"{here or 'missing'} here"
            )  # fmt: skip
    return differing


def _is_tied(model: PreTrainedModel, key: str) -> bool:
    return key in (getattr(model, "_tied_weights_keys", None) or ())


def fork_line(fork: forks.Fork, differing: list[str]) -> str:
    """Return what is said of a fork before its first step."""
    how = "with its optimizer" if fork.is_resumable else "with a new optimizer, from the weights that were kept"
    others = f"; its corpus was another one ({'; '.join(differing)})" if differing else ""
    return f"goes on from step {fork.step:,} of {fork.parent}, {how}{others}"


def begin_fork(fork: forks.Fork, optimizer: Any, scheduler: Any, load: Callable[[], None]) -> None:
    """Gives an optimizer the parent's moments where there are any, and the keys of the fork's own recipe.

    Its learning rate is that of the step at which the fork begins.

    Args:
        fork: Where it begins.
        optimizer: With what the recipe says, and no step made.
        scheduler: Of its learning rate.
        load: Loads both from the checkpoint, with the parent's keys.
    """
    kept = ("params", "lr")
    fresh = [{key: value for key, value in group.items() if key not in kept} for group in optimizer.param_groups]
    rates = list(getattr(scheduler, "base_lrs", ()))
    if fork.is_resumable:
        load()
    else:
        scheduler.last_epoch = fork.step
    for group, new in zip(optimizer.param_groups, fresh):
        group.update(new)
    if not hasattr(scheduler, "lr_lambdas"):
        return
    scheduler.base_lrs = rates
    for group, rate, factor in zip(optimizer.param_groups, rates, scheduler.lr_lambdas):
        group["lr"] = rate * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
