"""Any CSV, TSV, Parquet or JSON-lines files -> RecBole atomic files, by naming the columns.

    python dataset_prep/table.py --interactions=orders.csv --user=customer --item=sku --time=date
    --dataset=my-shop

Run it with --help for all keys; the logic is in recbole_tiger/datasets.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.commands.prepare import table  # noqa: E402

if __name__ == "__main__":
    sys.exit(table())
