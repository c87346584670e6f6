"""The generator: its rule and its hierarchy are known, so the files must show them."""

import numpy as np
import pytest

from recbole_tiger.datasets import synthetic
from recbole_tiger.datasets.atomic_writer import data_checksum
from recbole_tiger.datasets.check import check_dataset
from recbole_tiger.datasets.synthetic import (
    SyntheticCatalogue,
    SyntheticUsers,
    default_branching,
    word,
    write_dataset,
)
from recbole_tiger.errors import PreparationError


def read(folder, suffix):
    lines = (folder / "made" / f"made.{suffix}").read_text(encoding="utf-8").split("\n")
    return [line.split("\t") for line in lines[1:-1]]


def sequences(folder):
    """Token sequences by user; the rows of a user stand together, in time order."""
    users = {}
    for user, item, time in read(folder, "inter"):
        users.setdefault(user, []).append((int(time), item))
    for rows in users.values():
        assert all(a[0] < b[0] for a, b in zip(rows, rows[1:]))  # noqa: B905
    return {user: [item for _, item in rows] for user, rows in users.items()}


def test_numbers_are_kept_exactly_and_the_dataset_is_sound(tmp_path):
    write_dataset(tmp_path, "made", 200, 60, 2000, progress=False)
    report = check_dataset(tmp_path, "made", progress=False)
    assert (report["users"], report["interactions"]) == (200, 2000)
    assert report["user_lengths"]["least"] >= 5
    assert report["ties"]["pairs"] == report["ties"]["misordered"] == 0
    starts = {user: int(time) for user, _, time in reversed(read(tmp_path, "inter"))}
    assert 0 <= min(starts.values()) - synthetic.FIRST_TIME and np.ptp(list(starts.values())) > 10_000_000
    assert max(starts.values()) - synthetic.FIRST_TIME < synthetic.START_SPREAD
    table = report["item_table"]
    assert (table["rows"], table["interacted_without_row"], table["same_text"]) == (60, 0, 0)
    assert set(table["fields"].values()) == {1.0}
    # Tokens tell nothing, although the positions follow each other.
    assert report["leak"]["ids"]["share"] < 0.05


def test_same_seed_same_bytes_and_the_size_of_blocks_of_items_is_no_matter(tmp_path, monkeypatch):
    sums = []
    for name, seed, block in (("a", 1, 1 << 16), ("b", 1, 7), ("c", 2, 1 << 16)):
        monkeypatch.setattr(synthetic, "ITEMS_AT_ONCE", block)
        write_dataset(tmp_path / name, "made", 50, 40, 400, seed=seed, progress=False)
        sums.append(data_checksum(tmp_path / name, "made"))
    assert sums[0] == sums[1] != sums[2]


@pytest.mark.parametrize("n_items, branching", [(60, None), (97, (3, 2)), (10, (4, 4)), (1000, (5, 4, 3))])
def test_the_rule_holds_as_often_as_it_should(tmp_path, n_items, branching):
    catalogue = write_dataset(
        tmp_path,
        "made",
        400,
        n_items,
        8000,
        branching=branching,
        rule_strength=0.7,
        item_share=0.6,
        progress=False,
    )
    position = {f"i{number}": p for p, number in enumerate(catalogue.token_numbers.tolist())}
    assert sorted(catalogue.token_numbers.tolist()) == list(range(1, n_items + 1))
    before, after = [], []
    for sequence in sequences(tmp_path).values():
        positions = [position[token] for token in sequence]
        before += positions[:-1]
        after += positions[1:]
    before, after = np.array(before), np.array(after)
    successor = catalogue.successor(before)
    n_leaves = min(catalogue.n_leaves, n_items)
    exact = (after == successor).mean()
    leaf = (catalogue.leaf(after) == catalogue.leaf(successor)).mean()
    # At least 0.42 by the rule; popularity hits some more by chance, all in the right leaf.
    assert leaf == pytest.approx(0.7 + 0.3 / n_leaves, abs=0.02)
    assert 0.42 - 0.02 < exact <= leaf
    if n_items >= 1000:  # large leaves: popularity alone seldom hits the successor
        assert exact < 0.55


