"""Thin door to the command line of recbole_tiger."""

import sys

from recbole_tiger.cli import main

if __name__ == "__main__":
    sys.exit(main())
