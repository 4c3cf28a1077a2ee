"""The command line of the analyses: on the kept steps of a run, or on any one model.

python -m pipeline.circuits RUN --analysis logit_lens,causal_tracing --steps log
python -m pipeline.circuits --model gpt2 --data pairs.jsonl --analysis attribution --attribution.method eap
python -m pipeline.circuits --model EleutherAI/pythia-70m --steps log --data pairs.jsonl --analysis attribution
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.circuits._comparison import TwoModels
from pipeline.circuits._file_pairs import FilePairs
from pipeline.circuits._outside import Revisions, open_model, open_tokenizer, walk
from pipeline.circuits._pairs import CorpusPairs, Renamed, source_of, translate
from pipeline.circuits.base import Analysis, Explanation, Source
from pipeline.circuits.progress import expected, watched
from pipeline.circuits.runner import explain, with_sources
from pipeline.circuits.tables import add_step, fingerprint, read_one, read_table, write_table
from pipeline.config.coerce import fill
from pipeline.config.fields import parameters_of
from pipeline.config.registry import load, names
from pipeline.config.trust import HELP, OPTION
from pipeline.config.yaml_nodes import Block, override
from pipeline.kernels.device_names import device
from pipeline.kernels.host import wait_briefly
from pipeline.plots import formats
from pipeline.runs.folder import RunFolder
from pipeline.runs.layout import FIGURES, TOKENIZER
from pipeline.utils.arguments import Parser
from pipeline.utils.doing import doing
from pipeline.utils.errors import MISTAKES, ParameterError, RecipeError
from pipeline.utils.files import write_bytes, writing
from pipeline.utils.paths import expand_arguments
from pipeline.utils.suggest import did_you_mean
from pipeline.utils.terminal import in_a_line, is_watched, run_command, say

GENERAL = ("steps", "split", "pairs", "seed")  # of every analysis that has them


@in_a_line
def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 a mistake, 130 interrupted."""
    chosen, rest = parser().parse_known_args(arguments)
    wait_briefly()
    try:
        if chosen.run is None and chosen.model is None:
            raise RecipeError("command line", "name a RUN, or a model with --model")
        expand_arguments(chosen, "run", "data", "output", "against")
        if chosen.model is not None and chosen.model.startswith(("~", "$")):
            expand_arguments(chosen, "model")
        analyses = read_analyses(chosen, rest)
        if chosen.steps is not None and chosen.revision is not None:
            raise RecipeError("--steps", "are revisions of --model, so that --revision has no place beside them")
        for name, alone in {"revision": False, "output": False, "against": True}.items():
            if getattr(chosen, name) is not None and alone == (chosen.model is not None):
                raise RecipeError(f"--{name}", f"goes with {'a RUN alone' if alone else '--model'}")
        endings = formats.read_formats(chosen.format)
        with writing(chosen.output or chosen.run or Path()):
            if chosen.model is not None and chosen.steps is not None:
                explain_revisions(chosen, analyses, endings)
            elif chosen.model is not None:
                explain_model(chosen, analyses, endings)
            else:
                explain_run(chosen, analyses, endings)
    except MISTAKES as error:
        doing.clear()
        say(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        doing.clear()
        print("interrupted; the same command goes on with the table after the last", file=sys.stderr)
        return 130
    return 0


def parser() -> Parser:
    found = Parser(
        prog="python -m pipeline.circuits",
        description="Analyses of the kept steps of a run, or of any GPT-2, GPT-NeoX or Llama (Mistral, Qwen). "
        "What is done is not done again.",
        epilog="A parameter of one analysis: --NAME.KEY VALUE, such as --attribution.method eap. "
        "`python -m pipeline.run --help NAME` lists them.",
        is_open=True,
    )
    found.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder of a run; with --model, whose corpus")
    known = ", ".join(names("circuits"))
    found.add_argument("--analysis", required=True, metavar="NAME[,NAME]", help=f"of {known}")
    found.add_argument(
        "--steps", help="all, last, log, or numbers such as 0,1000 (all); of --model its revisions step0, step1000"
    )
    found.add_argument("--split", help="split that prompts are taken from")
    found.add_argument("--pairs", help="most pairs of prompts")
    found.add_argument("--seed", help="of the choice of pairs (0)")
    found.add_argument("--device", help="cpu, cuda, cuda:1 ... (cuda where there is one)")
    found.add_argument("--model", metavar="PATH", help="a folder or a Hub name, in the place of a run's steps")
    found.add_argument("--revision", help="of the model, such as step1000")
    found.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="pairs as CSV, TSV or JSON: clean, corrupted, answer, corrupted_answer",
    )
    found.add_argument(
        "--output", type=Path, metavar="DIR", help="for the tables and figures of --model (circuits-NAME)"
    )
    found.add_argument(
        formats.OPTION, default="png,svg", metavar=formats.METAVAR, help=f"of figures: {', '.join(formats.FORMATS)}"
    )
    found.add_argument("--against", type=Path, metavar="RUN", help="another run that similarity compares with")
    found.add_argument(OPTION, action="store_true", help=HELP)
    return found


