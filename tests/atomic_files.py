"""An oracle for readers of atomic files: ten lines that read one by the letter."""

from __future__ import annotations

import math


def literal_interactions(data: bytes) -> list[tuple[str, str, float]] | None:
    """User, item and time of each line of an ``.inter`` file; None where it is no atomic file."""
    try:
        head, *lines = data.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
        names = [field.partition(":")[0] for field in head.split("\t")]
        rows = [dict(zip(names, line.split("\t"), strict=True)) for line in lines]
        found = [(row["user_id"].strip(), row["item_id"].strip(), float(row["timestamp"])) for row in rows]
    except (ValueError, KeyError):
        return None
    return found if all(user and item and math.isfinite(time) for user, item, time in found) else None
