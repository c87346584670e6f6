"""Several processes of a run inside a test: forked, so that nothing is imported again and the test's patches hold."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from contextlib import contextmanager

import pytest

from recbole_tiger.distributed import collectives, launcher
from recbole_tiger.distributed.topology import Topology

# Garbage that a fork inherits may hold connections and threads that it does not have: it must not collect it.
os.register_at_fork(after_in_child=gc.freeze)


@contextmanager
def forked():
    """A `with` block in which the processes of a run are forks of this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "START_METHOD", "fork")
        yield


def together(n: int, work: Callable, *arguments) -> list:
    """What ``work(*arguments)`` returns in each of n processes."""
    with forked():
        return launcher.run_in_processes(
            lambda: collectives.gather(work(*arguments)), (), Topology(n, n, "localhost", 0, 0)
        )


@contextmanager
def as_process(rank: int, count: int):
    """A `with` block that takes the shares of one of several processes; nothing can be exchanged in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collectives, "_group", collectives._Group(rank, count, None))
        yield
