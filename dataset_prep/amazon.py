"""Amazon reviews of 2014, 2018 or 2023 -> RecBole atomic files.

    python dataset_prep/amazon.py --version=2014 --reviews=reviews_Beauty_5.json.gz
    --metadata=meta_Beauty.json.gz --dataset=my-beauty

Run it with --help for all keys. The same as `recbole-tiger prepare amazon`.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["prepare", "amazon", *sys.argv[1:]]))
