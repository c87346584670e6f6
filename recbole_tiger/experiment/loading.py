"""What a run works with: the log, the data in RecBole's loaders, the model and its trainer.

Input: a checked ``Config``, or a checkpoint. Output: `PreparedData`, trainers, and RecBole's sextuple of a checkpoint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from logging import WARNING, FileHandler, LogRecord, getLogger
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_logger, init_seed

from recbole_tiger.data.dataset import FeatureDataset, order_interactions
from recbole_tiger.data.identity import check_same_data, data_identity
from recbole_tiger.datasets.atomic_reader import read_fields
from recbole_tiger.distributed import collectives
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import config_from_plain
from recbole_tiger.io import writing
from recbole_tiger.model.item_text import read_item_text
from recbole_tiger.model.skip_padding import skipping_padding
from recbole_tiger.models import model_spec
from recbole_tiger.settings.memory import check_memory
from recbole_tiger.settings.validate import check_settings
from recbole_tiger.tokenization import TokenizedCatalogue, item_file
from recbole_tiger.training.checkpoint import load_checkpoint
from recbole_tiger.training.generative import TIGERTrainer, TIGERTreeTrainer
from recbole_tiger.training.s3rec import S3RecTrainer
from recbole_tiger.training.sequential import SequentialTrainer

TRAINERS = {each.__name__: each for each in (SequentialTrainer, S3RecTrainer, TIGERTrainer, TIGERTreeTrainer)}
#: Keys that leave rows out.
_FILTERS = ("val_interval", "user_inter_num_interval", "item_inter_num_interval")


@dataclass(frozen=True)
class PreparedData:
    """RecBole's dataset and its three loaders, the same for all models."""

    dataset: Any
    train: Any
    valid: Any
    test: Any

    @cached_property
    def identity(self) -> dict:
        """What a checkpoint says of its data, see :func:`data_identity`."""
        return data_identity(self.dataset)

    @property
    def checksum(self) -> str:
        """Equal for every model that saw the same data."""
        return self.identity["checksum"]

    @property
    def semantic_ids(self) -> TokenizedCatalogue | None:
        """None for models without."""
        return getattr(self.dataset, "semantic_ids", None)


_log_handlers: list = []


def start_logging(config: Config, screen: bool = True) -> str | None:
    """Start RecBole's log for this run; returns the log file.

    Of several processes the first has one, the others log errors only.

    RecBole's ``init_logger`` does nothing where the root logger has handlers, so a second run in a process, a notebook
    or a test runner would write to no file; handlers of others stay.

    Args:
        screen: show the log on the screen as well; False shows warnings only.
    """
    logger = getLogger()
    if not collectives.is_main():
        logger.setLevel("ERROR")
        return None
    others = [handler for handler in logger.handlers if handler not in _log_handlers]
    for handler in _log_handlers:
        with suppress(OSError):  # what a full disk did not take
            handler.close()
    logger.handlers.clear()
    with writing("log"):
        init_logger(config)
    for handler in logger.handlers:
        if isinstance(handler, FileHandler):
            handler.handleError = partial(_end_log, handler)  # type: ignore[method-assign]
        if not screen and not isinstance(handler, FileHandler):
            handler.setLevel(max(handler.level, WARNING))
    _log_handlers[:] = logger.handlers
    logger.handlers += others
    return next(os.path.relpath(h.baseFilename) for h in _log_handlers if hasattr(h, "baseFilename"))


def _end_log(handler: FileHandler, record: LogRecord) -> None:
    """Say once that a log file cannot be written, where `logging` prints a trace for each line; the run continues."""
    error = sys.exc_info()[1]
    getLogger().removeHandler(handler)
    getLogger().warning(
        f"cannot write '{os.path.relpath(handler.baseFilename)}' ({error}): nothing more is logged there"
    )


