"""From a file to records of named values: JSON or Python-literal lines, CSV, TSV, Parquet.

Input: a path and the names of the wanted columns. Output: `(line number, values in the order of the names)`. The file's
name says what it holds (`.json`, `.jsonl`, `.csv`, `.tsv`, `.txt`, `.parquet`; text may end in `.gz`).
"""

from __future__ import annotations

import ast
import csv
import json
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from recbole_tiger.datasets.bad_rows import BadRows, shorten
from recbole_tiger.datasets.text_reader import PARQUET_MAGIC, first_bytes, read_lines
from recbole_tiger.errors import PreparationError, RowError

PARQUET_BATCH_ROWS = 1 << 16
Record: TypeAlias = "tuple[int, tuple[Any, ...]]"  # the line and the values of the wanted columns
FORMATS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "tsv"}


@dataclass(frozen=True)
class TextFormat:
    """How text files are read.

    Attributes:
        encodings: tried in turn for every line.
        separator: one character between the columns; None takes `,` for `.csv` and a tab for `.tsv` and `.txt`.
        header: the first line names the columns; without one they are called `0`, `1`, …
        quoting: `minimal` (quotes enclose a cell), `none` (a quote is a character), None: none for tabs, else minimal.
        progress: show bars.
    """

    encodings: Sequence[str] = ("utf-8",)
    separator: str | None = None
    header: bool = True
    quoting: str | None = None
    progress: bool = True
    notes: Counter[str] = field(default_factory=Counter, compare=False)

    def __post_init__(self) -> None:
        if self.quoting not in (None, "minimal", "none"):
            raise PreparationError(f"quoting={self.quoting!r} is unknown: use minimal or none.")
        if self.separator is not None and len(self.separator) != 1:
            raise PreparationError(f"separator={self.separator!r} must be one character.")
        for encoding in self.encodings:
            try:
                "".encode(encoding)
            except LookupError:
                raise PreparationError(f"encoding={encoding!r} is unknown to Python: use utf-8, latin-1, …") from None


def file_format(path: str | Path) -> str:
    """`json`, `csv`, `tsv` or `parquet`, by the file's name."""
    path = Path(path)
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".parquet" and path.suffix != ".gz":
        return "parquet"
    if suffix not in FORMATS:
        raise PreparationError(
            f"{path}: the ending {suffix!r} does not say what the file holds: "
            f"rename it to one of {', '.join(FORMATS)} (or with .gz), or .parquet."
        )
    return FORMATS[suffix]


def read_records(
    path: str | Path, columns: Sequence[str], bad: BadRows, text: TextFormat | None = None
) -> Iterator[Record]:
    """Yield `(line, values)` for each row of a file; `values` has one entry per name in `columns`.

    A column that a JSON record lacks gives None; CSV, TSV and Parquet name their columns once, so there a missing one
    is an error. CSV cells are strings; the line of a Parquet row is its number, from 1.

    Raises:
        PreparationError: no such file, a file that is not what its name says, an unknown column, or a row that cannot
            be read while `bad` has the policy `error`.
    """
    path, kind, text = Path(path), file_format(path), text or TextFormat()
    if kind == "parquet":
        return _parquet_records(path, columns, text.progress)
    if kind == "json":
        return _json_records(path, columns, bad, text)
    return _csv_records(path, kind, columns, bad, text)


