"""Where a result comes from: the code, the machine, the recipe, and what the data was.

Input: a ``Config`` and a loaded dataset. Output: plain dictionaries, as ``result.json`` keeps them.
"""

from __future__ import annotations

import functools
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config

from recbole_tiger.data.split import moment_text
from recbole_tiger.datasets.paper_counts import DatasetCounts, count_lengths
from recbole_tiger.distributed import collectives
from recbole_tiger.models import model_spec
from recbole_tiger.settings.validate import precision_of


def counts_of_table2(dataset) -> DatasetCounts:
    """Users, items and lengths of a loaded dataset after its filters, as in the paper's Table 2."""
    lengths = np.diff(dataset.sequences.start)
    return count_lengths(lengths[lengths > 0], len(np.unique(dataset.sequences.items)))


def split_report(dataset) -> dict:
    """What a split gave: its cut-offs (None for leave-one-out), and how much each phase has.

    Returns:
        ``cutoffs`` in the unit of the time column and ``dates`` as text; ``training_interactions``; for "valid" and
        "test" ``users`` with a target, and ``new_items``: targets whose item has no training interaction, so that a
        model that knows items by their interactions alone cannot find them.
    """
    sequences, split = dataset.sequences, dataset.sequences.split
    trained = np.zeros(len(dataset.field2id_token[dataset.iid_field]), dtype=bool)
    trained[sequences.training_items()] = True
    report: dict[str, Any] = {
        "cutoffs": None if split.cutoffs is None else list(split.cutoffs),
        "dates": None if split.cutoffs is None else [moment_text(moment) for moment in split.cutoffs],
        "training_interactions": int(split.n_training.sum()),
    }
    for phase, position in split.targets.items():
        asked = np.flatnonzero(position > 0)
        targets = sequences.items[sequences.start[asked] + position[asked]]
        report[phase] = {"users": len(asked), "new_items": int((~trained[targets]).sum())}
    return report


def environment(config: Config) -> dict:
    """Versions and hardware that a result was made with."""
    versions: dict[str, str | None] = {}
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
        "processes": collectives.count(),
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
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return nothing

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return nothing


def peak_memory_mb() -> int:
    """The largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if platform.system() == "Darwin" else 2**10))
