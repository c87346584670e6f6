"""Training examples on the device, in batches of index tensors.

Comes in: RecBole's augmented training set. Goes out: dictionaries of tensors with RecBole's field names, in a seeded
order, histories of similar length together so that little is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recbole_tiger.processes import share_of

#: Batches whose examples are sorted by length together; more is less padding, fewer is more random batches.
BUCKET_BATCHES = 32


@dataclass(frozen=True)
class TrainingExamples:
    """Every prefix of every user's training sequence with its next item.

    Attributes:
        fields: tensors by RecBole field name, all with n rows: user [n], history [n, H], length [n], next item [n].
        length_field: the name of the history lengths.
    """

    fields: dict[str, torch.Tensor]
    length_field: str

    @classmethod
    def from_dataset(cls, dataset, config, device) -> TrainingExamples:
        """The examples of a built RecBole training set, moved to the device once."""
        length_field = config["ITEM_LIST_LENGTH_FIELD"]
        names = (
            config["USER_ID_FIELD"],
            config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"],
            length_field,
            config["ITEM_ID_FIELD"],
        )
        return cls({name: dataset.inter_feat[name].to(device) for name in names}, length_field)

    def __len__(self) -> int:
        return len(self.fields[self.length_field])

    def batches(self, batch_size: int, seed: Sequence[int]) -> Batches:
        """All examples once, in an order that depends on the seed alone; of several processes each has its share.

        Args:
            batch_size: examples of a batch; the last one may be smaller.
            seed: numbers that name this pass, for example (run seed, epoch).
        """
        lengths = self.fields[self.length_field]
        rows = [share_of(part) for part in seeded_batches(lengths.cpu().numpy(), batch_size, seed)]
        return Batches(
            self.fields, [torch.from_numpy(part).to(lengths.device) for part in rows], [len(r) for r in rows]
        )


@dataclass(frozen=True)
class TrainingWindows:
    """Every user's training sequence in windows of at most H + 1 items, for a block-causal encoder: one pass trains all
    positions of a window.

    A sequence of at most H + 1 items is one window, and its targets see what they see as prefixes. A longer one is cut
    into windows that overlap by half; each target is trained once, in the window in which it sees at least H / 2 items.

    Attributes:
        fields: user [n], history [n, H], length [n] (items of the history), ``targets`` [n, J] and ``context`` [n, J] (how
            many items of the history come before each target), both padded with 0 at the end.
        length_field: the name of the history lengths.
        n_targets: [n] targets of each window.
        bucket_batches: how many batches of windows are sorted by length together; 1 for plainly random batches.
    """

    fields: dict[str, torch.Tensor]
    length_field: str
    n_targets: np.ndarray
    bucket_batches: int = BUCKET_BATCHES

    @classmethod
    def from_sequences(cls, sequences, held_out, config, device) -> TrainingWindows:
        """Windows of all sequences.

        Args:
            sequences: :class:`recbole_tiger.data.dataset.UserSequences`.
            held_out: [n_users] how many of the last items of each sequence are not for training.
        """
        size = config["MAX_ITEM_LIST_LENGTH"]
        stride = max(size // 2, 1)
        length = np.diff(sequences.start) - held_out
        # Windows of a sequence of n items: the first holds targets 1 .. size, each further one `stride` more.
        count = np.where(length >= 2, 1 + np.maximum(-(-(length - 1 - size) // stride), 0), 0)
        user = np.repeat(np.arange(len(length)), count)
        number = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
        first_target = np.where(number == 0, 1, size + 1 + (number - 1) * stride)  # place in the sequence
        end_target = np.minimum(np.where(number == 0, size + 1, first_target + stride), length[user])
        begin = np.where(number == 0, 0, number * stride)  # place of the window's first item
        n_history = end_target - 1 - begin
        n_targets = end_target - first_target

        def gather(start, n, width):
            place = np.arange(width)
            inside = place < n[:, None]
            index = sequences.start[user][:, None] + start[:, None] + place
            return np.where(inside, sequences.items[np.where(inside, index, 0)], 0), inside

        history, _ = gather(begin, n_history, size)
        targets, inside = gather(first_target, n_targets, int(n_targets.max(initial=1)))
        context = np.where(inside, (first_target - begin)[:, None] + np.arange(targets.shape[1]), 0)
        fields = {
            config["USER_ID_FIELD"]: user,
            config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]: history,
            config["ITEM_LIST_LENGTH_FIELD"]: n_history,
            "targets": targets,
            "context": context,
        }
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(v, dtype=np.int64)).to(device) for name, v in fields.items()
        }
        return cls(tensors, config["ITEM_LIST_LENGTH_FIELD"], n_targets)

    def batches(self, batch_size: int, seed: Sequence[int]) -> Batches:
        """All windows once, `batch_size` at a time, those of as many targets together; each process has its share."""
        device = self.fields[self.length_field].device
        rows = [share_of(part) for part in seeded_batches(self.n_targets, batch_size, seed, self.bucket_batches)]
        targets = [int(self.n_targets[part].sum()) for part in rows]
        return Batches(self.fields, [torch.from_numpy(part).to(device) for part in rows], targets)


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


@dataclass(frozen=True)
class Batches:
    """Batches of rows of device tensors; a batch is gathered when it is asked for.

    Attributes:
        n_targets: items that this process trains on in each batch.
    """

    fields: dict[str, torch.Tensor]
    rows: list[torch.Tensor]
    n_targets: list[int]

    def after(self, n: int) -> Batches:
        """The same without the first n batches."""
        return Batches(self.fields, self.rows[n:], self.n_targets[n:])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self):
        for rows in self.rows:
            yield {name: values[rows] for name, values in self.fields.items()}