def read_analyses(chosen: argparse.Namespace, rest: list[str]) -> dict[str, Explanation]:
    """The analyses with their parameters from the command line.

    Raises:
        RecipeError, ParameterError: at the first that there is not, or that is not allowed.
    """
    kinds: dict[str, Any] = {name: load("circuits", name, "--analysis") for name in chosen.analysis.split(",")}
    tree = Block({name: Block({}, "command line") for name in kinds}, "command line")
    for name, kind in kinds.items():
        given = {key: getattr(chosen, key) for key in GENERAL if getattr(chosen, key) is not None}
        fields = {field.name for field in parameters_of(kind)}
        override(tree, [f"--{name}.{key}={value}" for key, value in given.items() if key in fields])
    override(tree, rest)
    for key in tree.entries:
        if key not in kinds:
            raise RecipeError("command line", f"--{key} is no option here{did_you_mean(key, [*kinds, *GENERAL])}")
    blocks: dict[str, Any] = tree.entries
    return {name: fill(kind, blocks[name], name, name) for name, kind in kinds.items()}


def explain_run(chosen: argparse.Namespace, analyses: dict[str, Explanation], endings: Sequence[str]) -> None:
    """The kept steps of a run, and its report anew."""
    from pipeline.report.page import check_places
    from pipeline.report.run_report import draw_report

    run = RunFolder(chosen.run, chosen.trust_remote_code)
    check_places(run.path)
    doing("loading torch")
    source = None
    if chosen.data is not None:
        from pipeline.models.loading import tokenizer_of

        source = open_source(chosen, tokenizer_of(run.path / TOKENIZER))
    for analysis in analyses.values():
        if isinstance(analysis, Analysis) and source is None:
            analysis.check_split(run.stored.sizes)
    walk = explain(run, analyses, device(chosen.device), chosen.against, source)
    tables = Counter[Path]()
    for path in watched(walk, expected(run, analyses)):
        tables[path.parent] += 1
        if tables[path.parent] == 1 and not is_watched(sys.stderr):
            say(f"{path.parent.name}: begun", file=sys.stderr)
    doing("drawing the report")
    draw_report(RunFolder.read(run.path), endings)
    doing.clear()
    for folder, count in tables.items():
        say(f"{folder.name}: {count} table{'s' * (count != 1)} in {folder}")
        figures = run.path / FIGURES
        say(*(each for each in sorted(figures.glob(f"{folder.name}*.{endings[0]}")) if _is_of(each.stem, folder.name)))
    say(run.path / "report.html")


def _is_of(figure: str, analysis: str) -> bool:
    """Whether a figure is of an analysis, and of none whose name begins like its own."""
    return max((name for name in names("circuits") if figure.startswith(name)), key=len, default="") == analysis


def explain_model(chosen: argparse.Namespace, analyses: dict[str, Explanation], endings: Sequence[str]) -> None:
    """One model, from a folder or the Hub, on pairs of a file or of a run's corpus."""
    doing("loading the model")
    model = open_model(chosen.model, chosen.revision, chosen.trust_remote_code, chosen.device)
    source = open_source(chosen, open_tokenizer(chosen.model, chosen.revision, chosen.trust_remote_code))
    name = Path(chosen.model).name + (f"-{chosen.revision}" if chosen.revision else "")
    folder = chosen.output or Path(f"circuits-{name}")
    digits = "".join(filter(str.isdigit, chosen.revision or ""))
    for analysis_name, analysis in analyses.items():
        if not isinstance(analysis, Analysis) or isinstance(analysis, TwoModels):
            raise ParameterError("--analysis", f"{analysis_name} compares the steps of a run, and this is one model")
        doing(f"analysing: {analysis_name}")
        pairs = analysis.choose(source)
        shared = analysis.fit(model, pairs)
        table = add_step(analysis.run(model, pairs, **shared), int(digits or 0))
        path = folder / f"{analysis_name}.parquet"
        folder.mkdir(parents=True, exist_ok=True)
        made_of = {"model": chosen.model, "revision": chosen.revision, "pairs": fingerprint(pairs)}
        write_table(folder, path.name, table, made_of)
        doing.clear()
        say(path, *_drawn(folder, analysis_name, analysis, read_one(path), endings))


def explain_revisions(chosen: argparse.Namespace, analyses: dict[str, Explanation], endings: Sequence[str]) -> None:
    """The revisions step0, step1, ... of a model, as Pythia's repositories have them, each in its turn."""
    models = Revisions(chosen.model, chosen.trust_remote_code, chosen.device)
    folder = chosen.output or Path(f"circuits-{Path(chosen.model).name}")
    source = open_source(chosen, models.tokenizer())
    every = with_sources(analyses)
    for path in walk(models, every, source, folder):
        say(path)
    for name in every:
        say(*_drawn(folder, name, every[name], read_table(folder, name), endings))


def _drawn(folder: Path, name: str, analysis: Explanation, table: Any, endings: Sequence[str]) -> list[Path]:
    """The pictures of a table, which are written, in these formats; beside each lie the rows that it shows."""
    from pipeline.report.sheets import table_sheet

    found = []
    for end, drawing in analysis.draw(table).items():
        figure = "_".join(filter(None, (name, end)))
        for kind, content in formats.pictures(drawing.figure, endings).items():
            found.append(folder / f"{figure}.{kind}")
            write_bytes(found[-1], content)
        rows = table_sheet(table if drawing.table is None else drawing.table)
        write_bytes(folder / f"{figure}.csv", rows.as_csv())
    return found


def open_source(chosen: argparse.Namespace, tokenizer: Any) -> Source:
    if chosen.data is not None:
        pad = getattr(tokenizer, "pad_token_id", None) or 0
        return FilePairs(chosen.data, tokenizer, pad)
    if chosen.run is None:
        raise RecipeError("command line", "pairs are needed: --data FILE, or a RUN whose corpus gives them")
    run = RunFolder(chosen.run, chosen.trust_remote_code)
    return source_of(run) if tokenizer is None else Renamed(CorpusPairs(run.stored), translate(run.stored, tokenizer))


if __name__ == "__main__":
    run_command(main)
