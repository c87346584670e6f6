"""Whether two datasets are the same for every model: a checksum, and the list of items.

Input: a dataset in its final order, and what a checkpoint says of the data that it was trained on. Output: plain values
for a checkpoint, or `ConfigError` with the difference.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch

from recbole_tiger.errors import ConfigError


def data_checksum(dataset) -> str:
    """CRC-32 over users, items, order and split of all interactions: equal for every model that saw the same data."""
    sequences = dataset.sequences
    crc = zlib.crc32("\x00".join(map(str, dataset.field2id_token[dataset.iid_field])).encode("utf-8"))
    arrays = [sequences.items, sequences.start]
    if sequences.split.cutoffs is not None:  # leave-one-out follows from the sequences
        arrays += [sequences.split.n_training, *sequences.split.targets.values()]
    for array in arrays:
        crc = zlib.crc32(array.astype("<i8").tobytes(), crc)
    return f"{crc:08x}"


def data_identity(dataset) -> dict[str, Any]:
    """What a checkpoint says of its data: the checksum, and the ids of the items as bytes with line ends between."""
    items = "\n".join(map(str, dataset.field2id_token[dataset.iid_field][1:]))
    return {
        "checksum": data_checksum(dataset),
        "items": torch.frombuffer(bytearray(items.encode("utf-8")), dtype=torch.uint8),
    }


def check_same_data(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, what: str) -> None:
    """Raise where a checkpoint was trained on other data than is loaded now.

    Args:
        before: of the checkpoint, from `data_identity`; None for one that an older version wrote.
        now: of the data that is loaded.
        what: names the checkpoint in the message.

    Raises:
        ConfigError: with the difference.
    """
    if before is None or now is None or before["checksum"] == now["checksum"]:
        return
    old, new = (each["items"].numpy().tobytes().decode("utf-8").split("\n") for each in (before, now))
    fewer, more = set(old) - set(new), set(new) - set(old)
    if fewer or more:
        examples = ", ".join(sorted(fewer or more)[:3])
        difference = f"{len(more):,} items are new and {len(fewer):,} are gone (such as {examples})"
    elif old != new:
        difference = "the same items are in another order"
    else:
        difference = "the items are the same, their interactions are not"
    raise ConfigError(
        f"{what} was trained on other data than the current files: {difference}; use the data of that run, or train a "
        "new one on this data"
    )
