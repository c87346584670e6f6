"""Base class of the tokenizers: content embeddings `[n, dim]` in, codes `[n, id_length]` out.

A quantizer follows scikit-learn's conventions: the constructor stores its arguments untouched, `fit` stores what it
learned in attributes that end in `_`, `transform` encodes any rows, seen or unseen.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_tiger.io import has_screen, to_plain

# Rows that are on the device at a time while encoding: bounds memory, whatever the size of the catalogue.
BATCH_ROWS = 8192

T = TypeVar("T")

#: Content embeddings `[n, dim]`; a tensor of any device is copied to the CPU.
Embeddings = NDArray[np.floating[Any]] | torch.Tensor


@dataclass(kw_only=True, eq=False)
class Quantizer(ABC):
    """Base of all tokenizers.

    Args:
        id_length: number of levels m, learned codewords per item.
        codebook_size: codes per level K, one number for all levels or one per level.
        random_state: seed; the same seed gives the same codes.

    Attributes:
        codebook_sizes_: codes per level.
        dim_, n_items_: width and number of the embeddings seen by `fit`.
        history_: training curves by name, empty where nothing is trained by steps.
    """

    name: ClassVar[str]
    learns_codewords: ClassVar[bool] = True  # False: codes need no items to be learned from
    aligns_items: ClassVar[bool] = False  # True: `fit` takes `collaborative`, an embedding of each item, as well

    id_length: int = 3
    codebook_size: int | list[int] = 256
    random_state: int = 0

    def fit(self, x: Embeddings, *, progress: bool = False, checkpoint: str | Path | None = None) -> Quantizer:
        """Learns the codebooks.

        Args:
            x: content embeddings `[n, dim]`, finite, any float type.
            progress: show a bar (on a terminal only).
            checkpoint: file that a quantizer trained by steps writes during training and resumes from; the
                others take seconds and write none.

        Raises:
            ValueError: embeddings of another shape, with NaN or infinity, or fewer of them than codes per level;
                an impossible argument.
        """
        x = as_array(x)
        check_matrix(x)
        sizes = self._check_sizes()
        self._check_arguments(x.shape[1])
        if len(x) == 0:
            raise ValueError(f"semantic_id={self.name}: there are no embeddings to fit on.")
        if self.learns_codewords and max(sizes) > len(x):
            raise ValueError(
                f"codebook_size={self.codebook_size} is larger than the number of items ({len(x)}): "
                f"{self.name} needs at least one item per code; choose codebook_size <= {len(x)}."
            )
        self.n_items_ = 0
        self.codebook_sizes_ = sizes
        self.dim_ = int(x.shape[1])
        self.history_: dict[str, list[float]] = {}
        self._fit(x, progress=progress, checkpoint=checkpoint)
        self.n_items_ = len(x)  # last: an interrupted fit leaves no half-fitted quantizer
        return self

    def transform(self, x: Embeddings) -> NDArray[np.int64]:
        """Codes int64 `[n, id_length]` of embeddings `[n, dim]`.

        Raises:
            ValueError: before `fit`, or embeddings of another shape or with NaN or infinity.
        """
        x = self._checked_input(x)
        codes = np.empty((len(x), self.id_length), dtype=np.int64)
        for rows, batch in self._batches(x):
            codes[rows] = self._encode(batch).cpu().numpy()
        return codes

    def fit_transform(self, x: Embeddings, **fit_arguments: Any) -> NDArray[np.int64]:
        """`fit(x)` and then `transform(x)`."""
        return self.fit(x, **fit_arguments).transform(x)

    def reconstruct(self, codes: NDArray[np.int64], levels: int | None = None) -> NDArray[np.float32] | None:
        """Embeddings `[n, dim]` that codes `[n, id_length]` represent; None if there are none (`lsh`, `random`).

        With `levels`, only the first levels are used; missing parts of a product code are set to their mean.
        """
        checked = self._checked_codes(codes)
        levels = self.id_length if levels is None else levels
        if not 0 <= levels <= self.id_length:
            raise ValueError(f"levels={levels} is not between 0 and id_length={self.id_length}.")
        parts: list[NDArray[np.float32]] = []
        for batch in checked.split(BATCH_ROWS):
            part = self._decode(batch, levels)
            if part is None:
                return None
            parts.append(part.cpu().numpy())
        return np.concatenate(parts)

    def last_level_costs(self, x: Embeddings, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Cost of every code of the last level, `[n, codebook_sizes_[-1]]`, for items that keep their earlier codes.

        It is the squared distance between what the last level quantizes and each of its codewords, so a nearest free
        code is the one of least cost (`collision: reassign`). Embeddings `x` are `[n, dim]`, codes `[n, id_length]`.
        """
        x = self._checked_input(x)
        checked = self._checked_codes(codes)
        costs = np.empty((len(x), self.codebook_sizes_[-1]), dtype=np.float32)
        for rows, batch in self._batches(x):
            costs[rows] = self._last_level_costs(batch, checked[rows].to(batch.device)).cpu().numpy()
        return costs

    def get_params(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def state_dict(self) -> dict[str, Any]:
        """Everything that makes this quantizer, in plain types and tensors (`torch.load(weights_only=True)`).

        `quantizer_from_state_dict` is its inverse.
        """
        learned = {key: value for key, value in vars(self).items() if key.endswith("_")}
        return {"quantizer": self.name, "params": to_plain(self.get_params(), other=str), "learned": learned}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Quantizer:
        """The quantizer of this class that `state_dict` came from."""
        quantizer = cls(**state["params"])
        for key, value in state["learned"].items():
            setattr(quantizer, key, value)
        return quantizer

    @abstractmethod
    def _fit(self, x: NDArray[Any], *, progress: bool, checkpoint: str | Path | None) -> None:
        """Learns from a checked matrix `[n, dim]`."""

    @abstractmethod
    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes `[b, id_length]` of one batch, float32 on `self._device`."""

    def _decode(self, codes: torch.Tensor, levels: int) -> torch.Tensor | None:
        """Embeddings `[b, dim]` of one batch of codes, from the first `levels` levels."""
        return None

    @abstractmethod
    def _last_level_costs(self, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Costs `[b, K_last]` of one batch, see `last_level_costs`."""

    def _check_arguments(self, dim: int) -> None:
        """Raises ValueError for an argument of the subclass that cannot be; `codebook_sizes_` is not there yet."""
        if getattr(self, "max_iterations", 1) < 1:  # of k-means
            raise ValueError(f"max_iterations={getattr(self, 'max_iterations', 1)} must be at least 1.")

    def _bar(self, progress: bool, **options: Any) -> Any:
        """A tqdm bar with these options, on a terminal only."""
        return tqdm(**{"desc": self.name, **options}, disable=not (progress and has_screen()))

    @property
    def _device(self) -> torch.device:
        return torch.device(getattr(self, "device", "cpu"))

    def _matrix(self, x: NDArray[Any]) -> torch.Tensor:
        """The whole matrix on the device, float32."""
        return torch.from_numpy(np.require(x, np.float32, ["C", "W"])).to(self._device)

    def _batches(self, x: NDArray[Any]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Batches of a checked matrix, on the device, each with the rows it stands for."""
        for start in range(0, len(x), BATCH_ROWS):
            rows = slice(start, min(start + BATCH_ROWS, len(x)))
            yield rows, self._matrix(x[rows])

    def _kept(self, what: str, learned: object, make: Callable[[], T]) -> T:
        """What `make` derives from a learned attribute, kept under a name until another `fit` replaces that."""
        kept: dict[str, tuple[object, Any]] = self.__dict__.setdefault("_derived", {})
        if what not in kept or kept[what][0] is not learned:
            kept[what] = (learned, make())
        derived: T = kept[what][1]
        return derived

    def _checked_input(self, x: Embeddings) -> NDArray[Any]:
        """Embeddings that fit what was fitted."""
        self._check_fitted()
        x = as_array(x)
        check_matrix(x)
        if x.shape[1] != self.dim_:
            raise ValueError(f"the embeddings have {x.shape[1]} dimensions, {self.name} was fitted on {self.dim_}.")
        return x

    def _checked_codes(self, codes: NDArray[np.int64]) -> torch.Tensor:
        """Codes `[n, id_length]` that fit the codebooks."""
        self._check_fitted()
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != self.id_length:
            raise ValueError(f"codes must be [n, id_length={self.id_length}], got {codes.shape}.")
        if len(codes) and (codes.min() < 0 or (codes.max(0) >= self.codebook_sizes_).any()):
            raise ValueError(f"codes must lie in [0, codebook size), the sizes are {self.codebook_sizes_}.")
        return torch.from_numpy(np.require(codes, dtype=np.int64, requirements=["C", "W"]))

    def _check_fitted(self) -> None:
        if not getattr(self, "n_items_", 0):
            raise ValueError(f"semantic_id={self.name} is not fitted yet: call fit first.")

    def _check_sizes(self) -> list[int]:
        """Codes per level."""
        if not _is_integer(self.id_length) or self.id_length < 1:
            raise ValueError(f"id_length={self.id_length!r} must be a whole number of at least 1.")
        size = self.codebook_size
        sizes = list(size) if isinstance(size, (list, tuple)) else [size] * self.id_length
        if len(sizes) != self.id_length:
            raise ValueError(
                f"codebook_size={size} gives {len(sizes)} sizes, but id_length={self.id_length}: give one per level."
            )
        if any(not _is_integer(one) or one < 2 for one in sizes):
            raise ValueError(f"codebook_size={size!r}: every level needs a whole number of at least 2 codes.")
        return [int(one) for one in sizes]


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def as_array(x: Embeddings) -> NDArray[Any]:
    """Embeddings as an array; a tensor without its gradient, of bfloat16 as float32."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return np.asarray(x)


def check_matrix(x: NDArray[Any]) -> None:
    """Raise ValueError unless `x` is a matrix `[n, dim]` of finite floating point numbers."""
    if x.ndim != 2:
        raise ValueError(f"embeddings must be a matrix [n, dim], but their shape is {list(x.shape)}.")
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"embeddings must be floating point numbers, got {x.dtype}.")
    if x.shape[1] == 0:
        raise ValueError("embeddings must have at least one dimension.")
    for start in range(0, len(x), BATCH_ROWS):
        rows = x[start : start + BATCH_ROWS]
        check_finite(rows, start)
        with np.errstate(over="ignore"):
            too_large = ~np.isfinite(np.square(rows, dtype=np.float32, casting="same_kind").sum(1))
        if too_large.any():
            raise ValueError(
                f"embeddings have no squared length in single precision (first in row {start + too_large.argmax()}): "
                "scale them first, for example with Scaler."
            )


def check_finite(x: NDArray[Any], start: int = 0) -> None:
    """Raise ValueError for NaN or infinity in rows `x` `[b, dim]`, the first of which is row `start` of the whole."""
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        first = start + int(np.argmin(finite))
        raise ValueError(f"embeddings hold NaN or infinity (first in row {first}): clean or drop these items.")