def test_without_a_rule_items_follow_by_popularity_only(tmp_path):
    catalogue = SyntheticCatalogue(500, (2, 5))
    users = SyntheticUsers(catalogue, 2000, 20_000, rule_strength=0.0)
    positions = np.concatenate([positions for _, positions, _ in users.blocks()])
    leaves = np.bincount(catalogue.leaf(positions), minlength=10) / len(positions)
    assert leaves == pytest.approx(np.full(10, 0.1), abs=0.01)
    ranks = np.bincount(positions // 10, minlength=50) / len(positions)
    edges = np.log(np.arange(1, 52)) / np.log(51)  # the power law with exponent 1, between whole numbers
    assert ranks == pytest.approx(np.diff(edges), abs=0.01)


@pytest.mark.parametrize("skew, tolerance", [(0.0, 0.15), (0.5, 0.15), (2.0, 0.15)])
def test_popularity_skew(skew, tolerance):
    catalogue = SyntheticCatalogue(64, (1,))
    users = SyntheticUsers(catalogue, 4000, 40_000, rule_strength=0.0, popularity_skew=skew)
    positions = np.concatenate([positions for _, positions, _ in users.blocks()])
    counts = np.bincount(positions, minlength=64)
    edges = np.arange(1, 66, dtype=float)
    mass = np.log(edges) if skew == 1 else edges ** (1 - skew) / (1 - skew)
    expected = np.diff(mass) / (mass[-1] - mass[0])
    assert counts[:8] / len(positions) == pytest.approx(expected[:8], rel=tolerance)


def test_text_follows_the_hierarchy(tmp_path):
    catalogue = write_dataset(tmp_path, "made", 20, 60, 200, branching=(2, 3, 2), progress=False)
    items = {row[0]: row[1:] for row in read(tmp_path, "item")}
    for p, number in enumerate(catalogue.token_numbers.tolist()):
        title, categories, brand, price = items[f"i{number}"]
        path = catalogue.path(int(catalogue.leaf(np.array(p))))
        assert categories.split(" ") == list(path) and len(path) == 3
        assert title.startswith(brand) and path[-1] in title and path[-2] in title
        assert float(price) > 0
    names = {name for leaf in range(12) for name in catalogue.path(leaf)}
    assert len(names) == 2 + 6 + 12  # every node of the tree has a name of its own
    # Siblings share their parents: mixed radix, coarse first.
    assert catalogue.path(0)[:2] == catalogue.path(1)[:2] and catalogue.path(0)[0] != catalogue.path(6)[0]


def test_names_are_all_different():
    names = [word(index) for index in range(20_000)]
    assert len(set(names)) == len(names) and names[0] == "Baba"
    assert all(name.isalpha() and name[0].isupper() for name in names)


def test_trees_grow_with_the_catalogue_up_to_a_limit():
    assert default_branching(60) == (2, 2, 2)
    assert default_branching(10_000) == (10, 10, 10)
    assert default_branching(10_000_000) == (32, 32, 32)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_users": 0}, "n_users=0"),
        ({"n_items": 1}, "n_items=1"),
        ({"n_interactions": 99}, "n_interactions=99 must be at least 100, min_length=5 for each of 20 users"),
        ({"min_length": 0}, "min_length=0"),
        ({"rule_strength": 1.5}, "rule_strength=1.5"),
        ({"item_share": -0.1}, "item_share=-0.1"),
        ({"popularity_skew": -1}, "popularity_skew=-1"),
        ({"branching": (2, 0)}, "branching"),
    ],
)
def test_impossible_numbers(tmp_path, change, message):
    with pytest.raises(PreparationError, match=message):
        write_dataset(
            tmp_path,
            "made",
            **{"n_users": 20, "n_items": 30, "n_interactions": 200, **change},
            progress=False,
        )
    assert not (tmp_path / "made").exists()
