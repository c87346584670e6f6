"""The command ``prepare``: raw files into a dataset, a download, a synthetic dataset, or a check of one.

Input: the words after the command: a source and its options. Output: a dataset and a summary on the screen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from recbole_tiger.datasets.bad_rows import BAD_ROW_POLICIES
from recbole_tiger.datasets.check import check_dataset, core_counts
from recbole_tiger.datasets.download import ensure_dataset, has_dataset
from recbole_tiger.datasets.interactions import DUPLICATES, ORDERS, TIES
from recbole_tiger.datasets.movielens import MovieLensSource
from recbole_tiger.datasets.paper_counts import against_table2, table2_text
from recbole_tiger.datasets.pipeline import MISSING_ITEMS, PrepareOptions, prepare
from recbole_tiger.datasets.record_reader import TextFormat
from recbole_tiger.datasets.releases import AMAZON, amazon_source, steam_source
from recbole_tiger.datasets.s3rec import S3RecSource
from recbole_tiger.datasets.sources import Source
from recbole_tiger.datasets.synthetic import write_dataset
from recbole_tiger.datasets.table_source import CATEGORY_PATHS, InteractionColumns, ItemColumns, TableSource
from recbole_tiger.datasets.validation_text import report_text

FILES = "files or patterns, comma-separated"
PATHS = "which of several category paths of an item to use"
SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
Parser: TypeAlias = argparse.ArgumentParser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the default of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, ()) else super()._get_help_string(action)


def run(arguments: Sequence[str]) -> int:
    """Do what the words after ``prepare`` ask for; returns the exit status 0.

    Raises:
        ValueError, OSError: a user's mistake, a damaged file, no network; the message names the way out.
        SystemExit: after help (status 0), or for options that the parser does not know (status 2).
    """
    parsed = build_parser().parse_args(list(arguments))
    parsed.execute(parsed)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command, with a sub-parser for each source."""
    parser = argparse.ArgumentParser(
        "recbole-tiger prepare", description="Makes or checks a dataset.", allow_abbrev=False
    )
    sources = parser.add_subparsers(required=True, metavar="SOURCE")

    def add(name: str, description: str, execute: Callable[[argparse.Namespace], None], *parents: Parser) -> Parser:
        source = sources.add_parser(
            name, help=description, description=description, parents=parents, allow_abbrev=False, formatter_class=_Help
        )
        source.set_defaults(execute=execute)
        source.add_argument("--dataset", required=True, help="name of the dataset")
        source.add_argument("--data_path", default="dataset", help="folder of datasets, as in RecBole")
        return source

    _add_published(add)
    _add_own(add)
    _add_others(add)
    return parser


def _add_published(add: Callable[..., Parser]) -> None:
    """The sources with a format of their own."""
    amazon = add("amazon", "Amazon reviews of 2014, 2018 or 2023 -> .inter and .item", _amazon, _encoding(), _filters())
    amazon.add_argument("--version", choices=list(AMAZON), required=True, help="year of the release")
    amazon.add_argument("--reviews", type=_names, required=True, help=FILES)
    amazon.add_argument("--metadata", type=_names, default=(), help=FILES)
    amazon.add_argument("--description", type=_truth, default=False, help="write the items' descriptions too")
    amazon.add_argument("--category_paths", choices=CATEGORY_PATHS, default="all", help=PATHS)
    movielens = add("movielens", "MovieLens 100k, 1M, 10M, 20M, 25M or 32M -> .inter and .item", _movielens, _filters())
    movielens.add_argument("--folder", required=True, help="the unpacked release")
    steam = add("steam", "Steam reviews and games -> .inter and .item", _steam, _encoding(), _filters())
    steam.add_argument("--reviews", type=_names, required=True, help=FILES)
    steam.add_argument("--games", type=_names, default=(), help=FILES)


def _add_own(add: Callable[..., Parser]) -> None:
    """The sources whose columns the user names."""
    parents = (_item_columns(), _text_format(), _encoding())
    what = "any CSV, TSV, Parquet or JSON-lines files -> .inter and .item, by naming the columns"
    table = add("table", what, _table, *parents, _filters())
    table.add_argument("--interactions", type=_names, required=True, help=FILES)
    table.add_argument("--user", required=True, help="user column")
    table.add_argument("--item", required=True, help="item column")
    table.add_argument("--time", required=True, help="time column, or none if each user's rows are in time order")
    table.add_argument("--time_format", default=None, help="strptime format of a time column of text")
    table.add_argument("--rating", default=None, help="rating column")
    what = "S3-Rec sequences (user item item …) and metadata -> .inter and .item"
    s3rec = add("s3rec", what, _s3rec, *parents, _filters(order="source"))
    s3rec.add_argument("--sequences", required=True, help="the sequence file")
    s3rec.add_argument("--attributes", default=None, help="*_item2attributes.json, instead of a metadata table")
    s3rec.add_argument("--item_map", default=None, help="JSON {number: raw id}, or P5's datamaps.json")


