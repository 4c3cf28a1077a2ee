"""What each layer would answer, by an affine map of its states that is learned: the tuned lens beside the logit lens.

Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens" (arXiv 2303.08112), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.draws import Draws
from pipeline.utils.errors import MismatchError, ParameterError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

ALONE = "a tuned lens is trained on every second prompt, and there is but one"
LOGIT, TUNED = "logit lens", "tuned lens"


@dataclass(frozen=True)
class TunedLens(Analysis):
    """How near the model's output comes what two lenses read off the stream before each block, by position.

    The logit lens is final norm and output projection. The tuned lens does the same to h + A h + b, where A and b of
    each block begin at 0 and are trained, with Adam at a rate that falls to 0, on states of every second prompt, at all
    positions, to bring the divergence from the model's output down. On the other prompts `kl` is KL(model || lens) in
    nats, `agrees` the share of prompts whose highest logit is the model's, `probability` that of the answer.
    """

    updates: int = param(200, "of each block's map", ge=1)
    rate: float = param(0.01, "learning rate, with Adam, at the first update", gt=0)
    states: int = param(256, "drawn for each update", ge=1)

    tiny_values: ClassVar[dict[str, Any]] = {"pairs": 16, "updates": 6}
    needs_float32: ClassVar[bool] = True
    same_length: ClassVar[bool] = True

    def choose(self, source: Source) -> Pairs:
        found = super().choose(source)
        if len(found) < 2:
            raise ParameterError("split", f"{ALONE} in {self.split}")
        return found

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        from pipeline.circuits._stream import check_model_output

        super().check(model, pairs)
        if len(pairs) < 2:
            raise MismatchError(ALONE)
        check_model_output(model, pairs)

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        from pipeline.circuits._batch import on_device
        from pipeline.circuits._stream import check_output

        batch = on_device(hooks, pairs)
        check_output(hooks, batch.clean)
        found: dict[str, Tensor] = {}
        points = [*(f"blocks.{layer}.hook_resid_pre" for layer in range(hooks.n_layer)), "ln_final.hook_normalized"]
        with hooks.at({name: partial(found.__setitem__, name) for name in points}):
            hooks.model.base_model(input_ids=batch.clean, use_cache=False)
        final = found.pop(points[-1])
        rows: dict[str, list[Any]] = {}
        for layer, stream in enumerate(found.values()):
            weight, bias = self._translator(hooks, layer, stream[::2].flatten(0, 1), final[::2].flatten(0, 1))
            held = stream[1::2]
            for lens, states in ((LOGIT, held), (TUNED, held + held @ weight.T + bias)):
                for position, place in enumerate(pairs.places):
                    here = _compared(hooks, states[:, position], final[1::2, position], batch.answer[1::2])
                    row = {"layer": layer, "position": position, "place": place, "lens": lens, **here}
                    for name, value in row.items():
                        rows.setdefault(name, []).append(value)
        return rows

    def _translator(self, hooks: Hooks, layer: int, states: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        """A (D, D) and b (D,) of a block, from states (R, D) and the normed states that the model ends with."""
        import torch

        width = states.shape[1]
        weight, bias = (states.new_zeros(shape).requires_grad_() for shape in ((width, width), (width,)))
        optimizer = torch.optim.Adam([weight, bias], lr=self.rate)
        draws = Draws(self.seed, "tuned lens", layer)
        for update in range(self.updates):
            chosen = torch.from_numpy(draws.below(len(states), min(self.states, len(states)))).to(states.device)
            with torch.enable_grad():
                moved = states[chosen] + states[chosen] @ weight.T + bias
                loss = divergence(hooks, moved, final[chosen]).mean()
                # Of these two alone: the model's weights get no gradient.
                weight.grad, bias.grad = torch.autograd.grad(loss, (weight, bias))
            optimizer.param_groups[0]["lr"] = self.rate * (1 - update / self.updates)
            optimizer.step()
        return weight.detach(), bias.detach()

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.heatmap import drawn_grids, grids
        from pipeline.plots.tuned_lens import draw_divergence

        what = "share of prompts in which what a lens reads off the stream before a block is the model's own choice"
        shown = grids(table, "agrees", "layer", "position", "lens", "place")
        return {"": drawn_grids(shown, what, ("layer", "position"), marks), **draw_divergence(table, marks)}


def divergence(hooks: Hooks, states: Tensor, final: Tensor) -> Tensor:
    """KL(model || lens) of states (R, D), and of the normed states that the model ends with (R, D): (R,)."""
    ours, own = (hooks.head(part).log_softmax(-1) for part in (hooks.final_norm(states), final))
    return (own.exp() * (own - ours)).sum(-1)


def _compared(hooks: Hooks, states: Tensor, final: Tensor, answers: Tensor) -> dict[str, float]:
    logits, own = hooks.head(hooks.final_norm(states)), hooks.head(final)
    chances = logits.softmax(-1).gather(1, answers[:, None])
    return {
        "kl": float(divergence(hooks, states, final).cpu().double().mean()),
        "agrees": float((logits.argmax(-1) == own.argmax(-1)).cpu().double().mean()),
        "probability": float(chances.cpu().double().mean()),
    }
