"""Amazon review data of 2014, 2018 and 2023 as sources: the column names of each release.

- 2014: `reviews_*_5.json.gz` (JSON lines, or Python literals in old copies), `meta_*.json.gz` (Python literals);
  `categories` is a list of paths, `price` a number.
- 2018: JSON lines; `category` is one path, `price` text such as `"$5.99 - $12.00"`, text full of entities and tags.
- 2023: JSON lines or Parquet; items are `parent_asin`, times milliseconds, the brand is called `store`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_tiger.datasets.bad_rows import check_choice
from recbole_tiger.datasets.record_reader import TextFormat
from recbole_tiger.datasets.table_source import InteractionColumns, ItemColumns, TableSource

_REVIEWS_2014 = InteractionColumns(user="reviewerID", item="asin", time="unixReviewTime", rating="overall")
REVIEW_COLUMNS = {
    "2014": _REVIEWS_2014,
    "2018": _REVIEWS_2014,
    "2023": InteractionColumns(user="user_id", item="parent_asin", time="timestamp", rating="rating"),
}
#: Columns of the item, its categories and its brand; title and price are called so in every release.
METADATA_COLUMNS = {
    "2014": ("asin", "categories", "brand"),
    "2018": ("asin", "category", "brand"),
    "2023": ("parent_asin", "categories", "store"),
}


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
        version: `2014`, `2018` or `2023`.
        reviews, metadata: paths or glob patterns; `.json`, `.jsonl` (`.gz`) or `.parquet`.
        description: write the items' descriptions too.
        category_paths: `all` or `first`, see `normalize.category_tokens`.
        encodings: tried in turn for every line.

    Raises:
        PreparationError: an unknown version.
    """
    check_choice("version", version, tuple(REVIEW_COLUMNS))
    item, categories, brand = METADATA_COLUMNS[version]
    columns = ItemColumns(
        item=item,
        title="title",
        categories=categories,
        brand=brand,
        price="price",
        text=("description",) if description else (),
        category_separator="",
        category_paths=category_paths,
    )
    return TableSource(
        interaction_files=reviews,
        columns=REVIEW_COLUMNS[version],
        item_files=metadata,
        item_columns=columns if metadata else None,
        text=TextFormat(encodings=encodings, progress=progress),
        name_columns_strictly=False,
    )
