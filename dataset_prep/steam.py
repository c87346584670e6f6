"""Steam reviews and games -> RecBole atomic files.

    python dataset_prep/steam.py --reviews=steam_reviews.json.gz --games=steam_games.json.gz --dataset=steam

Run it with --help for all keys. The same as `recbole-tiger prepare steam`.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["prepare", "steam", *sys.argv[1:]]))
