"""`python -m pipeline.circuits`: see `pipeline.explaining`."""

import sys

from pipeline.explaining import main

sys.exit(main())
