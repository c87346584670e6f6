"""Files that are whole or not there, locks between processes, and values that JSON can hold.

Input: a path with its new content, or a value of settings or metrics. Output: the file, of which a reader sees the old
or the new one, never half of one; or the same value in plain types.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout

# What the operating system answers on a file system without locks, such as some network folders.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` only when it is complete and on the disk.

    It is written beside its target under a temporary name (`.<name>.<random>.tmp`), flushed to the disk and
    renamed. On any failure, also on Ctrl-C, the temporary file is removed and the old file stays as it was.
    """
    path = Path(os.path.realpath(path))  # through a symbolic link to the file it stands for
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
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


def atomic_torch_save(path: str | os.PathLike[str], obj: Any) -> None:
    """`torch.save(obj)` to `path`; the old checkpoint stays whole until the new one is."""
    import torch  # here, since most files are written without it

    with atomic_file(path) as file:
        torch.save(obj, file)


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
        raise TypeError(f"{type(value).__qualname__} is no plain value")
    return other(value)
