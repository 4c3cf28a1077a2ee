"""Sums of losses since the last log, which a run that goes on takes up, so that it logs what the straight run does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer

FILE = "losses.json"  # of a checkpoint between two logs: the sums that the next one divides


class LossSums:
    """The Trainer's own sum, and with replayed text those of its tokens and of all tokens; each process has its own."""

    def __init__(self, trainer: Trainer, has_text: bool):
        self.trainer: Any = trainer
        self.of_text = torch.zeros(2, device=trainer.args.device) if has_text else None

    def add(self, losses: torch.Tensor, batch: Any) -> None:
        """Adds the losses (B, A) of a batch, where text is replayed in it."""
        if self.of_text is not None:
            losses_B = losses.detach().sum(1)
            self.of_text += torch.stack([(losses_B * batch["replayed"]).sum(), losses_B.sum()])

    def take_share(self) -> dict[str, float]:
        """The share of the loss that is of replayed text, if there is any; begins anew. All processes must call it."""
        if self.of_text is None:
            return {}
        if self.trainer.args.world_size > 1:
            dist.all_reduce(self.of_text)
        text, all_tokens = self.of_text.tolist()
        self.of_text.zero_()
        return {"replay_loss_share": text / all_tokens if all_tokens else 0.0}

    def state(self) -> dict[str, Any]:
        """The sums of every process and the step of the last log; all processes must call it."""
        trainer = self.trainer
        sums = trainer._tr_loss.detach().reshape(1).float()
        if self.of_text is not None:
            sums = torch.cat([sums, self.of_text])
        return {"sums": trainer.accelerator.gather(sums[None]).tolist(), "logged": trainer._globalstep_last_logged}

    def save(self, state: dict[str, Any], folder: Path) -> None:
        """Writes a state into a checkpoint; a step that is logged leaves nothing to write."""
        if state["logged"] < self.trainer.state.global_step:
            (folder / FILE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Takes up the sums of a checkpoint; each process takes the mean where there are other processes than then."""
        if not (folder / FILE).is_file():  # saved in the step of a log, or by an earlier version
            return
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        sums, args = torch.tensor(found["sums"]), self.trainer.args
        own = (sums[args.process_index] if len(sums) == args.world_size else sums.mean(0)).to(args.device)
        self.trainer._tr_loss += own[0]
        self.trainer._globalstep_last_logged = found["logged"]
        if self.of_text is not None:
            self.of_text += own[1:]
