"""A trained run as the analyses look at it: a model, its test users, and what it recommends them.

Input: the settings of a run, or its checkpoint. Output: the loaded run, and recommendations for its test users.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from recbole_tiger.decoding import BeamResult, of_one_width
from recbole_tiger.experiment.loading import load_data_and_model
from recbole_tiger.experiment.run import run_config


@dataclass(frozen=True)
class TestUsers:
    """The rows of the test set; all tensors on the model's device.

    Attributes:
        users: [n] internal user numbers.
        history: [n, H] item numbers in time order, padded with 0 at the end.
        lengths: [n] items of each history.
        targets: [n] held-out items.
        excluded: [n, S] items that must not be recommended (`mask_seen_items`), padded with 0; None for no such rule.
    """

    __test__ = False  # not a test, whatever pytest makes of the name

    users: torch.Tensor
    history: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor
    excluded: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, index: torch.Tensor | slice) -> TestUsers:
        """Some of the rows."""
        excluded = None if self.excluded is None else self.excluded[index]
        return TestUsers(self.users[index], self.history[index], self.lengths[index], self.targets[index], excluded)

    def chunks(self, size: int, progress: str) -> Iterator[TestUsers]:
        """All rows, `size` at a time, with a bar at a terminal."""
        starts = range(0, len(self), size)
        hidden = not sys.stderr.isatty() or len(starts) < 2
        for start in tqdm(starts, desc=progress, ncols=100, disable=hidden):
            yield self.rows(slice(start, start + size))


@dataclass(frozen=True)
class TrainedRun:
    """A trained model and the data it was trained on."""

    config: Any
    model: Any
    dataset: Any
    test: TestUsers
    checkpoint: str

    def describe(self) -> dict:
        """What a result says about the run: one line under "about", and its settings."""
        config, table = self.config, self.model.prepared_ids.table
        recipe, sizes = f" ({config['recipe']})" if config["recipe"] else "", " x ".join(map(str, table.level_sizes))
        return {
            "about": f"{config['model']}{recipe} on {config['dataset']}: {len(self.test):,} test users, "
            f"{table.n_items:,} items, IDs of {sizes} codewords, seed {config['seed']}",
            **{key: config[key] for key in ("model", "recipe", "dataset", "seed", "beam_size")},
            "checkpoint": self.checkpoint,
            "users": len(self.test),
            "mask_seen_items": bool(config["mask_seen_items"]),
            "level_sizes": list(table.level_sizes),
            "n_items": table.n_items,
        }


def open_run(config, checkpoint: str | None, n_users: int | None = None) -> TrainedRun:
    """Load the run of a checkpoint; without one, train that of the settings first.

    Of the test users `n_users` are drawn with the run's seed; None for all.
    """
    if checkpoint is None:
        checkpoint = run_config(config)["files"]["checkpoint"]
    config, model, dataset, _, _, test = load_data_and_model(checkpoint)
    model.eval()
    users = test_users(config, dataset, test)
    if n_users is not None and n_users < len(users):
        chosen = np.random.default_rng(config["seed"]).choice(len(users), n_users, replace=False)
        users = users.rows(torch.from_numpy(np.sort(chosen)).to(users.users.device))
    return TrainedRun(config, model, dataset, users, str(checkpoint))


def test_users(config, dataset, loader) -> TestUsers:
    """The rows of a test loader."""
    feat, device = loader._dataset.inter_feat, config["device"]
    users, items = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
    excluded = None
    if config["mask_seen_items"]:
        seen = dataset.sequences.seen_before(feat[users].numpy(), loader._dataset.phase)
        excluded = torch.from_numpy(seen).to(device)
    columns = (users, items + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"], items)
    numbers, history, lengths, targets = (feat[column].to(device) for column in columns)
    return TestUsers(numbers, history, lengths, targets, excluded)


test_users.__test__ = False  # type: ignore[attr-defined]  # functions take attributes


def joined(parts: Sequence[BeamResult]) -> BeamResult:
    """The results of consecutive rows as one, on the CPU, all as wide as the widest."""
    parts = of_one_width(parts)
    return BeamResult(torch.cat([p.items for p in parts]).cpu(), torch.cat([p.scores for p in parts]).cpu())


def recommend_users(run: TrainedRun, k: int, progress: str, **options) -> BeamResult:
    """The model's k items for every test user, as its evaluation finds them; `options` go to `model.recommend`."""
    return joined(
        [
            run.model.recommend(part.users, part.history, part.lengths, k, excluded=part.excluded, **options)
            for part in run.test.chunks(run.config["eval_batch_size"], progress)
        ]
    )


@contextmanager
def not_rescored(model) -> Iterator[None]:
    """A `with` block in which a model's lists are in the order in which its search finds them."""
    weight, model.rescore_weight = model.rescore_weight, 0.0
    try:
        yield
    finally:
        model.rescore_weight = weight


def recall(items: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of rows [n, K] that hold their target [n]."""
    return float((items == targets.cpu()[:, None]).any(1).double().mean())
