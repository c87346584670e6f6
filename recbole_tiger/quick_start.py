"""One run from settings to a result: RecBole's ``run_recbole`` with safe checkpoints, two stages where a model has two,
and a report.

Comes in: a model, a dataset and settings. Goes out: RecBole's result dictionary with more in it, and ``result.json`` in
the run folder.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from logging import getLogger
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_logger, init_seed, set_color

from recbole_tiger import processes
from recbole_tiger import trainer as trainers
from recbole_tiger.checkpoint import load_checkpoint
from recbole_tiger.config import (
    build_config,
    check_settings,
    config_from_plain,
    known_keys,
    parse_value,
    plain_settings,
    precision_of,
    read_yaml,
)
from recbole_tiger.data.dataset import FeatureDataset, order_interactions
from recbole_tiger.data.split import moment_text
from recbole_tiger.datasets.paper_counts import DatasetCounts, against_table2, count_lengths, table2_text
from recbole_tiger.errors import ConfigError
from recbole_tiger.evaluation.evaluator import Ranks, metrics_of_ranks
from recbole_tiger.evaluation.popularity import popularity_ranks
from recbole_tiger.evaluation.significance import save_ranks
from recbole_tiger.io import atomic_write_text
from recbole_tiger.launch import run_in_processes
from recbole_tiger.models import model_spec
from recbole_tiger.spread import OF_MACHINE, Spread
from recbole_tiger.tokenization import TokenizedCatalogue, item_file
from recbole_tiger.trainer import SafeTrainer


@dataclass(frozen=True)
class PreparedData:
    """A dataset and its three loaders, all models' alike."""

    dataset: object
    train: object
    valid: object
    test: object


def run_recbole_tiger(
    model: str = "TIGER",
    dataset: str = "ml-100k",
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping | None = None,
    saved: bool = True,
    *,
    command_line: Mapping | None = None,
) -> dict:
    """Train and test one model; RecBole's ``run_recbole`` with this package's protocol.

    Args:
        model: a sequential model of RecBole, or TIGER.
        dataset: the name of a folder under `data_path`, or ml-100k.
        config_file_list: the user's YAML files.
        config_dict: settings that override the files.
        saved: keep the best and the last checkpoint in the run folder.
        command_line: settings that override all others; None reads ``sys.argv`` as RecBole does, ignoring what is not
            a setting.

    Returns:
        RecBole's keys (``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, ``test_result``), metrics
        unrounded, and: ``id_level_test_result`` (where items share Semantic IDs: what counting IDs instead of items gives,
        else None), ``popularity`` (the same for the popularity row), ``semantic_ids`` (a report, TIGER only),
        ``split`` (:func:`split_report`), ``seconds`` by stage, ``files``, ``parameters``, ``examples_per_second``, ``recipe``, ``loss``, ``seed``,
        ``commit`` and ``dirty`` (of this package's checkout), ``run_dir`` and ``config``. Every user's rank is in
        ``ranks.npz`` beside ``result.json``.

    Raises:
        ConfigError: for settings that cannot work, before any training.
    """
    if command_line is None:
        command_line = _settings_in_argv(model, config_dict)
    return start_run(build_config(model, dataset, config_file_list, config_dict, command_line, spread=True), saved)


def start_run(config: Config, saved: bool = True) -> dict:
    """:func:`run_config`, in as many processes as `nproc` and `world_size` ask for.

    Args:
        config: from ``build_config(..., spread=True)``.
    """
    spread = Spread.of(config)
    if spread.everywhere == 1:
        return run_config(config, saved=saved)
    return run_in_processes(_run_share, (plain_settings(config), saved), spread)


def _run_share(settings: dict, saved: bool) -> dict:
    """:func:`run_config` in one of several processes, which must agree on the settings and on the data."""
    config = config_from_plain(settings)
    if config["device"].type == "cuda":
        config["device"] = torch.device("cuda", torch.cuda.current_device())
    different = processes.differences({key: value for key, value in settings.items() if key not in OF_MACHINE})
    if different:
        raise ConfigError(
            f"{', '.join(different)}: the machines of this run have different settings; give all of them the same command, "
            "but for group_offset and places"
        )
    if not processes.is_main():
        for key in ("show_progress", "log_wandb"):
            config[key] = False
    return run_config(config, saved=saved)


def _settings_in_argv(model: str, config_dict: Mapping | None) -> dict:
    """The ``--key=value`` arguments of the running script that name settings of this model."""
    known = known_keys((config_dict or {}).get("model", model))
    found = {}
    for argument in sys.argv[1:]:
        key, equals, value = argument[2:].partition("=")
        if argument.startswith("--") and equals and key in known:
            found[key] = parse_value(value, key)
    return found


