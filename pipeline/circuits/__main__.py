"""`python -m pipeline.circuits`: see `pipeline.explain`."""

import sys

from pipeline.explain import main

sys.exit(main())
