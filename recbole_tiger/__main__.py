"""``python -m recbole_tiger`` is the command line."""

import sys

from recbole_tiger.cli import main

sys.exit(main())
