"""A hyper-parameter sweep on Ray Tune.

    python hpo/run_tune.py --space=hpo/spaces/id_length_codebook.yaml --dataset=ml-100k

Run it with --help for all keys; the logic is in recbole_tiger/hpo.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
if (CHECKOUT / "recbole_tiger").is_dir():  # from a checkout; else the installed package is used
    sys.path.insert(0, str(CHECKOUT))

from recbole_tiger.commands.tune import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
