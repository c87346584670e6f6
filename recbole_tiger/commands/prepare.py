"""The command ``prepare``: raw files into a dataset, a download, a synthetic dataset, or a check of one.

Input: the words after the command: a source and its options. Output: a dataset and a summary on the screen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
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
from recbole_tiger.datasets.validation_text import report_text

SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
FILES = "files or patterns, comma-separated"


def run(arguments: Sequence[str]) -> int:
    """Do what the words after ``prepare`` ask for; returns the exit status 0.

    Raises:
        ValueError, OSError: a user's mistake, a damaged file, no network; the message names the way out.
        SystemExit: help, or options that the parser does not know (status 2).
    """
    parsed = build_parser().parse_args(list(arguments))
    SOURCES[parsed.source].execute(parsed)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command, with a sub-parser for each source; every option is written --key=value."""
    parser = argparse.ArgumentParser(
        prog="recbole-tiger prepare", allow_abbrev=False, description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for name, source in SOURCES.items():
        command = commands.add_parser(
            name,
            help=source.description,
            description=source.description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_argument("--dataset", required=True, help="name of the dataset")
        command.add_argument("--data_path", default="dataset", help="folder of datasets, as in RecBole")
        source.add_arguments(command)
    return parser


def _names(text: str) -> tuple[str, ...]:
    """A comma-separated list; empty text is no name."""
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, _names(text)))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers, such as 8,8,4") from None


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() == "true"


def _separator(text: str) -> str:
    return SEPARATORS.get(text, text)


def _add_options(parser: argparse.ArgumentParser, order: str = "time") -> None:
    """The options of `PrepareOptions`."""
    defaults = PrepareOptions()
    parser.add_argument("--user_core", type=int, default=defaults.user_core, help="minimum interactions of a user")
    parser.add_argument("--item_core", type=int, default=defaults.item_core, help="minimum interactions of an item")
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


def _add_item_columns(parser: argparse.ArgumentParser, item: str | None) -> None:
    parser.add_argument("--items", type=_names, default=(), help=f"metadata {FILES}")
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


def _write(source: Source, parsed: argparse.Namespace) -> None:
    options = PrepareOptions(**{field.name: getattr(parsed, field.name) for field in fields(PrepareOptions)})
    print(prepare(source, parsed.data_path, parsed.dataset, options))
    _print_table2(parsed)


def _print_table2(parsed: argparse.Namespace) -> None:
    comparison = against_table2(parsed.dataset, partial(core_counts, parsed.data_path, parsed.dataset))
    if comparison is not None:
        print(table2_text(parsed.dataset, comparison, "5-core"))


def _add_amazon(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", choices=list(REVIEW_COLUMNS), required=True, help="year of the release")
    parser.add_argument("--reviews", type=_names, required=True, help=FILES)
    parser.add_argument("--metadata", type=_names, default=(), help=FILES)
    parser.add_argument("--description", type=_truth, default=False, help="write the items' descriptions too")
    parser.add_argument("--category_paths", choices=CATEGORY_PATHS, default="all", help="of several paths of an item")
    _add_encoding(parser)
    _add_options(parser)


def _amazon(parsed: argparse.Namespace) -> None:
    files = (parsed.reviews, parsed.metadata)
    source = amazon_source(parsed.version, *files, parsed.description, parsed.category_paths, parsed.encoding)
    _write(source, parsed)


def _add_movielens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", required=True, help="the unpacked release")
    _add_options(parser)


def _add_steam(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reviews", type=_names, required=True, help=FILES)
    parser.add_argument("--games", type=_names, default=(), help=FILES)
    _add_encoding(parser)
    _add_options(parser)


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--interactions", type=_names, required=True, help=FILES)
    parser.add_argument("--user", required=True, help="user column")
    parser.add_argument("--item", required=True, help="item column")
    parser.add_argument("--time", required=True, help="time column; none: the order of each user's rows is the time")
    parser.add_argument("--time_format", default=None, help="strptime format of times that are text")
    parser.add_argument("--rating", default=None, help="rating column")
    _add_item_columns(parser, None)
    _add_text_format(parser)
    _add_options(parser)


def _table(parsed: argparse.Namespace) -> None:
    time = None if parsed.time.lower() == "none" else parsed.time
    source = TableSource(
        interaction_files=parsed.interactions,
        columns=InteractionColumns(parsed.user, parsed.item, time, parsed.rating, parsed.time_format),
        item_files=parsed.items,
        item_columns=_item_columns(parsed, parsed.item),
        text=_text_format(parsed),
        item_text=_text_format(parsed),
    )
    _write(source, parsed)


def _add_s3rec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sequences", required=True, help="the sequence file")
    parser.add_argument("--attributes", default=None, help="*_item2attributes.json, instead of a metadata table")
    parser.add_argument("--item_map", default=None, help="JSON {number: raw id}, or P5's datamaps.json")
    _add_item_columns(parser, "item_id")
    _add_text_format(parser)
    _add_options(parser, order="source")


def _s3rec(parsed: argparse.Namespace) -> None:
    source = S3RecSource(
        sequences=parsed.sequences,
        item_files=parsed.items,
        item_columns=_item_columns(parsed, "item_id"),
        attributes=parsed.attributes,
        item_map=parsed.item_map,
        item_text=_text_format(parsed),
    )
    _write(source, parsed)


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=None, help="of a zip with atomic files, instead of RecBole's")
    parser.add_argument("--timeout", type=float, default=15, help="give up after so many seconds without a byte")


def _download(parsed: argparse.Namespace) -> None:
    there = has_dataset(parsed.data_path, parsed.dataset)
    folder = ensure_dataset(parsed.dataset, parsed.data_path, parsed.url, parsed.timeout)
    print(f"{parsed.dataset} {'was already' if there else 'is now'} in {folder}:")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name}: {path.stat().st_size:,} bytes")
    _print_table2(parsed)


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user_core", type=int, default=0, help="examine this k-core, as a run with it would")
    parser.add_argument("--item_core", type=int, default=0, help="examine this k-core, as a run with it would")
    parser.add_argument("--time_field", default="timestamp", help="name of the time column")
    parser.add_argument("--html", default=None, help="also write a page with histograms to this file")
    parser.add_argument("--seed", type=int, default=2024, help="of the leak check's shuffles")