def run_config(
    config: Config,
    saved: bool = True,
    *,
    test: bool = True,
    on_epoch: Callable[[SafeTrainer, PreparedData], None] | None = None,
) -> dict:
    """Train and test under a checked ``Config``, in this process or as one of several (:func:`start_run`).

    Args:
        config: from :func:`recbole_tiger.config.build_config`.
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
    if processes.differences({"data": checksum}):
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
    if not processes.is_main():
        return processes.from_main(dict)  # the result that the first process records below

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
        "history": trainer._history,
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
    return processes.from_main(lambda: result)


def _check_run_dir(config: Config) -> None:
    """Raise where a new run would overwrite another one, or be continued from its checkpoint."""
    if not config["run_dir"] or config["resume"]:
        return
    folder, files = Path(config["run_dir"]), ("last.pth", "best.pth", "result.json")
    there = processes.from_main(lambda: [name for name in files if (folder / name).exists()])
    if there:
        raise ConfigError(
            f"run_dir='{config['run_dir']}' holds a run already ({', '.join(there)}); name another folder, or continue that run "
            f"with --resume={folder / 'last.pth'}"
        )


def _passes(trainer: SafeTrainer) -> int:
    """Passes over the training rows: epochs, and those of a first stage of this very run."""
    is_own = (trainer.run_dir / "pretrained.pth").is_file()
    return len(trainer._history) + (trainer.config["pretrain_epochs"] if is_own else 0)


_log_handlers: list = []


def start_logging(config: Config) -> str | None:
    """RecBole's log for this run; returns the log file. Of several processes the first has one, the others log errors only.

    RecBole's ``init_logger`` does nothing where the root logger has handlers, so a second run in a process, a notebook
    or a test runner would write to no file; handlers of others stay.
    """
    logger = getLogger()
    if not processes.is_main():
        logger.setLevel("ERROR")
        return None
    others = [handler for handler in logger.handlers if handler not in _log_handlers]
    for handler in _log_handlers:
        handler.close()
    logger.handlers.clear()
    init_logger(config)
    _log_handlers[:] = logger.handlers
    logger.handlers += others
    return next(os.path.relpath(h.baseFilename) for h in _log_handlers if hasattr(h, "baseFilename"))


def prepare_data(config: Config) -> PreparedData:
    """Load, order and split a dataset; the same rows in the same order for every model."""
    try:
        dataset = FeatureDataset(config) if model_spec(config["model"]).needs_features else create_dataset(config)
    except ValueError as error:
        if "feat is empty" not in str(error):
            raise
        raise ConfigError(
            f"dataset='{config['dataset']}': no interactions are left after filtering with user_inter_num_interval="
            f"{config['user_inter_num_interval']!r} and item_inter_num_interval={config['item_inter_num_interval']!r}; "
            "widen them"
        ) from error
    if model_spec(config["model"]).needs_features and config["item_feature"] not in dataset.field2type:
        columns = list(read_item_header(config))
        raise ConfigError(
            f"item_feature='{config['item_feature']}' is not a column of {config['dataset']}.item; its columns: "
            f"{', '.join(columns) or 'none, the file is missing'}"
        )
    if not hasattr(dataset, "sequences"):
        dataset.sequences = order_interactions(dataset)
    train, valid, test = data_preparation(config, dataset)
    for loader in (valid, test):
        if len(loader._dataset) == 0:
            raise ConfigError(
                f"dataset='{config['dataset']}' leaves no user for evaluation (a user needs 4 interactions for validation "
                "and 3 for test); lower the interval filters or bring more data"
            )
        if len(loader._dataset) < processes.count():
            raise ConfigError(
                f"dataset='{config['dataset']}' has {len(loader._dataset)} users for evaluation, fewer than the "
                f"{processes.count()} processes; lower nproc"
            )
    return PreparedData(dataset, train, valid, test)


def read_item_header(config: Config) -> list[str]:
    """Names of the columns of the ``.item`` file, empty without one."""
    path = item_file(config)
    if not path.is_file():
        return []
    with open(path, encoding=config["encoding"] or "utf-8") as file:
        return [column.partition(":")[0] for column in file.readline().rstrip("\r\n").split(config["field_separator"])]


def trainer_class(model: str) -> type[SafeTrainer]:
    """The trainer of a model by name."""
    return getattr(trainers, model_spec(model).trainer)


def make_trainer(config: Config, data: PreparedData) -> SafeTrainer:
    """A seeded model and its trainer."""
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = get_model(config["model"])(config, data.train._dataset).to(config["device"])
    processes.seed_generators(config)
    return trainer_class(config["model"])(config, model)


def _pretrained_s3rec(config: Config, data: PreparedData) -> SafeTrainer:
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


def load_data_and_model(model_file: str, changes: Mapping | None = None):
    """RecBole's loader for checkpoints of this package.

    Args:
        changes: settings in place of the run's; they are checked.

    Returns:
        config, model, dataset, train_data, valid_data, test_data

    Raises:
        CheckpointError: for a damaged or foreign file.
        ConfigError: if the dataset is not there or has other items than the model was trained on.
    """
    checkpoint = load_checkpoint(model_file)
    config = config_from_plain({**checkpoint["config"], **(changes or {})})
    if changes:
        check_settings(config, spread=True)
    init_seed(config["seed"], config["reproducibility"])
    start_logging(config)
    other = checkpoint.get("other_parameter") or {}
    if "semantic_ids" in other:
        config.checkpoint_semantic_ids = TokenizedCatalogue.from_state_dict(other["semantic_ids"])
    data = prepare_data(config)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, data.train._dataset).to(config["device"])
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, data.dataset, data.train, data.valid, data.test


def objective_function(config_dict: Mapping | None = None, config_file_list=None, saved: bool = True) -> dict:
    """RecBole's hyper-parameter objective, for one trial: selection is on validation, and test metrics come along.

    Nothing is reported to a scheduler here; ``hpo/`` does that, per epoch and on validation.
    """
    settings = dict(config_dict or {})
    for file in config_file_list or []:
        settings = {**read_yaml(file), **settings}
    result = run_recbole_tiger(
        settings.pop("model", "TIGER"), settings.pop("dataset", "ml-100k"), None, settings, saved, command_line={}
    )
    keys = ("model", "best_valid_score", "valid_score_bigger", "best_valid_result", "test_result")
    return {key: result[key] for key in keys}


# -------------------------------------------------------------------------------------------------- what a run records


def counts_of_table2(dataset) -> DatasetCounts:
    """Users, items and lengths of a loaded dataset after its filters, as in the paper's Table 2."""
    lengths = np.diff(dataset.sequences.start)
    return count_lengths(lengths[lengths > 0], len(np.unique(dataset.sequences.items)))


