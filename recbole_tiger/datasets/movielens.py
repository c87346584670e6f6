"""MovieLens 100k, 1M, 10M, 20M, 25M and 32M as a source: titles, years and genres from the unpacked folder.

The `.item` columns have the names that RecBole's own `ml-100k` uses (`movie_title`, `release_year`, `class`), so one
dataset YAML fits all sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recbole_tiger.datasets.atomic_fields import Field
from recbole_tiger.datasets.bad_rows import BadRows, shorten
from recbole_tiger.datasets.normalize import category_tokens, check_identifier, sequence_cell, split_title_year
from recbole_tiger.datasets.record_reader import Record, TextFormat, read_records
from recbole_tiger.datasets.sources import InteractionChunk, ItemRow, Source, interaction_chunks
from recbole_tiger.datasets.text_reader import read_lines
from recbole_tiger.errors import PreparationError, RowError

# The files of 100k and 1M are Latin-1, those of 10M UTF-8: UTF-8 first, since Latin-1 text is almost never valid UTF-8.
ENCODINGS = ("utf-8", "latin-1")
LAYOUTS = {
    "u.data, u.item (100k)": ("u.data", "u.item"),
    "ratings.dat, movies.dat (1M, 10M)": ("ratings.dat", "movies.dat"),
    "ratings.csv, movies.csv (20M and later)": ("ratings.csv", "movies.csv"),
}
# The order of the 19 flags at the end of a row of u.item (its README).
GENRES_100K = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()
NO_GENRES = ("(no genres listed)", "unknown")
NAMES = ("userId", "movieId", "timestamp", "rating")


@dataclass
class MovieLensSource(Source):
    """The folder of one MovieLens release; its files say which one it is."""

    folder: str | Path
    progress: bool = True

    def __post_init__(self) -> None:
        folder = Path(self.folder)
        found = [files for files in LAYOUTS.values() if all((folder / name).is_file() for name in files)]
        if not found:
            raise PreparationError(f"{folder} holds none of the MovieLens layouts: {'; '.join(LAYOUTS)}.")
        self.ratings_file, self.movies_file = (folder / name for name in found[0])
        types = {"movie_title": "token_seq", "release_year": "token", "class": "token_seq"}
        self.item_fields = tuple(Field(name, type_) for name, type_ in types.items())

    def interactions(self, bad: BadRows) -> Iterator[InteractionChunk]:
        if self.ratings_file.suffix == ".csv":
            text = TextFormat(progress=self.progress, notes=self.notes)
            rows = read_records(self.ratings_file, NAMES, bad, text)
        else:
            rows = self._separated_rows(bad)
        yield from interaction_chunks(self.ratings_file, rows, NAMES, None, bad)

    def _separated_rows(self, bad: BadRows) -> Iterator[Record]:
        separator = "::" if self.ratings_file.suffix == ".dat" else "\t"
        for line, text in read_lines(self.ratings_file, bad, ENCODINGS, self.notes, self.progress):
            cells = text.split(separator)
            if len(cells) != 4:
                bad.report(self.ratings_file, line, RowError("wrong number of columns", f"{len(cells)} instead of 4"))
                continue
            user, item, rating, time = cells
            yield line, (user, item, time, rating)

    def items(self, bad: BadRows, wanted: Callable[[str], bool]) -> Iterator[ItemRow]:
        for line, raw in self._movies(bad):
            try:
                item, title, genres = raw if isinstance(raw, tuple) else _split_movie(raw)
                item = check_identifier(item)
            except RowError as error:
                bad.report(self.movies_file, line, error)
                continue
            if wanted(item):
                name, year = split_title_year(title)
                cells = {
                    "movie_title": sequence_cell(name.split()),
                    "release_year": year,
                    "class": sequence_cell(category_tokens([genre for genre in genres if genre not in NO_GENRES])),
                }
                yield ItemRow(item, cells, self.movies_file, line)

    def _movies(self, bad: BadRows) -> Iterator[tuple[int, tuple[str, str, list[str]] | str]]:
        if self.movies_file.suffix == ".csv":
            text = TextFormat(progress=self.progress, notes=self.notes)
            for line, (item, title, genres) in read_records(
                self.movies_file, ("movieId", "title", "genres"), bad, text
            ):
                yield line, (item, title, genres.split("|"))
        else:
            yield from read_lines(self.movies_file, bad, ENCODINGS, self.notes, self.progress)


def _split_movie(text: str) -> tuple[str, str, list[str]]:
    """Id, title and genres of a line of u.item (`|`, flags at the end) or movies.dat (`::`)."""
    if "::" in text:
        item, _, rest = text.partition("::")
        title, separator, genres = rest.rpartition("::")
        if not separator:
            raise RowError("wrong number of columns", f"2 instead of 3: {shorten(text)}")
        return item, title, genres.split("|")
    cells = text.split("|")
    if len(cells) != 5 + len(GENRES_100K):
        raise RowError("wrong number of columns", f"{len(cells)} instead of {5 + len(GENRES_100K)}: {shorten(text)}")
    flags = zip(GENRES_100K, cells[5:], strict=True)
    return cells[0], cells[1], [genre for genre, flag in flags if flag.strip() == "1"]