def _add_others(add: Callable[..., Parser]) -> None:
    """What reads no raw files."""
    download = add("download", "download one of RecBole's datasets", _download)
    download.add_argument("--url", default=None, help="address of a zip of atomic files, instead of RecBole's")
    download.add_argument("--timeout", type=float, default=15, help="seconds without data before the download fails")
    what = "a synthetic catalogue with a known hierarchy and next-item rule, of any size"
    synthetic = add("synthetic", what, _synthetic)
    synthetic.add_argument("--n_users", type=int, required=True, help="number of users")
    synthetic.add_argument("--n_items", type=int, required=True, help="number of items")
    synthetic.add_argument("--n_interactions", type=int, required=True, help="number of interactions")
    synthetic.add_argument("--branching", type=_numbers, default=None, help="children by level, such as 8,8,4")
    synthetic.add_argument("--min_length", type=int, default=5, help="shortest sequence")
    synthetic.add_argument("--rule_strength", type=float, default=0.8, help="probability of following the rule")
    synthetic.add_argument(
        "--item_share", type=float, default=0.5, help="share of rule-following steps that go to the exact successor"
    )
    synthetic.add_argument("--popularity_skew", type=float, default=1.0, help="exponent of the power law of popularity")
    synthetic.add_argument("--seed", type=int, default=2024, help="random seed")
    synthetic.add_argument("--overwrite", type=_truth, default=False, help="replace the dataset")
    check = add("check", "examine a dataset: counts, text, ties, duplicates, leaks, checksum, warnings", _check)
    for key in ("--user_core", "--item_core"):
        check.add_argument(key, type=int, default=0, help="check this k-core of the data")
    check.add_argument("--time_field", default="timestamp", help="name of the time column")
    check.add_argument("--html", default=None, help="also write a page with histograms to this file")
    check.add_argument("--seed", type=int, default=2024, help="seed of the leak check")


def _filters(order: str = "time") -> Parser:
    """The options of `PrepareOptions`."""
    parser, defaults = argparse.ArgumentParser(add_help=False), PrepareOptions()
    parser.add_argument("--user_core", type=int, default=defaults.user_core, help="minimum interactions of a user")
    parser.add_argument("--item_core", type=int, default=defaults.item_core, help="minimum interactions of an item")
    parser.add_argument(
        "--duplicates", choices=DUPLICATES, default=defaults.duplicates, help="repeated pairs of user and item to keep"
    )
    parser.add_argument("--ties", choices=TIES, default=defaults.ties, help="order of a user's rows of equal time")
    parser.add_argument("--order", choices=ORDERS, default=order, help="order of the written rows")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="seed of --ties=shuffle")
    parser.add_argument(
        "--missing_items", choices=MISSING_ITEMS, default=defaults.missing_items, help="items without metadata"
    )
    parser.add_argument("--required_fields", type=_names, default=(), help="item columns that must not be empty")
    parser.add_argument("--bad_rows", choices=BAD_ROW_POLICIES, default=defaults.bad_rows, help="unusable rows")
    parser.add_argument("--overwrite", type=_truth, default=defaults.overwrite, help="replace the dataset")
    return parser


def _item_columns() -> Parser:
    """The options of `ItemColumns`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--items", type=_names, default=(), help=f"metadata {FILES}")
    parser.add_argument(
        "--item_id", default=None, help="id column of the metadata; by default that of --item, or item_id (s3rec)"
    )
    parser.add_argument("--title", type=_names, default=(), help="title column; of several, the first non-empty one")
    parser.add_argument("--categories", default=None, help="category path column")
    parser.add_argument("--brand", type=_names, default=(), help="brand column; of several, the first non-empty one")
    parser.add_argument("--price", default=None, help="price column")
    parser.add_argument("--text", type=_names, default=(), help="further text columns, kept under their names")
    parser.add_argument("--category_separator", default="|", help="separator of the names of a category path")
    parser.add_argument("--category_paths", choices=CATEGORY_PATHS, default="all", help=PATHS)
    return parser


def _text_format() -> Parser:
    """The options of `TextFormat`, without the encodings."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--separator", type=_separator, default=None, help="one character, tab, comma or semicolon")
    parser.add_argument(
        "--header",
        type=_truth,
        default=True,
        help="whether the first line names the columns; otherwise they are 0, 1, …",
    )
    parser.add_argument(
        "--quoting",
        choices=("minimal", "none"),
        default=None,
        help="CSV quoting; by default none in .tsv, else minimal",
    )
    return parser


