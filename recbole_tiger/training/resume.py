"""Whether a run may be resumed from a checkpoint under the settings of today.

Input: a checkpoint and a ``Config``. Output: nothing, or `ConfigError` with the settings that differ.
"""

from __future__ import annotations

import json
from pathlib import Path

from recbole_tiger.data.identity import check_same_data
from recbole_tiger.distributed import collectives
from recbole_tiger.errors import ConfigError
from recbole_tiger.settings.plain import plain_settings, renamed_settings
from recbole_tiger.settings.schema import keys_with


def is_written(path: str | Path) -> bool:
    """Whether a file is there, for the first process, which writes them all."""
    return collectives.from_main(lambda: Path(path).exists())


def check_same_run(config, path: str | Path, checkpoint: dict, data: dict | None) -> None:
    """Raise where resuming would mix two runs, or test another epoch than the best.

    Args:
        data: what is loaded now, from `data_identity`.

    Raises:
        ConfigError: for a checkpoint of another model or dataset, of a run with other settings or on other data, or
            without the best epoch's checkpoint beside it.
    """
    if "optimizer" not in checkpoint:
        raise ConfigError(
            f"resume='{path}' holds only weights (Recommender.save), too little for training; give a run's last.pth"
        )
    before, now = renamed_settings(checkpoint["config"]), plain_settings(config)
    before, now = (json.loads(json.dumps(each)) for each in (before, now))
    for key in ("model", "dataset"):
        if before[key] != now[key]:
            raise ConfigError(
                f"resume='{path}' is a checkpoint of {key}={before[key]}, not of {key}={now[key]}; name the same {key}"
            )
    other = [key for key in sorted(before.keys() & now) if key not in keys_with("resume") and before[key] != now[key]]
    if other:
        shown = ", ".join(f"{key}={before[key]} (now {now[key]})" for key in other[:8])
        more = f" and {len(other) - 8} more" if len(other) > 8 else ""
        raise ConfigError(
            f"resume='{path}' belongs to a run with {shown}{more}; give the same settings, or start a new run "
            f"without resume (what may change: {', '.join(keys_with('end'))})"
        )
    check_same_data(checkpoint.get("data"), data, f"resume='{path}'")
    if checkpoint["best_valid_result"] is not None and not is_written(Path(path).resolve().parent / "best.pth"):
        raise ConfigError(
            f"resume='{path}' needs the best epoch of its run, best.pth, beside it; copy both files together"
        )
