"""Puts this package's models, trainers and datasets where RecBole looks for them by name. Idempotent.

RecBole finds a model through ``importlib.util.find_spec("recbole.model.sequential_recommender.<name>")``, which looks
into ``sys.modules`` first; a trainer and a dataset as attributes ``<Model>Trainer`` and ``<Model>Dataset``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys

from recbole_tiger.models import model_spec, models_with
from recbole_tiger.plugin import patches

_registered = False


def register() -> None:
    """Apply the repairs and register our models, their trainers and datasets with RecBole."""
    global _registered
    if _registered:
        return
    _registered = True  # first, since the modules below import this package again
    patches.apply()

    import recbole.data.dataset
    import recbole.trainer

    from recbole_tiger.data import dataset
    from recbole_tiger.experiment.loading import trainer_class

    for name in models_with("ours"):
        spec = model_spec(name)
        sys.modules[f"recbole.model.sequential_recommender.{name.lower()}"] = importlib.import_module(
            f"recbole_tiger.model.{spec.module}"
        )
        setattr(recbole.trainer, f"{name}Trainer", trainer_class(name))
        if spec.dataset is not None:
            setattr(recbole.data.dataset, f"{name}Dataset", getattr(dataset, spec.dataset))
    _extend_config()
    _extend_split()
    _extend_quick_start()


def _extend_config() -> None:
    """Let RecBole's own ``Config`` read our property files below the user's, for our models only."""
    from recbole.config import Config

    from recbole_tiger.settings.chain import shipped_settings

    original = Config._load_internal_config_dict

    @functools.wraps(original)
    def _load_internal_config_dict(self, model, model_class, dataset):
        original(self, model, model_class, dataset)
        if model_spec(model).ours:
            self.internal_config_dict.update(shipped_settings(model, dataset, self.external_config_dict))

    Config._load_internal_config_dict = _load_internal_config_dict


def _extend_split() -> None:
    """Let every sequential dataset of RecBole divide its rows at two moments, which its own splits do not.

    For that it keeps the times as they were read: with `normalize_all`, RecBole's default on ml-100k, they become
    fractions before anything else sees them.
    """
    from recbole.data.dataset import SequentialDataset

    from recbole_tiger.data.dataset import build_phases

    original_build, original_normalize = SequentialDataset.build, SequentialDataset._normalize

    @functools.wraps(original_build)
    def build(self):
        return build_phases(self, original_build)

    @functools.wraps(original_normalize)
    def _normalize(self):
        if self.time_field in self.inter_feat:
            self.times = self.inter_feat[self.time_field].to_numpy(dtype="float64", copy=True)
        original_normalize(self)

    SequentialDataset.build, SequentialDataset._normalize = build, _normalize


def _extend_quick_start() -> None:
    """Give ``recbole.quick_start`` a loader for our safe checkpoints, whenever it is imported.

    ``recbole.quick_start`` imports Ray, so it is not imported here.
    """
    name = "recbole.quick_start.quick_start"

    def extend(module) -> None:
        original = module.load_data_and_model

        @functools.wraps(original)
        def load_data_and_model(model_file):
            from recbole_tiger.experiment import loading
            from recbole_tiger.training.checkpoint import is_safe_checkpoint

            return (loading.load_data_and_model if is_safe_checkpoint(model_file) else original)(model_file)

        module.load_data_and_model = load_data_and_model
        package = sys.modules.get("recbole.quick_start")
        if package is not None and hasattr(package, "load_data_and_model"):
            package.load_data_and_model = load_data_and_model

    if name in sys.modules:
        extend(sys.modules[name])
        return

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname, path, target=None):
            if fullname != name:
                return None
            spec = importlib.machinery.PathFinder.find_spec(fullname, path)
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module

                def exec_module(module):
                    execute(module)
                    extend(module)

                spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder())
