"""One run: data, training in one or two stages, test, and the record of it.

Input: a checked ``Config``. Output: RecBole's result dictionary with more in it, and ``result.json`` in the run folder.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from recbole.config import Config
from recbole.utils import init_seed, set_color

from recbole_tiger import extension
from recbole_tiger.data.identity import check_same_data
from recbole_tiger.datasets.paper_counts import against_table2, table2_text
from recbole_tiger.distributed import collectives
from recbole_tiger.distributed.launcher import run_in_processes
from recbole_tiger.distributed.topology import Topology
from recbole_tiger.errors import CheckpointError, ConfigError, doing
from recbole_tiger.evaluation.evaluator import Ranks
from recbole_tiger.evaluation.significance import save_ranks
from recbole_tiger.experiment.configuration import config_from_plain
from recbole_tiger.experiment.loading import PreparedData, make_trainer, prepare_data, start_logging
from recbole_tiger.experiment.popularity import popularity_row
from recbole_tiger.experiment.provenance import (
    counts_of_table2,
    environment,
    peak_memory_mb,
    provenance,
    source_state,
    split_report,
)
from recbole_tiger.experiment.result import RunResult
from recbole_tiger.io import folder_lock, has_screen
from recbole_tiger.models import model_spec
from recbole_tiger.settings.plain import plain_settings
from recbole_tiger.settings.schema import keys_with
from recbole_tiger.training.checkpoint import is_safe_checkpoint, load_checkpoint
from recbole_tiger.training.s3rec import S3RecTrainer
from recbole_tiger.training.sequential import SequentialTrainer

#: Called with the trainer and the data after each validated epoch.
OnEpoch = Callable[[SequentialTrainer, PreparedData], object]


@dataclass(frozen=True)
class Epoch:
    """One validated epoch of a run, or what a validation within one (`eval_steps`) saw of it.

    Attributes:
        number: from 1.
        train_loss: mean over the steps, or RecBole's sum.
        seconds: training time of the epoch.
        valid: validation metrics, unrounded.
        is_best: whether it is the best so far.
        left: text with the maximum remaining time; "" before it is known.
    """

    number: int
    train_loss: float
    seconds: float
    valid: dict[str, float]
    is_best: bool
    left: str

    @classmethod
    def last_of(cls, trainer: SequentialTrainer) -> Epoch:
        """The epoch that a trainer has just validated."""
        epoch = trainer.last_epoch()
        result = next(record["valid"] for record in reversed(trainer.history) if "valid" in record)
        valid = {name: float(value) for name, value in result.items()}
        left = trainer.run_progress.clock.left_text()
        return cls(epoch["epoch"] + 1, epoch["train_loss"], epoch["seconds"], valid, trainer.cur_step == 0, left)


def start_run(
    config: Config, saved: bool = True, *, screen: bool = True, on_epoch: Callable[[Epoch], object] | None = None
) -> dict:
    """:func:`run_config`, in as many processes as `nproc` and `world_size` ask for.

    Args:
        config: from ``build_config(..., distributable=True)``.
        saved, screen: as for :func:`run_config`.
        on_epoch: called after each validated epoch, once its checkpoints are written.

    Raises:
        ConfigError: for `on_epoch` with several processes.
    """
    topology = Topology.of(config)
    if topology.everywhere == 1:
        callback: OnEpoch | None = None if on_epoch is None else lambda trainer, _: on_epoch(Epoch.last_of(trainer))
        return run_config(config, saved=saved, screen=screen, on_epoch=callback)
    if on_epoch is not None:
        raise ConfigError("on_epoch does not work with nproc or world_size, which start other processes; leave one out")
    return run_in_processes(_run_share, (plain_settings(config), saved, screen), topology)


def _run_share(settings: dict, saved: bool, screen: bool) -> dict:
    """:func:`run_config` in one of several processes, which must agree on the settings and on the data."""
    extension.load(settings.get("plugin"))
    config = config_from_plain(settings)
    if config["device"].type == "cuda":
        config["device"] = torch.device("cuda", torch.cuda.current_device())
    different = collectives.differences(
        {key: value for key, value in settings.items() if key not in keys_with("machine")}
    )
    if different:
        raise ConfigError(
            f"{', '.join(different)}: the machines of this run have different settings; give all of them the same "
            "command, except for group_offset and paths"
        )
    if not collectives.is_main():
        for key in ("show_progress", "log_wandb"):
            config[key] = False
    return run_config(config, saved=saved, screen=screen)


def run_config(
    config: Config, saved: bool = True, *, screen: bool = True, test: bool = True, on_epoch: OnEpoch | None = None
) -> dict:
    """Train and test under a checked ``Config``, in this process or as one of several (:func:`start_run`).

    Args:
        config: from :func:`recbole_tiger.experiment.configuration.build_config`.
        saved: keep the best and the last checkpoint in the run folder.
        screen: show the log on the screen as well as in its file; False shows warnings only.
        test: False leaves the test set alone: no test metrics, and none of the popularity row.
        on_epoch: called with the trainer and the data after each validated epoch, once its checkpoints are written; for
            a resumed run that has nothing left to do, once.

    Returns:
        :meth:`RunResult.to_dict`, in all processes.

    Raises:
        FolderInUseError: another process works in the run folder; before any work, where the settings name the folder.
    """
    named = _named_folder(config)
    with ExitStack() as stack:
        if named is not None:
            _hold(named, stack)
        _check_run_dir(config)
        return _run(config, saved, screen, test, on_epoch, stack if named is None else None)


def _named_folder(config: Config) -> Path | None:
    """The run folder that the settings name; None where the run makes a new one. Raises `CheckpointError`: there is no
    checkpoint to resume."""
    if not config["resume"]:
        return Path(config["run_dir"]) if config["run_dir"] else None
    file = Path(config["resume"])
    if not collectives.from_main(file.is_file):
        raise CheckpointError(f"no checkpoint at '{file}': give the path of a .pth file that a run wrote")
    folder = file.resolve().parent
    if config["run_dir"] and Path(config["run_dir"]).resolve() != folder:
        raise ConfigError(
            f"run_dir='{config['run_dir']}' with resume='{file}': a run continues in its own folder; leave run_dir out"
        )
    return folder


def _hold(folder: Path, stack: ExitStack) -> None:
    """Keep other processes out of a run folder; of the processes of a run the first does it for all."""
    if collectives.is_main():
        stack.enter_context(folder_lock(folder, "wait for that run, or name another folder with --run_dir"))


def _run(
    config: Config, saved: bool, screen: bool, test: bool, on_epoch: OnEpoch | None, lock: ExitStack | None
) -> dict:
    """:func:`run_config` once a named folder is held; where none is named, `lock` holds the one that the run makes."""
    started = perf_counter()
    source_state()  # kept for the result: the checkout may be another one when this run ends
    log_file = start_logging(config, screen)
    init_seed(config["seed"], config["reproducibility"])
    getLogger().info(config)
    with doing(f"loading dataset '{config['dataset']}' from '{config['data_path']}'"):
        data = prepare_data(config)
    table2 = _check_data(config, data)
    seconds = {"data": perf_counter() - started}
    if data.semantic_ids is not None:
        seconds["data"] -= sum(data.semantic_ids.seconds.values())
        seconds.update(data.semantic_ids.seconds)
    with doing(f"building model {config['model']}"):
        if model_spec(config["model"]).family == "S3Rec":
            _choose_stage(config, data)
        trainer = make_trainer(config, data)
    if lock is not None:
        _hold(trainer.run_dir, lock)
    getLogger().info(trainer.model)
    if config["resume"]:
        with doing(f"resuming '{config['resume']}'"):
            trainer.resume_checkpoint(config["resume"])
    with doing(f"training and testing {config['model']} in '{trainer.run_dir}'"):
        try:
            if isinstance(trainer, S3RecTrainer) and config["train_stage"] == "pretrain":
                trainer = _second_stage(trainer, data, saved)
            outcome = _train_and_test(trainer, data, saved, test, on_epoch)
        except KeyboardInterrupt:
            if screen and saved:
                getLogger().warning(f"stopped; continue with --resume={trainer.last_model_file}")
            raise
    seconds.update(outcome.seconds, all=perf_counter() - started)
    # The first process records; the others return what it has recorded.
    return collectives.from_main(lambda: _record(trainer, data, outcome, table2, seconds, log_file, saved).to_dict())


def _check_data(config: Config, data: PreparedData) -> dict | None:
    """Log what the data is; its comparison with the paper's, None for a dataset that the paper does not use. Raises
    `ConfigError` for several machines with different data."""
    if collectives.differences({"data": data.checksum}):
        raise ConfigError(
            f"data_path='{config['data_path']}': the machines of this run hold different data under that name; copy "
            "the dataset's folder from one to the others"
        )
    logger = getLogger()
    logger.info(data.dataset)
    table2 = against_table2(config["dataset"], lambda: counts_of_table2(data.dataset))
    if table2 is not None:
        (logger.warning if table2["different"] else logger.info)(table2_text(config["dataset"], table2))
    return table2


def _check_run_dir(config: Config) -> None:
    """Raise where a new run would overwrite another one, or be resumed from its checkpoint."""
    if not config["run_dir"] or config["resume"]:
        return
    folder, files = Path(config["run_dir"]), ("last.pth", "best.pth", "result.json")
    found = collectives.from_main(lambda: [name for name in files if (folder / name).exists()])
    if found:
        raise ConfigError(
            f"run_dir='{config['run_dir']}' holds a run already ({', '.join(found)}); name another folder, or continue "
            f"that run with --resume={folder / 'last.pth'}"
        )


def _shows_bars(config: Config) -> bool:
    return bool(config["show_progress"]) and has_screen()


def _choose_stage(config: Config, data: PreparedData) -> None:
    """Let S3Rec begin with its self-supervised stage, or with the second where `pre_model_path` or `resume` has it.

    Raises:
        ConfigError: what they name is of another model or of other data, or is no beginning of that stage.
    """
    resume, first = config["resume"], config["pre_model_path"]
    if resume:  # a checkpoint of another model is refused by `resume_checkpoint`
        stored = collectives.from_main(lambda: load_checkpoint(resume)["config"])
        if stored.get("train_stage") == "pretrain" and (first or collectives.count() > 1):
            raise ConfigError(
                f"resume='{resume}' is a checkpoint of S3Rec's first stage; leave pre_model_path out, and nproc"
            )
        config["pre_model_path"] = stored.get("pre_model_path")
    elif first:
        stored = collectives.from_main(lambda: load_checkpoint(first) if is_safe_checkpoint(first) else None)
        if stored is not None:  # RecBole's own files say less
            if model_spec(stored["config"]["model"]).family != "S3Rec":
                raise ConfigError(
                    f"pre_model_path='{first}' is a checkpoint of model={stored['config']['model']}; name the "
                    "pretrained.pth of a run of S3Rec, or leave it out"
                )
            check_same_data(stored.get("data"), data.identity, f"pre_model_path='{first}'")
    config["train_stage"] = "finetune" if config["pre_model_path"] else "pretrain"


def _second_stage(first: S3RecTrainer, data: PreparedData, saved: bool) -> SequentialTrainer:
    """The trainer of S3Rec's second stage, once what is left of the first one is done."""
    config = first.config
    config["pre_model_path"] = first.pretrain(data.train, saved, show_progress=_shows_bars(config))
    config["train_stage"], config["run_dir"], config["resume"] = "finetune", str(first.run_dir), None
    second: Any = make_trainer(config, data)
    second.follow(first, saved)
    return second


