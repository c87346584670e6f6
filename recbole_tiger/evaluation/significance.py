"""Per-user results, and what they say about the differences between rows of a table.

Input: the rank of every user's held-out item under each model. Output: bootstrap intervals over users and paired
tests against one row, corrected for the number of rows. Everything is deterministic.

The users are the sample here: a row's seeds are averaged for each user first, so an interval speaks of these trained
models on other users of the same kind. How much training itself varies is the standard deviation over seeds.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from recbole_tiger.evaluation.evaluator import Ranks
from recbole_tiger.io import atomic_write_bytes

#: Metrics that follow from the rank of one held-out item: (rank from 0) -> value of a hit.
_GAINS = {
    **dict.fromkeys(("recall", "hit"), lambda rank, k: np.ones_like(rank, dtype=np.float32)),
    **dict.fromkeys(("mrr", "map"), lambda rank, k: 1 / (rank + 1)),
    "ndcg": lambda rank, k: 1 / np.log2(rank + 2),
    "precision": lambda rank, k: np.full_like(rank, 1 / k, dtype=np.float32),
}
#: Numbers in one block of resampling counts: 16 million, 64 MB.
_BLOCK = 1 << 24


# ------------------------------------------------------------------------------------------- ranks, kept and read back


def save_ranks(path: str | Path, phases: Mapping[str, Ranks], k: int) -> None:
    """Write the ranks of each phase ("valid", "test") in one or two bytes per user.

    Users are sorted and stored as differences, ranks from ``k`` on as -1: both compress to a few kilobytes.
    """
    arrays = {}
    for phase, ranks in phases.items():
        order = np.argsort(ranks.users, kind="stable")
        kept = np.where((ranks.ranks < k) & (ranks.ranks >= 0), ranks.ranks, -1)[order]
        steps = np.diff(np.asarray(ranks.users)[order], prepend=0)
        arrays[f"{phase}_users"] = steps.astype(np.min_scalar_type(int(steps.max(initial=0))))
        arrays[f"{phase}_ranks"] = kept.astype(np.int8 if k <= 127 else np.int32)
        if ranks.ties is not None:
            arrays[f"{phase}_ties"] = np.asarray(ranks.ties)[order].astype(np.int32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    atomic_write_bytes(path, buffer.getvalue())


def load_ranks(path: str | Path, phase: str = "test") -> Ranks:
    """What :func:`save_ranks` wrote for one phase, ordered by user.

    Raises:
        ValueError: for a damaged file, or one without this phase.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            steps, ranks = file[f"{phase}_users"], file[f"{phase}_ranks"]
            ties = file[f"{phase}_ties"] if f"{phase}_ties" in file.files else None
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged zip raises a dozen kinds
        raise ValueError(
            f"'{path}' is damaged or holds no ranks of the {phase} items ({error}); delete the run's folder and run it "
            "again"
        ) from error
    return Ranks(users=np.cumsum(steps, dtype=np.int64), ranks=ranks, ties=ties)


def has_user_values(metric: str) -> bool:
    """Whether a metric such as ``ndcg@10`` is a mean over users of something that follows from a rank."""
    return metric.partition("@")[0].lower() in _GAINS


def user_values(ranks: Ranks, metric: str) -> np.ndarray:
    """A metric such as ``ndcg@10`` of every user: [n] float32, in expectation over the order of tied items."""
    name, _, k = metric.lower().partition("@")
    length, rank = int(k), np.asarray(ranks.ranks)
    gains = _GAINS[name](np.arange(length, dtype=np.float64), length)
    first = np.where((rank < 0) | (rank >= length), length, rank)
    if ranks.ties is None:
        return np.append(gains, 0.0).astype(np.float32)[first]
    total = np.concatenate([[0.0], np.cumsum(gains)])  # of the first ranks
    return ((total[np.minimum(first + ranks.ties, length)] - total[first]) / ranks.ties).astype(np.float32)


# ------------------------------------------------------------------------------------------------------- the bootstrap


def bootstrap_means(values: np.ndarray, n_resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """Means of every row over the same resamples of the users, drawn with replacement.

    A resample is a vector of counts, so that the means of all rows are one matrix product. Users with 0 in all rows add
    nothing: how many of the draws fall on the others is binomial, and only those are drawn.

    Args:
        values: [n_rows, n_users].

    Returns:
        [n_rows, n_resamples] float32.
    """
    values = np.asarray(values, dtype=np.float32)
    n = values.shape[1]
    active = np.flatnonzero((values != 0).any(axis=0))
    if len(active) == 0:
        return np.zeros((len(values), n_resamples), dtype=np.float32)
    held = values if len(active) == n else np.ascontiguousarray(values[:, active])
    rng = np.random.default_rng(seed)
    means = np.empty((len(values), n_resamples), dtype=np.float32)
    size = max(1, _BLOCK // len(active))
    for first in range(0, n_resamples, size):
        block = min(size, n_resamples - first)
        drawn = rng.binomial(n, len(active) / n, size=block)
        counts = np.empty((block, len(active)), dtype=np.float32)
        for row, size_of_one in enumerate(drawn):  # one at a time stays in the processor's cache
            counts[row] = np.bincount(rng.integers(len(active), size=size_of_one), minlength=len(active))
        means[:, first : first + block] = held @ counts.T
    means /= n
    return means


def interval(means: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of each row of resampled means: low and high, [n_rows] each."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return low, high


# ------------------------------------------------------------------------------------------------------ the paired test


def paired_t_test(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Two-sided p-values of Student's paired test of each row against one: [n_rows]; 1 where nothing differs.

    Args:
        values: [n_rows, n_users].
        reference: [n_users].
    """
    difference = np.asarray(values, dtype=np.float64) - reference
    n = difference.shape[1]
    if n < 2:
        return np.ones(len(difference))
    mean, deviation = difference.mean(axis=1), difference.std(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / (deviation / np.sqrt(n))
    p = 2 * stats.t.sf(np.abs(t), n - 1)
    return np.where(mean == 0, 1.0, p)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: p-values that may each be compared with the level of the whole family.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """One row of a table against the reference row.

    Attributes:
        low, high: 95% interval of the row's mean.
        difference: the row's mean less the reference's; None for the reference itself, as are the fields below.
        difference_low, difference_high: its 95% interval, from the same resamples.
        p: of the paired t-test, two-sided. p_holm: corrected for the number of rows.
    """

    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    p_holm: float | None = None


def compare(values: np.ndarray, reference: int, *, n_resamples: int = 10_000, seed: int = 0) -> list[Comparison]:
    """Intervals of all rows of `values`, [n_rows, n_users], and differences and tests against the row `reference`."""
    values = np.asarray(values, dtype=np.float32)
    means = bootstrap_means(values, n_resamples, seed)
    intervals = np.transpose(interval(means)).tolist()
    # One row at a time: a whole table of differences would be a second and a third copy of the values.
    p = np.concatenate([paired_t_test(row[None], values[reference]) for row in values])
    others = [row for row in range(len(values)) if row != reference]
    corrected = dict(zip(others, holm(p[others]), strict=True))
    exact = values.mean(axis=1, dtype=np.float64)
    result = [Comparison(*each) for each in intervals]
    for row in others:
        numbers = (exact[row] - exact[reference], *interval(means[row] - means[reference]), p[row], corrected[row])
        result[row] = Comparison(*intervals[row], *map(float, numbers))
    return result
