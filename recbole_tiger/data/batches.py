"""Training examples on the device, in batches of index tensors.

Input: every user's sequence, once. Output: dictionaries of tensors with RecBole's field names, gathered when a batch is
asked for, in a seeded order, histories of similar length together so that little is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recbole_tiger.data.prefixes import PrefixRows, gather_ranges
from recbole_tiger.data.split import positions
from recbole_tiger.decoding.trie import compact
from recbole_tiger.distributed.collectives import share_of

#: Batches whose examples are sorted by length together; more is less padding, fewer is more random batches.
BUCKET_BATCHES = 32


@dataclass(frozen=True)
class FieldNames:
    """RecBole's names of what a batch holds."""

    user: str
    history: str
    length: str
    item: str

    @classmethod
    def of(cls, config) -> FieldNames:
        item = config["ITEM_ID_FIELD"]
        return cls(config["USER_ID_FIELD"], item + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"], item)


@dataclass(frozen=True)
class TrainingExamples:
    """Every prefix of every user's training sequence with its next item.

    Attributes:
        rows: the examples, as positions in the users' sequences, on the device.
        names: what a batch calls its fields.
    """

    rows: PrefixRows
    names: FieldNames

    @classmethod
    def from_dataset(cls, dataset, config, device) -> TrainingExamples:
        """The examples of a built training set (:class:`recbole_tiger.data.dataset.PrefixDataset`)."""
        names = FieldNames.of(config)
        return cls(dataset.inter_feat.rows.only(names.user, names.item).to(device), names)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: torch.Tensor, width: int) -> dict[str, torch.Tensor]:
        """Examples [B]: user [B], history [B, width] padded with 0 at the end, length [B], next item [B]."""
        rows, names = self.rows.of(index), self.names
        begin = rows.begin()
        items = rows.flat[names.item]
        return {
            names.user: rows.users(),
            names.history: gather_ranges(items, begin, rows.target, width),
            names.length: rows.target - begin,
            names.item: items[rows.target],
        }

    def batches(self, batch_size: int, seed: Sequence[int]) -> Batches:
        """All examples once, in an order that depends on the seed alone; of several processes each has its share.

        Args:
            batch_size: examples of a batch; the last one may be smaller.
            seed: numbers that name this pass, for example (run seed, epoch).
        """
        lengths = (self.rows.target - self.rows.begin()).cpu().numpy()
        rows = [share_of(part) for part in seeded_batches(lengths, batch_size, seed)]
        widths: list[tuple[int, ...]] = [(int(lengths[r].max(initial=0)),) for r in rows]
        return Batches(self.read, on_device(rows, self.rows.target.device), widths, [len(r) for r in rows])


