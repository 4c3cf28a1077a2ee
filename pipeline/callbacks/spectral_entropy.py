"""Over how many directions the representations spread, which falls before generalization (arXiv 2604.13123)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.callbacks._probe import batch_of, evaluated
from pipeline.callbacks.base import Callback
from pipeline.config.fields import param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class SpectralEntropy(Callback):
    """Logs `spectral_entropy` at every evaluation, of what the output projection reads at answers of training rows.

    It is -sum p log p / log d over the eigenvalues p of the d x d covariance, which sum to 1: 1 where all directions
    vary alike, 0 where one does.
    """

    rows: int = param(512, "most training rows", ge=2)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import torch

        from pipeline.data.labels import IGNORED
        from pipeline.kernels.forward import take

        batch = batch_of(self.trainer, self.rows, "spectral entropy")
        seen: list[Tensor] = []
        with evaluated(self.trainer) as model, torch.no_grad():
            hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
            try:
                model(input_ids=batch["input_ids"], use_cache=False)
            finally:
                hook.remove()
        hidden_BAD = take(seen[0], batch["positions"])
        self.trainer.log({"spectral_entropy": entropy(hidden_BAD[batch["labels"] != IGNORED])})


def entropy(hidden_ND: Tensor) -> float:
    """The entropy of the spectrum of the covariance, over its largest value, log d; 0 where nothing varies."""
    import torch

    values_D = torch.linalg.eigvalsh(torch.cov(hidden_ND.cpu().double().T)).clamp(min=0)
    p_D = values_D / values_D.sum().clamp(min=1e-30)
    return max(torch.special.entr(p_D).sum().item(), 0.0) / float(torch.tensor(len(p_D)).log())
