"""A synthetic catalogue with a known hierarchy and next-item rule, of any size.

    python dataset_prep/synthetic.py --n_users=1000 --n_items=500 --n_interactions=20000 --dataset=made

Run it with --help for all keys. The same as `recbole-tiger prepare synthetic`.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["prepare", "synthetic", *sys.argv[1:]]))
