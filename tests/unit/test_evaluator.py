"""Top-k evaluation against RecBole's collector and evaluator on dense scores (oracle 3)."""

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector
from recbole.evaluator.metrics import GiniIndex, ItemCoverage, ShannonEntropy

from recbole_tiger.evaluation.evaluator import (
    collect_topk,
    expected_metrics,
    metrics_of_ranks,
    tied_ranks,
    topk_of_scores,
    unrounded_evaluator,
)
from recbole_tiger.experiment.configuration import build_config

METRICS = ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP", "ItemCoverage", "ShannonEntropy"]


@pytest.fixture()
def config(workplace):
    return build_config("TIGER", "ml-100k", config_dict={"metrics": METRICS, "topk": [1, 5, 10]})


def recbole_result(config, scores, target):
    collector = Collector(config)
    collector.data_struct.set("data.num_items", scores.shape[1])
    rows = torch.arange(len(target))
    for part in rows.split(7):
        collector.eval_batch_collect(scores[part].clone(), None, torch.arange(len(part)), target[part])
    return unrounded_evaluator(config).evaluate(collector.get_data_struct())


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_lists_equal_recboles_on_dense_scores(config, seed):
    torch.manual_seed(seed)
    n, items = 40, 30
    scores, target = torch.randn(n, items), torch.randint(1, items, (n,))
    scores[:, 0] = -torch.inf
    expected = recbole_result(config, scores, target)
    collector = Collector(config)
    collector.data_struct.set("data.num_items", items)
    ranks = []
    for part in torch.arange(n).split(16):
        ranks.append(collect_topk(collector, topk_of_scores(scores[part].clone(), 10), target[part]))
    result = unrounded_evaluator(config).evaluate(collector.get_data_struct())
    assert dict(result) == dict(expected)
    by_hand = (scores > scores.gather(1, target[:, None])).sum(1)
    assert torch.equal(torch.cat(ranks), torch.where(by_hand < 10, by_hand, -1))
    from_ranks = metrics_of_ranks(config, torch.cat(ranks).numpy())
    assert set(from_ranks) == {name for name in expected if not name.startswith(("itemcoverage", "shannon"))}
    assert all(from_ranks[name] == expected[name] for name in from_ranks)


def test_excluded_items_leave_and_short_lists_are_not_filled_up():
    scores = torch.tensor([[9.0, 3.0, 2.0, 1.0], [9.0, -torch.inf, 2.0, -torch.inf]])
    items = topk_of_scores(scores, 6, excluded=torch.tensor([[1, 0], [0, 0]]))
    assert items.tolist() == [[2, 3, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]]


def test_padding_of_short_lists_is_no_item(config):
    lists, p = np.array([[1, 2, 0], [1, 0, 0]]), np.array([2, 1]) / 3
    assert ItemCoverage(config).get_coverage(lists, 4) == 2 / 4
    assert ShannonEntropy(config).get_entropy(lists) == pytest.approx(-(p * np.log(p)).sum() / 2)
    assert GiniIndex(config).get_gini(lists, 4) == pytest.approx((1 * 1 + 3 * 2) / 3 / 4)  # counts 0, 0, 1, 2
    assert ShannonEntropy(config).get_entropy(0 * lists) == 0


def test_metrics_by_the_formula(config):
    ranks = np.array([0, 3, 9, -1, 12])
    result = metrics_of_ranks(config, ranks)
    assert result["recall@5"] == pytest.approx(2 / 5) and result["recall@10"] == pytest.approx(3 / 5)
    assert result["ndcg@10"] == pytest.approx((1 + 1 / np.log2(5) + 1 / np.log2(11)) / 5)


@pytest.mark.parametrize("seed", range(3))
def test_expected_metrics_are_the_mean_over_all_orders_of_tied_items(config, seed):
    rng = np.random.default_rng(seed)
    ranks, ties = rng.integers(-1, 10, 30), rng.integers(1, 5, 30)
    total = dict.fromkeys(metrics_of_ranks(config, ranks), 0.0)
    for rank, tie in zip(ranks, ties, strict=True):
        places = [rank + i if rank >= 0 and rank + i < 10 else -1 for i in range(tie)]
        one = metrics_of_ranks(config, np.array(places))  # a mean over the places
        total = {name: total[name] + one[name] / 30 for name in total}
    assert expected_metrics(config, ranks, ties) == pytest.approx(total)
    assert expected_metrics(config, ranks, np.ones_like(ties)) == pytest.approx(metrics_of_ranks(config, ranks))


def test_places_of_items_that_share_an_id():
    ids = torch.tensor([[7, 3, 9, -1], [7, 3, 9, 5], [7, 3, 9, 5], [7, 3, 9, 5]])
    counts = torch.tensor([[2, 3, 1, 0], [4, 3, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    target = torch.tensor([3, 9, 6, 3])
    reachable = torch.tensor([True, True, True, False])
    first, ties, place = tied_ranks(ids, counts, target, reachable, k=5)
    assert first.tolist() == [
        2,
        -1,
        -1,
        -1,
    ]  # the second stands after 7 items: beyond the list, though third of the IDs
    assert ties.tolist() == [3, 1, 1, 1]
    assert place.tolist() == [1, 2, -1, -1]