def _check(parsed: argparse.Namespace) -> None:
    cores = (parsed.user_core, parsed.item_core)
    report = check_dataset(parsed.data_path, parsed.dataset, *cores, parsed.time_field, parsed.seed)
    print(report_text(report))
    if parsed.html is not None:
        from recbole_tiger.report.dataset_check import write_html  # plotly takes seconds to import

        print(f"histograms in {write_html(report, parsed.html)}")


def _add_synthetic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n_users", type=int, required=True, help="number of users")
    parser.add_argument("--n_items", type=int, required=True, help="number of items")
    parser.add_argument("--n_interactions", type=int, required=True, help="number of interactions")
    parser.add_argument("--branching", type=_numbers, default=None, help="children by level, such as 8,8,4")
    parser.add_argument("--min_length", type=int, default=5, help="shortest sequence")
    parser.add_argument("--rule_strength", type=float, default=0.8, help="probability of following the rule")
    parser.add_argument("--item_share", type=float, default=0.5, help="of these, the exact successor item")
    parser.add_argument("--popularity_skew", type=float, default=1.0, help="exponent of the power law")
    parser.add_argument("--seed", type=int, default=2024, help="same seed, same files")
    parser.add_argument("--overwrite", type=_truth, default=False, help="replace the dataset")


def _synthetic(parsed: argparse.Namespace) -> None:
    values = {key: value for key, value in vars(parsed).items() if key not in ("source", "data_path", "dataset")}
    catalogue = write_dataset(parsed.data_path, parsed.dataset, **values)
    print(
        f"{parsed.dataset} in {Path(parsed.data_path) / parsed.dataset}: {parsed.n_users:,} users, "
        f"{catalogue.n_items:,} items in {catalogue.n_leaves:,} leaves {catalogue.branching}, "
        f"{parsed.n_interactions:,} interactions"
    )


@dataclass(frozen=True)
class _Command:
    """What one source is, its options, and what is done with them."""

    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], None]


SOURCES = {
    "amazon": _Command("Amazon reviews of 2014, 2018 or 2023 -> .inter and .item", _add_amazon, _amazon),
    "movielens": _Command(
        "MovieLens 100k, 1M, 10M, 20M, 25M or 32M -> .inter and .item",
        _add_movielens,
        lambda parsed: _write(MovieLensSource(parsed.folder), parsed),
    ),
    "steam": _Command(
        "Steam reviews and games -> .inter and .item",
        _add_steam,
        lambda parsed: _write(steam_source(parsed.reviews, parsed.games, parsed.encoding), parsed),
    ),
    "s3rec": _Command("S3-Rec sequences (user item item …) and metadata -> .inter and .item", _add_s3rec, _s3rec),
    "table": _Command(
        "any CSV, TSV, Parquet or JSON-lines files -> .inter and .item, by naming the columns", _add_table, _table
    ),
    "download": _Command("one of RecBole's datasets, fetched whole or not at all", _add_download, _download),
    "synthetic": _Command(
        "a synthetic catalogue with a known hierarchy and next-item rule, of any size", _add_synthetic, _synthetic
    ),
    "check": _Command(
        "examine a dataset: counts, text, ties, duplicates, leaks, checksum, warnings", _add_check, _check
    ),
}
