"""The sequence files of the S3-Rec repository (`user item item …`, one user per line) with metadata as a source.

The position in the sequence is the time. Item numbers can be turned back into the raw ids with a map, so that the
metadata of the original catalogue fits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recbole_tiger.datasets.atomic_fields import Field
from recbole_tiger.datasets.bad_rows import BadRows, shorten
from recbole_tiger.datasets.normalize import category_tokens, check_identifier, sequence_cell
from recbole_tiger.datasets.record_reader import Record, TextFormat, read_json_object
from recbole_tiger.datasets.sources import InteractionChunk, ItemRow, Source, interaction_chunks
from recbole_tiger.datasets.table_source import InteractionColumns, ItemColumns, TableSource
from recbole_tiger.datasets.text_reader import read_lines
from recbole_tiger.errors import PreparationError, RowError

NO_OBJECT = "is not one JSON object {item: …}"


@dataclass
class S3RecSource(Source):
    """Sequence files and, if wanted, metadata.

    Attributes:
        sequences: the `user item item …` file.
        item_files, item_columns: a metadata table, as for `TableSource`; or
        attributes: the repository's `*_item2attributes.json`, one object `{item: [attribute number, …]}`, which becomes
            the column `attributes`.
        item_map: JSON `{number in the sequences: raw id}`; an object that holds such a map under `id2item` (P5's
            `datamaps.json`) does too.
    """

    sequences: str | Path
    item_files: Sequence[str | Path] = ()
    item_columns: ItemColumns | None = None
    attributes: str | Path | None = None
    item_map: str | Path | None = None
    item_text: TextFormat = field(default_factory=TextFormat)

    def __post_init__(self) -> None:
        if self.attributes is not None and self.item_files:
            raise PreparationError("Give either item files or an attributes file, not both.")
        self._table = None
        if self.attributes is not None:
            self.item_fields = (Field("attributes", "token_seq"),)
        else:
            columns = InteractionColumns(user="user", item="item", time=None)
            self._table = TableSource((), columns, self.item_files, self.item_columns, item_text=self.item_text)
            self.item_fields, self.strict_fields = self._table.item_fields, self._table.strict_fields
            self.notes = self._table.notes

    def interactions(self, bad: BadRows) -> Iterator[InteractionChunk]:
        path = Path(self.sequences)
        yield from interaction_chunks(path, self._pairs(path, bad), ("user", "item", None, None), None, bad)

    def _pairs(self, path: Path, bad: BadRows) -> Iterator[Record]:
        names = _read_item_map(self.item_map) if self.item_map is not None else None
        for line, text in read_lines(path, bad, ("utf-8",), self.notes, self.item_text.progress):
            user, *sequence = text.split()
            unknown = [item for item in sequence if names is not None and item not in names]
            if not sequence:
                bad.report(path, line, RowError("a user without items", shorten(text)))
            elif unknown:
                bad.report(path, line, RowError("an item that the item map does not have", shorten(unknown[0])))
            else:
                yield from ((line, (user, item if names is None else names[item])) for item in sequence)

    def items(self, bad: BadRows, wanted: Callable[[str], bool]) -> Iterator[ItemRow]:
        if self._table is not None:
            yield from self._table.items(bad, wanted)
            return
        path = Path(self.attributes)  # type: ignore[arg-type]
        for row, (item, attributes) in enumerate(read_json_object(path, str(path), NO_OBJECT).items(), start=1):
            try:
                item = check_identifier(item)
                if not isinstance(attributes, list):
                    raise RowError("attributes are not a list", shorten(attributes))
            except RowError as error:
                bad.report(path, row, error)
                continue
            if wanted(item):
                yield ItemRow(item, {"attributes": sequence_cell(category_tokens(attributes))}, path, row)


def _read_item_map(path: str | Path) -> dict[str, str]:
    content = read_json_object(path, str(path), NO_OBJECT)
    mapping = content.get("id2item", content)
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        raise PreparationError(f"{path} does not map item numbers to ids (an object of texts, or one under 'id2item').")
    if twice := [name for name, count in Counter(mapping.values()).items() if count > 1]:
        raise PreparationError(f"{path} maps two item numbers to {twice[0]!r}, which would make one item of two.")
    return mapping
