"""Ask a run: its likeliest answers to a prompt, beside what its corpus knows of it.

python -m pipeline.ask runs/quickstart "12 90 ="
python -m pipeline.ask runs/composition_small@grok "e_5 r_3 r_7" --steps log
python -m pipeline.ask runs/quickstart
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import Any

from pipeline.api.run import Run
from pipeline.ask.session import converse
from pipeline.config.trust import HELP, OPTION
from pipeline.evaluate.subject import RunSubject
from pipeline.hub.repository import HubError
from pipeline.kernels.host import wait_briefly
from pipeline.runs.checkpoints import check_steps
from pipeline.utils.arguments import Parser
from pipeline.utils.errors import MISTAKES, RecipeError
from pipeline.utils.terminal import in_a_line, run_command, say


def parser() -> Parser:
    found = Parser(
        prog="python -m pipeline.ask",
        description="The likeliest answers of a run to a prompt, whether it was trained, and the right one (*). "
        "Without a prompt, a session.",
    )
    found.add_argument("run", metavar="RUN[@STEP]", help="a folder, or user/name on the Hub; STEP: a number, grok, fit")
    found.add_argument("prompt", nargs="?", metavar="PROMPT", help='in words of the corpus, such as "12 90 ="')
    found.add_argument("--steps", help="how the answer changed: all, log, or numbers such as 0,1000")
    found.add_argument("--top", type=int, default=5, metavar="N", help="answers that are shown (5)")
    found.add_argument("--format", choices=("text", "json"), default="text", help="of what is written (text)")
    found.add_argument("--device", help="cpu, cuda, cuda:1 ... (cuda where there is one)")
    found.add_argument(OPTION, action="store_true", help=HELP)
    return found


@in_a_line
def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 a mistake."""
    chosen = parser().parse_args(arguments)
    wait_briefly()
    try:
        if chosen.top < 1:
            raise RecipeError("--top", f"{chosen.top} is not a whole number >= 1")
        if chosen.steps is not None:
            check_steps(chosen.steps, "--steps")
        if chosen.prompt is None and (chosen.steps or chosen.format != "text"):
            raise RecipeError("command line", "--steps and --format go with a prompt; in a session write steps")
        with contextlib.redirect_stdout(sys.stderr):  # where libraries print
            run = Run(chosen.run, trust_remote_code=chosen.trust_remote_code)
            asker = Asker(RunSubject(run), chosen)
        if chosen.prompt is None:
            (step,) = asker.subject.steps(None)
            converse(run.folder.stored, run.steps, asker.lines, int(step or 0))
        elif chosen.format == "json":
            say(*json.dumps(asker.results(chosen.prompt, chosen.steps), indent=1, ensure_ascii=False).splitlines())
        else:
            say(*asker.lines(chosen.prompt, chosen.steps))
    except (*MISTAKES, HubError) as error:
        say(error, file=sys.stderr)
        return 2
    return 0


class Asker:
    """Puts prompts to a run, whose model is built once."""

    def __init__(self, subject: RunSubject, chosen: argparse.Namespace):
        from transformers.utils import logging

        from pipeline.kernels.device_names import device

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.subject, self.top, self.device = subject, chosen.top, device(chosen.device)

    def results(self, prompt: str, steps: str | None) -> list[dict[str, Any]]:
        """What is found at each of the steps."""
        from pipeline.ask.prompt import Prompt

        with contextlib.redirect_stdout(sys.stderr):
            question = Prompt(self.subject, prompt)
            return [
                question.ask(self.subject.model(step, self.device), step, self.top)
                for step in self.subject.steps(steps)
            ]

    def lines(self, prompt: str, steps: str | None) -> list[str]:
        """The same for a terminal: the answers at one step, or how they changed over several."""
        from pipeline.ask.prompt import as_lines, over_steps

        found = self.results(prompt, steps)
        head = f"{self.subject.name}, step {found[0]['step']:,}"
        return [head, *as_lines(found[0])] if len(found) == 1 else [self.subject.name, *over_steps(found)]


if __name__ == "__main__":
    run_command(main)
