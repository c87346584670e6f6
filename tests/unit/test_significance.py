"""Intervals and tests: scipy on known data first, then properties, then edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recbole_tiger.evaluation.evaluator import Ranks, expected_metrics, metrics_of_ranks
from recbole_tiger.evaluation.significance import (
    bootstrap_means,
    compare,
    holm,
    interval,
    load_ranks,
    paired_t_test,
    save_ranks,
    user_values,
)
from recbole_tiger.experiment.configuration import build_config


@pytest.fixture(scope="module")
def rows():
    """Three rows of 400 users: mostly misses, the second a little better than the first, the third much better."""
    rng = np.random.default_rng(3)
    ranks = np.where(rng.random((3, 400)) < [[0.15], [0.2], [0.45]], rng.integers(0, 10, (3, 400)), -1)
    return np.stack([user_values(Ranks(np.arange(400), r), "ndcg@10") for r in ranks])


def test_paired_t_test_is_scipys(rows):
    ours = paired_t_test(rows[1:], rows[0])
    theirs = [stats.ttest_rel(row.astype(np.float64), rows[0].astype(np.float64)).pvalue for row in rows[1:]]
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_bootstrap_interval_is_scipys(rows):
    """The same percentile interval up to the noise of 10,000 resamples, for a row and for a difference."""
    ours = interval(bootstrap_means(rows, 10_000, seed=1))
    for row, low, high in zip(rows, *ours, strict=True):
        theirs = stats.bootstrap((row,), np.mean, n_resamples=9_999, method="percentile", random_state=5)
        width = theirs.confidence_interval.high - theirs.confidence_interval.low
        assert low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
        assert high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)
    found = compare(rows, 0, n_resamples=10_000)[2]
    theirs = stats.bootstrap(
        (rows[2], rows[0]), lambda a, b, axis=-1: np.mean(a - b, axis=axis), paired=True, n_resamples=9_999,
        method="percentile", random_state=5,
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert found.difference_low == pytest.approx(theirs.low, abs=0.05 * width)
    assert found.difference_high == pytest.approx(theirs.high, abs=0.05 * width)
    assert found.difference == pytest.approx(float(np.mean(rows[2] - rows[0])), abs=1e-7)


def test_bootstrap_is_the_textbook_one_over_all_blocks(monkeypatch, rows):
    """Small blocks change nothing but the stream of numbers: mean and spread are those of the textbook bootstrap."""
    from recbole_tiger.evaluation import significance

    monkeypatch.setattr(significance, "_BLOCK", 5_000)
    means = bootstrap_means(rows, 4_000, seed=2)
    assert means.mean(axis=1) == pytest.approx(rows.mean(axis=1), rel=0.01)
    assert means.std(axis=1) == pytest.approx(rows.std(axis=1) / np.sqrt(400), rel=0.06)
    assert np.corrcoef(means)[0, 2] == pytest.approx(np.corrcoef(rows)[0, 2], abs=0.06)  # the resamples are shared


def test_holm_on_a_worked_example():
    # By hand: sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04, made monotone: .02 .03 .06 .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
@settings(max_examples=100, deadline=None)
def test_holm_rejects_what_the_step_down_procedure_rejects(p, level):
    order, rejected = np.argsort(p, kind="stable"), set()
    for step, place in enumerate(order):
        if p[place] * (len(p) - step) > level:
            break
        rejected.add(int(place))
    assert set(np.flatnonzero(holm(p) <= level)) == rejected


def test_nothing_differs_and_nothing_hits():
    same = compare(np.ones((2, 30)), 0, n_resamples=50)[1]
    assert (same.p, same.p_holm, same.difference, same.low, same.high) == (1.0, 1.0, 0.0, 1.0, 1.0)
    empty = compare(np.zeros((1, 30)), 0, n_resamples=50)[0]
    assert (empty.low, empty.high, empty.difference, empty.p) == (0.0, 0.0, None, None)
    always = paired_t_test(np.ones((1, 30)), np.zeros(30))  # the same difference for everyone
    assert always[0] == 0.0
    assert paired_t_test(np.ones((1, 1)), np.zeros(1))[0] == 1.0


def test_deterministic(rows):
    assert compare(rows, 1, n_resamples=200) == compare(rows, 1, n_resamples=200)
    assert not np.array_equal(bootstrap_means(rows, 50, seed=0), bootstrap_means(rows, 50, seed=1))


@pytest.fixture()
def config(toy):
    metrics = ["Recall", "NDCG", "MRR", "Hit", "Precision", "MAP"]
    return build_config("SASRec", "toy", None, {"data_path": toy["data_path"], "metrics": metrics, "topk": [1, 5, 10]})


def test_means_of_user_values_are_recboles_metrics(config):
    ranks = np.random.default_rng(0).integers(-1, 14, size=300)
    theirs = metrics_of_ranks(config, ranks)
    assert len(theirs) == 18
    for name, value in theirs.items():
        assert user_values(Ranks(np.arange(300), ranks), name).mean(dtype=np.float64) == pytest.approx(value, abs=1e-7)


def test_user_values_of_tied_items_are_the_expected_metrics(config):
    rng = np.random.default_rng(1)
    ranks, ties = rng.integers(-1, 10, size=300), rng.integers(1, 6, size=300)
    for name, value in expected_metrics(config, ranks, ties).items():
        own = user_values(Ranks(np.arange(300), ranks, ties=ties), name)
        assert own.mean(dtype=np.float64) == pytest.approx(value, abs=1e-7), name


@given(st.lists(st.tuples(st.integers(1, 100_000), st.integers(-1, 40)), min_size=1, max_size=60), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_ranks_come_back(tmp_path_factory, pairs, k):
    path = tmp_path_factory.mktemp("ranks") / "ranks.npz"
    users, ranks = (np.array(column) for column in zip(*pairs, strict=True))
    save_ranks(path, {"test": Ranks(users, ranks, ties=np.abs(ranks) + 1), "valid": Ranks(users, ranks)}, k)
    back = load_ranks(path)
    order = np.argsort(users, kind="stable")
    assert np.array_equal(back.users, users[order])
    assert np.array_equal(back.ranks, np.where(ranks < k, ranks, -1)[order])
    assert np.array_equal(back.ties, np.abs(ranks)[order] + 1)
    assert load_ranks(path, "valid").ties is None


def test_damaged_ranks_are_named(tmp_path):
    path = tmp_path / "ranks.npz"
    save_ranks(path, {"valid": Ranks(np.array([1]), np.array([0]))}, 10)
    with pytest.raises(ValueError, match=r"ranks\.npz.*test"):
        load_ranks(path, "test")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="damaged"):
        load_ranks(path, "valid")
