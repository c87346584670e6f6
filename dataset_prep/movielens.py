"""MovieLens 100k, 1M, 10M, 20M, 25M or 32M -> RecBole atomic files.

    python dataset_prep/movielens.py --folder=ml-1m --dataset=ml-1m

Run it with --help for all keys. The same as `recbole-tiger prepare movielens`.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["prepare", "movielens", *sys.argv[1:]]))
