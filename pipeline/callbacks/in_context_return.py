"""Whether a model that acts gets better from episode to episode, its weights as they are.

The evaluation of Laskin et al. 2022 (arXiv 2210.14215), section 4, and of Vintix (Polubarov et al. 2025, arXiv
2501.19400).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.callbacks.base import Callback, Trainer
from pipeline.config.fields import param
from pipeline.utils.draws import Draws, Numbers


@dataclass
class InContextReturn(Callback):
    """Logs `return_<goals>_<episode>` at every evaluation: the mean gain of agents, 1 being the most there can be.

    An agent is the model with a goal of `train`, or of `unseen`; it draws its actions by the model's probabilities, and
    remembers its earlier episodes. With them `return_<goals>_rise`, the last episode's less the first's. It needs
    whole weights: one process, or several under DDP, ZeRO-1 or 2. Nothing where the objective is not `actions`.
    """

    agents: int = param(32, "with goals of `train`, and as many with those of `unseen`", ge=1)
    seed: int = param(0, "of what they draw", ge=0)

    def attach(self, trainer: Trainer) -> None:
        from pipeline.callbacks._sharded import check_whole

        check_whole(trainer, "in_context_return")
        super().attach(trainer)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import torch

        from pipeline.callbacks._probe import evaluated
        from pipeline.data.histories import Histories, returns
        from pipeline.kernels.forward import stock_logits

        rows = self.trainer.train_rows
        if not isinstance(rows, Histories):
            return
        ids_V = torch.tensor(rows.ids, device=args.device)
        draws = Draws(self.seed, "agents that act", state.global_step)
        with torch.no_grad(), evaluated(self.trainer) as model:

            def choose(history_NT: Numbers) -> Numbers:
                tokens_NT = ids_V[torch.from_numpy(history_NT).to(args.device)]
                last_N1 = torch.full_like(tokens_NT[:, :1], tokens_NT.shape[1] - 1)
                logits_NV = stock_logits(model, {"input_ids": tokens_NT, "positions": last_N1})[:, 0]
                share_NK = logits_NV[:, rows.actions].cpu().double().softmax(1).cumsum(1).numpy()
                drawn_N = (share_NK < draws.uniform(len(share_NK), 1)).sum(1)
                return np.array(rows.corpus.actions)[drawn_N.clip(max=share_NK.shape[1] - 1)]

            logs: dict[str, float] = {}
            for goals in ("train", "unseen"):
                known = rows.corpus.goals(goals)
                gained = returns(rows.corpus, np.resize(known, self.agents), choose).mean(0)
                logs |= {f"return_{goals}_{number}": float(share) for number, share in enumerate(gained, 1)}
                logs[f"return_{goals}_rise"] = float(gained[-1] - gained[0])
        self.trainer.log(logs)
