"""How every user's sequence is divided into training, validation and test.

Input: the sequences' times. Output: a :class:`Split`, which says how many of each user's first interactions train and
which one is the target of each phase; loaders, windows, masks and popularity read nothing else.

Leave-one-out (`split=leave_one_out`) holds back each user's last two interactions, whenever they happened. The global
temporal split (`split=temporal`) cuts the time of all users at two moments into periods of training, validation and
test. Its target is one interaction per user and phase, with everything that the user did before it as history:

- ``last`` (default): the user's last of the period. At test it is the target of leave-one-out, for the users who were
  active then. The history reaches into the period, as for a served model between two trainings; the weights do not.
- ``first``: the user's first of the period, from what was known at the cut-off. The gap before it is longer than usual
  (a pause that spans a given moment is a long one), and users who came later are not asked.

Not every interaction of the period: lists of one user depend on each other and the busiest users would make the mean,
while intervals and tests are about users here. Gusak et al., "Time to Split: Exploring Data Splitting Strategies for
Offline Evaluation of Sequential Recommenders", RecSys 2025, compare these targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from recbole_tiger.datasets.normalize import EARLIEST_CLOCK, MILLISECONDS
from recbole_tiger.errors import ConfigError
from recbole_tiger.settings.split import LEAVE_ONE_OUT, checked_split, cutoff_kind, date_seconds

PHASES = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """What trains and what is asked.

    Attributes:
        n_training: [n_users] interactions at the front of each user's sequence that train.
        targets: for "valid" and "test" [n_users] position of the user's target in the sequence, from 0, which is also
            the number of interactions before it; 0 for users without a target.
        cutoffs: the two moments of a global temporal split, in the unit of the time column; None for leave-one-out.
    """

    n_training: np.ndarray
    targets: dict[str, np.ndarray]
    cutoffs: tuple[float, float] | None = None


def positions(length: np.ndarray) -> np.ndarray:
    """Position of every interaction in its user's sequence, from 0: [N] for sequences of these lengths [n_users]."""
    return np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)


def make_split(setting: Mapping[str, Any], times: np.ndarray, start: np.ndarray) -> Split:
    """The split of sequences in time order.

    Args:
        setting: the `split` entry of `eval_args`.
        times: [n_interactions] of the interactions, grouped by user, rising for each.
        start: [n_users + 1] user u's are ``times[start[u]:start[u + 1]]``.

    Raises:
        ConfigError: if the times are no clock, or a phase would be empty.
    """
    setting = checked_split(setting)
    if setting == LEAVE_ONE_OUT:
        return leave_one_out(start)
    inside = setting["temporal"]
    check_clock(times, start)
    return temporal(times, start, cutoff_times(inside["cutoffs"], times), inside["target"])


def leave_one_out(start: np.ndarray) -> Split:
    """RecBole's: the last interaction of a user tests and the one before it validates.

    A sequence of 3 gives up its last interaction only, which tests; a shorter one none.

    Raises:
        ConfigError: if no sequence is long enough.
    """
    length = np.diff(start)
    if (length >= 3).sum() == 0:
        raise ConfigError(
            f"no user with 3 interactions is left after filtering ({length.sum()} interactions in all); leave-one-out "
            "needs one each for training, validation and test: lower user_inter_num_interval or "
            "item_inter_num_interval, or bring more data"
        )
    return Split(
        n_training=length - np.clip(length - 2, 0, 2),
        targets={"valid": np.where(length >= 4, length - 2, 0), "test": np.where(length >= 3, length - 1, 0)},
    )


