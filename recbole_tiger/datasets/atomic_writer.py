"""RecBole's atomic files: written beside their path, moved there when complete, and checksummed.

Input: interactions, or the files of a dataset. Output: the folder of the dataset, or a checksum.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recbole_tiger.datasets.arrays import FloatArray, IntArray
from recbole_tiger.datasets.atomic_fields import ITEM, RATING, TIME, USER, header
from recbole_tiger.datasets.interactions import Interactions
from recbole_tiger.errors import PreparationError
from recbole_tiger.io import file_checksum, make_folder, writing

ROWS_AT_ONCE = 1 << 17


def check_dataset_name(dataset: str) -> None:
    """Raise a `PreparationError` unless a dataset's name is the name of one folder."""
    if not dataset or dataset.startswith(".") or Path(dataset).name != dataset or "\\" in dataset:
        raise PreparationError(f"dataset={dataset!r} must be the name of one folder, such as my-shop.")


def refuse_existing(output: str | Path, dataset: str, overwrite: bool, names: Iterable[str] = ()) -> None:
    """Raise a `PreparationError` if there is a dataset of this name, or a file of one of these names in its folder, and
    `overwrite` is false; or if the folder is none."""
    check_dataset_name(dataset)
    folder = Path(output) / dataset
    if folder.exists() and not folder.is_dir():
        raise PreparationError(f"{folder} is not a folder: choose another dataset name or output folder.")
    for name in (f"{dataset}.inter", *names):
        if not overwrite and (path := folder / name).exists():
            raise PreparationError(f"{path} exists: choose another dataset name or output folder, or set overwrite.")


@contextmanager
def dataset_folder(output: str | Path, dataset: str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder whose files become those of `<output>/<dataset>/` when the block ends without an error.

    A dataset that is not there yet appears whole or not at all. In one that is overwritten each file is replaced whole,
    `.inter` last; other files in the folder stay. After an error nothing has changed. A `PreparationError` if the
    dataset or one of the files exists and `overwrite` is false.
    """
    refuse_existing(output, dataset, overwrite)
    target = Path(output) / dataset
    temporary = target.with_name(f".{dataset}.{uuid.uuid4().hex[:12]}.partial")
    make_folder(temporary)
    try:
        with writing(target, reads=True):
            yield temporary
        refuse_existing(output, dataset, overwrite, os.listdir(temporary))  # made meanwhile, or of the user's own
        with writing(target):
            if target.is_dir() and any(target.iterdir()):
                for path in sorted(temporary.iterdir(), key=lambda path: path.suffix == ".inter"):
                    os.replace(path, target / path.name)
            else:
                if target.is_dir():
                    target.rmdir()
                os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_interactions(
    path: Path, interactions: Interactions, user_names: Sequence[str], item_names: Sequence[str], order: IntArray
) -> None:
    """Write an `.inter` file: `user_id item_id [rating] timestamp`, the rows in the given order [n]."""
    fields = [USER, ITEM, *([RATING] if interactions.ratings is not None else []), TIME]
    numbers = [column for column in (interactions.ratings, interactions.times) if column is not None]
    whole = [_are_whole(column) for column in numbers]
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(header(fields))
        for start in range(0, len(order), ROWS_AT_ONCE):
            rows = order[start : start + ROWS_AT_ONCE]
            columns: list[Iterable[str]] = [
                map(user_names.__getitem__, interactions.users[rows].tolist()),
                map(item_names.__getitem__, interactions.items[rows].tolist()),
            ]
            for column, integral in zip(numbers, whole, strict=True):
                columns.append(map(str, (column[rows].astype(np.int64) if integral else column[rows]).tolist()))
            stream.write("\n".join(map("\t".join, zip(*columns, strict=True))) + "\n")


def _are_whole(values: FloatArray) -> bool:
    """Whether a float column can be written without decimals and read back the same."""
    return bool(np.all((values == np.rint(values)) & (np.abs(values) < 2**53)))


def data_checksum(data_path: str | Path, dataset: str) -> str:
    """SHA-256 over the `.inter` and, if there is one, the `.item` file of a dataset."""
    digest = hashlib.sha256()
    for suffix in (".inter", ".item"):
        path = Path(data_path) / dataset / f"{dataset}{suffix}"
        if path.exists():
            digest.update(f"{suffix} {file_checksum(path)}\n".encode())
    return digest.hexdigest()
