"""Puts this package's models, trainers and datasets where RecBole looks for them by name, when RecBole is imported.

Input: nothing; ``import recbole_tiger`` installs the hook and imports neither RecBole nor anything heavy. Output:
RecBole's look-ups find ours: ``recbole.model.sequential_recommender.<name>``, ``recbole.trainer.<Model>Trainer`` and
``recbole.data.dataset.<Model>Dataset``, each of which imports the module of ours when it is asked for.

Registration may run while any module of this package is being imported, whichever was the first to import RecBole. So
it imports no module of this package but this one's neighbours, and all other imports stand inside what RecBole calls.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import ClassVar

from recbole_tiger.models import MODELS, ModelSpec

_QUICK_START = "recbole.quick_start.quick_start"
_CASE_STUDY = "recbole.utils.case_study"
_PACKAGE = "recbole.model.sequential_recommender"
_registered = False


def register() -> None:
    """Import RecBole and register with it, once; without this call the first import of RecBole does it.

    Raises:
        ImportError: for a RecBole that the patches were not written for.
    """
    import recbole  # noqa: F401

    _register()


def install_hook() -> None:
    """Register now if RecBole is imported already, else right after it is."""
    if not any(isinstance(finder, _Hook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hook())
    if "recbole" in sys.modules:
        _register()


def _register(_recbole: ModuleType | None = None) -> None:
    global _registered
    if _registered:
        return
    from recbole_tiger.plugin import patches  # imports pandas and torch

    patches.check_recbole_version()
    _registered = True
    patches.apply()
    # RecBole's trainer calls torch's scaler by its former name.
    warnings.filterwarnings("ignore", r".*torch\.cuda\.amp\.GradScaler", FutureWarning)

    import recbole.data.dataset
    import recbole.trainer

    _add_attributes(recbole.trainer, "Trainer", _trainer)
    _add_attributes(recbole.data.dataset, "Dataset", _dataset)
    for name, extend in ((_QUICK_START, _extend_quick_start), (_CASE_STUDY, _extend_case_study)):
        if name in sys.modules:
            extend(sys.modules[name])


def _trainer(spec: ModelSpec) -> type:
    from recbole_tiger.experiment.loading import trainer_class

    return trainer_class(spec.name)


def _dataset(spec: ModelSpec) -> type | None:
    return getattr(importlib.import_module("recbole_tiger.data.dataset"), spec.dataset) if spec.dataset else None


def _add_attributes(module: ModuleType, ending: str, load: Callable[[ModelSpec], type | None]) -> None:
    """Give a module a class `<model><ending>` for each model of ours and each registered one."""

    def __getattr__(name: str):
        spec = MODELS.get(name.removesuffix(ending)) if name.endswith(ending) else None
        value = load(spec) if spec is not None and spec.ours else None
        if value is None:
            raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")
        return value

    module.__getattr__ = __getattr__  # type: ignore[method-assign]


def _extend_quick_start(module: ModuleType) -> None:
    """Give ``recbole.quick_start`` a loader for checkpoints of this package."""
    original = module.load_data_and_model

    @functools.wraps(original)
    def load_data_and_model(model_file):
        import torch

        from recbole_tiger.experiment import loading
        from recbole_tiger.plugin.stock_checkpoints import load_stock, refuses_pickles
        from recbole_tiger.training.checkpoint import is_safe_checkpoint

        if is_safe_checkpoint(model_file):
            return loading.load_data_and_model(model_file)
        if not refuses_pickles():
            return original(model_file)
        load, torch.load = torch.load, load_stock  # RecBole's function imports torch anew
        try:
            return original(model_file)
        finally:
            torch.load = load

    for name in (_QUICK_START, "recbole.quick_start"):  # the package has copied the name if it was imported before
        if name in sys.modules:
            vars(sys.modules[name])["load_data_and_model"] = load_data_and_model


def _extend_case_study(module: ModuleType) -> None:
    """Let ``full_sort_topk`` find k items and ``full_sort_scores`` score all, whatever `beam_size` is."""
    scores_of = module.full_sort_scores

    @functools.wraps(scores_of)
    def full_sort_scores(uid_series, model, test_data, device=None):
        n_items = test_data.dataset.item_num - 1
        with model.widened(n_items, "exact") if hasattr(model, "widened") else nullcontext():
            return scores_of(uid_series, model, test_data, device)

    @functools.wraps(module.full_sort_topk)
    def full_sort_topk(uid_series, model, test_data, k, device=None):
        n_items = test_data.dataset.item_num - 1
        if not 1 <= k <= n_items:
            raise ValueError(f"k={k} must be from 1 to the {n_items} items of the catalogue")
        with model.widened(k) if hasattr(model, "widened") else nullcontext():
            return scores_of(uid_series, model, test_data, device).topk(k)

    module.full_sort_scores = full_sort_scores  # type: ignore[attr-defined]
    module.full_sort_topk = full_sort_topk  # type: ignore[attr-defined]


class _Hook(importlib.abc.MetaPathFinder):
    """Finds our models under RecBole's names, and calls a function after the import of some of RecBole's modules.

    ``recbole.quick_start`` imports Ray, so it is extended only when somebody else imports it.
    """

    after: ClassVar[dict[str, Callable[[ModuleType], None]]] = {
        "recbole": _register,
        _QUICK_START: _extend_quick_start,
        _CASE_STUDY: _extend_case_study,
    }

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        if package == _PACKAGE:
            found = next((spec for spec in MODELS.values() if spec.ours and spec.name.lower() == name), None)
            return None if found is None else importlib.machinery.ModuleSpec(fullname, _Alias(found))
        if fullname not in self.after:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute, follow = spec.loader.exec_module, self.after[fullname]

            def exec_module(module: ModuleType) -> None:
                execute(module)
                follow(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class _Alias(importlib.abc.Loader):
    """Loads a module of ours, or one that holds a registered class, under the name where RecBole looks for it."""

    def __init__(self, spec: ModelSpec):
        self.spec = spec

    def exec_module(self, module: ModuleType) -> None:
        if self.spec.cls is not None:
            setattr(module, self.spec.name, self.spec.cls)
        else:  # what the import then returns
            sys.modules[module.__name__] = importlib.import_module(f"recbole_tiger.model.{self.spec.module}")
