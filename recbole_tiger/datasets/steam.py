"""Steam reviews and games (one Python literal or JSON object per line) as a source: the column names.

The reviews name a user and a product and give the day (`"2017-06-17"`), so ties are frequent; developers are in the
column `brand`, genres in `categories`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_tiger.datasets.record_reader import TextFormat
from recbole_tiger.datasets.table_source import InteractionColumns, ItemColumns, TableSource

REVIEW_COLUMNS = InteractionColumns(user="username", item="product_id", time="date", time_format="%Y-%m-%d")
GAME_COLUMNS = ItemColumns(
    item="id",
    title=("app_name", "title"),
    categories="genres",
    brand=("developer", "publisher"),
    price="price",
    category_separator="",
)


def steam_source(
    reviews: Sequence[str | Path],
    games: Sequence[str | Path] = (),
    encodings: Sequence[str] = ("utf-8",),
    progress: bool = True,
) -> TableSource:
    """The source for `steam_reviews.json.gz` and `steam_games.json.gz`, or files of their form."""
    return TableSource(
        interaction_files=reviews,
        columns=REVIEW_COLUMNS,
        item_files=games,
        item_columns=GAME_COLUMNS if games else None,
        text=TextFormat(encodings=encodings, progress=progress),
        name_columns_strictly=False,
    )
