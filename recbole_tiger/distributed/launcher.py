"""Starts the processes of one run, watches them and ends them together.

Input: a function and a `Topology`. Output: what the function returned, or the error of the process that failed first.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist

from recbole_tiger.distributed import collectives
from recbole_tiger.distributed.topology import Topology
from recbole_tiger.errors import ConfigError, ProcessDied, ProcessLost, TrainingStopped, is_explained
from recbole_tiger.signals import on_sigterm

#: Nothing is inherited, so that threads and CUDA of this process stay out of the others.
START_METHOD = "spawn"
#: Seconds that processes get to end by themselves: once one has failed, and once all were asked to stop.
GRACE = 10.0
STOPPING_GRACE = 120.0


class _Traceback(Exception):
    """The stack of an error, as text, from the process in which it was raised."""


def run_in_processes(work: Callable, arguments: tuple, topology: Topology) -> Any:
    """Call ``work(*arguments)`` in every process of a run; returns what this machine's first process returned.

    Each process has joined the group of all (`collectives.py`) when `work` is called, and `torch.cuda` is set to a GPU
    of its own where there are any. SIGTERM is passed on to all of them. When one fails, the others are ended.

    Args:
        work: a function that another process can import.

    Raises:
        ConfigError: they cannot meet at `ip` and `port`.
        Exception: the error of the process that failed first, whose stack is the cause.
        ProcessDied, ProcessLost: a process on this machine, or on another one, ended without an error.
        TrainingStopped: all were asked to stop.
    """
    store = _first_store(topology) if topology.offset == 0 else None
    port = topology.port if store is None else store.port
    context: Any = multiprocessing.get_context(START_METHOD)
    running: dict[Connection, BaseProcess] = {}
    stopping = threading.Event()

    def stop() -> None:
        stopping.set()
        signal_all(running.values())

    try:
        with on_sigterm(stop):
            for local in range(topology.here):
                if stopping.is_set():
                    break
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_process, args=(sender, local, topology, port, work, arguments))
                process.start()
                sender.close()
                running[receiver] = process
            if stopping.is_set():  # SIGTERM came before all of them were there to get it; nobody has anything to save
                raise TrainingStopped("stopped by SIGTERM before training began")
            if topology.everywhere > topology.here:
                print(
                    f"{topology.here} of {topology.everywhere} processes run on this machine; waiting for the others "
                    f"at {topology.ip}:{port}",
                    file=sys.stderr,
                    flush=True,
                )
            return _watch(running, stopping)
    finally:
        end(running.values())
        del store  # the port is free again, though the stack of an error may keep this frame


def _first_store(topology: Topology) -> dist.TCPStore:
    try:
        return dist.TCPStore(
            topology.ip, topology.port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30)
        )
    except RuntimeError as error:
        port = f"port={topology.port}" if topology.port else "a free port"
        raise ConfigError(
            f"ip='{topology.ip}': cannot listen at {port} of this machine ({str(error).strip().splitlines()[0]}); "
            "choose another port, and an ip of this machine"
        ) from error


def _watch(running: dict[Connection, BaseProcess], stopping: threading.Event) -> Any:
    """Wait for the reports of all processes; each is (result, None, "") or (None, error, stack)."""
    results: dict[int, Any] = {}
    failure: tuple[Exception, str] | None = None
    deadline: float | None = None
    pending = dict(enumerate(running))
    while pending:
        ready = wait(list(pending.values()), None if deadline is None else max(0.0, deadline - monotonic()))
        if not ready:
            break
        for number in [number for number, receiver in pending.items() if receiver in ready]:
            receiver = pending.pop(number)
            try:
                results[number], error, stack = pickle.loads(receiver.recv_bytes())
            except (EOFError, OSError):
                error, stack = _death(running[receiver], stopping.is_set()), ""
            # A lost process is the consequence of an error in another one, whose report may still come.
            if error is None or not (failure is None or isinstance(failure[0], ProcessLost)):
                continue
            if failure is None:
                deadline = monotonic() + (STOPPING_GRACE if isinstance(error, TrainingStopped) else GRACE)
            if failure is None or not isinstance(error, ProcessLost):
                failure = error, stack
            if not isinstance(error, (ProcessLost, TrainingStopped)):
                signal_all(running.values())
    if not pending:  # all have reported, and flush what they have written
        for process in running.values():
            process.join(GRACE)
    if failure is not None:
        error, stack = failure
        raise error from (_Traceback("\n" + stack) if stack else None)
    return results[0]


def _death(process: BaseProcess, stopping: bool) -> Exception:
    process.join(GRACE)
    code = process.exitcode or 0
    if stopping and code == -signal.SIGTERM:
        return TrainingStopped("stopped by SIGTERM before training began")
    how = f"was killed by signal {-code}" if code < 0 else f"ended ({process.exitcode})"
    return ProcessDied(
        f"a process of the run {how} without saying why; signal 9 is often a machine that is out of memory"
    )


def signal_all(running: Iterable[BaseProcess]) -> None:
    for process in running:
        if process.is_alive():
            process.terminate()


def end(running: Iterable[BaseProcess]) -> None:
    """Leave no process behind."""
    deadline = monotonic() + GRACE
    signal_all(running)
    for process in running:
        process.join(max(0.0, deadline - monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


# ------------------------------------------------------------------------------------------------ in a started process


def _process(sender: Connection, local: int, topology: Topology, port: int, work: Callable, arguments: tuple) -> None:
    """The life of one process: join, work, report."""
    die_with_parent()
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    else:
        share_cores(topology.here)
    report: tuple[Any, Exception | None, str]
    try:
        with collectives.joined(topology.offset + local, topology.everywhere, _store(topology.ip, port)):
            report = work(*arguments), None, ""
    except Exception as error:
        report = None, _sendable(error), traceback.format_exc()
    sender.send_bytes(pickle.dumps(report))  # send() would share tensors, which end with this process
    sender.close()


def _store(ip: str, port: int) -> dist.TCPStore:
    try:
        return dist.TCPStore(ip, port, is_master=False, timeout=collectives.STEP_TIMEOUT)
    except RuntimeError as error:
        raise ConfigError(
            f"ip='{ip}', port={port}: the first machine does not answer ({str(error).strip().splitlines()[0]}); start "
            "the command with group_offset=0 on the machine with that address"
        ) from error


def share_cores(processes: int) -> None:
    """Take this process's part of the threads, unless the user has said how many it takes."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def die_with_parent() -> None:
    """End this process when the one that started it is gone, however it went, or by its SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _sendable(error: Exception) -> Exception:
    """The error itself if it survives the way to the parent, else its text."""
    try:
        error.explained = is_explained(error)  # type: ignore[attr-defined]
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # an exception's constructor may want anything
        return RuntimeError(f"{type(error).__name__}: {error}")
