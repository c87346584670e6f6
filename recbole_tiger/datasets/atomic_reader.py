"""The strict reader of atomic files: every cell exactly as it is written, or an error that says where and why not.

Input: the path of an `.inter` or `.item` file. Output: an `AtomicTable`, one array per column, one row per line. Quotes
and words such as `NA` are plain text, no line is skipped and no cell is filled in (unlike in RecBole's own reader). One
thing is altered, and counted: an id has no blanks at its ends, here, in preparation and in a history.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_tiger.datasets.atomic_fields import PADDING_TOKEN, Field, read_header
from recbole_tiger.datasets.bad_rows import shorten
from recbole_tiger.datasets.cells import Block, IdColumn, Ids
from recbole_tiger.errors import AtomicFileError

BLOCK_CHARACTERS = 1 << 18  # some 10,000 rows, which stay in the processor's cache
CONVERT_DATES = "convert dates with dataset_prep/table.py --time_format"


@dataclass(frozen=True)
class AtomicTable:
    """The content of an atomic file of n rows.

    Attributes:
        path: the file; row k of the table is its line k + 2.
        fields: the columns in the order of the file.
        columns: by name, float64 [n] where the type is `float` (NaN where a cell is empty), else object [n] of the
            exact texts; only those that were asked for, and no ids where they are coded.
        ids: the columns of ids by name.
        rows: n.
        notes: what was altered, counted, one sentence for each column.
    """

    path: Path
    fields: tuple[Field, ...]
    columns: dict[str, NDArray[Any]]
    ids: dict[str, Ids]
    rows: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.rows


def read_atomic(
    path: str | Path,
    ids: Sequence[str],
    time: str | None = None,
    separator: str = "\t",
    encoding: str = "utf-8",
    progress: bool = True,
    *,
    seq_separator: str = " ",
    keep: Collection[str] | None = None,
    as_text: bool = False,
    coded: bool = False,
) -> AtomicTable:
    """Read an atomic file block by block; the memory is that of the columns, and an id is stored once.

    Args:
        path: the file; its lines end with `\\n` or `\\r\\n`, and a byte-order mark is dropped.
        ids: columns that must exist, have the type `token` and no empty cell.
        time: a column that, if it exists, must have the type `float` and no empty cell.
        separator: RecBole's `field_separator`, one ASCII character.
        encoding: RecBole's `encoding`.
        progress: show a bar (quiet without a terminal).
        seq_separator: RecBole's, between the numbers of a `float_seq` cell.
        keep: columns of the table, by default all; the others are checked as well.
        as_text: numbers as the texts that they are written as, once they are checked.
        coded: leave the ids out of `columns`: of millions of rows, only their codes are quick to go through.

    Raises:
        AtomicFileError: the file does not exist, or is not an atomic file from its first to its last line; the message
            names file, line, column, the value found and the way out.
    """
    path = Path(path)
    if not seq_separator:
        raise AtomicFileError("seq_separator='' must be the text between the parts of a cell, such as ' '.")
    fields = read_fields(path, separator, encoding)
    _check_roles(path, fields, ids, time)
    parser = _Parser(path, fields, ids, time, separator, seq_separator, keep, as_text)
    hidden = None if progress else True
    with tqdm(unit=" rows", unit_scale=True, desc=path.name, leave=False, disable=hidden) as bar:
        for number, block in enumerate(_blocks(path, encoding)):
            bar.update(parser.add(block if number else block.partition("\n")[2]))
    if not parser.rows:
        raise AtomicFileError(f"{path} ends after line 1, the header: add the rows, or prepare the dataset again.")
    found, columns = parser.ids(), parser.columns()
    if not coded:
        columns |= {name: np.array(each.names, dtype=object)[each.codes] for name, each in found.items()}
        columns = {field.name: columns[field.name] for field in fields if field.name in columns}
    return AtomicTable(path, fields, columns, found, parser.rows, parser.notes())


def read_fields(path: str | Path, separator: str = "\t", encoding: str = "utf-8") -> tuple[Field, ...]:
    """The columns that the first line of an atomic file names; errors as `read_atomic`."""
    if len(separator) != 1 or not separator.isascii() or separator in "\n\r\0":
        raise AtomicFileError(f"field_separator={separator!r} must be one ASCII character, such as '\\t' or ','.")
    for block in _blocks(Path(path), encoding):
        return read_header(block.partition("\n")[0], Path(path), separator)
    raise AtomicFileError(f"{path} is empty: write a line such as user_id:token item_id:token timestamp:float first.")


def _check_roles(path: Path, fields: Sequence[Field], ids: Sequence[str], time: str | None) -> None:
    """Raise unless the id columns exist as texts, and the time column, if it exists, as numbers."""
    types = {field.name: field.type for field in fields}
    for name in ids:
        if name not in types:
            raise AtomicFileError(
                f"{path}, line 1: there is no column {name}, its columns are {', '.join(types)}: rename the column of "
                "the ids, or name it in USER_ID_FIELD or ITEM_ID_FIELD."
            )
        if types[name] != "token":
            raise AtomicFileError(
                f"{path}, line 1: {name}:{types[name]} is not text, as ids are: declare it {name}:token."
            )
    if time is not None and types.get(time, "float") != "float":
        raise AtomicFileError(
            f"{time}:{types[time]} in {path}, line 1, is not a number: declare it {time}:float, or {CONVERT_DATES}."
        )


def _blocks(path: Path, encoding: str) -> Iterator[str]:
    """Whole lines that end with `\\n`, some `BLOCK_CHARACTERS` at a time."""
    line = 1
    try:
        with path.open(encoding=encoding, newline="\n") as stream:
            if stream.read(1) != "\ufeff":  # a byte-order mark
                stream.seek(0)
            while block := stream.read(BLOCK_CHARACTERS):
                block = (block + stream.readline()).replace("\r\n", "\n")
                for character, way_out in (("\r", "end lines with \\n"), ("\0", "save the file as text")):
                    if (position := block.find(character)) >= 0:
                        line += block.count("\n", 0, position)
                        start = max(block.rfind("\n", 0, position) + 1, position - 20)
                        found = shorten(block[start : position + 20].partition("\n")[0])
                        raise AtomicFileError(
                            f"{path}, line {line}: {character!r} in {found} is not allowed: {way_out}."
                        )
                yield block if block.endswith("\n") else block + "\n"
                line += block.count("\n")
    except FileNotFoundError:
        raise AtomicFileError(f"{path} does not exist: check dataset and data_path.") from None
    except OSError as error:
        raise AtomicFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    except LookupError:
        raise AtomicFileError(f"encoding={encoding!r} is unknown to Python: use utf-8, latin-1, …") from None
    except UnicodeDecodeError as error:
        raise AtomicFileError(_not_text(path, encoding, error)) from None


def _not_text(path: Path, encoding: str, error: UnicodeDecodeError) -> str:
    """The message for bytes that are not text; `error` counts from the start of a buffer, not of the file."""
    content = path.read_bytes()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as whole:
        error = whole
    line = content[: error.start].decode(encoding, "replace").count("\n") + 1
    found = content[error.start : error.start + 8]
    return f"{path}, line {line}: {found!r} is not {encoding} text: save the file as UTF-8, or name its encoding."


@dataclass
class _Parser:
    """Collects the columns of a file block by block; arguments as for `read_atomic`."""

    path: Path
    fields: Sequence[Field]
    id_fields: Sequence[str]
    time: str | None
    separator: str
    seq_separator: str
    keep: Collection[str] | None
    as_text: bool
    rows: int = 0

    def __post_init__(self) -> None:
        kept = [field.name for field in self.fields if self.keep is None or field.name in self.keep]
        self._parts: dict[str, list[NDArray[Any]]] = {name: [] for name in kept}
        self._ids = {name: IdColumn(no_ids=("", PADDING_TOKEN)) for name in self.id_fields}
        self._line_marks = self.separator.encode() * (len(self.fields) - 1) + b"\n"
        self._no_marks = bytes(set(range(256)) - set(self._line_marks))

    def add(self, block: str) -> int:
        """Take over the rows of a block and return their number."""
        rows, text = block.count("\n"), block.encode()
        # In UTF-8 the bytes of the separator and the line end occur nowhere else.
        if text.translate(None, self._no_marks) != self._line_marks * rows:
            raise AtomicFileError(self._wrong_cells(block))
        if not rows:
            return 0
        found = Block.of(text, self.separator.encode(), len(self.fields))
        cells: list[str] = []  # as texts, if there is a column that needs them
        for k, field in enumerate(self.fields):
            if field.name in self._ids:
                self._ids[field.name].add(found, k, text)
                continue
            wanted, number = field.name in self._parts, field.type == "float"
            part: NDArray[Any] | None = found.numbers(k) if number else None
            if part is None or (self.as_text and wanted):
                cells = cells or block[:-1].replace("\n", self.separator).split(self.separator)
                column = cells[k :: len(self.fields)]
                if number and part is None:
                    part = self._numbers(column, field)
                elif field.type == "float_seq":
                    self._check_sequences(column, field)
                if self.as_text or not number:
                    part = np.fromiter(column, dtype=object, count=rows)
            if wanted and part is not None:
                self._parts[field.name].append(part)
        self.rows += rows
        return rows

    def ids(self) -> dict[str, Ids]:
        """The wanted columns of ids by name; raises at the first cell of any that cannot be an id."""
        found = {name: column.ids() for name, column in self._ids.items()}
        for field in self.fields:
            if field.name in self._ids and (bad := self._ids[field.name].bad):
                cell, row = bad
                way_out = "RecBole pads with it: rename it" if cell.strip() else "fill it in, or remove the row"
                raise AtomicFileError(f"{self.path}, line {row + 2}, {field}: {shorten(cell)} is not an id: {way_out}.")
        return {name: column for name, column in found.items() if self._parts.pop(name, None) is not None}

    def columns(self) -> dict[str, NDArray[Any]]:
        """The other columns of all blocks by name; the blocks are freed column by column."""
        return {name: np.concatenate(self._parts.pop(name)) for name in list(self._parts)}

    def notes(self) -> tuple[str, ...]:
        """A sentence for each column of ids in which blanks were removed."""
        return tuple(
            f"{self.path}: {count:,} cells of {name} had blanks at an end of the id, which were removed (the first is "
            f"{shorten(cell)} in line {row + 2})."
            for name, column in self._ids.items()
            if column.blanks
            for count, cell, row in [column.blanks]
        )

    def _wrong_cells(self, block: str) -> str:
        """The message for the first line that has another number of cells than the header."""
        expected = len(self.fields)
        lines = block.split("\n")
        row = next(row for row, line in enumerate(lines) if line.count(self.separator) + 1 != expected)
        where = f"{self.path}, line {self._line(row)}"
        if not lines[row]:
            return f"{where} is empty: remove the line."
        return (
            f"{where}: {lines[row].count(self.separator) + 1} cells instead of {expected} in {shorten(lines[row])}: "
            f"write {' '.join(map(str, self.fields))}, separated by {self.separator!r} (quotes do not protect it)."
        )

    def _check_sequences(self, column: list[str], field: Field) -> None:
        """Raise at the first cell that is not a sequence of numbers."""
        for row, cell in enumerate(column):
            if any(part and _number(part) is None for part in cell.split(self.seq_separator)):
                raise AtomicFileError(
                    f"{self.path}, line {self._line(row)}, {field}: {shorten(cell)} is not a sequence of finite "
                    f"numbers separated by {self.seq_separator!r}: correct it, or leave the cell empty."
                )

    def _numbers(self, column: list[str], field: Field) -> NDArray[np.float64]:
        """Texts as float64 [n]: all at once, or one by one to find empty cells and the first that is not a number."""
        try:
            numbers = np.fromiter(map(float, column), dtype=np.float64, count=len(column))
            text = "".join(column)
            if np.isfinite(numbers).all() and text.isascii() and "_" not in text:
                return numbers
        except ValueError:
            pass
        required = field.name == self.time
        numbers = np.empty(len(column))
        for row, cell in enumerate(column):
            number = _number(cell)
            if number is None and (cell or required):
                way_out = CONVERT_DATES if required else "leave the cell empty if it is unknown"
                raise AtomicFileError(
                    f"{self.path}, line {self._line(row)}, {field}: {shorten(cell)} is not a finite number: "
                    f"correct it, or {way_out}."
                )
            numbers[row] = math.nan if number is None else number
        return numbers

    def _line(self, row: int) -> int:
        """The line of a row of the block at hand, from 1."""
        return self.rows + row + 2


def _number(text: str) -> float | None:
    """A finite number from its text, None for any other text; `float` alone takes `1_0` and digits of any script."""
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
