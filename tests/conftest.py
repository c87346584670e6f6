"""Fixtures of all tests."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path

# The suite runs in two processes (pyproject.toml): one thread for each, and for the programs that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from catalogue import TINY, write_catalogue
from working import working_in


@pytest.fixture(scope="session")
def benchmark_script():
    """A script of `benchmarks/` as a module, by name; it is not run."""

    def load(name: str):
        path = Path(__file__).resolve().parents[1] / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(autouse=True)
def no_log_is_left():
    """End the log of a run with its test: its handlers hold a stream and a file of that test."""
    yield
    loading = sys.modules.get("recbole_tiger.experiment.loading")
    for handler in loading._log_handlers if loading else ():
        logging.getLogger().removeHandler(handler)
        handler.close()


@pytest.fixture()
def registries():
    """What a test registers, by itself or by a plugin, is gone after it."""
    from recbole_tiger import extension
    from recbole_tiger.decoding import DECODERS
    from recbole_tiger.models import MODELS
    from recbole_tiger.quantization import QUANTIZERS
    from recbole_tiger.settings.schema import FIELDS

    parts = (MODELS, QUANTIZERS, DECODERS, FIELDS, extension._PLUGINS, extension._OWN_KEYS)
    kept = [(each, dict(each)) for each in parts]
    yield
    for each, before in kept:
        each.clear()
        each.update(before)


@pytest.fixture()
def workplace(tmp_path):
    """An empty current folder, so that logs, checkpoints and caches land there."""
    with working_in(tmp_path):
        yield tmp_path


@pytest.fixture()
def toy(workplace):
    """The catalogue under `<cwd>/data`; returns the settings that a run on it needs."""
    write_catalogue(workplace / "data")
    return {**TINY, "data_path": str(workplace / "data")}


def pytest_collection_modifyitems(items):
    """The sweeps first: they wait for Ray for a minute each, and at the end one process would wait alone."""
    items.sort(key=lambda item: item.path.name != "test_hpo.py")
