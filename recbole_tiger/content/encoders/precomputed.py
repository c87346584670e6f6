"""Embeddings made elsewhere: a `.npz`, `.parquet` or `.npy` file in, a matrix in the order of the items out."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_tiger.cache import content_key, read_member
from recbole_tiger.content.encoders.base import Encoder, examples


class Precomputed(Encoder):
    """Looks embeddings up in a file, see `read_embeddings` for its forms.

    Args:
        file: the file (`content_file`).
        item_file_ids: for a `.npy`: the ids in the order of the `.item` file.
    """

    name = "precomputed"

    def __init__(self, file: str | Path | None, item_file_ids: Sequence[str] | None = None) -> None:
        self.file = file
        self.item_file_ids = item_file_ids

    def fingerprint(self) -> dict[str, Any]:
        path = _embeddings_path(self.file)
        rows = content_key(list(self.item_file_ids or [])) if path.suffix == ".npy" else None
        return {"encoder": self.name, "file": content_key(path), "rows": rows}

    def _encode(
        self, sentences: list[str], item_ids: list[str], progress: bool, checkpoint: Path | None
    ) -> NDArray[np.float32]:
        return read_embeddings(self.file, item_ids, self.item_file_ids)


def read_embeddings(
    file: str | Path | None,
    item_ids: Sequence[str],
    item_file_ids: Sequence[str] | None = None,
    *,
    key: str = "content_file",
) -> NDArray[np.float32]:
    """Read embeddings float32 `[n, dim]` that were made elsewhere, in the order of the n `item_ids`.

    Items in the file that are not asked for are left out. Three forms:

    * `.npz` with the arrays `item_id` [m] (strings or whole numbers) and `embedding` [m, dim];
    * `.parquet` with a column `item_id` and either a column `embedding` of lists or else number columns only,
      which are the dimensions in the file's order;
    * `.npy`: without ids, so it must hold one row for each line of the `.item` file, in that order, which is
      not the order of RecBole's item numbers; a structured `.npy` with the fields `item_id` and `embedding`
      is read as `.npz`.

    Raises:
        ValueError: naming the setting `key`: no file, a form unknown or damaged, another rank or number of rows,
            items missing or twice, NaN or infinite values.
    """
    path = _embeddings_path(file, key)
    wrong = f"{key}={str(path)!r}"
    ids, embeddings = _read(path, wrong)
    if ids is None:
        ids = _ids_of_rows(len(embeddings), item_file_ids, wrong)
    elif len(ids) != len(embeddings):
        raise ValueError(f"{wrong} has {len(ids)} item ids for {len(embeddings)} embeddings")
    row_of = {item: row for row, item in enumerate(ids)}
    if len(row_of) < len(ids):
        twice = [item for row, item in enumerate(ids) if row_of[item] != row]
        raise ValueError(f"{wrong} has {len(set(twice))} items more than once (such as {examples(twice)})")
    wanted = [str(item) for item in item_ids]
    if missing := [item for item in wanted if item not in row_of]:
        text = f"{len(missing)} of {len(wanted)} items (such as {examples(missing)})"
        raise ValueError(f"{wrong} lacks {text}: add their embeddings")
    with np.errstate(over="ignore"):
        chosen = np.ascontiguousarray(embeddings[[row_of[item] for item in wanted]], dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(chosen).all(axis=1))
    if len(bad):
        text = f"{len(bad)} of {len(wanted)} items (such as {examples([wanted[row] for row in bad])})"
        raise ValueError(f"{wrong} has NaN or infinite values for {text}")
    return chosen


def _embeddings_path(file: str | Path | None, key: str = "content_file") -> Path:
    if not file:
        raise ValueError("content_encoder=precomputed needs content_file: a .npz, .parquet or .npy of embeddings")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"{key}={str(file)!r}: there is no such file")
    if path.suffix not in (".npz", ".parquet", ".npy"):
        raise ValueError(f"{key}={str(file)!r} is not a .npz, .parquet or .npy file")
    return path


def _read(path: Path, wrong: str) -> tuple[list[str] | None, NDArray[Any]]:
    """Ids, if the file has them, and embeddings `[m, dim]` of any number type."""
    try:
        ids, embeddings = (_read_parquet if path.suffix == ".parquet" else _read_numpy)(path, wrong)
    except ValueError:
        raise
    except Exception as error:  # zipfile's, zlib's and numpy's own, and MemoryError
        raise ValueError(f"{wrong} cannot be read, it may be damaged ({error}): write it again") from error
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        shape = list(embeddings.shape)
        raise ValueError(f"{wrong} has embeddings of shape {shape}: there must be two axes, items and dimensions")
    if embeddings.dtype.kind not in "fiu":
        raise ValueError(f"{wrong} has embeddings of type {embeddings.dtype}: they must be numbers")
    return ids, embeddings


def _ids_of_rows(n_rows: int, item_file_ids: Sequence[str] | None, wrong: str) -> list[str]:
    if item_file_ids is None:
        raise ValueError(
            f"{wrong} holds no item ids, and the order of the item file is not known here: write a .npz with the "
            "arrays item_id and embedding"
        )
    if n_rows != len(item_file_ids):
        raise ValueError(
            f"{wrong} has {n_rows} rows, the item file {len(item_file_ids)}: a .npy needs one row for each line of the "
            "item file, in the same order; or write a .npz with the arrays item_id and embedding"
        )
    return [str(item) for item in item_file_ids]


def _read_numpy(path: Path, wrong: str) -> tuple[list[str] | None, NDArray[Any]]:
    try:
        if path.suffix == ".npy":
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)  # raises where the file is shorter than it says
            if loaded.dtype.names is None:
                return None, loaded
            names = list(loaded.dtype.names)
            arrays = {name: loaded[name] for name in names}
        else:
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                arrays = {name: read_member(archive, name) for name in ("item_id", "embedding") if name in names}
    except ValueError as error:  # among them object arrays, which only pickle could read
        raise ValueError(
            f"{wrong} cannot be read ({error}): it must hold plain arrays, the ids as np.array(ids, dtype=str)"
        ) from error
    if not {"item_id", "embedding"} <= arrays.keys():
        raise ValueError(f"{wrong} must hold the arrays item_id and embedding, but holds {', '.join(names) or 'none'}")
    return _ids_as_text(arrays["item_id"], wrong), arrays["embedding"]


def _read_parquet(path: Path, wrong: str) -> tuple[list[str], NDArray[Any]]:
    import pandas as pd  # here: no other form needs it

    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise ValueError(f"{wrong} needs the package pyarrow ({error}): install it, or write a .npz") from error
    except Exception as error:  # pyarrow's own
        raise ValueError(f"{wrong} cannot be read, it may be damaged ({error}): write it again") from error
    if "item_id" not in frame.columns:
        raise ValueError(f"{wrong} must have a column item_id, but has {', '.join(map(str, frame.columns))}")
    ids = _ids_as_text(frame["item_id"].to_numpy(), wrong)
    if "embedding" in frame.columns:
        shapes = sorted({np.shape(vector) for vector in frame["embedding"]})
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            found = ", ".join(str(list(shape)) for shape in shapes[:3])
            raise ValueError(f"{wrong}: the lists in column embedding are not all of one length ({found})")
        return ids, np.stack([np.asarray(vector) for vector in frame["embedding"]])
    numbers = frame.drop(columns="item_id")
    other = [str(name) for name in numbers if numbers[name].dtype.kind not in "fiu"]
    if other:
        raise ValueError(
            f"{wrong} has neither a column embedding nor number columns alone ({examples(other)} hold something else)"
        )
    return ids, numbers.to_numpy()


def _ids_as_text(ids: NDArray[Any], wrong: str) -> list[str]:
    if ids.ndim != 1:
        raise ValueError(f"{wrong} has item ids of shape {list(ids.shape)}: there must be one axis")
    if ids.dtype.kind == "S":
        try:
            ids = np.char.decode(ids, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{wrong} has item ids that are not UTF-8 ({error}): save them as strings") from error
    if ids.dtype.kind not in "UiuOT":
        raise ValueError(f"{wrong} has item ids of type {ids.dtype}: they must be strings or whole numbers")
    return [str(item).strip() for item in ids.tolist()]
