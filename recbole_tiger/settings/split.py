"""The settings of the split: leave-one-out, or two moments that cut the time of all users.

Input: `split`, `temporal_cutoffs`, `temporal_target`, or RecBole's `split` entry of `eval_args`. Output: that entry in
the one form that runs and results carry. `data/split.py` explains the two protocols and makes the split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone
from typing import Any

from recbole_tiger.errors import ConfigError

#: RecBole's `split` of `eval_args` for leave-one-out.
LEAVE_ONE_OUT = {"LS": "valid_and_test"}
#: Settings that stand for an entry of `eval_args`; the second and third are for split=temporal only.
SPLIT_KEYS = ("split", "temporal_cutoffs", "temporal_target")
TARGETS = ("last", "first")


def split_setting(settings: Mapping[str, Any]) -> dict:
    """The `split` entry of `eval_args` that `split`, `temporal_cutoffs` and `temporal_target` stand for. Raises
    `ConfigError` for a value that cannot work."""
    if settings["split"] == "leave_one_out":
        return dict(LEAVE_ONE_OUT)
    if settings["split"] != "temporal":
        raise ConfigError(f"split={settings['split']!r} is not possible; choose one of leave_one_out, temporal")
    return checked_split({"temporal": {"cutoffs": settings["temporal_cutoffs"], "target": settings["temporal_target"]}})


def checked_split(split: Any) -> dict:
    """A `split` entry of `eval_args` in the one form that results carry. Raises `ConfigError` for a split of another
    kind, or a value that cannot work."""
    if split == LEAVE_ONE_OUT:
        return dict(LEAVE_ONE_OUT)
    inside = split.get("temporal") if isinstance(split, Mapping) and len(split) == 1 else None
    if not isinstance(inside, Mapping) or set(inside) != {"cutoffs", "target"}:
        raise ConfigError(
            f"eval_args split={split!r} is refused: intervals, tests and masks need one target per user and "
            "phase; use split=leave_one_out or split=temporal"
        )
    if inside["target"] not in TARGETS:
        raise ConfigError(f"temporal_target={inside['target']!r} is not possible; choose one of {', '.join(TARGETS)}")
    return {"temporal": {"cutoffs": _checked_cutoffs(inside["cutoffs"]), "target": inside["target"]}}


def _checked_cutoffs(value: Any) -> list:
    """Two shares, two times or two dates (as text), the first the smaller."""
    listed = value.split(",") if isinstance(value, str) else value
    given = [_number_or_text(v) for v in listed] if isinstance(listed, Sequence) else []
    kinds = {cutoff_kind(v) for v in given}
    if len(given) != 2 or len(kinds) != 1 or None in kinds:
        raise ConfigError(
            f"temporal_cutoffs={value!r}: give the end of training and the end of validation, as two shares of all "
            "interactions (0.8,0.9), two dates (2014-01-01,2014-04-01) or two times in the unit of the time column"
        )
    first, second = (date_seconds(v) or 0.0 if isinstance(v, str) else v for v in given)
    if first >= second:
        raise ConfigError(f"temporal_cutoffs={value!r}: training must end before validation does; exchange the two")
    return given


def cutoff_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return None if date_seconds(value) is None else "date"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return "share" if 0 < value < 1 else "time" if value >= 1 else None


def _number_or_text(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value.strip()


def date_seconds(text: str) -> float | None:
    """Seconds since 1970 of an ISO date, UTC unless it says otherwise; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def describe_split(split: Mapping[str, Any]) -> str:
    """A `split` entry of `eval_args` in words, for headings."""
    if split == LEAVE_ONE_OUT:
        return "leave-one-out"
    if "temporal" not in split:  # a stored run of RecBole's ratios
        return f"split {dict(split)}"
    inside = split["temporal"]
    first, second = inside["cutoffs"]
    what = " of all interactions" if cutoff_kind(first) == "share" else ""
    return f"global temporal split at {first} and {second}{what}, each user's {inside['target']} item"