@dataclass(frozen=True)
class TrainingWindows:
    """Every user's training sequence in windows of at most H + 1 items, of which one pass trains all positions.

    A sequence of at most H + 1 items is one window, and its targets see what they see as prefixes. A longer one is cut
    into windows that overlap by half; each target is trained once, in the window in which it sees at least H / 2 items.

    Attributes:
        items: [N] items of all users' sequences, on the device.
        user: [n] user of each window.
        begin: [n] index of its first item in ``items``.
        first_target: [n] index of its first target; from there on all items of the window are targets.
        end: [n] index after its last target, which is no part of its history.
        n_history: [n] items of the history of each window, at most H.
        n_targets: [n] targets of each window.
        names: what a batch calls its fields.
        bucket_batches: how many batches of windows are sorted by length together; 1 for plainly random batches.
    """

    items: torch.Tensor
    user: torch.Tensor
    begin: torch.Tensor
    first_target: torch.Tensor
    end: torch.Tensor
    n_history: np.ndarray
    n_targets: np.ndarray
    names: FieldNames
    bucket_batches: int = BUCKET_BATCHES

    @classmethod
    def from_sequences(cls, sequences, config, device) -> TrainingWindows:
        """Windows of what trains of all sequences.

        Args:
            sequences: :class:`recbole_tiger.data.dataset.UserSequences`.
        """
        size = config["MAX_ITEM_LIST_LENGTH"]
        stride = max(size // 2, 1)
        length = sequences.split.n_training
        # Windows of a sequence of n items: the first holds targets 1 .. size, each further one `stride` more.
        count = np.where(length >= 2, 1 + np.maximum(-(-(length - 1 - size) // stride), 0), 0)
        user = np.repeat(np.arange(len(length)), count)
        number = positions(count)
        first_target = np.where(number == 0, 1, size + 1 + (number - 1) * stride)  # position in the sequence
        end = np.minimum(np.where(number == 0, size + 1, first_target + stride), length[user])
        begin = number * stride
        start = sequences.start[user]

        def tensor(values):
            return torch.as_tensor(values, dtype=torch.long, device=device)

        return cls(
            items=tensor(sequences.items),
            user=tensor(user),
            begin=tensor(start + begin),
            first_target=tensor(start + first_target),
            end=tensor(start + end),
            n_history=end - 1 - begin,
            n_targets=end - first_target,
            names=FieldNames.of(config),
        )

    def __len__(self) -> int:
        return len(self.user)

    def read(self, index: torch.Tensor, width: int, n_targets: int, n_in_all: int | None = None) -> dict:
        """Windows [B]: user [B], history [B, width], its length [B], ``targets`` and ``context`` [B, n_targets].

        The context of a target is how many items of the history come before it. Padded with 0 at the end. How many
        targets there are is ``n_targets``, where that is given as ``n_in_all``: the device need not be asked.
        """
        begin, first, end = self.begin[index], self.first_target[index], self.end[index]
        position = first[:, None] + torch.arange(n_targets, device=first.device)
        return {
            self.names.user: self.user[index],
            self.names.history: gather_ranges(self.items, begin, end - 1, width),
            self.names.length: end - 1 - begin,
            "targets": gather_ranges(self.items, first, end, n_targets),
            "context": torch.where(position < end[:, None], position - begin[:, None], 0),
            **({} if n_in_all is None else {"n_targets": n_in_all}),
        }

    def batches(self, batch_size: int, seed: Sequence[int]) -> Batches:
        """All windows once, `batch_size` at a time, those of as many targets together; each process has its share."""
        rows = [share_of(part) for part in seeded_batches(self.n_targets, batch_size, seed, self.bucket_batches)]
        n_targets = [int(self.n_targets[r].sum()) for r in rows]
        widths: list[tuple[int, ...]] = [
            (int(self.n_history[r].max(initial=0)), int(self.n_targets[r].max(initial=0)), n)
            for r, n in zip(rows, n_targets, strict=True)
        ]
        return Batches(self.read, on_device(rows, self.user.device), widths, n_targets)


def seeded_batches(
    sizes: np.ndarray, batch_size: int, seed: Sequence[int], bucket_batches: int = BUCKET_BATCHES
) -> list[np.ndarray]:
    """All row numbers once, in batches of similar size in a random order that depends on the seed alone."""
    rng = np.random.default_rng(list(seed))
    order = rng.permutation(len(sizes))
    window = batch_size * bucket_batches
    batches = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(sizes[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def on_device(rows: list[np.ndarray], device) -> list[torch.Tensor]:
    """Arrays of row numbers on a device, moved there in one piece."""
    if not rows:
        return []
    return list(torch.from_numpy(np.concatenate(rows)).to(device).split([len(part) for part in rows]))


def window_targets(batch: dict, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows `[N]` of packed states that see what comes before each target of a batch of windows, and the targets `[N]`.

    Args:
        batch: see `TrainingWindows.read`.
        start: `[B]` row of each window's first state.
    """
    context = batch["context"]  # [B, J], 0 where there is no target
    wanted = context > 0
    n = batch["n_targets"] if "n_targets" in batch else int(wanted.sum())
    return compact(start[:, None] + context - 1, wanted, n), compact(batch["targets"], wanted, n)


@dataclass(frozen=True)
class Batches:
    """Batches of rows; a batch is gathered when it is asked for.

    Attributes:
        read: row numbers [B] and widths to a dictionary of tensors.
        rows: of each batch.
        widths: sizes of each batch that `read` needs, known here so that no step need ask the device.
        n_targets: items that this process trains on in each batch.
    """

    read: Callable[..., dict[str, torch.Tensor]]
    rows: list[torch.Tensor]
    widths: list[tuple[int, ...]]
    n_targets: list[int]

    def after(self, n: int) -> Batches:
        """The same without the first n batches."""
        return Batches(self.read, self.rows[n:], self.widths[n:], self.n_targets[n:])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for rows, widths in zip(self.rows, self.widths, strict=True):
            yield self.read(rows, *widths)
