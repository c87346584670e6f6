"""Files that are whole or not there, their checksums, locks between processes, and values that JSON can hold.

Input: a path with its new content, or a value of settings or metrics. Output: the file, of which a reader sees the old
or the new one, never half of one; or the same value in plain types.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import hashlib
import json
import logging
import os
import socket
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import strftime
from typing import IO, Any, cast

import numpy as np
from filelock import FileLock, Timeout

from recbole_tiger.errors import FolderInUseError, WriteError, reason_of

# What the operating system answers on a file system without locks, such as some network folders.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
# What it answers where there is no room: these can come from a write only.
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS}


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], *, reads: bool = False) -> Iterator[None]:
    """Name a file or folder where the operating system refuses to have it written.

    Args:
        reads: whether other files are read in the block, so that only a lack of room is a refusal to write.

    Raises:
        WriteError: in place of an `OSError` of the system; errors that are no refusal of it are passed on.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, WriteError) or error.errno is None or (reads and error.errno not in _NO_ROOM):
            raise
        message = f"cannot write '{path}' ({reason_of(error)}): free space or fix permissions, or choose another path"
        raise WriteError(message, reason_of(error)) from error


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and those above it, where they are not there yet; `WriteError` where that cannot be done."""
    with writing(path):
        Path(path).mkdir(parents=True, exist_ok=True)


def has_screen() -> bool:
    """Whether somebody sees bars as they move: at a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` only when it is complete and on the disk.

    It is written beside its target under a temporary name (`.<name>.<random>.tmp`), flushed to the disk and
    renamed. On any failure, also on Ctrl-C, the temporary file is removed and the old file stays as it was.

    Raises:
        WriteError: the disk is full, a limit is reached, or there is no right to write.
    """
    path = Path(os.path.realpath(path))  # through a symbolic link to the file it stands for
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with writing(path):
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # the new name survives a power cut, on systems where a folder can be synced
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`; the old file stays whole until the new one is."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str, encoding: str = "utf-8") -> None:
    """Write `text` to `path`, line ends as they are; the old file stays whole until the new one is."""
    atomic_write_bytes(path, text.encode(encoding))


def file_checksum(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class _Refusals:
    """A file that keeps the error of a failed write: torch's writer raises a `RuntimeError` without its reason."""

    def __init__(self, file: IO[bytes]) -> None:
        self.flush, self._write = file.flush, file.write
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._write(data)
        except OSError as error:
            self.error = error
            raise


def atomic_torch_save(path: str | os.PathLike[str], obj: Any) -> None:
    """`torch.save(obj)` to `path`; the old checkpoint stays whole until the new one is.

    Raises:
        WriteError: as :func:`atomic_file`.
    """
    import torch  # here, since most files are written without it

    with atomic_file(path) as file:
        watched = _Refusals(file)
        try:
            torch.save(obj, cast(IO[bytes], watched))
        except RuntimeError as error:
            if watched.error is None:
                raise
            raise watched.error from error


def checked_torch_load(path: str | os.PathLike[str], device: Any = "cpu") -> Any:
    """What `atomic_torch_save` wrote, plain values and tensors only, to the bit.

    Args:
        device: where tensors go.

    Raises:
        Exception: what zip, pickle and torch raise over a damaged file. Its CRC-32s, one for each tensor and one for
            the rest, are checked first: torch writes them and does not look at them.
    """
    import torch

    if zipfile.is_zipfile(path):  # of other files torch says what they are
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
    return torch.load(path, map_location=device, weights_only=True)


@contextlib.contextmanager
def file_lock(path: str | os.PathLike[str], on_wait: Callable[[], object]) -> Iterator[bool]:
    """Hold a lock between processes and threads during a block; the operating system frees it when its holder dies.

    Args:
        path: the lock file, removed at the end of the block.
        on_wait: called once where another process holds the lock, before waiting for it; what it raises is passed on.

    Yields:
        False where the file system has no locks: others may be in the block at the same time.

    Raises:
        OSError: the lock file cannot be written.
    """
    lock, held = FileLock(path), True
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_wait()
            lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        held = False
    try:
        yield held
    finally:
        # Removed while it is locked: whoever waits for this file notices that it is gone and opens a new one.
        with contextlib.suppress(OSError):  # Windows removes no open file; there the empty file stays
            os.unlink(path)
        lock.release()


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str], way_out: str) -> Iterator[None]:
    """Keep every other process out of a folder during a block; the folder is made, and removed if it stays empty.

    A holder that dies, in whatever way, frees the folder.

    Args:
        way_out: what to do where another process holds it, as the end of the message.

    Raises:
        FolderInUseError: names the holder's host and process, and since when it works there.
        WriteError: the folder cannot be written.
    """
    folder = Path(folder)
    holder, is_new = folder / ".lock-holder.json", not folder.exists()

    def refuse() -> None:
        raise FolderInUseError(f"'{folder}' is in use by {_described(holder)}; {way_out}")

    with contextlib.ExitStack() as stack:
        make_folder(folder)
        if is_new:
            stack.callback(_remove_if_empty, folder)
        with writing(folder):
            if not stack.enter_context(file_lock(folder / ".lock", on_wait=refuse)):
                logging.getLogger(__name__).warning("%s has no file locks: use it in one process at a time", folder)
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": strftime("%Y-%m-%d %H:%M:%S")}
        atomic_write_text(holder, json.dumps(about))
        stack.callback(holder.unlink, missing_ok=True)
        yield


def _described(holder: Path) -> str:
    """Who holds a lock, in words; the holder may be writing them, or be gone, by now."""
    try:
        about = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']}, since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def to_plain(value: Any, other: Callable[[Any], Any] | None = None) -> Any:
    """Settings or metrics in types that JSON can hold, nested ones as well.

    Enum members become their names, numpy's numbers Python's, keys strings, tuples lists, sets sorted lists.

    Args:
        value: what is to be written.
        other: makes a plain value of anything else, such as `str` for a device.

    Raises:
        TypeError: for anything else, without `other`.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry, other) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if isinstance(value, (list, tuple)):
        return [to_plain(entry, other) for entry in value]
    if other is None:
        raise TypeError(f"{type(value).__qualname__} is not a plain value")
    return other(value)
