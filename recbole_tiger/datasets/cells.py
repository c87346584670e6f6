"""Cells of a separated text as arrays, without an object for each cell: plain numbers, and ids as codes.

Input: the bytes of whole lines, and where their cells begin and how long they are. Output: numbers, or codes in the
order of first appearance. Millions of rows take a few operations on arrays per block; what is not plain is left to
Python's own reading of a cell.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_tiger.datasets.arrays import FloatArray, IntArray

WORD = 8  # bytes of a cell that are compared at once
LONGEST_ID = 64  # longer ids are looked up one by one
PENDING_BYTES = 1 << 29  # cells that wait for their codes
POWERS_OF_TEN = np.array([float(f"1e{k}") for k in range(16)])
FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(WORD + 1)], dtype=np.uint64)  # keeps the first n of a word


@dataclass(frozen=True)
class Ids:
    """A column of n ids: `codes` int32 [n], in the order of their first appearance, and the `names` by code."""

    codes: NDArray[np.int32]
    names: list[str]


@dataclass(frozen=True)
class Block:
    """Whole lines of UTF-8 text.

    Attributes:
        data: their bytes, and some zeros behind them.
        starts, lengths: int64 [rows, fields], of each cell in `data`, in bytes.
    """

    data: NDArray[np.uint8]
    starts: IntArray
    lengths: IntArray

    @classmethod
    def of(cls, text: bytes, separator: bytes, n_fields: int) -> Block:
        """The cells of lines that have `n_fields` of them each and end with a line feed."""
        data = np.frombuffer(text + bytes(WORD), dtype=np.uint8)
        ends = np.flatnonzero((data == separator[0]) | (data == ord("\n")))
        starts = np.append(0, ends[:-1] + 1)
        return cls(data, starts.reshape(-1, n_fields), (ends - starts).reshape(-1, n_fields))

    def words(self, column: int, n_words: int) -> NDArray[np.uint64]:
        """The cells of a column, their ends filled with zeros, uint64 [rows, n_words]."""
        windows: NDArray[np.uint64] = np.ndarray(len(self.data) - WORD + 1, dtype="<u8", buffer=self.data, strides=(1,))
        starts, lengths = self.starts[:, column], self.lengths[:, column]
        words = np.empty((len(starts), n_words), dtype="<u8")
        for k in range(n_words):
            inside = np.clip(lengths - WORD * k, 0, WORD)
            words[:, k] = windows[np.minimum(starts + WORD * k, len(windows) - 1)] & FIRST_BYTES[inside]
        return words

    def numbers(self, column: int) -> FloatArray | None:
        """A column of plain decimals such as `12` and `4.5` as float64 [rows], each as `float` reads it.

        None if one of them is anything else. Up to 15 digits and a power of ten are exact, and so is their quotient
        rounded once: the value nearest to what is written.
        """
        starts, lengths = self.starts[:, column], self.lengths[:, column]
        if lengths.min() == 0 or lengths.max() > len(POWERS_OF_TEN):
            return None
        digits, places, points = (np.zeros(len(starts), dtype=np.int64) for _ in range(3))
        for k in range(lengths.max()):
            inside = k < lengths
            character = self.data[np.where(inside, starts + k, -1)]
            digit = character - np.uint8(ord("0"))  # what stands before `0` becomes large
            is_digit, is_point = inside & (digit <= 9), inside & (character == ord("."))
            if not (is_digit | is_point | ~inside).all():
                return None
            digits = np.where(is_digit, digits * 10 + digit, digits)
            places += is_digit & (points > 0)
            points += is_point
        count = lengths - points
        if points.max() > 1 or count.min() == 0 or count.max() >= len(POWERS_OF_TEN):
            return None
        return digits / POWERS_OF_TEN[places] if points.any() else digits.astype(np.float64)


class IdColumn:
    """Gives the ids of a column their codes.

    Cells of a few words wait until they are numbered all at once: to look each up among millions of names is slow.

    Attributes:
        names: ids by code, without blanks at their ends; complete after `flush`.
        blanks: how many cells had blanks at an end, the first of them, and its row; None if none had.
        bad: the first cell that is one of `no_ids` without its blanks, and its row; None if there is none.
    """

    def __init__(self, no_ids: Collection[str]) -> None:
        self.names: list[str] = []
        self.blanks: tuple[int, str, int] | None = None
        self.bad: tuple[str, int] | None = None
        self._no_ids = no_ids
        self._codes: dict[str, int] = {}  # by name
        self._parts: list[NDArray[np.int32]] = []
        self._pending: list[NDArray[np.uint64]] = []
        self._rows = self._pending_bytes = 0

    def add(self, block: Block, column: int, text: bytes) -> None:
        """Take over a column of a block."""
        longest = int(block.lengths[:, column].max())
        if longest <= LONGEST_ID:
            self._pending.append(block.words(column, max(1, -(-longest // WORD))))
            self._pending_bytes += self._pending[-1].nbytes
            if self._pending_bytes > PENDING_BYTES:
                self.flush()
            return
        self.flush()
        bounds = zip(block.starts[:, column].tolist(), block.lengths[:, column].tolist(), strict=True)
        cells = pd.Series([text[start : start + length] for start, length in bounds], dtype=object)
        self._number(*pd.factorize(cells))

    def flush(self) -> None:
        """Number the cells that wait."""
        if not self._pending:
            return
        n_words = max(words.shape[1] for words in self._pending)
        columns: list[NDArray[np.uint64]] = []
        for k in range(n_words):
            columns.append(
                np.concatenate([words[:, k] if k < words.shape[1] else 0 * words[:, 0] for words in self._pending])
            )
        self._pending, self._pending_bytes = [], 0
        codes: NDArray[np.int64] = pd.factorize(columns[0])[0]
        for words in columns[1:]:
            part, found = pd.factorize(words)
            codes = pd.factorize(codes * len(found) + part)[0]
        first = _first(codes)
        spellings = np.stack([words[first] for words in columns], axis=1).view(f"S{WORD * n_words}")[:, 0].tolist()
        self._number(codes, spellings)

    def ids(self) -> Ids:
        """The column; the parts are freed."""
        self.flush()
        codes = np.concatenate(self._parts) if len(self._parts) != 1 else self._parts[0]
        self._parts = []
        return Ids(codes, self.names)

    def _number(self, codes: NDArray[Any], spellings: list[bytes]) -> None:
        """Take over rows given by codes of their own, numbered by first appearance, and the spelling of each code."""
        cells = [spelling.decode() for spelling in spellings]
        names = list(map(str.strip, cells))
        if names != cells:
            with_blanks = np.array([name != cell for name, cell in zip(names, cells, strict=True)])[codes]
            row = int(with_blanks.argmax())
            count, cell, first = self.blanks or (0, cells[codes[row]], self._rows + row)
            self.blanks = (count + int(with_blanks.sum()), cell, first)
        bad = [name in self._no_ids for name in names]
        if any(bad) and self.bad is None:
            row = int(np.array(bad)[codes].argmax())
            self.bad = (cells[codes[row]], self._rows + row)
        known = self._codes
        for name in names:
            if name not in known:
                known[name] = len(known)
                self.names.append(name)
        self._parts.append(np.fromiter(map(known.__getitem__, names), dtype=np.int32, count=len(names))[codes])
        self._rows += len(codes)


def _first(codes: NDArray[Any]) -> IntArray:
    """The row of the first appearance of each code, of codes numbered by first appearance."""
    return np.flatnonzero(np.diff(np.maximum.accumulate(codes), prepend=-1))