def _encoding() -> Parser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--encoding", type=_names, default=("utf-8",), help="encodings to try in turn on every line")
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
        raise argparse.ArgumentTypeError(f"{text!r} must be True or False")
    return text.lower() == "true"


def _separator(text: str) -> str:
    return SEPARATORS.get(text, text)


def _chosen(options: type, parsed: argparse.Namespace, **others: Any) -> Any:
    """A dataclass of options from the arguments of the same names."""
    names = [field.name for field in fields(options) if field.name not in others and field.name in parsed]
    return options(**{name: getattr(parsed, name) for name in names}, **others)


def _write(source: Source, parsed: argparse.Namespace) -> None:
    print(prepare(source, parsed.data_path, parsed.dataset, _chosen(PrepareOptions, parsed)))
    _print_table2(parsed)


def _print_table2(parsed: argparse.Namespace) -> None:
    comparison = against_table2(parsed.dataset, partial(core_counts, parsed.data_path, parsed.dataset))
    if comparison is not None:
        print(table2_text(parsed.dataset, comparison, "5-core"))


def _metadata(parsed: argparse.Namespace, item: str) -> dict[str, Any]:
    """The metadata part of a source, `item` being the id column where none is named."""
    columns = _chosen(ItemColumns, parsed, item=parsed.item_id or item) if parsed.items else None
    return {
        "item_files": parsed.items,
        "item_columns": columns,
        "item_text": _chosen(TextFormat, parsed, encodings=parsed.encoding),
    }


def _amazon(parsed: argparse.Namespace) -> None:
    files = (parsed.reviews, parsed.metadata)
    _write(amazon_source(parsed.version, *files, parsed.description, parsed.category_paths, parsed.encoding), parsed)


def _movielens(parsed: argparse.Namespace) -> None:
    _write(MovieLensSource(parsed.folder), parsed)


def _steam(parsed: argparse.Namespace) -> None:
    _write(steam_source(parsed.reviews, parsed.games, parsed.encoding), parsed)


def _table(parsed: argparse.Namespace) -> None:
    time = None if parsed.time.lower() == "none" else parsed.time
    columns = _chosen(InteractionColumns, parsed, time=time)
    metadata = _metadata(parsed, parsed.item)
    _write(TableSource(parsed.interactions, columns, text=metadata["item_text"], **metadata), parsed)


def _s3rec(parsed: argparse.Namespace) -> None:
    metadata = _metadata(parsed, "item_id")
    source = S3RecSource(parsed.sequences, attributes=parsed.attributes, item_map=parsed.item_map, **metadata)
    _write(source, parsed)


def _download(parsed: argparse.Namespace) -> None:
    there = has_dataset(parsed.data_path, parsed.dataset)
    folder = ensure_dataset(parsed.dataset, parsed.data_path, parsed.url, parsed.timeout)
    print(f"{parsed.dataset} {'was already' if there else 'is now'} in {folder}:")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name}: {path.stat().st_size:,} bytes")
    _print_table2(parsed)


def _synthetic(parsed: argparse.Namespace) -> None:
    numbers = {key: value for key, value in vars(parsed).items() if key not in ("execute", "data_path", "dataset")}
    catalogue = write_dataset(parsed.data_path, parsed.dataset, **numbers)
    print(
        f"{parsed.dataset} in {Path(parsed.data_path) / parsed.dataset}: {parsed.n_users:,} users, "
        f"{catalogue.n_items:,} items in {catalogue.n_leaves:,} leaves {catalogue.branching}, "
        f"{parsed.n_interactions:,} interactions"
    )


def _check(parsed: argparse.Namespace) -> None:
    cores = (parsed.user_core, parsed.item_core)
    report = check_dataset(parsed.data_path, parsed.dataset, *cores, parsed.time_field, parsed.seed)
    print(report_text(report))
    if parsed.html is not None:
        from recbole_tiger.report.dataset_check import write_html  # plotly takes seconds to import

        print(f"histograms in {write_html(report, parsed.html)}")
