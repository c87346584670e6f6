"""The processes of one run: which one this is, its share of the rows, and what all of them add up to.

Input: what one process has. Output: what the whole run has, the same in every process; in a run of one process, what
was given. `launcher.py` starts the processes; gloo carries what lies on the CPU, NCCL the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from recbole.utils import init_seed
from torch import Tensor, nn

from recbole_tiger.errors import ProcessLost

T = TypeVar("T")

#: How long a process waits for the others in a step; a process that has died is noticed at once.
STEP_TIMEOUT = timedelta(minutes=30)
#: How long the others wait for what the first one computes alone: Semantic IDs of a large catalogue take hours.
ALONE_TIMEOUT = timedelta(days=30)


@dataclass
class _Group:
    """The group that this process has joined.

    Attributes:
        n_alone: how often the others have waited for the first process so far.
    """

    rank: int
    count: int
    store: dist.Store
    n_alone: int = 0


_group: _Group | None = None


@contextmanager
def joined(rank: int, count: int, store: dist.Store) -> Iterator[None]:
    """A `with` block in which this process is number `rank` of `count`; all of them reach the same `store`. Raises
    `ProcessLost` if they do not come together."""
    global _group
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _others_needed():
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=STEP_TIMEOUT)
    _group = _Group(rank, count, dist.PrefixStore("recbole_tiger", store))
    try:
        yield
        _leave(_group)
    finally:
        _group = None
    dist.destroy_process_group()  # after an error it could wait for processes that are gone; this one ends anyway


def _leave(group: _Group) -> None:
    """Wait until nobody needs anybody: who closes its connections early breaks the last exchange of the others.

    The first process leaves last, since the store is on its machine.
    """
    everybody = range(group.count)
    with _others_needed():
        group.store.set(f"done {group.rank}", "")
        group.store.wait([f"done {number}" for number in everybody], STEP_TIMEOUT)
        group.store.set(f"left {group.rank}", "")
        if group.rank == 0:
            group.store.wait([f"left {number}" for number in everybody], STEP_TIMEOUT)


@contextmanager
def _others_needed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # For a lost peer gloo has no class of its own; what a signal raises in here (TrainingStopped) is another one.
        if type(error) is not RuntimeError and not isinstance(error, dist.DistError):
            raise
        raise ProcessLost(f"another process of the run is gone ({str(error).strip().splitlines()[0]})") from error


def rank() -> int:
    """The number of this process, from 0."""
    return 0 if _group is None else _group.rank


def count() -> int:
    """How many processes the run has."""
    return 1 if _group is None else _group.count


def is_main() -> bool:
    """Whether this is the process that writes files, logs and draws bars."""
    return rank() == 0


def seed_generators(config, *parts: int) -> None:
    """Let a process that is not the first draw its own random numbers (dropout, masks, negatives).

    The first keeps to the run's seed, from which all have made the same first weights.
    """
    if not is_main():
        sequence = np.random.SeedSequence([config["seed"], rank(), *parts])
        init_seed(int(sequence.generate_state(1)[0]), config["reproducibility"])


# --------------------------------------------------------------------------------------------------- rows of a process


def share_of(rows: Any) -> Any:
    """This process's part of an array or sequence of rows; of rows sorted by length, each gets long and short ones."""
    return rows[rank() :: count()]


def loader_shares(loader) -> Iterator[tuple[Sequence[int], object | None]]:
    """This process's share of each batch of a RecBole loader: row numbers, and their batch or None without rows.

    All processes draw the same batches, since the order is that of the loader's own seeded generator; each collates
    (samples, masks) its rows only. RecBole's own `DistributedSampler` fills up with rows that it repeats.
    """
    collate = loader.collate_fn
    loader.collate_fn = functools.partial(_collate_share, collate, slice(rank(), None, count()))
    try:
        yield from loader
    finally:
        loader.collate_fn = collate


def _collate_share(collate: Callable, share: slice, rows: Sequence[int]) -> tuple[Sequence[int], object | None]:
    return rows[share], collate(rows[share]) if rows[share] else None


# ------------------------------------------------------------------------------------------------- what they agree on


