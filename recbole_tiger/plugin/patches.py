"""Patches of RecBole 1.2.1, one small function each, applied once by ``recbole_tiger.plugin.register``.

Input: RecBole's modules as installed. Output: the same modules, able to run on current numpy, pandas, torch and CUDA
set-ups, with this package's property files, splits and safe reading of settings. A repair does nothing where it is not
needed, and none changes a result that RecBole computes correctly.
"""

from __future__ import annotations

import functools
import os
import pkgutil
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from logging import getLogger
from typing import Any

import numpy as np
import torch

from recbole_tiger.models import model_spec
from recbole_tiger.plugin.stock_checkpoints import load_stock, refuses_pickles, save_stock

RECBOLE_VERSION = "1.2.1"


class _Instead:
    """An object with some of its attributes replaced."""

    def __init__(self, original: Any, **replaced: Any):
        vars(self).update(replaced, _original=original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _around(owner: str, name: str) -> Callable[[Callable], None]:
    """Decorator: puts a function in the place of a method of ``module:Class``; it gets the original first."""
    cls = pkgutil.resolve_name(owner)

    def replace(function: Callable) -> None:
        original = getattr(cls, name)

        @functools.wraps(original)
        def method(*args, **kwargs):
            return function(original, *args, **kwargs)

        setattr(cls, name, method)

    return replace


def _ours(name: str) -> Callable:
    """A function of this package, ``module:function``, whose module is imported when it is called: see `register`."""
    return lambda *args: pkgutil.resolve_name(f"recbole_tiger.{name}")(*args)


def check_recbole_version() -> None:
    """Refuse a RecBole that these patches were not written for."""
    installed = version("recbole")
    if installed != RECBOLE_VERSION:
        raise ImportError(
            f"recbole_tiger repairs and extends RecBole {RECBOLE_VERSION}, but RecBole {installed} is installed; "
            f"install recbole=={RECBOLE_VERSION}"
        )


def apply() -> None:
    """Apply all patches; called once per process."""
    restore_numpy_aliases()
    repair_fill_nan()
    read_atomic_files_strictly()
    filter_as_asked()
    leave_stored_datasets_unread()
    guard_download_barrier()
    respect_cuda_visible_devices()
    keep_anomaly_detection_off()
    load_own_checkpoints()
    repair_collector_of_counts()
    leave_padding_out_of_lists()
    read_settings_without_eval()
    keep_row_numbers_as_ranges()
    extend_argument_lists()
    write_tensorboard_once()
    read_our_property_files()
    say_what_no_model_reads()
    register_derived_classes()
    extend_split()


# ------------------------------------------------------------------------------------------------------------- repairs


def restore_numpy_aliases() -> None:
    """Give numpy 2 the alias names that every ``Config()`` reads (RecBole issues 1604 and 2187).

    The aliases ``np.float``, ``np.int`` … are set by RecBole itself from these.
    """
    for name, value in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        if name not in np.__dict__:
            setattr(np, name, value)
    # Dataset code runs before the first Config when a user builds one by hand; Config sets the same value.
    if "float" not in np.__dict__:
        np.float = np.float64  # type: ignore[attr-defined]


def repair_fill_nan() -> None:
    """Make missing-value filling effective under pandas' copy-on-write (pandas 3).

    ``feat[field].fillna(..., inplace=True)`` writes into a temporary there, so empty cells stay NaN: an empty
    ``token_seq`` cell crashes the loader and an empty ``token`` cell is never padded.
    """
    from recbole.data.dataset import dataset as module
    from recbole.utils import FeatureType

    def _fill_nan(self):
        for feat_name in self.feat_name_list:
            feat = getattr(self, feat_name)
            for field in feat:
                ftype = self.field2type[field]
                if ftype == FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif ftype == FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
                else:
                    dtype = np.int64 if ftype == FeatureType.TOKEN_SEQ else np.float64
                    empty = np.array([], dtype=dtype)
                    feat[field] = [empty if isinstance(x, float) else x for x in feat[field]]

    module.Dataset._fill_nan = _fill_nan


def read_atomic_files_strictly() -> None:
    """Let every dataset read its files as they are written, or raise with the line.

    RecBole's own reader takes quotes for the marks of a cell that may run over lines, words such as NA for missing
    cells, and a time that is missing for the mean of all; and when it drops rows without an id it drops others as well.
    """

    _around("recbole.data.dataset:Dataset", "_load_feat")(_ours("data.features:load_features"))
    _around("recbole.data.dataset:Dataset", "_remap")(_ours("data.features:number_ids"))


def filter_as_asked() -> None:
    """Let `val_interval` refuse what it does not understand, where RecBole drops the last row, and `rm_dup_inter` keep
    the order of equal times."""
    _around("recbole.data.dataset:Dataset", "_data_filtering")(_ours("data.filters:filtered"))
    _around("recbole.data.dataset:Dataset", "_remove_duplication")(_ours("data.filters:without_repeats"))


def leave_stored_datasets_unread() -> None:
    """Let RecBole make every dataset from its files: what it stores is a pickle, which runs code when it is opened.

    It is also of other settings than those that RecBole compares, such as those of the Semantic IDs.
    """
    from recbole.data import utils as module

    def exists(path):
        if os.path.exists(path):
            text = f"'{path}' is not read: a stored dataset may have other settings; the atomic files are read instead"
            getLogger().warning(text)
        return False

    module.os = _Instead(os, path=_Instead(os.path, exists=exists))


def guard_download_barrier() -> None:
    """Let a single process download: RecBole calls ``torch.distributed.barrier()`` always (issues 1989 and 2050)."""
    from recbole.data.dataset import dataset as module

    def barrier(*args, **kwargs):
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier(*args, **kwargs)

    module.torch = _Instead(torch, distributed=_Instead(torch.distributed, barrier=barrier))


def respect_cuda_visible_devices() -> None:
    """Keep ``CUDA_VISIBLE_DEVICES`` as the user or a scheduler set it (issue 1955).

    RecBole overwrites it with ``gpu_id`` ('0' by default), which moves every Ray trial onto the first card. Several
    processes (`nproc`) take the first cards where neither is set.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # now: the first Config writes its own value there

    @_around("recbole.config:Config", "_init_device")
    def _init_device(original, self):
        n_processes = self.final_config_dict.get("nproc")
        if "gpu_id" not in self.external_config_dict and visible:
            self.final_config_dict["gpu_id"] = visible
        elif "gpu_id" not in self.external_config_dict and isinstance(n_processes, int) and n_processes > 1:
            self.final_config_dict["gpu_id"] = ",".join(map(str, range(n_processes)))
        original(self)


def keep_anomaly_detection_off() -> None:
    """Undo ``torch.autograd.set_detect_anomaly(True)``, which RecBole's SINE sets when it is imported.

    Looking up any sequential model imports all of them, so every run records a traceback and checks for NaN at every
    operation: more than twice the time of a step. The loss is checked for NaN anyway.
    """
    before = torch.is_anomaly_enabled() and "recbole.model.sequential_recommender.sine" not in sys.modules
    import recbole.model.sequential_recommender  # noqa: F401

    torch.autograd.set_detect_anomaly(before)


def repair_collector_of_counts() -> None:
    """Let metrics of whole lists (ItemCoverage, GiniIndex) work: the collector calls ``.cpu()`` on plain numbers."""
    from recbole.evaluator.collector import Collector, DataStruct

    def get_data_struct(self):
        collected = DataStruct()
        for name, value in self.data_struct._data_dict.items():
            collected.set(name, value.cpu() if isinstance(value, torch.Tensor) else value)
        self.data_struct._data_dict = {
            name: value
            for name, value in collected._data_dict.items()
            if not name.startswith("rec.") and name != "data.label"
        }
        return collected

    Collector.get_data_struct = get_data_struct


def leave_padding_out_of_lists() -> None:
    """Let metrics of whole lists count items only: a list that is shorter than K ends in zeros, which are no item."""

    def of_items(original, self, lists, *more):
        items = lists[lists > 0]
        return original(self, items[None], *more) if len(items) else 0.0

    for metric, name in (("ItemCoverage", "coverage"), ("ShannonEntropy", "entropy"), ("GiniIndex", "gini")):
        _around(f"recbole.evaluator.metrics:{metric}", f"get_{name}")(of_items)


def read_settings_without_eval() -> None:
    """Read string settings as literals: RecBole runs ``eval`` on each, so that opening a checkpoint could run code."""
    from recbole.config import Config

    def _convert_config_dict(self, config_dict):
        from recbole_tiger.settings.parse import parse_value

        for key, value in config_dict.items():
            if isinstance(value, str):
                config_dict[key] = parse_value(value, key)
        return config_dict

    Config._convert_config_dict = _convert_config_dict


def keep_row_numbers_as_ranges() -> None:
    """Let data loaders number their rows by a range, and samplers keep one empty set instead of one for each user.

    For ten million interactions of a million users RecBole writes some 800 MB of lists and sets that nothing reads:
    the loader needs any sequence of row numbers, and a ``RepeatableSampler`` replaces its sets at every call.
    """
    from recbole.data.dataloader import abstract_dataloader
    from recbole.sampler import RepeatableSampler

    def get_used_ids(self):
        used = np.empty(self.user_num, dtype=object)
        used.fill(set())
        return used

    abstract_dataloader.list = lambda rows: rows  # what the module calls `list` on is `range(sample_size)`
    RepeatableSampler.get_used_ids = get_used_ids


def extend_argument_lists() -> None:
    """Keep RecBole's module-level argument list from growing with every ``Config`` (it is appended to in place)."""

    @_around("recbole.config:Config", "_init_parameters_category")
    def _init_parameters_category(original, self):
        original(self)
        self.parameters = {category: list(names) for category, names in self.parameters.items()}


def write_tensorboard_once() -> None:
    """Let one process of a run write TensorBoard's events; RecBole opens a writer in each."""
    from recbole.trainer import trainer as module

    original, hook = module.get_tensorboard, threading.excepthook

    def get_tensorboard(logger):
        from recbole_tiger.distributed.collectives import is_main
        from recbole_tiger.io import writing

        if not is_main():
            return _Events(None)
        with writing("log_tensorboard"):
            return _Events(original(logger))

    def excepthook(arguments):
        if type(arguments.thread).__name__ != "_AsyncWriterThread":  # what stops it is raised at the next event too
            hook(arguments)

    module.get_tensorboard, threading.excepthook = get_tensorboard, excepthook


class _Events:
    """A writer of TensorBoard's events, or none; one that can no longer write says so once, and the run continues."""

    def __init__(self, writer: Any):
        self._writer = writer

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args, **kwargs):
            if self._writer is None:
                return None
            try:
                return getattr(self._writer, name)(*args, **kwargs)
            except OSError as error:
                folder, self._writer = self._writer.log_dir, None
                getLogger().warning(f"cannot write '{folder}' ({error}): nothing more is logged there")

        return call