@dataclass(frozen=True)
class _Outcome:
    """What training and test gave; ranks by phase, those of validation of the best epoch."""

    best_score: float
    best_result: dict | None
    test_result: dict | None
    id_level: dict | None
    ranks: dict[str, Ranks]
    seconds: dict[str, float]


def _train_and_test(
    trainer: SequentialTrainer, data: PreparedData, saved: bool, test: bool, on_epoch: OnEpoch | None
) -> _Outcome:
    show, was_finished = _shows_bars(trainer.config), trainer.finished
    ranks: dict[str, Any] = {}

    def after_epoch(epoch: int, score: float) -> None:
        if trainer.cur_step == 0:  # the best so far
            ranks["valid"] = trainer.ranks
        if on_epoch is not None:
            on_epoch(trainer, data)

    best_score, best_result = trainer.fit(
        data.train, data.valid, saved=saved, show_progress=show, callback_fn=after_epoch
    )
    if on_epoch is not None and was_finished:
        on_epoch(trainer, data)
    if "valid" not in ranks and best_result and saved:  # the best epoch lies before the checkpoint that was resumed
        trainer.evaluate(data.valid, show_progress=show)
        ranks["valid"] = trainer.ranks
    started = perf_counter()
    test_result = id_level = None
    if test:  # the last evaluation, whose metrics wandb's summary keeps
        test_result = trainer.evaluate(data.test, load_best_model=saved, show_progress=show)
        ranks["test"], id_level = trainer.ranks, trainer.id_level
    seconds = {**trainer.seconds, "test": perf_counter() - started}
    return _Outcome(best_score, best_result, test_result, id_level, ranks, seconds)


