"""The former name of `pipeline.runs`."""

import sys

from pipeline.runs.__main__ import main
from pipeline.utils.terminal import run_command

if __name__ == "__main__":
    print("python -m pipeline.checkpoints is called python -m pipeline.runs now", file=sys.stderr)
    run_command(main)
