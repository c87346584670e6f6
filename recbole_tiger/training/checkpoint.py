"""Checkpoints of plain values and tensors: opening one runs no code, a broken one is named.

Input: a trainer's state. Output: a file that ``torch.load(weights_only=True)`` reads, and back.
"""

from __future__ import annotations

import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import torch

from recbole_tiger.errors import CheckpointError, DamagedCheckpointError, WriteError, reason_of
from recbole_tiger.io import atomic_torch_save, checked_torch_load

FORMAT = "recbole_tiger checkpoint"
FORMAT_VERSION = 1


def plain(value):
    """A copy of nested containers with numpy scalars and arrays as Python numbers and tensors.

    Raises:
        TypeError: for anything that ``weights_only=True`` would refuse to load.
    """
    if value is None:
        return None
    for kind in (bool, int, float, str, bytes):
        if isinstance(value, kind):
            return kind(value)  # a subclass (numpy's float64 is a float) would be pickled by reference to its class
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, (list, set)):
        return [plain(item) for item in value]
    raise TypeError(f"a checkpoint holds plain values and tensors only, not {type(value).__name__}")


def save_checkpoint(path: str | Path, state: dict, last: str | Path | None = None) -> None:
    """Write a state whole or not at all (temporary name, then rename).

    Args:
        last: the checkpoint that the run could be resumed from.

    Raises:
        WriteError: the disk does not take it; names `last` where that is there.
    """
    try:
        atomic_torch_save(path, {"format": FORMAT, "format_version": FORMAT_VERSION, **plain(state)})
    except OSError as error:
        hint = "there is no previous checkpoint to resume"
        if last is not None and Path(last).is_file():
            hint = f"resume the previous one, which is intact, with --resume={last}"
        reason = reason_of(error)
        message = f"cannot write the checkpoint '{path}' ({reason}): free space or set --checkpoint_dir; {hint}"
        raise WriteError(message, reason) from error


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint of this package, with its tensors on the CPU.

    Raises:
        DamagedCheckpointError: if it cannot be read, or is not to the bit what was written.
        CheckpointError: if the file is missing, or not ours.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at '{path}': give the path of a .pth file that a run wrote")
    try:
        state = checked_torch_load(path)
    except PermissionError as error:
        raise CheckpointError(f"the checkpoint '{path}' may not be read by this user: {error.strerror}") from error
    except Exception as error:  # whatever zip, pickle and torch raise over damaged bytes
        if isinstance(error, pickle.UnpicklingError) and _names_recbole(path):
            raise refused_pickle(path) from error
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DamagedCheckpointError(
            f"the checkpoint '{path}' is damaged or was not written by recbole_tiger ({first}); use another one, or "
            "train again"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' is not a checkpoint of recbole_tiger; RecBole's own are read by RecBole")
    if state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"the checkpoint '{path}' has format version {state.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}; read it with the version of recbole_tiger that wrote it"
        )
    return state


def _names_recbole(path: Path) -> bool:
    """Whether a pickle would make RecBole's `Config`, which is in each of its checkpoints; nothing is unpickled."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(b"recbole.config" in archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def refused_pickle(path: str | Path) -> CheckpointError:
    """The error for a checkpoint of RecBole's own trainer, a pickle, where it must not be opened."""
    return CheckpointError(
        f"'{path}' is not a checkpoint of recbole_tiger but of stock RecBole: a pickle, which can run code when it is "
        "opened; train the model with run_recbole_tiger, whose checkpoints are plain values, or, if you trust the "
        "file, open it with torch.load(path, weights_only=False)"
    )


def is_safe_checkpoint(path: str | Path) -> bool:
    """Whether a file is a checkpoint of this package (a damaged file raises, a foreign one is False)."""
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        if "damaged" in str(error) and isinstance(error.__cause__, pickle.UnpicklingError):
            return False  # RecBole's own checkpoints pickle a Config
        if "is not a checkpoint of" in str(error):
            return False
        raise
    return True


def random_state() -> dict:
    """The states of all global generators, as plain values."""
    version, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    return {
        "python": random.getstate(),
        "numpy": [version, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict) -> None:
    """Restore the states of all global generators."""
    random.setstate(tuple(tuple(x) if isinstance(x, (list, tuple)) else x for x in state["python"]))
    version, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((version, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
