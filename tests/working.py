"""A place for a test to work in; apart from the catalogue, which programs without pytest read as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """A `with` block in a folder, so that logs, checkpoints and caches land there, and with no command line to read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["pytest"])
        yield
