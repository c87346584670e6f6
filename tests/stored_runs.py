"""Finished runs as the leaderboard finds them on disk, without training."""

from __future__ import annotations

import json

import numpy as np

from recbole_tiger.evaluation.evaluator import Ranks
from recbole_tiger.evaluation.significance import save_ranks, user_values

METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
PROTOCOL = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": {"test": "full"}},
    "mask_seen_items": False,
    "tie_order": "file",
    "MAX_ITEM_LIST_LENGTH": 20,
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 4,
}


def store(root, model, seed, ranks, *, label=None, config=None, dataset="toy", checksum="abcd1234", **more):
    """A finished run of a model whose test items stood at these ranks."""
    folder = root / f"{dataset}-{label or model}-{seed}-{checksum}-{len(list(root.glob('*')))}"
    folder.mkdir(parents=True)
    found = Ranks(np.arange(1, len(ranks) + 1), np.asarray(ranks))
    save_ranks(folder / "ranks.npz", {"test": found}, 10)
    result = {
        "model": model, "dataset": dataset, "seed": seed, "data_checksum": checksum,
        "test_result": {m: float(user_values(found, m).mean(dtype=np.float64)) for m in METRICS},
        "best_valid_result": {}, "valid_score_bigger": True, "parameters": 1000,
        "seconds": {"training": 10.0, "validation": 2.0, "test": 0.5},
        "examples_per_second": {"training": 100.0, "test": 50.0},
        "history": [{"epoch": e, "train_loss": 1.0, "valid": {"ndcg@10": 0.01 * (e + 1)}} for e in range(3)],
        "environment": {"device": "cpu", "threads": 1, "python": "3.11", "versions": {"torch": "2"}},
        "recipe": None, "loss": "CE", "commit": "0123456789abcdef", "dirty": False,
        "config": {"model": model, "seed": seed, **PROTOCOL, **(config or {})}, **more,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    if label:
        (folder / "run.json").write_text(json.dumps({"label": label, "row": label, "seed": seed, "model": model}))
    return folder
