"""Any CSV, TSV, Parquet or JSON-lines file as a source, by the names of its columns.

Input: paths and column names. Output: the common form of `sources`. The `releases` are this source with the
column names filled in.
"""

from __future__ import annotations

import glob
import io
import operator
import os
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from recbole_tiger.datasets import normalize
from recbole_tiger.datasets.atomic_fields import Field
from recbole_tiger.datasets.bad_rows import BadRows, check_choice, shorten
from recbole_tiger.datasets.record_reader import TextFormat, parse_literal, read_records
from recbole_tiger.datasets.sources import InteractionChunk, ItemRow, Source, interaction_chunks
from recbole_tiger.errors import PreparationError, RowError

CATEGORY_PATHS = ("all", "first")


@dataclass(frozen=True)
class InteractionColumns:
    """The columns of an interactions file.

    Attributes:
        user, item: ids.
        time: numbers (seconds, milliseconds, positions: any unit, they are only compared), or None to number
            each user's rows 1, 2, 3, … in the order of the file.
        rating: a number, or None.
        time_format: `strptime` format when the times are texts, such as `%Y-%m-%d`; they become seconds (UTC).
    """

    user: str
    item: str
    time: str | None
    rating: str | None = None
    time_format: str | None = None


@dataclass(frozen=True)
class ItemColumns:
    """The columns of a metadata file; those that are None are not read.

    Attributes:
        item: id.
        title, brand: text; of several names the first with a value is taken.
        categories: a path, coarse to fine: a list, a list of lists, or text with a separator.
        price: number or text.
        text: further text columns; they keep their name.
        category_separator: divides the names where `categories` is text.
        category_paths: what to do with several paths, see `normalize.category_tokens`.
    """

    item: str
    title: str | Sequence[str] | None = None
    categories: str | None = None
    brand: str | Sequence[str] | None = None
    price: str | None = None
    text: Sequence[str] = ()
    category_separator: str = "|"
    category_paths: str = "all"

    def __post_init__(self) -> None:
        check_choice("category_paths", self.category_paths, CATEGORY_PATHS)
        names = [name for name, _, _ in self.outputs()]
        for name in names:
            if not re.fullmatch(r"\w+", name) or name == "item_id" or names.count(name) > 1:
                raise PreparationError(
                    f"The item column {name!r} cannot be written: its name must be one word of letters and "
                    "digits, used once, and not item_id; rename it in the source."
                )

    def outputs(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """`(name, RecBole type, source columns)` of the `.item` columns, in their order."""
        named = [
            ("title", "token", self.title),
            ("categories", "token_seq", self.categories),
            ("brand", "token", self.brand),
            ("price", "float", self.price),
            *((name, "token", name) for name in self.text),
        ]
        return [
            (name, type_, (columns,) if isinstance(columns, str) else tuple(columns))
            for name, type_, columns in named
            if columns
        ]


@dataclass
class TableSource(Source):
    """Interactions and, if wanted, item metadata from tables.

    Attributes:
        interaction_files, item_files: paths or glob patterns, read in the order given (a pattern: sorted).
        columns, item_columns: their column names.
        text, item_text: how text files are read; None: the items like the interactions.
        name_columns_strictly: an item column without any value is an error.
    """

    interaction_files: Sequence[str | Path]
    columns: InteractionColumns
    item_files: Sequence[str | Path] = ()
    item_columns: ItemColumns | None = None
    text: TextFormat = field(default_factory=TextFormat)
    item_text: TextFormat | None = None
    name_columns_strictly: bool = True

    def __post_init__(self) -> None:
        if bool(self.item_files) != (self.item_columns is not None):
            raise PreparationError("Item files and the names of their columns belong together: give both or neither.")
        self.text, self.item_text = (
            replace(text, notes=self.notes) for text in (self.text, self.item_text or self.text)
        )
        self.strict_fields = self.name_columns_strictly
        if self.item_columns is not None:
            self.item_fields = tuple(Field(name, type_) for name, type_, _ in self.item_columns.outputs())

    def interactions(self, bad: BadRows) -> Iterator[InteractionChunk]:
        names = (self.columns.user, self.columns.item, self.columns.time, self.columns.rating)
        present = [name for name in names if name is not None]
        for path in expand(self.interaction_files):
            rows = read_records(path, present, bad, self.text)
            yield from interaction_chunks(path, rows, names, self.columns.time_format, bad)

    def items(self, bad: BadRows, wanted: Callable[[str], bool]) -> Iterator[ItemRow]:
        if self.item_columns is None:
            return
        outputs = self.item_columns.outputs()
        source_columns = [self.item_columns.item, *(name for _, _, columns in outputs for name in columns)]
        for path in expand(self.item_files):
            for line, (item, *values) in read_records(path, source_columns, bad, self.item_text):
                try:
                    item = normalize.check_identifier(normalize.identifier(item, self.item_columns.item))
                    if not wanted(item):
                        continue
                    rest = iter(values)
                    cells = {name: self._cell(name, type_, list(islice(rest, len(of)))) for name, type_, of in outputs}
                except RowError as error:
                    bad.report(path, line, error)
                    continue
                yield ItemRow(item, cells, path, line)

    def _cell(self, name: str, type_: str, candidates: list[Any]) -> str:
        if name == "price":
            cell = normalize.price_cell(candidates[0])
            if not cell and normalize.clean_text(candidates[0]):
                self.notes["prices that are not a price, left empty"] += 1
            return cell
        if type_ == "token_seq":
            assert self.item_columns is not None
            separator, paths = self.item_columns.category_separator, self.item_columns.category_paths
            value = candidates[0]
            if isinstance(value, str) and re.fullmatch(r"\s*\[.*]\s*", value, re.DOTALL):  # a list as text
                value = _parse_list(value.strip())
            return normalize.sequence_cell(normalize.category_tokens(value, separator, paths))
        return next(filter(None, map(normalize.clean_text, candidates)), "")


def _parse_list(text: str) -> object:
    """A list that a table holds as text; a `RowError` for one whose texts have no commas between them, as numpy writes
    it, since Python would join them."""
    value = parse_literal(text)
    if re.search(r"""['"]\s*['"]""", text):  # perhaps two texts in a row, perhaps part of one
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline)]
        is_text = [kind == tokenize.STRING for kind in kinds if kind != tokenize.NL]
        if any(map(operator.and_, is_text, is_text[1:])):
            raise RowError("a list without commas between its texts", shorten(text))
    return value


def expand(patterns: Sequence[str | Path]) -> list[Path]:
    """The files of a list of paths and glob patterns; an error when a pattern has none, or two have the same."""
    paths: list[Path] = []
    for pattern in patterns:
        found = [Path(pattern)] if Path(pattern).is_file() else sorted(map(Path, glob.glob(str(pattern))))
        if not found:
            raise PreparationError(f"{pattern} is not a file: check the path.")
        paths += found
    if twice := [path for path, count in Counter(map(os.path.realpath, paths)).items() if count > 1]:
        raise PreparationError(f"{twice[0]} is named more than once, so that its rows would count twice: name it once.")
    return paths
