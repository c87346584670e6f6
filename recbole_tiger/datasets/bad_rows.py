"""What happens to rows that cannot be used: an error with file and line, or a count on request.

Input: the error of a row and its position. Output: a `PreparationError`, or counts and examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from recbole_tiger.errors import PreparationError, RowError

BAD_ROW_POLICIES = ("error", "skip")
MAX_EXAMPLES = 5


def check_choice(key: str, value: object, choices: Sequence[str]) -> None:
    """Raise a `PreparationError` that names key, value and choices unless the value is one of them."""
    if value not in choices:
        raise PreparationError(f"{key}={value!r} is unknown: use one of {', '.join(choices)}.")


def shorten(value: object, length: int = 60) -> str:
    """The `repr` of a value, cut to `length` characters, for a message."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"


class BadRows:
    """Rows that cannot be used: raise at the first (`policy="error"`), or skip and count them (`policy="skip"`).

    `counts` holds the number of skipped rows by reason, `examples` the first few in words.
    """

    def __init__(self, policy: str = "error") -> None:
        check_choice("bad_rows", policy, BAD_ROW_POLICIES)
        self.policy = policy
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []

    def report(self, path: str | Path, line: int, error: RowError) -> None:
        """Count row `line` (1-based) of `path` as unusable; a `PreparationError` where the policy is `error`."""
        message = f"{path}, line {line}: {error}"
        if self.policy == "error":
            raise PreparationError(f"{message}. Fix the line, or skip and count such lines with bad_rows=skip.")
        self.counts[error.reason] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(message)
