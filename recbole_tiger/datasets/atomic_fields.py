"""The columns of RecBole's atomic files and the first line that names them.

Input: fields, or a first line. Output: a first line, or its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_tiger.datasets.bad_rows import shorten
from recbole_tiger.errors import AtomicFileError

PADDING_TOKEN = "[PAD]"  # RecBole's own: no id
FIELD_TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True)
class Field:
    """A column of an atomic file: its name and one of RecBole's types `FIELD_TYPES`."""

    name: str
    type: str

    def __str__(self) -> str:
        return f"{self.name}:{self.type}"


USER, ITEM = Field("user_id", "token"), Field("item_id", "token")
RATING, TIME = Field("rating", "float"), Field("timestamp", "float")


def header(fields: Sequence[Field]) -> str:
    """The first line of an atomic file."""
    return "\t".join(map(str, fields)) + "\n"


def read_header(line: str, path: Path, separator: str = "\t") -> tuple[Field, ...]:
    """The fields that the first line of an atomic file names; an `AtomicFileError` unless it is of the form
    `name:type<separator>name:type…` with RecBole's types, no column twice."""
    fields: list[Field] = []
    for text in line.split(separator):
        name, _, type_ = text.partition(":")
        if not name or type_ not in FIELD_TYPES:
            raise AtomicFileError(
                f"{path}, line 1: {shorten(text)} is not a column of an atomic file: write name:type, the type one of "
                f"{', '.join(FIELD_TYPES)}, and {separator!r} between the columns."
            )
        if any(name == field.name for field in fields):
            raise AtomicFileError(f"{path}, line 1: two columns are called {name!r}: rename or remove one.")
        fields.append(Field(name, type_))
    return tuple(fields)
