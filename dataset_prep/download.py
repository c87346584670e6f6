"""Download one of RecBole's datasets; amazon-* are compared with the paper's Table 2.

    python dataset_prep/download.py --dataset=amazon-beauty --data_path=dataset

Run it with --help for all keys. The same as `recbole-tiger prepare download`.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["prepare", "download", *sys.argv[1:]]))