def parse_record(line: str) -> dict[str, Any]:
    """One line, strict JSON or a Python literal (the `meta_*.json.gz` of Amazon 2014), as a dictionary; a `RowError`
    for neither form, and for what is not an object."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = parse_literal(line)
    if not isinstance(record, dict):
        raise RowError("not one object per line", shorten(line))
    return record


def parse_literal(text: str) -> object:
    """A Python literal, parsed and never executed.

    One without double quotes and backslashes is turned into JSON first (its single quotes can then only be delimiters),
    because JSON is parsed some ten times faster.
    """
    if '"' not in text and "\\" not in text:
        try:
            return json.loads(text.replace("'", '"'), parse_constant=_not_a_literal)
        except (ValueError, RecursionError):
            pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape such as "\d" is the data's, not the user's, to warn about
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise RowError("neither JSON nor a Python literal", shorten(text)) from None


def read_json_object(path: str | Path, name: str, wrong_form: str) -> dict[str, Any]:
    """A JSON file that is one object by items, the blanks around its keys removed.

    Raises:
        PreparationError: no such file, no JSON, no object (`name` and `wrong_form` say so), or a key there twice.
    """
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = {key.strip(): value for key, value in pairs}
        if len(found) < len(pairs):
            counts = Counter(key.strip() for key, _ in pairs)
            twice.extend(key for key, count in counts.items() if count > 1)
        return found

    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except OSError as error:
        raise PreparationError(f"{name} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise PreparationError(f"{name} is not JSON: {error}.") from error
    if twice:
        raise PreparationError(f"{name}: the item {twice[0]} appears twice; keep one of them.")
    if not isinstance(content, dict):
        raise PreparationError(f"{name} {wrong_form}.")
    return content


def _not_a_literal(name: str) -> object:
    raise ValueError(f"{name} is not a Python literal")


def _json_records(path: Path, columns: Sequence[str], bad: BadRows, text: TextFormat) -> Iterator[Record]:
    for number, line in read_lines(path, bad, text.encodings, text.notes, text.progress):
        try:
            record = parse_record(line)
        except RowError as error:
            bad.report(path, number, error)
            continue
        yield number, tuple(map(record.get, columns))


def _csv_records(path: Path, kind: str, columns: Sequence[str], bad: BadRows, text: TextFormat) -> Iterator[Record]:
    separator = text.separator or ("," if kind == "csv" else "\t")
    quoted = text.quoting == "minimal" or (text.quoting is None and separator != "\t")
    numbered = read_lines(path, bad, text.encodings, text.notes, text.progress)
    names: list[str] = []
    pick: Callable[[list[str]], tuple[Any, ...]] = tuple
    for number, cells in _split_rows(path, numbered, separator, quoted, bad):
        if not names:
            names = [name.strip() for name in cells] if text.header else [str(i) for i in range(len(cells))]
            pick = _picker(_column_positions(path, names, columns))
            if text.header:
                continue
        if len(cells) != len(names):
            problem = RowError("wrong number of columns", f"{len(cells)} instead of {len(names)}: {shorten(cells)}")
            bad.report(path, number, problem)
            continue
        yield number, pick(cells)


def _picker(positions: Sequence[int]) -> Callable[[list[str]], tuple[Any, ...]]:
    first, *others = positions
    return itemgetter(first, *others) if others else lambda cells: (cells[first],)


def _split_rows(
    path: Path, numbered: Iterator[tuple[int, str]], separator: str, quoted: bool, bad: BadRows
) -> Iterator[tuple[int, list[str]]]:
    """Rows `(line on which it begins, cells)`; only those with a quote need the csv module.

    A quoted cell may run over several lines. Where that goes wrong, only the line with the quote is given up: the lines
    after it are read again as rows of their own.
    """
    waiting: deque[tuple[int, str]] = deque()

    def following(read: list[tuple[int, str]]) -> Iterator[str]:
        while True:
            entry = waiting.popleft() if waiting else next(numbered, None)
            if entry is None:
                return
            read.append(entry)
            yield entry[1] + "\n"

    while entry := waiting.popleft() if waiting else next(numbered, None):
        number, line = entry
        if not quoted or '"' not in line:
            yield number, line.split(separator)
            continue
        read: list[tuple[int, str]] = []
        try:
            cells = next(csv.reader(chain([line + "\n"], following(read)), delimiter=separator, strict=True))
        except csv.Error as error:
            waiting.extendleft(reversed(read))
            bad.report(path, number, RowError("not a row of separated cells", f"{error}: {shorten(line)}"))
            continue
        yield number, cells


def _column_positions(path: Path, names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise PreparationError(f"{path} has no column {', '.join(missing)}; its columns are {', '.join(names)}.")
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise PreparationError(f"{path} has more than one column {twice[0]}: rename or remove the others.")
    return [names.index(name) for name in wanted]


def _parquet_records(path: Path, columns: Sequence[str], progress: bool) -> Iterator[Record]:
    start = first_bytes(path)
    if not start.startswith(PARQUET_MAGIC):
        raise PreparationError(f"{path} is named .parquet but begins with {shorten(start)}: it is not a Parquet file.")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise PreparationError(f"Reading {path} needs pyarrow: pip install pyarrow.") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            _column_positions(path, table.schema_arrow.names, columns)
            hidden, row = None if progress else True, 0
            with tqdm(total=table.metadata.num_rows, unit=" rows", desc=path.name, leave=False, disable=hidden) as bar:
                # One thread and small batches: memory stays bounded by one row group's columns.
                names = list(dict.fromkeys(columns))
                for batch in table.iter_batches(PARQUET_BATCH_ROWS, columns=names, use_threads=False):
                    bar.update(batch.num_rows)
                    for values in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                        row += 1
                        yield row, values
    except (pyarrow.ArrowException, OSError) as error:
        raise PreparationError(f"{path} is a damaged Parquet file: {error}") from None
    except UnicodeDecodeError as error:
        raise PreparationError(
            f"{path}, in the {PARQUET_BATCH_ROWS:,} rows after row {row}: not utf-8 text: {error}"
        ) from None
