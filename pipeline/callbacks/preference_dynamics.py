"""Where the probability goes that a preference takes from an answer (Yan et al. 2024, arXiv 2406.07327, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.callbacks.base import Callback
from pipeline.config.fields import param
from pipeline.utils.draws import Draws


@dataclass
class PreferenceDynamics(Callback):
    """Logs where probability goes at every evaluation, as means over pairs that are trained.

    `preference_chosen` is that of the right answer, `preference_rejected` that of the wrong one, `preference_unseen`
    that of all others, and `preference_accuracy` the share of pairs that are told apart.

    With them `preference_gradient_chosen` and `..._rejected`, the mean log10 of the size of the loss's derivative by
    the probability of the answer, beta sigmoid(-z) / p (the paper's corollaries 1 and 2). Nothing without pairs.
    """

    rows: int = param(256, "most pairs", ge=1)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import torch

        from pipeline.data.preferences import Preferences
        from pipeline.kernels.forward import stock_logits
        from pipeline.objectives.preference import Preference

        rows, objective, model = self.trainer.train_rows, self.trainer.recipe.objective, self.trainer.model
        if not isinstance(rows, Preferences) or not isinstance(objective, Preference):
            return
        chosen = Draws(0, "pairs that are watched").choose(len(rows), min(self.rows, len(rows)))
        was_training = model.training
        model.eval()
        parts = []
        with torch.no_grad():
            for index_B in torch.from_numpy(chosen).to(args.device).split(args.eval_batch_size):
                batch = rows.__getitems__(index_B)
                log_p_2B = -objective.token_losses(stock_logits(model, batch), batch["labels"]).sum(1)
                parts.append(torch.stack([*log_p_2B.chunk(2), objective.margins(log_p_2B, batch["reference"])]).cpu())
        model.train(was_training)
        right_N, wrong_N, margin_N = torch.cat(parts, 1).cpu().double()
        pull_N = torch.nn.functional.logsigmoid(-margin_N)
        rates = {"chosen": (objective.beta, right_N), "rejected": (objective.rate_rejected, wrong_N)}
        slopes = {
            f"preference_gradient_{answer}": float((pull_N - log_p_N).mean()) / 2.302585092994046
            + torch.tensor(rate).log10().item()
            for answer, (rate, log_p_N) in rates.items()
            if rate
        }
        self.trainer.log(
            {
                "preference_chosen": float(right_N.exp().mean()),
                "preference_rejected": float(wrong_N.exp().mean()),
                "preference_unseen": float((1 - right_N.exp() - wrong_N.exp()).mean()),
                "preference_accuracy": float((margin_N > 0).cpu().double().mean()),
                **slopes,
            }
        )
