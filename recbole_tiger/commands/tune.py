"""The command ``tune``: a hyper-parameter sweep is planned, run and reported.

Input: the settings of the command line. Output: files in the sweep's folder, a report, and an exit status: 0 done, 1
interrupted or without a winner, 2 a setting that cannot work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from recbole_tiger import cli
from recbole_tiger.hpo.options import Options


def run(settings: dict[str, Any]) -> tuple[str, int]:
    """Plan, run and report a sweep.

    Args:
        settings: options of the sweep and settings of its trials, as on the command line.

    Returns:
        the report, and the exit status.

    Raises:
        ConfigError: for anything that cannot work, before the first trial.
    """
    from recbole_tiger.hpo.tune import tune  # here, since help needs neither torch nor plotly

    settings = dict(settings)
    space = settings.pop("space", None)
    options = {key.name: settings.pop(key.name) for key in fields(Options) if key.name in settings}
    found = tune(space, config_dict=settings, **options)
    return str(found), 0 if found.finished and found.test_result is not None else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point of ``recbole-tiger-tune`` and ``hpo/run_tune.py``."""
    return cli.main(["tune", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
