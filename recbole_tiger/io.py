"""Files that are whole or not there.

Input: a path and its new content. Output: the file; a reader sees the old one or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A binary file that takes its place at `path` only when it is complete and on the disk.

    It is written beside its target under a temporary name (`.<name>.<random>.tmp`), flushed to the disk and
    renamed. On any failure, also on Ctrl-C, the temporary file is removed and what lay at `path` before is
    untouched.
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
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, on the systems where a folder can be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path`; the old file stays whole until the new one is."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike, text: str, encoding: str = "utf-8") -> None:
    """Write `text` to `path`, line ends as they are; the old file stays whole until the new one is."""
    atomic_write_bytes(path, text.encode(encoding))


def atomic_torch_save(path: str | os.PathLike, obj: Any) -> None:
    """`torch.save(obj)` to `path`; the old checkpoint stays whole until the new one is."""
    import torch

    with atomic_file(path) as file:
        torch.save(obj, file)