# -------------------------------------------------------------------------------------------------- what a run records


def _record(
    trainer: SequentialTrainer,
    data: PreparedData,
    outcome: _Outcome,
    table2: dict | None,
    seconds: dict[str, float],
    log_file: str | None,
    saved: bool,
) -> RunResult:
    """Write the run's Semantic IDs, ranks and result into its folder."""
    config, prepared = trainer.config, data.semantic_ids
    result = RunResult(
        model=config["model"],
        dataset=config["dataset"],
        table2=table2,
        best_valid_score=outcome.best_score,
        valid_score_bigger=config["valid_metric_bigger"],
        best_valid_result=outcome.best_result,
        test_result=outcome.test_result,
        id_level_test_result=outcome.id_level,
        popularity=popularity_row(config, data, ("valid", "test") if "test" in outcome.ranks else ("valid",)),
        semantic_ids=None if prepared is None else prepared.table.report(),
        seconds={stage: round(value, 2) for stage, value in seconds.items()},
        files=_files(trainer, data, log_file, saved),
        cached=[] if prepared is None else list(prepared.cached),
        parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        examples_seen=trainer.examples_seen,
        examples_per_second=_speed(trainer, data, outcome, seconds),
        history=trainer.history,
        peak_memory_mb=peak_memory_mb(),
        data_checksum=data.checksum,
        split=split_report(data.dataset),
        environment=environment(config),
        **provenance(config),
        run_dir=str(trainer.run_dir),
        config=plain_settings(config),
    )
    if prepared is not None:
        prepared.table.to_file(trainer.run_dir / "semantic_ids.json", overwrite=True)
    save_ranks(trainer.run_dir / "ranks.npz", outcome.ranks, max(config["topk"]))
    result.write(trainer.run_dir)
    for name, metrics in (("best valid ", outcome.best_result), ("test result", outcome.test_result)):
        getLogger().info(set_color(name, "yellow") + f": {metrics and trainer.rounded(metrics)}")
    return result


