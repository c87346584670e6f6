"""SIGTERM while a run works: a handler for a `with` block.

Input: what to do. Output: that is done between two steps of Python.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager


@contextmanager
def on_sigterm(handle: Callable[[], None]):
    """Call `handle` on SIGTERM, between two steps of Python; outside of the main thread signals stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: handle())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
