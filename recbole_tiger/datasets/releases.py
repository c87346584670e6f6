"""Published reviews with metadata as sources, Amazon's of 2014, 2018 and 2023 and Steam's: their column names.

- Amazon 2014: `reviews_*_5.json.gz` (JSON lines, or Python literals in old copies), `meta_*.json.gz` (Python literals);
  `categories` is a list of paths, `price` a number.
- Amazon 2018: JSON lines; `category` is one path, `price` text such as `"$5.99 - $12.00"`, text full of entities, tags.
- Amazon 2023: JSON lines or Parquet; items are `parent_asin`, times milliseconds, the brand is called `store`.
- Steam: one Python literal or JSON object per line; the reviews give the day (`"2017-06-17"`), so ties are frequent;
  developers are in the column `brand`, genres in `categories`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from recbole_tiger.datasets.bad_rows import check_choice
from recbole_tiger.datasets.record_reader import TextFormat
from recbole_tiger.datasets.table_source import InteractionColumns, ItemColumns, TableSource

_REVIEWS = InteractionColumns(user="reviewerID", item="asin", time="unixReviewTime", rating="overall")
_REVIEWS_2023 = InteractionColumns(user="user_id", item="parent_asin", time="timestamp", rating="rating")
_STEAM_REVIEWS = InteractionColumns(user="username", item="product_id", time="date", time_format="%Y-%m-%d")
_items = partial(ItemColumns, price="price", category_separator="")
#: Columns of the reviews and of the metadata by release.
AMAZON = {
    "2014": (_REVIEWS, _items(item="asin", title="title", categories="categories", brand="brand")),
    "2018": (_REVIEWS, _items(item="asin", title="title", categories="category", brand="brand")),
    "2023": (_REVIEWS_2023, _items(item="parent_asin", title="title", categories="categories", brand="store")),
}
_STEAM_GAMES = _items(item="id", title=("app_name", "title"), categories="genres", brand=("developer", "publisher"))


def amazon_source(
    version: str,
    reviews: Sequence[str | Path],
    metadata: Sequence[str | Path] = (),
    description: bool = False,
    category_paths: str = "all",
    encodings: Sequence[str] = ("utf-8",),
    progress: bool = True,
) -> TableSource:
    """The source for one release.

    Args:
        version: `2014`, `2018` or `2023`; a `PreparationError` for another.
        reviews, metadata: paths or glob patterns; `.json`, `.jsonl` (`.gz`) or `.parquet`.
        description: write the items' descriptions too.
        category_paths: `all` or `first`, see `normalize.category_tokens`.
        encodings: tried in turn for every line.
    """
    check_choice("version", version, tuple(AMAZON))
    columns, items = AMAZON[version]
    items = replace(items, text=("description",) if description else (), category_paths=category_paths)
    text = TextFormat(encodings=encodings, progress=progress)
    return TableSource(reviews, columns, metadata, items if metadata else None, text, name_columns_strictly=False)


def steam_source(
    reviews: Sequence[str | Path],
    games: Sequence[str | Path] = (),
    encodings: Sequence[str] = ("utf-8",),
    progress: bool = True,
) -> TableSource:
    """The source for `steam_reviews.json.gz` and `steam_games.json.gz`, or files of their form."""
    text = TextFormat(encodings=encodings, progress=progress)
    items = _STEAM_GAMES if games else None
    return TableSource(reviews, _STEAM_REVIEWS, games, items, text, name_columns_strictly=False)
