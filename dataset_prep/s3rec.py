"""S3-Rec sequences (user item item …) with a metadata file -> RecBole atomic files.

    python dataset_prep/s3rec.py --sequences=Beauty.txt --items=items.csv --title=title --dataset=my-beauty

Run it with --help for all keys. The same as `recbole-tiger prepare s3rec`.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["prepare", "s3rec", *sys.argv[1:]]))
