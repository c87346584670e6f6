"""Is a dataset sound? Counts, text, ties, duplicates, leaks, checksum, warnings; histograms with --html.

    python dataset_prep/check.py --dataset=amazon-beauty --data_path=dataset --html=check.html

Run it with --help for all keys; the logic is in recbole_tiger/datasets.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.commands.prepare import check  # noqa: E402

if __name__ == "__main__":
    sys.exit(check())
