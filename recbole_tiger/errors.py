"""Every exception class of the library. Each is a `RecboleTigerError` and also the built-in exception that fits it.

Input: none. Output: classes, whose messages name what is wrong, where, and the way out; and for what other libraries
raise, a sentence that says what was being done.
"""

from __future__ import annotations

import difflib
import dis
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class RecboleTigerError(Exception):
    """Base of all errors of this library."""


class ConfigError(RecboleTigerError, ValueError):
    """A setting that cannot work; the message names the key, the value and the way out."""


class CheckpointError(RecboleTigerError, ValueError):
    """A checkpoint that cannot be used; the message names the file."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is not what was written, or a file that is none."""


class DamagedCacheError(RecboleTigerError, ValueError):
    """A cache file that is not what was written: it is named, never used and never silently recomputed."""


class CacheFolderError(RecboleTigerError, OSError, ValueError):
    """The cache folder cannot be read or written: read-only, full, or not a folder at all."""


class WriteError(RecboleTigerError, OSError):
    """A file that cannot be written: disk full, over a limit of size, read-only. `reason` is the system's own word."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class FolderInUseError(ConfigError):
    """Another process works in a folder; the message says which one and since when."""


class HubUnreachableError(RecboleTigerError, ConnectionError, ValueError):
    """The model is not on this machine and the hub that has it cannot be reached."""


class UnknownItemError(RecboleTigerError, ValueError):
    """A history names something that is no item of the catalogue, or several."""


class ProcessLost(RecboleTigerError, RuntimeError):
    """Another process of the run is gone; that process reports why."""


class ProcessDied(RecboleTigerError, RuntimeError):
    """A process of the run ended without an error message."""


class TrainingStopped(RecboleTigerError, RuntimeError):
    """Training was asked to stop (SIGTERM); the message names the checkpoint that continues it."""


class NotFiniteError(RecboleTigerError, ValueError):
    """A loss, a weight or a score that is not a finite number; the message names the model or step and the way out."""


class PreparationError(RecboleTigerError, ValueError):
    """Raw data or an option that cannot be used; the message names the file or option and the way out."""


class AtomicFileError(PreparationError):
    """A file that is not an atomic file; the message names file, line, column, the value found and the way out."""


class RowError(RecboleTigerError, ValueError):
    """One row cannot be used. `reason` is the kind (rows are counted by it), `detail` what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class DownloadError(RecboleTigerError, OSError):
    """A dataset could not be fetched; the message says why and what to put where."""


def names_like(name: object, names: Iterable[str], n: int = 2, cutoff: float = 0.6) -> list[str]:
    """At most `n` of some names that one may have been meant for, the nearest first, in whatever case it is written."""
    by_lower = {each.lower(): each for each in names}
    return [by_lower[near] for near in difflib.get_close_matches(str(name).lower(), by_lower, n, cutoff)]


# ------------------------------------------------------------------------------------------- errors of other libraries


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Note on an error that leaves this block what was being done, for :func:`message_of`; the innermost note stays.

    Args:
        what: such as "loading dataset 'toy' from 'data/toy'".
    """
    try:
        yield
    except Exception as error:
        if not hasattr(error, "doing"):
            error.doing = what  # type: ignore[attr-defined]
        raise


def is_explained(error: BaseException) -> bool:
    """Whether the message of an error is a sentence of this library, which needs no trace.

    It is if the class is ours, or if a `raise` statement of this library has raised a plain `ValueError` or `OSError`;
    `explained` says so of an error that has lost its trace on the way from another process.
    """
    if isinstance(error, RecboleTigerError) or getattr(error, "explained", False):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or type(error) not in (ValueError, OSError):
        return False
    code = trace.tb_frame.f_code
    is_raise = code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return is_raise and Path(__file__).parent in Path(code.co_filename).parents


def message_of(error: BaseException) -> str:
    """What went wrong, in one sentence: our own words, or what was being done and the other library's words."""
    text = " ".join(str(error).split())
    if is_explained(error):
        return text
    name = type(error).__name__
    words = f"{name}: {text}" if text else name
    what = getattr(error, "doing", "")
    return f"{what} failed: {words}" if what else words


def reason_of(error: OSError) -> str:
    """Why the system refuses a file, in few words."""
    return getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__