def prepare_data(config: Config) -> PreparedData:
    """Load, order and split a dataset; the same rows in the same order for every model. Raises `ConfigError` if nothing
    is left of it, or not enough for a phase."""
    needs_features = model_spec(config["model"]).feature_key is not None
    try:
        dataset = FeatureDataset(config) if needs_features else create_dataset(config)
    except ValueError as error:
        if "feat is empty" not in str(error):
            raise
        asked = [f"{key}={config[key]!r}" for key in _FILTERS if config[key] not in (None, "[0,inf)")]
        filters = " and ".join(asked or ["filter_inter_by_user_or_item=True"])
        raise ConfigError(
            f"dataset='{config['dataset']}': no interactions are left after filtering with {filters}; keep more"
        ) from error
    if needs_features and config["item_feature"] not in dataset.field2type:
        columns = _item_columns(config)
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
                f"dataset='{config['dataset']}' leaves no user for evaluation (a user needs 4 interactions for "
                "validation and 3 for test); lower the interval filters or bring more data"
            )
        if len(loader._dataset) < collectives.count():
            raise ConfigError(
                f"dataset='{config['dataset']}' has {len(loader._dataset)} users for evaluation, fewer than the "
                f"{collectives.count()} processes; lower nproc"
            )
    return PreparedData(dataset, train, valid, test)


def _item_columns(config: Config) -> list[str]:
    """Names of the columns of the ``.item`` file, empty without one."""
    path = item_file(config)
    fields = read_fields(path, config["field_separator"], config["encoding"] or "utf-8") if path.is_file() else ()
    return [field.name for field in fields]


def trainer_class(model: str) -> type[SequentialTrainer]:
    """The trainer of a model by name."""
    return TRAINERS[model_spec(model).trainer]


def _make_model(config: Config, data: PreparedData, file: str | None = None, state: Mapping | None = None):
    """The model of a run; `file` and `state`: a checkpoint whose weights it will get, and these."""
    cls = get_model(config["model"])
    if model_spec(config["model"]).skips_padding:
        cls = skipping_padding(cls)
    first = config["pre_model_path"]
    if first and file:  # the second stage of S3Rec reads weights when it is made: those of the first may be gone by now
        config["pre_model_path"] = str(file)
    model = cls(config, data.train._dataset)
    if first:
        config["pre_model_path"] = first
    read_item_text(model, config, data.dataset, state)
    return model.to(config["device"])


def make_trainer(config: Config, data: PreparedData) -> SequentialTrainer:
    """A seeded model and its trainer."""
    if model_spec(config["model"]).item_tables:
        check_memory(config, data.dataset.item_num)
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = _make_model(config, data, config["resume"])
    collectives.seed_generators(config)
    trainer = trainer_class(config["model"])(config, model)
    trainer.data = data.identity
    return trainer


def load_data_and_model(model_file: str, changes: Mapping | None = None):
    """RecBole's loader for checkpoints of this package.

    Args:
        changes: settings in place of the run's; they are checked.

    Returns:
        config, model, dataset, train_data, valid_data, test_data

    Raises:
        CheckpointError: for a damaged or foreign file.
        ConfigError: if the dataset is not there, or is not that which the model was trained on.
    """
    checkpoint = load_checkpoint(model_file)
    config = config_from_plain({**checkpoint["config"], **(changes or {})})
    if changes:
        check_settings(config)
    init_seed(config["seed"], config["reproducibility"])
    start_logging(config)
    other = checkpoint.get("other_parameter") or {}
    if "semantic_ids" in other:
        config.checkpoint_semantic_ids = TokenizedCatalogue.from_state_dict(other["semantic_ids"])
    data = prepare_data(config)
    check_same_data(checkpoint.get("data"), data.identity, f"the checkpoint '{model_file}'")
    init_seed(config["seed"], config["reproducibility"])
    model = _make_model(config, data, model_file, checkpoint["state_dict"])
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, data.dataset, data.train, data.valid, data.test
