"""One run: data, training in one or two stages, test, and the record of it.

Input: a checked ``Config``. Output: RecBole's result dictionary with more in it, and ``result.json`` in the run folder.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from time import perf_counter

import torch
from recbole.config import Config
from recbole.utils import init_seed, set_color

from recbole_tiger.datasets.paper_counts import against_table2, table2_text
from recbole_tiger.distributed import collectives
from recbole_tiger.distributed.launcher import run_in_processes
from recbole_tiger.distributed.topology import OF_MACHINE, Topology
from recbole_tiger.errors import ConfigError
from recbole_tiger.evaluation.evaluator import Ranks, metrics_of_ranks
from recbole_tiger.evaluation.popularity import popularity_ranks
from recbole_tiger.evaluation.significance import save_ranks
from recbole_tiger.experiment.configuration import config_from_plain
from recbole_tiger.experiment.loading import PreparedData, make_trainer, prepare_data, start_logging
from recbole_tiger.experiment.provenance import (
    counts_of_table2,
    data_checksum,
    environment,
    provenance,
    source_state,
    split_report,
)
from recbole_tiger.io import atomic_write_text
from recbole_tiger.settings.plain import plain_settings
from recbole_tiger.tokenization import TokenizedCatalogue
from recbole_tiger.training.sequential import SequentialTrainer


def start_run(config: Config, saved: bool = True) -> dict:
    """:func:`run_config`, in as many processes as `nproc` and `world_size` ask for.

    Args:
        config: from ``build_config(..., spread=True)``.
    """
    spread = Topology.of(config)
    if spread.everywhere == 1:
        return run_config(config, saved=saved)
    return run_in_processes(_run_share, (plain_settings(config), saved), spread)


def _run_share(settings: dict, saved: bool) -> dict:
    """:func:`run_config` in one of several processes, which must agree on the settings and on the data."""
    config = config_from_plain(settings)
    if config["device"].type == "cuda":
        config["device"] = torch.device("cuda", torch.cuda.current_device())
    different = collectives.differences({key: value for key, value in settings.items() if key not in OF_MACHINE})
    if different:
        raise ConfigError(
            f"{', '.join(different)}: the machines of this run have different settings; give all of them the same command, "
            "but for group_offset and places"
        )
    if not collectives.is_main():
        for key in ("show_progress", "log_wandb"):
            config[key] = False
    return run_config(config, saved=saved)


def run_config(
    config: Config,
    saved: bool = True,
    *,
    test: bool = True,
    on_epoch: Callable[[SequentialTrainer, PreparedData], None] | None = None,
) -> dict:
    """Train and test under a checked ``Config``, in this process or as one of several (:func:`start_run`).

    Args:
        config: from :func:`recbole_tiger.experiment.configuration.build_config`.
        saved: keep the best and the last checkpoint in the run folder.
        test: False leaves the test set alone: no test metrics, and none of the popularity row.
        on_epoch: called with the trainer and the data after each validated epoch, once its checkpoints are written; for a
            resumed run that has nothing left to do, once.
    """
    started = perf_counter()
    source_state()  # kept for the result: the checkout may be another one when this run ends
    log_file = start_logging(config)
    init_seed(config["seed"], config["reproducibility"])
    logger = getLogger()
    logger.info(config)
    data = prepare_data(config)
    checksum = data_checksum(data.dataset)
    if collectives.differences({"data": checksum}):
        raise ConfigError(
            f"data_path='{config['data_path']}': the machines of this run hold different data under that name; copy the "
            "dataset's folder from one to the others"
        )
    logger.info(data.dataset)
    table2 = against_table2(config["dataset"], lambda: counts_of_table2(data.dataset))
    if table2 is not None:
        (logger.warning if table2["different"] else logger.info)(table2_text(config["dataset"], table2))
    seconds = {"data": perf_counter() - started}
    prepared: TokenizedCatalogue | None = getattr(data.dataset, "semantic_ids", None)
    if prepared is not None:
        seconds["data"] -= sum(prepared.seconds.values())
        seconds.update(prepared.seconds)

    _check_run_dir(config)
    if config["model"] == "S3Rec":
        trainer = _pretrained_s3rec(config, data)
    else:
        trainer = make_trainer(config, data)
    logger.info(trainer.model)
    if config["resume"]:
        trainer.resume_checkpoint(config["resume"])
    show = bool(config["show_progress"]) and sys.stderr.isatty()
    if on_epoch is not None and trainer.finished:
        on_epoch(trainer, data)
    ranks: dict[str, Ranks] = {}

    def after_epoch(epoch: int, score: float) -> None:
        if trainer.cur_step == 0:  # the best so far
            ranks["valid"] = trainer.ranks
        if on_epoch is not None:
            on_epoch(trainer, data)

    best_score, best_result = trainer.fit(
        data.train, data.valid, saved=saved, show_progress=show, callback_fn=after_epoch
    )
    tested = perf_counter()
    test_result = trainer.evaluate(data.test, load_best_model=saved, show_progress=show) if test else None
    seconds.update(trainer.seconds, test=perf_counter() - tested)
    if test:
        ranks["test"] = trainer.ranks
    id_level = trainer.id_level if test else None
    if "valid" not in ranks and best_result:  # the best epoch lies before the checkpoint that this run continued
        trainer.evaluate(data.valid, load_best_model=saved, show_progress=show)
        ranks["valid"] = trainer.ranks
    seconds["all"] = perf_counter() - started
    if not collectives.is_main():
        return collectives.from_main(dict)  # the result that the first process records below

    result = {
        "model": config["model"],
        "dataset": config["dataset"],
        "table2": table2,
        "best_valid_score": best_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": best_result,
        "test_result": test_result,
        "id_level_test_result": id_level,
        "popularity": popularity_row(config, data, ("valid", "test") if test else ("valid",)),
        "semantic_ids": None if prepared is None else prepared.table.report(),
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "files": {} if prepared is None else dict(prepared.files),
        "cached": [] if prepared is None else list(prepared.cached),
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "examples_seen": trainer.examples_seen,
        "examples_per_second": {
            "training": _rate(
                trainer.examples_seen or len(data.train._dataset) * _passes(trainer), seconds["training"]
            ),
            "test": _rate(len(ranks["test"].users), seconds["test"]) if test else None,
        },
        "history": trainer.history,
        "peak_memory_mb": round(_peak_memory_mb()),
        "data_checksum": checksum,
        "split": split_report(data.dataset),
        "environment": environment(config),
        **provenance(config),
        "run_dir": str(trainer.run_dir),
        "config": plain_settings(config),
    }
    result["files"].update(_run_files(trainer, prepared, saved))
    result["files"].update(
        {"log": log_file, "ranks": str(trainer.run_dir / "ranks.npz"), "result": str(trainer.run_dir / "result.json")}
    )
    save_ranks(result["files"]["ranks"], ranks, max(config["topk"]))
    atomic_write_text(result["files"]["result"], json.dumps(_jsonable(result), indent=1))
    logger.info(set_color("best valid ", "yellow") + f": {best_result and trainer.rounded(best_result)}")
    logger.info(set_color("test result", "yellow") + f": {test_result and trainer.rounded(test_result)}")
    return collectives.from_main(lambda: result)


def _check_run_dir(config: Config) -> None:
    """Raise where a new run would overwrite another one, or be continued from its checkpoint."""
    if not config["run_dir"] or config["resume"]:
        return
    folder, files = Path(config["run_dir"]), ("last.pth", "best.pth", "result.json")
    there = collectives.from_main(lambda: [name for name in files if (folder / name).exists()])
    if there:
        raise ConfigError(
            f"run_dir='{config['run_dir']}' holds a run already ({', '.join(there)}); name another folder, or continue that run "
            f"with --resume={folder / 'last.pth'}"
        )


def _passes(trainer: SequentialTrainer) -> int:
    """Passes over the training rows: epochs, and those of a first stage of this very run."""
    is_own = (trainer.run_dir / "pretrained.pth").is_file()
    return len(trainer.history) + (trainer.config["pretrain_epochs"] if is_own else 0)


def _pretrained_s3rec(config: Config, data: PreparedData) -> SequentialTrainer:
    """S3Rec after its self-supervised stage, ready for the second."""
    if config["resume"] or config["pre_model_path"]:
        config["train_stage"] = "finetune"
        config["pre_model_path"] = config["pre_model_path"] or str(Path(config["resume"]).parent / "pretrained.pth")
        return make_trainer(config, data)
    config["train_stage"] = "pretrain"
    first = make_trainer(config, data)
    config["pre_model_path"] = first.pretrain(
        data.train, show_progress=bool(config["show_progress"]) and sys.stderr.isatty()
    )
    config["train_stage"] = "finetune"
    config["run_dir"] = str(first.run_dir)
    second = make_trainer(config, data)
    second.seconds = first.seconds
    return second


def popularity_row(config: Config, data: PreparedData, phases: Sequence[str] = ("valid", "test")) -> dict:
    """Validation and test metrics of recommending the most popular training items, under the same switches."""
    rows = {}
    for phase in phases:
        loader = {"valid": data.valid, "test": data.test}[phase]
        feat, dataset = loader._dataset.inter_feat, loader._dataset
        ranks = popularity_ranks(
            data.dataset.sequences,
            feat[dataset.uid_field].numpy(),
            feat[dataset.iid_field].numpy(),
            phase,
            dataset.item_num,
            mask_seen=bool(config["mask_seen_items"]),
        )
        rows[phase] = dict(metrics_of_ranks(config, ranks))
    return rows


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 1) if seconds > 0 else None


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def _run_files(trainer: SequentialTrainer, prepared: TokenizedCatalogue | None, saved: bool) -> dict:
    files = {"checkpoint": trainer.saved_model_file, "last checkpoint": trainer.last_model_file} if saved else {}
    if prepared is not None:
        path = trainer.run_dir / "semantic_ids.json"
        prepared.table.to_file(path, overwrite=True)
        files["semantic ids"] = str(path)
    return files


def _jsonable(value):
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, torch.Tensor):
        return value.item()
    return value