def data_checksum(dataset) -> str:
    """CRC-32 over users, items, order and split of all interactions: equal for every model that saw the same data."""
    sequences = dataset.sequences
    tokens = "\x00".join(map(str, dataset.field2id_token[dataset.iid_field]))
    crc = zlib.crc32(tokens.encode("utf-8"))
    arrays = [sequences.items, sequences.start]
    if sequences.split.cutoffs is not None:  # leave-one-out follows from the sequences
        arrays += [sequences.split.n_training, *sequences.split.targets.values()]
    for array in arrays:
        crc = zlib.crc32(array.astype("<i8").tobytes(), crc)
    return f"{crc:08x}"


def split_report(dataset) -> dict:
    """What a split gave: its cut-offs (None for leave-one-out), and how much each phase has.

    Returns:
        ``cutoffs`` in the unit of the time column and ``dates`` as text; ``training_interactions``; for "valid" and "test"
        ``users`` with a target, and ``new_items``: targets whose item has no training interaction, so that a model that
        knows items by their interactions alone cannot find them.
    """
    sequences, split = dataset.sequences, dataset.sequences.split
    trained = np.zeros(len(dataset.field2id_token[dataset.iid_field]), dtype=bool)
    trained[sequences.training_items()] = True
    report = {
        "cutoffs": None if split.cutoffs is None else list(split.cutoffs),
        "dates": None if split.cutoffs is None else [moment_text(moment) for moment in split.cutoffs],
        "training_interactions": int(split.n_training.sum()),
    }
    for phase, place in split.targets.items():
        asked = np.flatnonzero(place > 0)
        targets = sequences.items[sequences.start[asked] + place[asked]]
        report[phase] = {"users": len(asked), "new_items": int((~trained[targets]).sum())}
    return report


def environment(config: Config) -> dict:
    """Versions and hardware that a result was made with."""
    versions = {}
    for name in ("recbole-tiger", "recbole", "torch", "numpy", "pandas", "scikit-learn"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    device = torch.cuda.get_device_name() if str(config["device"]).startswith("cuda") else platform.processor()
    return {
        "versions": versions,
        "python": platform.python_version(),
        "device": device or platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": precision_of(config),
        "processes": processes.count(),
    }


def provenance(config: Config) -> dict:
    """What a row of a table says about where it comes from: recipe, loss, seed, and the commit of this code."""
    loss = model_spec(config["model"]).sampled_loss or config["loss_type"] or "CE"
    loss = None if model_spec(config["model"]).untrained else loss
    return {"recipe": config["recipe"], "loss": loss, "seed": config["seed"], **source_state()}


@functools.cache
def source_state() -> dict:
    """The commit of the checkout that this package runs from, and whether tracked files differ from it.

    Both are None for an installed package. Asked once per process: the code that runs is the code that was read first.
    """
    nothing = {"commit": None, "dirty": None}
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return nothing

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return nothing


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 1) if seconds > 0 else None


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def _run_files(trainer: SafeTrainer, prepared: TokenizedCatalogue | None, saved: bool) -> dict:
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
