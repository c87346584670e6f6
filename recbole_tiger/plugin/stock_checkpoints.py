"""Checkpoints of RecBole's own trainer, which are pickles: read where nothing can have been put into them.

Input: a file that RecBole writes or opens. Output: its content, or an error that names it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import torch

#: Files written in this process, by path, with what tells whether they are still the same.
_written: dict[str, tuple[int, ...]] = {}


def refuses_pickles() -> bool:
    """Whether `torch.load` opens plain values only, unless it is asked for more."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)


def _signature(path: str) -> tuple[int, ...]:
    state = os.stat(path)
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def save_stock(state: Any, path: str, *args: Any, **kwargs: Any) -> None:
    """`torch.save`, remembered for :func:`load_stock`."""
    torch.save(state, path, *args, **kwargs)
    _written[os.path.realpath(path)] = _signature(path)


def load_stock(path: str, *args: Any, _load: Callable = torch.load, **kwargs: Any) -> Any:
    """`torch.load` of plain values, or of a pickle if RecBole wrote it in this process and it has not changed since.
    Raises `CheckpointError` for any other pickle, which could run code. Where RecBole names no device, to the CPU."""
    from recbole_tiger.training.checkpoint import refused_pickle

    kwargs = kwargs if args else {"map_location": "cpu", **kwargs}
    try:
        return _load(path, *args, **{**kwargs, "weights_only": True})
    except pickle.UnpicklingError as error:
        if _written.get(os.path.realpath(path)) != _signature(path):
            raise refused_pickle(path) from error
    return _load(path, *args, **{**kwargs, "weights_only": False})
