"""Any CSV, TSV, Parquet or JSON-lines files -> RecBole atomic files, by naming the columns.

    python dataset_prep/table.py --interactions=orders.csv --user=customer --item=sku --time=date
    --dataset=my-shop

Run it with --help for all keys. The same as `recbole-tiger prepare table`.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["prepare", "table", *sys.argv[1:]]))
