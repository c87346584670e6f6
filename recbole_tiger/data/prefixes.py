"""RecBole's augmented interactions without augmenting: every user's sequence once, a row is the index of its next item.

Input: interactions in the order of user and time. Output: an ``Interaction`` with the columns that RecBole's
``data_augmentation`` would make, each computed when it is read. Ten million rows are ten million numbers, where the
padded histories alone would be a matrix of 20 times as many per column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from recbole.data.interaction import Interaction


def gather_ranges(values: torch.Tensor, begin: torch.Tensor, end: torch.Tensor, width: int) -> torch.Tensor:
    """``values[begin[i]:end[i]]`` for every i, padded with 0 at the end.

    Args:
        values: [N, …].
        begin, end: [n] indices into ``values``, ``end - begin`` at most ``width``.

    Returns:
        [n, width, …].
    """
    index = begin[..., None] + torch.arange(width, device=begin.device)  # [n, width]
    inside = index < end[..., None]
    found = values[torch.where(inside, index, 0)]
    return found.masked_fill_(~inside.reshape(inside.shape + (1,) * (values.dim() - 1)), 0)


@dataclass(frozen=True)
class PrefixRows:
    """Rows of the augmented data: row i is the item at ``target[i]`` after the at most ``max_length`` before it.

    Attributes:
        flat: columns [N, …] of all interactions in the order of user and time, by field.
        start: [n_users + 1] user u's interactions are ``start[u]`` up to, not including, ``start[u + 1]``.
        target: [n] index of each row's next item, never a user's first.
        max_length: the longest history.
        user_field: the field of the users.
        length_field: the field of the history lengths.
        list_fields: field of the histories of each field, all but the users'.
    """

    flat: dict[str, torch.Tensor]
    start: torch.Tensor
    target: torch.Tensor
    max_length: int
    user_field: str
    length_field: str
    list_fields: dict[str, str]

    def __len__(self) -> int:
        return len(self.target)

    def of(self, index) -> PrefixRows:
        """The rows of an index: a slice, a list, an array, a number or a mask."""
        if isinstance(index, list) and not index:
            index = slice(0)
        elif not isinstance(index, (slice, int)):
            index = torch.as_tensor(index)
        return replace(self, target=self.target[index])

    def only(self, *fields: str) -> PrefixRows:
        """The same with these columns alone, the users' among them."""
        flat = {field: self.flat[field] for field in fields}
        return replace(self, flat=flat, list_fields={f: name for f, name in self.list_fields.items() if f in flat})

    def to(self, device) -> PrefixRows:
        """The same on a device."""
        flat = {field: values.to(device) for field, values in self.flat.items()}
        return replace(self, flat=flat, start=self.start.to(device), target=self.target.to(device))

    def users(self) -> torch.Tensor:
        """[n] user numbers."""
        return self.flat[self.user_field][self.target]

    def begin(self) -> torch.Tensor:
        """[n] index of the first item of each history."""
        return torch.maximum(self.start[self.users()], self.target - self.max_length)

    def columns(self) -> dict[str, Callable[[], torch.Tensor]]:
        """How to compute each column, in RecBole's order."""

        def of_targets(field: str) -> torch.Tensor:
            return self.flat[field][self.target]

        def histories(field: str) -> torch.Tensor:
            return gather_ranges(self.flat[field], self.begin(), self.target, self.max_length)

        return {
            **{field: partial(of_targets, field) for field in self.flat},
            self.length_field: lambda: self.target - self.begin(),
            **{list_field: partial(histories, field) for field, list_field in self.list_fields.items()},
        }


class _Columns(MutableMapping):
    """Columns by field, computed anew whenever they are read; those that somebody sets are kept."""

    def __init__(self, computed: dict[str, Callable[[], torch.Tensor]]) -> None:
        self.computed = computed
        self.kept: dict[str, torch.Tensor] = {}
        self.fields = dict.fromkeys(computed)  # in order

    def __getitem__(self, field: str) -> torch.Tensor:
        return self.kept[field] if field in self.kept else self.computed[field]()

    def __setitem__(self, field: str, values: torch.Tensor) -> None:
        self.kept[field] = values
        self.fields[field] = None

    def __delitem__(self, field: str) -> None:
        del self.fields[field]
        self.kept.pop(field, None)
        self.computed.pop(field, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


class PrefixInteraction(Interaction):
    """Augmented interactions whose columns are computed when they are read; rows of it are such interactions too.

    RecBole's splits, loaders and case studies work on it as on any ``Interaction``; ``to``, ``repeat`` and the like
    return plain ones.

    Attributes:
        rows (PrefixRows): which rows.
    """

    def __init__(self, rows: PrefixRows) -> None:
        self.rows = rows
        self.interaction = _Columns(rows.columns())
        self.length = rows.target.numel()

    def __getitem__(self, index):
        if isinstance(index, str):
            return self.interaction[index]
        found = PrefixInteraction(self.rows.of(index))
        for field in set(found.interaction) - set(self.interaction):  # deleted here
            del found.interaction[field]
        for field, values in self.interaction.kept.items():
            found.interaction[field] = values[index]
        return found

    def _reindex(self, index) -> None:
        """Sort or shuffle: RecBole's methods do it through this one."""
        self.__dict__.update(self[index].__dict__)

    def __getstate__(self) -> dict:
        """Without the functions that compute columns, for RecBole's `save_dataset`."""
        return {"rows": self.rows, "fields": set(self.interaction), "kept": self.interaction.kept}

    def __setstate__(self, state: dict) -> None:
        PrefixInteraction.__init__(self, state["rows"])
        for field in set(self.interaction) - state["fields"]:
            del self.interaction[field]
        self.interaction.update(state["kept"])
