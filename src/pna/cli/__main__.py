"""`python -m pna.cli`: the command line where no script is installed."""

import sys

from pna.cli import main

sys.exit(main())
