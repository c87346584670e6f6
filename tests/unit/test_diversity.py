"""Entropy of categories, by hand and against scipy."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from recbole_tiger.analysis import diversity
from recbole_tiger.analysis.diversity import entropy_at_k


def test_by_hand():
    lists = np.array([[0, 0, 0, 0], [0, 1, 2, 3], [5, 1, 5, 1], [2, 2, 2, 1]])
    expected = [0, math.log(4), math.log(2), -0.75 * math.log(0.75) - 0.25 * math.log(0.25)]
    assert entropy_at_k(lists) == pytest.approx(expected)


def test_items_without_a_category_do_not_count():
    assert entropy_at_k(np.array([[-1, 3, -1, 4], [-1, -1, 7, -1], [-1, -1, -1, -1]])) == pytest.approx(
        [math.log(2), 0, 0]
    )


def test_against_scipy():
    lists = np.random.default_rng(0).integers(-1, 5, (300, 11))
    for row, value in zip(lists, entropy_at_k(lists), strict=True):
        counts = np.bincount(row[row >= 0], minlength=1)
        assert value == pytest.approx(entropy(counts) if counts.sum() else 0.0)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([["Beauty", "Hair", "Care", "Oil"], ["Beauty", "Nails"], [], ["Beauty"]], ["Hair > Care", "Nails", "", ""]),
        ([["Drama", "Romance"], ["Comedy"], []], ["Drama", "Comedy", ""]),
        ([["Toys"], ["Toys"]], ["Toys", "Toys"]),
    ],
)
def test_what_a_category_is(paths, expected, monkeypatch):
    monkeypatch.setattr(diversity, "category_paths", lambda *a, **b: paths)
    monkeypatch.setattr(diversity, "item_table", lambda config: None)
    run = SimpleNamespace(
        config={"item_feature": "c", "ITEM_ID_FIELD": "item_id", "seq_separator": " ", "dataset": "d"},
        dataset=SimpleNamespace(iid_field="item_id", field2id_token={"item_id": ["[PAD]", *"abcd"]}),
    )
    assert diversity.categories(run, None, 2)[0] == expected


def test_the_view_of_table_4():
    codes, known = diversity.category_codes(["x", "x", "y", "", "z"])  # items 1..5
    assert codes.tolist() == [-1, 0, 0, 1, -1, 2] and known == ["x", "y", "z"]
    run = SimpleNamespace(test=SimpleNamespace(targets=torch.tensor([1, 2, 3, 4])))
    items = torch.tensor([[1, 3, 4], [2, 1, 5], [5, 5, 0], [1, 1, 1]])
    view = diversity.offered_categories(codes, known, run, items)
    assert view == {"x": [["x", 3 / 5], ["y", 1 / 5], ["z", 1 / 5]], "y": [["z", 1.0]]}
