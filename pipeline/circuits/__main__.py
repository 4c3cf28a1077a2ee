"""`python -m pipeline.circuits`: see `pipeline.explaining`."""

from pipeline.explaining import main
from pipeline.terminal import run_command

run_command(main)
