"""Codes, duplicates, ties and order; pandas and plain loops are the oracles."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_tiger.datasets import sources
from recbole_tiger.datasets.bad_rows import BadRows
from recbole_tiger.datasets.interactions import (
    InteractionLog,
    Interactions,
    Vocabulary,
    count_duplicates,
    count_ties,
    duplicate_mask,
    output_order,
)
from recbole_tiger.datasets.sources import InteractionChunk
from recbole_tiger.errors import PreparationError


def chunk(users, items, times=None, first_line=1):
    lines = np.arange(first_line, first_line + len(users))
    return InteractionChunk(Path("a.csv"), lines, users, items, times, None)


def random_interactions(seed, n=200, distinct_times=12):
    random = np.random.default_rng(seed)
    return Interactions(
        random.integers(0, 9, n).astype(np.int32),
        random.integers(0, 9, n).astype(np.int32),
        random.integers(0, distinct_times, n).astype(float),
        np.arange(n, dtype=float),
    )


def frame(interactions):
    return pd.DataFrame(
        {
            "u": interactions.users,
            "i": interactions.items,
            "t": interactions.times,
            "row": range(len(interactions)),
        }
    )


def test_vocabulary_numbers_ids_by_first_appearance():
    vocabulary = Vocabulary()
    assert vocabulary.encode(["b", "a", " b ", "c", "a\tx", "b"]).tolist() == [0, 1, 0, 2, -1, 0]
    assert vocabulary.encode(["c", "d"]).tolist() == [2, 3]
    assert vocabulary.names == ["b", "a", "c", "d"]
    assert (vocabulary.code("d"), vocabulary.code("never")) == (3, -1)


def test_log_collects_chunks_and_remembers_where_an_item_first_stood():
    log, bad = InteractionLog(), BadRows("skip")
    log.add(chunk(["u", "v", "w"], ["i", "i", "bad\tid"], np.array([3.0, 1.0, 5.0])), bad)
    log.add(chunk(["u", "NA"], ["j", "i"], np.array([2.0, 9.0]), first_line=4), bad)
    data = log.finish()
    assert data.users.tolist() == [0, 1, 0] and data.items.tolist() == [0, 0, 1]
    assert data.times.tolist() == [3, 1, 2] and data.ratings is None
    assert bad.counts == {
        "an id with a tab or another control character": 1,
        "an id that RecBole reads as missing": 1,
    }
    assert log.rows_read == 5
    assert [log.first_seen(item)[1] for item in (0, 1)] == [1, 4]


def test_an_id_with_a_tab_is_an_error_with_its_line():
    with pytest.raises(PreparationError, match=r"a.csv, line 2: an id with a tab.*'y\\tz'"):
        InteractionLog().add(chunk(["u", "v"], ["x", "y\tz"]), BadRows())


def test_without_times_the_position_is_the_time():
    log = InteractionLog()
    log.add(chunk(list("aabab"), list("xyzxx")), BadRows())
    assert log.finish().times.tolist() == [1, 2, 1, 3, 2]


VALUES = ["1", " 2.5 ", "1_0", "x", "", "nan", "1e400", None, 3, 4.0, 5.5, True, float("inf"), 10**400, "NA"]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("with_rating", [True, False])
def test_rows_taken_at_once_are_the_rows_taken_one_by_one(seed, with_rating, monkeypatch):
    random = np.random.default_rng(seed)
    kinds = [VALUES[:2], VALUES[8:11], VALUES][seed % 3]  # all texts, all numbers, everything

    def rows():
        for line in range(40):
            yield line, tuple(kinds[k] for k in local.integers(0, len(kinds), 4 if with_rating else 3))

    def collect():
        bad = BadRows("skip")
        names = ("u", "i", "t", "r" if with_rating else None)
        chunks = list(sources.interaction_chunks(Path("a.csv"), rows(), names, None, bad))
        columns = [
            [value for chunk in chunks for value in getattr(chunk, name)]
            for name in ("lines", "users", "items", "times")
        ]
        ratings = [value for chunk in chunks for value in chunk.ratings] if with_rating else None
        return columns, ratings, bad.counts

    monkeypatch.setattr(sources, "CHUNK_ROWS", 7)
    state = random.integers(1 << 30)
    local = np.random.default_rng(state)
    at_once = collect()
    monkeypatch.setattr(sources, "_plain_numbers", lambda values: None)
    local = np.random.default_rng(state)
    assert collect() == at_once
    if kinds is VALUES:
        assert at_once[2]


def test_an_empty_log_is_an_error():
    with pytest.raises(PreparationError, match="no usable interaction"):
        InteractionLog().finish()


def test_without_times_the_rows_of_a_user_are_numbered():
    log = InteractionLog()
    log.add(chunk(list("aabab"), list("vwxyz")), BadRows())
    assert log.finish().times.tolist() == [1.0, 2.0, 1.0, 3.0, 2.0]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("keep", ["first", "last", "keep"])
def test_duplicates_as_a_loop_drops_them(seed, keep):
    data = random_interactions(seed)
    rows = sorted(range(len(data)), key=lambda row: data.times[row])  # stable
    first, last = {}, {}
    for row in rows:
        pair = int(data.users[row]), int(data.items[row])
        first.setdefault(pair, row)
        last[pair] = row
    assert count_duplicates(data.users, data.items) == len(rows) - len(first)
    kept = {"keep": rows, "first": first.values(), "last": last.values()}[keep]
    assert np.flatnonzero(duplicate_mask(data, keep)).tolist() == sorted(kept)


@pytest.mark.parametrize("seed", range(10))
def test_ties_and_orders(seed):
    data = random_interactions(seed)
    table = frame(data)
    by_time = table.sort_values(["u", "t"], kind="stable")
    assert count_ties(data.users, data.times) == sum(
        int((group["t"].diff() == 0).sum()) for _, group in by_time.groupby("u")
    )
    assert output_order(data, "source", "file", 0).tolist() == list(range(len(data)))
    assert output_order(data, "time", "file", 0).tolist() == table.sort_values("t", kind="stable")["row"].tolist()
    for order in ("source", "time"):
        plain, shuffled = output_order(data, order, "file", 0), output_order(data, order, "shuffle", seed)
        assert sorted(shuffled) == list(range(len(data)))
        # Every place still has a row of the same user and time; only which one it is has changed.
        assert np.array_equal(data.users[plain], data.users[shuffled])
        assert np.array_equal(data.times[plain], data.times[shuffled])
        assert not np.array_equal(plain, shuffled)
        assert np.array_equal(shuffled, output_order(data, order, "shuffle", seed))


def test_without_ties_a_shuffle_changes_nothing():
    data = random_interactions(0)
    data = Interactions(data.users, data.items, np.random.default_rng(1).permutation(len(data)) * 1.0, None)
    assert np.array_equal(output_order(data, "source", "shuffle", 5), np.arange(len(data)))


def test_unknown_options():
    data = random_interactions(0)
    with pytest.raises(PreparationError, match="duplicates='none'"):
        duplicate_mask(data, "none")
    with pytest.raises(PreparationError, match="order='user'"):
        output_order(data, "user", "file", 0)
    with pytest.raises(PreparationError, match="ties='random'"):
        output_order(data, "time", "random", 0)