def _files(trainer: SequentialTrainer, data: PreparedData, log_file: str | None, saved: bool) -> dict:
    """Paths of everything that the run leaves behind, by name."""
    folder, prepared = trainer.run_dir, data.semantic_ids
    files: dict = {} if prepared is None else dict(prepared.files)
    if saved:
        files |= {"checkpoint": trainer.saved_model_file, "last checkpoint": trainer.last_model_file}
    if prepared is not None:
        files["semantic ids"] = str(folder / "semantic_ids.json")
    return files | {"log": log_file, "ranks": str(folder / "ranks.npz"), "result": str(folder / "result.json")}


def _speed(trainer: SequentialTrainer, data: PreparedData, outcome: _Outcome, seconds: dict) -> dict:
    """Examples per second of training and of the test."""
    # Passes over the training rows where the trainer counts none: epochs, and those of a first stage of this very run.
    own_stage = (trainer.run_dir / "pretrained.pth").is_file()
    passes = len(trainer.history) + (trainer.config["pretrain_epochs"] if own_stage else 0)
    trained = trainer.examples_seen or len(data.train._dataset) * passes
    counts = {"training": trained, "test": len(outcome.ranks["test"].users) if "test" in outcome.ranks else None}
    return {
        stage: None if n is None or seconds[stage] <= 0 else round(n / seconds[stage], 1) for stage, n in counts.items()
    }
