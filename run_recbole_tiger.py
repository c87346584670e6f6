"""The command line of recbole_tiger, from a checkout."""

import sys

from recbole_tiger.cli import main

if __name__ == "__main__":
    sys.exit(main())
