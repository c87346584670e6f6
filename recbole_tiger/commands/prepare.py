"""The command lines of `dataset_prep/`: `--key=value` in, a dataset and a summary out.

Each function is one script. It returns the exit status: 0, or 2 after a user's mistake, which is told in one
line.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from recbole_tiger.datasets.amazon import REVIEW_COLUMNS, amazon_source
from recbole_tiger.datasets.bad_rows import BAD_ROW_POLICIES
from recbole_tiger.datasets.check import check_dataset, core_counts
from recbole_tiger.datasets.download import ensure_dataset, has_dataset
from recbole_tiger.datasets.interactions import DUPLICATES, ORDERS, TIES
from recbole_tiger.datasets.movielens import MovieLensSource
from recbole_tiger.datasets.paper_counts import against_table2, table2_text
from recbole_tiger.datasets.pipeline import MISSING_ITEMS, PrepareOptions, prepare
from recbole_tiger.datasets.record_reader import TextFormat
from recbole_tiger.datasets.s3rec import S3RecSource
from recbole_tiger.datasets.sources import Source
from recbole_tiger.datasets.steam import steam_source
from recbole_tiger.datasets.synthetic import write_dataset
from recbole_tiger.datasets.table_source import CATEGORY_PATHS, InteractionColumns, ItemColumns, TableSource
from recbole_tiger.datasets.validation_page import write_html
from recbole_tiger.datasets.validation_text import report_text
from recbole_tiger.errors import DownloadError, PreparationError

PROGRAM_ERRORS = (PreparationError, DownloadError)
SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}


def reporting_errors(
    command: Callable[[Sequence[str] | None], None],
) -> Callable[[Sequence[str] | None], int]:
    """Turn the errors that a user can mend into one line and exit status 2."""

    @functools.wraps(command)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            command(arguments)
        except PROGRAM_ERRORS as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped; nothing was changed", file=sys.stderr)
            return 130
        return 0

    return run


def _parser(description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )


def _names(text: str) -> tuple[str, ...]:
    """A comma-separated list; empty text is no name."""
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() == "true"


def _separator(text: str) -> str:
    return SEPARATORS.get(text, text)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="name of the dataset to write")
    parser.add_argument("--data_path", default="dataset", help="folder of datasets, as in RecBole")


def _add_options(parser: argparse.ArgumentParser, order: str = "time") -> None:
    defaults = PrepareOptions()
    _add_target(parser)
    parser.add_argument("--user_core", type=int, default=defaults.user_core, help="least interactions of a user")
    parser.add_argument("--item_core", type=int, default=defaults.item_core, help="least interactions of an item")
    parser.add_argument("--duplicates", choices=DUPLICATES, default=defaults.duplicates, help="of a repeated pair")
    parser.add_argument("--ties", choices=TIES, default=defaults.ties, help="order of a user's rows of equal time")
    parser.add_argument("--order", choices=ORDERS, default=order, help="order of the rows that are written")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of --ties=shuffle")
    parser.add_argument("--missing_items", choices=MISSING_ITEMS, default=defaults.missing_items, help="no metadata")
    parser.add_argument("--required_fields", type=_names, default=(), help="item columns that must not be empty")
    parser.add_argument("--bad_rows", choices=BAD_ROW_POLICIES, default=defaults.bad_rows, help="unusable rows")
    parser.add_argument("--overwrite", type=_truth, default=defaults.overwrite, help="replace the dataset")


def _add_encoding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoding", type=_names, default=("utf-8",), help="tried in turn for every line")


def _write(source: Source, parsed: argparse.Namespace) -> None:
    options = PrepareOptions(**{field.name: getattr(parsed, field.name) for field in fields(PrepareOptions)})
    print(prepare(source, parsed.data_path, parsed.dataset, options))
    _print_table2(parsed.data_path, parsed.dataset)


def _print_table2(data_path: str, dataset: str) -> None:
    comparison = against_table2(dataset, functools.partial(core_counts, data_path, dataset))
    if comparison is not None:
        print(table2_text(dataset, comparison, "5-core"))


@reporting_errors
def amazon(arguments: Sequence[str] | None = None) -> None:
    """`dataset_prep/amazon.py`"""
    parser = _parser("Amazon reviews of 2014, 2018 or 2023 -> .inter and .item")
    parser.add_argument("--version", choices=list(REVIEW_COLUMNS), required=True, help="year of the release")
    parser.add_argument("--reviews", type=_names, required=True, help="files or patterns, comma-separated")
    parser.add_argument("--metadata", type=_names, default=(), help="files or patterns, comma-separated")
    parser.add_argument("--description", type=_truth, default=False, help="write the items' descriptions too")
    parser.add_argument("--category_paths", choices=CATEGORY_PATHS, default="all", help="of several paths of an item")
    _add_encoding(parser)
    _add_options(parser)
    parsed = parser.parse_args(arguments)
    source = amazon_source(
        parsed.version,
        parsed.reviews,
        parsed.metadata,
        parsed.description,
        parsed.category_paths,
        parsed.encoding,
    )
    _write(source, parsed)


@reporting_errors
def movielens(arguments: Sequence[str] | None = None) -> None:
    """`dataset_prep/movielens.py`"""
    parser = _parser("MovieLens 100k, 1M, 10M, 20M, 25M or 32M -> .inter and .item")
    parser.add_argument("--folder", required=True, help="the unpacked release")
    _add_options(parser)
    parsed = parser.parse_args(arguments)
    _write(MovieLensSource(parsed.folder), parsed)


@reporting_errors
def steam(arguments: Sequence[str] | None = None) -> None:
    """`dataset_prep/steam.py`"""
    parser = _parser("Steam reviews and games -> .inter and .item")
    parser.add_argument("--reviews", type=_names, required=True, help="files or patterns, comma-separated")
    parser.add_argument("--games", type=_names, default=(), help="files or patterns, comma-separated")
    _add_encoding(parser)
    _add_options(parser)
    parsed = parser.parse_args(arguments)
    _write(steam_source(parsed.reviews, parsed.games, parsed.encoding), parsed)


def _add_item_columns(parser: argparse.ArgumentParser, item: str | None) -> None:
    parser.add_argument("--items", type=_names, default=(), help="metadata files or patterns, comma-separated")
    parser.add_argument("--item_id", default=item, help="id column of the metadata")
    parser.add_argument("--title", type=_names, default=(), help="title column; of several the first with a value")
    parser.add_argument("--categories", default=None, help="category path column")
    parser.add_argument("--brand", type=_names, default=(), help="brand column; of several the first with a value")
    parser.add_argument("--price", default=None, help="price column")
    parser.add_argument("--text", type=_names, default=(), help="further text columns, written under their names")
    parser.add_argument("--category_separator", default="|", help="between the names of a path that is text")
    parser.add_argument("--category_paths", choices=CATEGORY_PATHS, default="all", help="of several paths of an item")


def _item_columns(parsed: argparse.Namespace, item: str) -> ItemColumns | None:
    if not parsed.items:
        return None
    return ItemColumns(
        item=parsed.item_id or item,
        title=parsed.title or None,
        categories=parsed.categories,
        brand=parsed.brand or None,
        price=parsed.price,
        text=parsed.text,
        category_separator=parsed.category_separator,
        category_paths=parsed.category_paths,
    )


def _add_text_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--separator", type=_separator, default=None, help="one character, tab, comma or semicolon")
    parser.add_argument("--header", type=_truth, default=True, help="False: the columns are called 0, 1, …")
    parser.add_argument("--quoting", choices=("minimal", "none"), default=None, help="None: none in .tsv, else minimal")
    _add_encoding(parser)


def _text_format(parsed: argparse.Namespace) -> TextFormat:
    return TextFormat(parsed.encoding, parsed.separator, parsed.header, parsed.quoting)


@reporting_errors
def table(arguments: Sequence[str] | None = None) -> None:
    """`dataset_prep/table.py`"""
    parser = _parser("Any CSV, TSV, Parquet or JSON-lines files -> .inter and .item, by naming the columns")
    parser.add_argument("--interactions", type=_names, required=True, help="files or patterns, comma-separated")
    parser.add_argument("--user", required=True, help="user column")
    parser.add_argument("--item", required=True, help="item column")
    parser.add_argument("--time", required=True, help="time column; none: the order of each user's rows is the time")
    parser.add_argument("--time_format", default=None, help="strptime format of times that are text")
    parser.add_argument("--rating", default=None, help="rating column")
    _add_item_columns(parser, None)
    _add_text_format(parser)
    _add_options(parser)
    parsed = parser.parse_args(arguments)
    source = TableSource(
        interaction_files=parsed.interactions,
        columns=InteractionColumns(
            user=parsed.user,
            item=parsed.item,
            time=None if parsed.time.lower() == "none" else parsed.time,
            rating=parsed.rating,
            time_format=parsed.time_format,
        ),
        item_files=parsed.items,
        item_columns=_item_columns(parsed, parsed.item),
        text=_text_format(parsed),
        item_text=_text_format(parsed),
    )
    _write(source, parsed)


@reporting_errors
def s3rec(arguments: Sequence[str] | None = None) -> None:
    """`dataset_prep/s3rec.py`"""
    parser = _parser("S3-Rec sequences (user item item …) with a metadata file -> .inter and .item")
    parser.add_argument("--sequences", required=True, help="the sequence file")
    parser.add_argument("--attributes", default=None, help="*_item2attributes.json, instead of a metadata table")
    parser.add_argument("--item_map", default=None, help="JSON {number: raw id}, or P5's datamaps.json")
    _add_item_columns(parser, "item_id")
    _add_text_format(parser)
    _add_options(parser, order="source")
    parsed = parser.parse_args(arguments)
    source = S3RecSource(
        sequences=parsed.sequences,
        item_files=parsed.items,
        item_columns=_item_columns(parsed, "item_id"),
        attributes=parsed.attributes,
        item_map=parsed.item_map,
        item_text=_text_format(parsed),
    )
    _write(source, parsed)


@reporting_errors
def download(arguments: Sequence[str] | None = None) -> None:
    """`dataset_prep/download.py`"""
    parser = _parser("One of RecBole's datasets, fetched whole or not at all")
    _add_target(parser)
    parser.add_argument("--url", default=None, help="of a zip with atomic files, instead of RecBole's")
    parser.add_argument("--timeout", type=float, default=15, help="give up after so many seconds without a byte")
    parsed = parser.parse_args(arguments)
    there = has_dataset(parsed.data_path, parsed.dataset)
    folder = ensure_dataset(parsed.dataset, parsed.data_path, parsed.url, parsed.timeout)
    print(f"{parsed.dataset} {'was already' if there else 'is now'} in {folder}:")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name}: {path.stat().st_size:,} bytes")
    _print_table2(parsed.data_path, parsed.dataset)


@reporting_errors
def check(arguments: Sequence[str] | None = None) -> None:
    """`dataset_prep/check.py`"""
    parser = _parser("Examine a dataset: counts, text, ties, duplicates, leaks, checksum, warnings")
    _add_target(parser)
    parser.add_argument("--user_core", type=int, default=0, help="look at this core, as a run with it would")
    parser.add_argument("--item_core", type=int, default=0, help="look at this core, as a run with it would")
    parser.add_argument("--time_field", default="timestamp", help="name of the time column")
    parser.add_argument("--html", default=None, help="also write a page with histograms to this file")
    parser.add_argument("--seed", type=int, default=2024, help="of the leak check's shuffles")
    parsed = parser.parse_args(arguments)
    report = check_dataset(
        parsed.data_path, parsed.dataset, parsed.user_core, parsed.item_core, parsed.time_field, parsed.seed
    )
    print(report_text(report))
    if parsed.html is not None:
        print(f"histograms in {write_html(report, Path(parsed.html))}")


@reporting_errors
def synthetic(arguments: Sequence[str] | None = None) -> None:
    """`dataset_prep/synthetic.py`"""
    parser = _parser("A made-up catalogue with a known hierarchy and next-item rule, of any size")
    _add_target(parser)
    parser.add_argument("--n_users", type=int, required=True)
    parser.add_argument("--n_items", type=int, required=True)
    parser.add_argument("--n_interactions", type=int, required=True)
    parser.add_argument("--branching", type=_names, default=None, help="children by level, such as 8,8,4")
    parser.add_argument("--min_length", type=int, default=5, help="shortest sequence")
    parser.add_argument("--rule_strength", type=float, default=0.8, help="probability of following the rule")
    parser.add_argument("--item_share", type=float, default=0.5, help="of these, the exact successor item")
    parser.add_argument("--popularity_skew", type=float, default=1.0, help="exponent of the power law")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--overwrite", type=_truth, default=False, help="replace the dataset")
    parsed = vars(parser.parse_args(arguments))
    folder, name, branching = parsed.pop("data_path"), parsed.pop("dataset"), parsed.pop("branching")
    try:
        levels = tuple(map(int, branching)) if branching else None
    except ValueError:
        raise PreparationError(f"branching={','.join(branching)!r} must be whole numbers, such as 8,8,4.") from None
    catalogue = write_dataset(folder, name, branching=levels, **parsed)
    print(
        f"{name} in {Path(folder) / name}: {parsed['n_users']:,} users, {catalogue.n_items:,} items in "
        f"{catalogue.n_leaves:,} leaves {catalogue.branching}, {parsed['n_interactions']:,} interactions"
    )


SOURCES = {"amazon": amazon, "movielens": movielens, "steam": steam, "s3rec": s3rec, "table": table,
           "download": download, "synthetic": synthetic, "check": check}  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """``prepare SOURCE --key=value …``: one of the scripts by its name; returns the exit status."""
    if not arguments or arguments[0] not in SOURCES:
        wanted = arguments and arguments[0] in ("-h", "--help")
        print(f"usage: prepare SOURCE [--key=value ...] with SOURCE one of {', '.join(SOURCES)}; each has a --help of its own",
              file=sys.stdout if wanted else sys.stderr)  # fmt: skip
        return 0 if wanted else 2
    return SOURCES[arguments[0]](arguments[1:])