def temporal(times: np.ndarray, start: np.ndarray, cutoffs: tuple[float, float], target: str) -> Split:
    """Interactions before ``cutoffs[0]`` train; those from there on, before ``cutoffs[1]``, validate; the others test.

    Interactions of one moment are never divided. A user without anything before the target has no target.

    Raises:
        ConfigError: if a phase would be empty.
    """
    user = np.repeat(np.arange(len(start) - 1), np.diff(start))
    before = [np.bincount(user[times < moment], minlength=len(start) - 1) for moment in cutoffs]  # [n_users] each
    edges = [*before, np.diff(start)]  # ends of training, validation and test in each sequence
    targets = {}
    for phase, begin, end in zip(PHASES[1:], edges[:-1], edges[1:], strict=True):
        targets[phase] = np.where(end > begin, end - 1 if target == "last" else begin, 0)
    counts = [int(np.maximum(before[0] - 1, 0).sum()), *(int((position > 0).sum()) for position in targets.values())]
    if 0 in counts:
        raise ConfigError(
            f"temporal_cutoffs: with training until {moment_text(cutoffs[0])} and validation until "
            f"{moment_text(cutoffs[1])} there are {counts[0]:,} training items with a history, {counts[1]:,} users to "
            f"validate on and {counts[2]:,} to test on; move the cut-offs, or bring more data"
        )
    return Split(n_training=before[0], targets=targets, cutoffs=cutoffs)


def cutoff_times(cutoffs: Sequence, times: np.ndarray) -> tuple[float, float]:
    """The two moments in the unit of the time column; a share q is the time of interaction number q n of n.

    Raises:
        ConfigError: for dates where times are no seconds or milliseconds since 1970, and for shares on one moment.
    """
    latest = float(times.max(initial=0))
    if cutoff_kind(cutoffs[0]) == "date":
        if latest < EARLIEST_CLOCK:
            raise ConfigError(
                f"temporal_cutoffs={list(cutoffs)}: the times are not seconds or milliseconds since 1970 (the latest "
                f"is {latest:g}); give the cut-offs as shares, or in the unit of the column"
            )
        unit = 1000 if latest > MILLISECONDS else 1
        first, second = ((date_seconds(text) or 0.0) * unit for text in cutoffs)
    elif cutoff_kind(cutoffs[0]) == "time":
        first, second = map(float, cutoffs)
    else:
        ordered = np.sort(times)
        first, second = (float(ordered[int(share * len(ordered))]) for share in cutoffs)
        if first == second:
            raise ConfigError(
                f"temporal_cutoffs={list(cutoffs)}: both shares fall on one moment, {moment_text(first)}, since many "
                "interactions have the same time; move them apart, or give dates"
            )
    return first, second


def check_clock(times: np.ndarray, start: np.ndarray) -> None:
    """Refuse times that count each user's interactions, on which one cut for all users means nothing.

    Two shares decide: of steps of exactly 1 within users, and of the variance of time that the position in the sequence
    explains (ml-100k: 0.04 and 0.02). Positions, and row numbers of a file that is sorted by user, have steps of 1;
    positions of which filters have taken some have many such steps and still depend on the position, which a clock does
    only where all users begin together and continue alike.

    Raises:
        ConfigError: for such times.
    """
    position = positions(np.diff(start))
    steps = np.diff(times)[position[1:] > 0]
    unit_steps = float((steps == 1).mean()) if len(steps) else 0.0
    varies = len(times) > 1 and np.ptp(times) > 0 and np.ptp(position) > 0
    explained = float(np.corrcoef(times, position)[0, 1] ** 2) if varies else 0.0
    if unit_steps >= 0.95 or explained >= 0.999 or (unit_steps >= 0.5 and explained >= 0.8):
        raise ConfigError(
            "split=temporal needs times that users have in common, but the time column counts the interactions of each "
            f"user (for example {', '.join(f'{value:g}' for value in times[:4])}, …): name a column of real times as "
            "TIME_FIELD, or use split=leave_one_out"
        )


def moment_text(moment: float) -> str:
    """A time as a date (UTC) where it is seconds or milliseconds since 1970, else as a number."""
    if moment < EARLIEST_CLOCK:
        return f"{moment:g}"
    seconds = moment / (1000 if moment > MILLISECONDS else 1)
    text = datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    return text.removesuffix(" 00:00:00")
