"""Every exception class of the library. Each is a `RecboleTigerError` and also the built-in exception that fits it.

Input: none. Output: classes, whose messages name what is wrong, where, and the way out.
"""

from __future__ import annotations


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
