"""Semantic IDs ahead of time: item text in, JSON {item_id: [codes]} and a report out.

    python dataset_prep/semantic_ids.py --dataset=amazon-beauty --semantic_id=rkmeans --semantic_id_file=ids.json

A run reads the file with --semantic_id=file --semantic_id_file=ids.json. The same as `run_recbole_tiger.py ids`; run it
with --help for the keys.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["ids", *sys.argv[1:]]))
