"""The command ``recommend``: recommendations from a trained checkpoint, for one history or for a file of them.

Input: the settings of the command, and a table with one interaction per line. Output: a table on the screen, or a file
with the lists of all users.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from recbole_tiger.errors import ConfigError
from recbole_tiger.io import atomic_file
from recbole_tiger.recommend import Recommender
from recbole_tiger.recommend_tables import NewItem, Recommendation, read_histories, recommendation_table
from recbole_tiger.settings.field import Field
from recbole_tiger.settings.schema import FIELDS

TITLE_WIDTH = 60
SHOWN_NEW_ITEMS = 10
#: Arguments of :meth:`Recommender.recommend`, which checks what depends on the model.
OPTIONS = (
    Field("k", "int"),
    Field("exclude_seen", "bool"),
    Field("sample", "bool"),
    Field("epsilon", "float", range="[0,1]"),
    Field("unknown", "str", choices=("error", "skip")),
    *(FIELDS[key] for key in ("temperature", "beam_size", "seed")),
)


def run(settings: dict) -> str:
    """Recommend for one history, or for a file of them; returns what to print.

    Raises:
        ValueError: for settings, files and histories that cannot work.
    """
    checkpoint, history, file, user, output, new_items = (
        settings.pop(key, None) for key in ("checkpoint", "history", "histories", "user", "output", "new_items")
    )
    options = {field.name: field.read(settings.pop(field.name)) for field in OPTIONS if field.name in settings}
    if settings:
        raise ConfigError(f"unknown key '{next(iter(settings))}' for recommend; see recommend --help")
    if checkpoint is None:
        raise ConfigError("recommend needs --checkpoint=FILE, the best.pth of a run")
    if (history is None) == (file is None):
        raise ConfigError("recommend needs either --history=A,B,... or --histories=FILE")
    if file is not None:
        if output is None:
            raise ConfigError("--histories needs --output=FILE.csv or FILE.parquet for the recommendations")
        _check_output(Path(str(output)))
    recommender = Recommender.from_checkpoint(str(checkpoint))
    added = ""
    if new_items is not None:
        recommender.add_items(str(new_items))
        added = new_items_text(recommender.new_items) + "\n\n"
    if file is not None:
        histories = read_histories(str(file), recommender.config)
        found = recommender.recommend(list(histories.values()), users=list(histories), progress=True, **options)
        n_rows = write_recommendations(Path(str(output)), list(histories), found)
        return f"{added}{n_rows:,} recommendations for {len(histories):,} users: {output}"
    names = history_names(history, recommender)
    [ranked] = recommender.recommend([names], users=None if user is None else [str(user)], **options)
    rows = [
        [rank, _cut(r.title), r.item, f"{r.score:.3f}", " ".join(map(str, r.codes)) + (" (new)" if r.new else "")]
        for rank, r in enumerate(ranked, 1)
    ]
    return added + tabulate(rows, headers=["", "title", "item", "score", "codewords"], disable_numparse=True)


def history_names(history, recommender: Recommender) -> list[str]:
    """The ids and titles in a history, which is text with commas between them, or a list of texts.

    Raises:
        ConfigError: for numbers, which do not say which item was meant: `1_2` and `12` are the same number.
    """
    if isinstance(history, str):
        return recommender.split(history)
    if not isinstance(history, (list, tuple)) or not all(isinstance(name, str) for name in history):
        raise ConfigError(f"history={history!r} was read as a number; give ids or titles as text")
    return list(history)


def _cut(title: str) -> str:
    return title if len(title) <= TITLE_WIDTH else title[: TITLE_WIDTH - 1] + "…"


def _check_output(path: Path) -> None:
    """Raise a `ConfigError` for an output file of another format, or that exists."""
    if path.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"output='{path}' must end in .csv or .parquet")
    if path.exists():
        raise ConfigError(f"output='{path}' exists already; name a file that does not")


def write_recommendations(path: Path, users: Sequence[str], found: Sequence[Sequence[Recommendation]]) -> int:
    """Lists as rows of user, rank, item, title, score, codewords and whether the item is new; returns how many."""
    table = recommendation_table(users, found)
    with atomic_file(path) as file:
        if path.suffix == ".csv":
            file.write(table.to_csv(index=False).encode("utf-8"))
        else:
            table.to_parquet(file, index=False)
    return len(table)


def new_items_text(items: Sequence[NewItem]) -> str:
    """How many items were added, and the codewords that each is found under, the first of many."""
    alone = sum(not item.sharing for item in items)
    rows = [[i.item, _cut(i.title), " ".join(map(str, i.codes)), f"{i.sharing:,}"] for i in items[:SHOWN_NEW_ITEMS]]
    table = tabulate(rows, headers=["new item", "title", "prefix", "known items under it"], disable_numparse=True)
    more = f"\n… and {len(items) - len(rows):,} more" if len(items) > len(rows) else ""
    return (
        f"{len(items):,} new items were added under {len({item.codes for item in items}):,} prefixes; {alone:,} have a "
        f"prefix that no known item has, and are found only if the model predicts it\n{table}{more}"
    )