def from_main(compute: Callable[[], T]) -> T:
    """What the first process computes, in all of them; the others wait for as long as it takes."""
    if _group is None:
        return compute()
    _group.n_alone += 1
    ready = f"computed {_group.n_alone}"
    box: list[Any] = [None]
    if is_main():
        box = [compute()]
        with _others_needed():
            _group.store.set(ready, "")
    with _others_needed():
        _group.store.wait([ready], ALONE_TIMEOUT)
        dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """The values of all processes in their order."""
    if _group is None:
        return [value]
    values: list = [None] * count()
    with _others_needed():
        dist.all_gather_object(values, value)
    return values


def any_of(flag: bool) -> bool:
    """Whether any process has the flag."""
    if _group is None:
        return flag
    flags = torch.tensor([int(flag)])
    with _others_needed():
        dist.all_reduce(flags)
    return bool(flags.item())


def differences(facts: Mapping[str, object]) -> list[str]:
    """Names of facts that are not the same in all processes."""
    everybody = gather(dict(facts))
    names = {name: None for each in everybody for name in each}
    return [name for name in names if any(each.get(name) != everybody[0].get(name) for each in everybody)]


def check_weights(parameters: Sequence[nn.Parameter]) -> None:
    """Raise unless the weights are the same, bit for bit, in all processes: each updates its own copy. Raises
    `RuntimeError`: they differ, so that what is measured would be of no one model."""
    if _group is None:
        return
    bytes_of = (parameter.detach().reshape(-1).view(torch.uint8) for parameter in parameters)
    if len(set(gather(tuple(int(each.sum()) for each in bytes_of)))) > 1:
        raise RuntimeError(
            "the weights of the processes have drifted apart: their machines compute differently; train on machines of "
            "one kind, with one version of torch"
        )


# ----------------------------------------------------------------------------------------------------- what they add up


def assemble(rows: Tensor, positions: Sequence[int], n: int) -> Tensor:
    """Rows that the processes have, as one table.

    Args:
        rows: [m, C] whole numbers on the CPU.
        positions: [m] where this process's rows stand in the table.
        n: rows of the table; each is a row of exactly one process.

    Returns:
        [n, C] int64.
    """
    table = torch.zeros(n, rows.shape[1] + 1, dtype=torch.int64)
    index = torch.as_tensor(positions, dtype=torch.int64)
    table[index, -1] += 1
    table[index, :-1] = rows.to(torch.int64)
    if _group is not None:
        with _others_needed():
            dist.all_reduce(table)
    assert (table[:, -1] == 1).all(), "a row is missing, or two processes have it"
    return table[:, :-1]


def average_gradients(parameters: Sequence[nn.Parameter], loss: Tensor, n_targets: int) -> tuple[Tensor, int]:
    """Make the gradients of a batch out of those of its shares, in place.

    The loss of a share is a mean over its targets, so that of the batch is the mean of these means weighted by their
    numbers of targets; DistributedDataParallel takes the plain mean, another function where the numbers differ.
    Gradients are added as one flat tensor: one message, whatever the model, and nothing special for a process without a
    row in a small batch or a parameter that only some rows reach.

    Args:
        parameters: the same in all processes; a gradient may be None, and is afterwards only if it is in all of them.
        loss: () mean over this process's targets.
        n_targets: how many these are; with 0 neither loss nor gradients count.

    Returns:
        The batch's mean loss () and its targets.
    """
    if _group is None:
        return loss, n_targets
    facts = torch.tensor([n_targets, *(p.grad is not None for p in parameters)], dtype=torch.int64)
    with _others_needed():
        dist.all_reduce(facts)
    total, *present = facts.tolist()
    updated = [p for p, n in zip(parameters, present, strict=True) if n]
    if n_targets:
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in updated]
        flat = torch.cat([part.reshape(-1) for part in (*parts, loss.detach())]) * (n_targets / total)
    else:
        flat = torch.cat([torch.zeros_like(x).reshape(-1) for x in (*updated, loss.detach())])
    with _others_needed():
        dist.all_reduce(flat)
    *gradients, loss = flat.split([p.numel() for p in updated] + [1])
    for parameter, gradient in zip(updated, gradients, strict=True):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype)
    return loss[0] if total else loss[0] / 0, total