def load_own_checkpoints() -> None:
    """Let RecBole read the checkpoints that it has written in this process (issue 2212).

    They pickle the ``Config``, which torch refuses from 2.6 on, so that every run would end at its test.
    """
    if not refuses_pickles():
        return
    from recbole.model.sequential_recommender import s3rec
    from recbole.trainer import trainer

    for module in (trainer, s3rec):
        module.torch = _Instead(torch, save=save_stock, load=load_stock)


# ---------------------------------------------------------------------------------------------------------- extensions


def read_our_property_files() -> None:
    """Let RecBole's own ``Config`` read our property files below the user's, for our models only."""

    @_around("recbole.config:Config", "_load_internal_config_dict")
    def _load_internal_config_dict(original, self, model, model_class, dataset):
        from recbole_tiger.settings.chain import shipped_settings

        original(self, model, model_class, dataset)
        if model_spec(model).ours:
            self.internal_config_dict.update(shipped_settings(model, dataset, self.external_config_dict))


def say_what_no_model_reads() -> None:
    """Let RecBole's own ``Config`` warn of keys that nothing reads, and keep the place of the data in absolute form.

    RecBole answers ``None`` for a misspelt key, and a checkpoint with a relative path is of use in one folder only.
    """

    @_around("recbole.config:Config", "__init__")
    def __init__(original, self, model=None, dataset=None, config_file_list=None, config_dict=None):
        from recbole_tiger.settings.schema import keys_with
        from recbole_tiger.settings.validate import close_keys, known_keys

        original(self, model, dataset, config_file_list, config_dict)
        self.final_config_dict["data_path"] = os.path.abspath(self.final_config_dict["data_path"])
        if not self.model_class.__module__.startswith(("recbole.", "recbole_tiger.")):
            return  # a model of the user's own, whose keys are not known
        known = {*known_keys(self.model), *keys_with("derived")}
        for key, value in self.external_config_dict.items():
            if key not in known:
                hint = close_keys(key, known)
                getLogger().warning(f"nothing reads the key '{key}' (value {value!r}) for model {self.model}{hint}")


def register_derived_classes() -> None:
    """Let ``Config(model=CLASS)`` find dataset, trainer and settings of a class that derives from a model of ours."""

    @_around("recbole.config:Config", "_get_model_and_dataset")
    def _get_model_and_dataset(original, self, model, dataset):
        from recbole_tiger.extension import register_derived

        if isinstance(model, type):
            register_derived(model)
        return original(self, model, dataset)


def extend_split() -> None:
    """Let every sequential dataset of RecBole divide its rows at two moments, which its own splits do not.

    For that it keeps the times as they were read: with `normalize_all`, RecBole's default on ml-100k, they become
    fractions before anything else sees them.
    """

    _around("recbole.data.dataset:SequentialDataset", "build")(_ours("data.dataset:build_phases"))

    @_around("recbole.data.dataset:SequentialDataset", "_normalize")
    def _normalize(original, self):
        if self.time_field in self.inter_feat:
            self.times = self.inter_feat[self.time_field].to_numpy(dtype="float64", copy=True)
        original(self)
