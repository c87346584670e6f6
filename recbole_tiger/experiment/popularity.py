"""The most popular training items as a run of their own, and as the metrics beside every other run.

Input: a ``Config`` and its data. Output: a `RunResult` and ``ranks.npz``, or metrics by phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from recbole.config import Config

from recbole_tiger.evaluation.evaluator import Ranks, metrics_of_ranks, popularity_ranks
from recbole_tiger.evaluation.significance import save_ranks
from recbole_tiger.experiment.loading import PreparedData, prepare_data
from recbole_tiger.experiment.provenance import environment, provenance, split_report
from recbole_tiger.experiment.result import RunResult
from recbole_tiger.models import POP
from recbole_tiger.settings.plain import plain_settings

PHASES = ("valid", "test")


def rank_popularity(config: Config, data: PreparedData, phases: Sequence[str] = PHASES) -> dict[str, Ranks]:
    """Ranks of held-out items when the most popular training items are recommended, under the run's own switches."""
    ranks = {}
    for phase in phases:
        dataset = getattr(data, phase)._dataset
        users, targets = (dataset.inter_feat[name].numpy() for name in (dataset.uid_field, dataset.iid_field))
        masked = bool(config["mask_seen_items"])
        found = popularity_ranks(data.dataset.sequences, users, targets, phase, dataset.item_num, mask_seen=masked)
        ranks[phase] = Ranks(users, found)
    return ranks


def popularity_row(config: Config, data: PreparedData, phases: Sequence[str] = PHASES) -> dict[str, dict]:
    """The metrics of :func:`rank_popularity`, by phase."""
    ranks = rank_popularity(config, data, phases)
    return {phase: dict(metrics_of_ranks(config, found.ranks)) for phase, found in ranks.items()}


def run_popularity(config: Config, folder: Path) -> RunResult:
    """The popularity row as a run of its own; its ranks are written into the folder, its result is not.

    Args:
        config: of any model under the settings of the row.
    """
    started = perf_counter()
    data = prepare_data(config)
    loaded = perf_counter()
    ranks = rank_popularity(config, data)
    metrics = {phase: dict(metrics_of_ranks(config, found.ranks)) for phase, found in ranks.items()}
    seconds = perf_counter() - loaded
    save_ranks(folder / "ranks.npz", ranks, max(config["topk"]))
    stages = {"data": loaded - started, "training": 0.0, "validation": 0.0, "test": seconds}
    return RunResult(
        model=POP,
        dataset=config["dataset"],
        best_valid_score=metrics["valid"].get(config["valid_metric"].lower()),  # None for one of whole lists
        valid_score_bigger=config["valid_metric_bigger"],
        best_valid_result=metrics["valid"],
        test_result=metrics["test"],
        seconds={**stages, "all": perf_counter() - started},
        parameters=0,
        examples_per_second={"training": None, "test": len(ranks["test"].users) / max(seconds, 1e-9)},
        history=[],
        data_checksum=data.checksum,
        split=split_report(data.dataset),
        environment=environment(config),
        **{**provenance(config), "loss": None, "seed": None},
        run_dir=str(folder),
        config={**plain_settings(config), "model": POP, "loss_type": None},
    )
