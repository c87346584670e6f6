"""The one way from a source to a dataset: collect, reduce, match metadata, order, write, count.

Input: a source and options. Output: the atomic files and a summary of what was left out on the way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from recbole_tiger.datasets.arrays import BoolArray, IntArray
from recbole_tiger.datasets.atomic_fields import ITEM, header
from recbole_tiger.datasets.atomic_writer import dataset_folder, refuse_existing, write_interactions
from recbole_tiger.datasets.bad_rows import BAD_ROW_POLICIES, BadRows, check_choice
from recbole_tiger.datasets.interactions import (
    DUPLICATES,
    ORDERS,
    TIES,
    InteractionLog,
    Interactions,
    check_cores,
    count_duplicates,
    count_ties,
    duplicate_mask,
    k_core,
    output_order,
)
from recbole_tiger.datasets.normalize import UNKNOWN_TOKEN
from recbole_tiger.datasets.sources import Source
from recbole_tiger.errors import PreparationError

MISSING_ITEMS = ("error", "drop", "keep")


@dataclass(frozen=True)
class PrepareOptions:
    """What is done between source and dataset.

    Attributes:
        user_core, item_core: see `interactions.k_core`; 5 and 5 are the paper's.
        duplicates: `keep`, `first` or `last`, see `interactions.duplicate_mask`; before the core is taken.
        ties, order, seed: see `interactions.output_order`.
        missing_items: items without metadata: `error`, `drop` (their interactions too, the core is taken again) or
            `keep` (with empty cells).
        required_fields: an item in which one of these fields is empty counts as one without metadata.
        bad_rows: rows that cannot be used: `error` or `skip` (and count).
        overwrite: replace a dataset of the same name.
    """

    user_core: int = 5
    item_core: int = 5
    duplicates: str = "keep"
    ties: str = "file"
    order: str = "time"
    seed: int = 2024
    missing_items: str = "error"
    required_fields: tuple[str, ...] = ()
    bad_rows: str = "error"
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_choice("duplicates", self.duplicates, DUPLICATES)
        check_choice("ties", self.ties, TIES)
        check_choice("order", self.order, ORDERS)
        check_choice("missing_items", self.missing_items, MISSING_ITEMS)
        check_choice("bad_rows", self.bad_rows, BAD_ROW_POLICIES)
        check_cores(self.user_core, self.item_core)


@dataclass
class PrepareSummary:
    """What went in, what came out, and what was left out on the way.

    `counts` are by description, in the order of the work; `skipped` are unusable rows by reason, with a few `examples`;
    `notes` count what is no fault; `filled` is the share of the written items that have a value, by field.
    """

    dataset: str
    folder: str
    counts: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    filled: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.dataset} in {self.folder}"]
        lines += [f"  {name}: {count:,}" for name, count in self.counts.items()]
        lines += [f"  items with {name}: {share:.1%}" for name, share in self.filled.items()]
        lines += [f"  note, {name}: {count:,}" for name, count in self.notes.items()]
        lines += [f"  skipped, {reason}: {count:,}" for reason, count in self.skipped.items()]
        lines += [f"    e.g. {example}" for example in self.examples]
        return "\n".join(lines)


def prepare(source: Source, output: str | Path, dataset: str, options: PrepareOptions | None = None) -> PrepareSummary:
    """Write `<output>/<dataset>/<dataset>.inter`, `.item` and a `.summary.json` from a source, all or nothing.

    Memory is some 50 bytes per interaction plus the ids, however long the source's lines are. A `PreparationError` for
    unusable rows or items without metadata (unless the options say otherwise), nothing left after filtering, an
    existing dataset.
    """
    options = options or PrepareOptions()
    refuse_existing(output, dataset, options.overwrite, [f"{dataset}.item"] if source.item_fields else ())
    bad = BadRows(options.bad_rows)
    summary = PrepareSummary(dataset, str(Path(output) / dataset))
    _check_required_fields(source, options)

    log = InteractionLog()
    for chunk in source.interactions(bad):
        log.add(chunk, bad)
    interactions = log.finish()
    summary.counts["interactions read"] = log.rows_read
    summary.counts["duplicates (same user and item)"] = count_duplicates(interactions.users, interactions.items)
    kept = interactions.take(duplicate_mask(interactions, options.duplicates))
    summary.counts["duplicates removed"] = len(interactions) - len(kept)
    del interactions
    kept = _core(kept, options, summary)

    with dataset_folder(output, dataset, options.overwrite) as folder:
        if source.item_fields:
            rows = _ItemRows(folder / "item_rows", source, log, options)
            rows.collect(kept.items, bad)
            kept = _without_missing_items(kept, rows, log, options, summary)
            rows.write(folder / f"{dataset}.item", kept.items, summary)
        summary.counts["ties (neighbours of equal time)"] = count_ties(kept.users, kept.times)
        order = output_order(kept, options.order, options.ties, options.seed)
        write_interactions(folder / f"{dataset}.inter", kept, log.users.names, log.items.names, order)
        summary.counts["users"] = len(np.unique(kept.users))
        summary.counts["items"] = len(np.unique(kept.items))
        summary.counts["interactions"] = len(kept)
        summary.skipped, summary.examples, summary.notes = dict(bad.counts), bad.examples, dict(source.notes)
        for what, vocabulary in (("user", log.users), ("item", log.items)):
            if vocabulary.stripped:
                summary.notes[f"{what} ids with blanks at an end, which were removed"] = vocabulary.stripped
        if not source.item_fields and (Path(output) / dataset / f"{dataset}.item").exists():
            summary.notes["the .item file that was there stays, since the source has no metadata"] = 1
        content = {"summary": {**asdict(summary), "folder": dataset}, "options": asdict(options)}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / f"{dataset}.summary.json").write_text(text + "\n", encoding="utf-8")
    return summary


def _check_required_fields(source: Source, options: PrepareOptions) -> None:
    names = [field.name for field in source.item_fields]
    unknown = [name for name in options.required_fields if name not in names]
    if unknown:
        raise PreparationError(
            f"required_fields names {', '.join(unknown)}, but the item columns are "
            f"{', '.join(names) or 'none'}: choose among those."
        )


def _core(interactions: Interactions, options: PrepareOptions, summary: PrepareSummary) -> Interactions:
    kept = interactions.take(k_core(interactions.users, interactions.items, options.user_core, options.item_core))
    removed = summary.counts.get("removed by the core", 0)
    summary.counts["removed by the core"] = removed + len(interactions) - len(kept)
    if not len(kept):
        raise PreparationError(
            f"Nothing is left of {len(interactions):,} interactions with user_core={options.user_core} and "
            f"item_core={options.item_core}: choose smaller cores."
        )
    return kept


def _without_missing_items(
    kept: Interactions, rows: _ItemRows, log: InteractionLog, options: PrepareOptions, summary: PrepareSummary
) -> Interactions:
    """Deal with items that have no metadata, as `missing_items` says."""
    missing = np.setdiff1d(kept.items, np.flatnonzero(rows.complete))
    summary.counts["items without metadata"] = len(missing)
    if not len(missing) or options.missing_items == "keep":
        return kept
    if options.missing_items == "error":
        path, line = log.first_seen(int(missing[0]))
        lacking = "metadata" + (f" or no {', '.join(options.required_fields)}" if options.required_fields else "")
        raise PreparationError(
            f"{len(missing):,} of {len(np.unique(kept.items)):,} items have no {lacking}, the first is "
            f"{log.items.names[missing[0]]!r} ({path}, line {line}): leave them out with missing_items=drop, "
            "or write them with empty cells with missing_items=keep."
        )
    summary.counts["removed with items without metadata"] = int(np.isin(kept.items, missing).sum())
    return _core(kept.take(~np.isin(kept.items, missing)), options, summary)


class _ItemRows:
    """The metadata rows of the wanted items: kept on disk while the final set of items is not yet known.

    `complete` [number of item codes] says which items have a row with all required fields.
    """

    def __init__(self, path: Path, source: Source, log: InteractionLog, options: PrepareOptions) -> None:
        self.path, self.source, self.log, self.options = path, source, log, options
        self.present = np.zeros(len(log.items), dtype=bool)
        self.complete = np.zeros(len(log.items), dtype=bool)

    def collect(self, items: IntArray, bad: BadRows) -> None:
        """Read the metadata of the given item codes; of several rows for one item the first counts."""
        wanted, code = self._mask(items), self.log.items.code
        seen_values: set[str] = set()
        with self.path.open("w", encoding="utf-8", newline="\n") as stream:
            for row in self.source.items(bad, lambda item: (c := code(item)) >= 0 and bool(wanted[c])):
                item = code(row.item)
                if self.present[item]:
                    self.source.notes["further metadata rows of an item, left out"] += 1
                    continue
                self.present[item] = True
                self.complete[item] = all(row.cells[name] for name in self.options.required_fields)
                seen_values.update(name for name, cell in row.cells.items() if cell)
                cells = [row.cells[column.name] for column in self.source.item_fields]
                stream.write("\t".join([str(item), *cells]) + "\n")
        empty = [column.name for column in self.source.item_fields if column.name not in seen_values]
        if empty and self.source.strict_fields and self.present.any():
            raise PreparationError(
                f"No item has a value for {', '.join(empty)}: check the column's name and its separator."
            )

    def write(self, path: Path, items: IntArray, summary: PrepareSummary) -> None:
        """Write the `.item` file of the given item codes, in the order of the metadata; items without any row last.

        A column in which no item has a value is left out. An empty token_seq cell becomes `UNKNOWN_TOKEN`: RecBole
        crashes on it under pandas 3.
        """
        wanted = self._mask(items)
        fields = self.source.item_fields
        filled: Counter[int] = Counter()
        for _, cells in self._rows(wanted):
            filled.update(i for i, cell in enumerate(cells) if cell)
        columns = [(i, column) for i, column in enumerate(fields) if filled[i]]
        without_row = ((item, [""] * len(fields)) for item in np.flatnonzero(wanted & ~self.present).tolist())
        with path.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(header([ITEM, *(column for _, column in columns)]))
            for item, cells in chain(self._rows(wanted), without_row):
                texts = [cells[i] or (UNKNOWN_TOKEN if c.type == "token_seq" else "") for i, c in columns]
                stream.write("\t".join([self.log.items.names[item], *texts]) + "\n")
        self.path.unlink()
        summary.filled = {column.name: filled[i] / int(wanted.sum()) for i, column in enumerate(fields)}

    def _mask(self, items: IntArray) -> BoolArray:
        """Boolean [number of item codes], true for the given codes."""
        mask = np.zeros(len(self.log.items), dtype=bool)
        mask[items] = True
        return mask

    def _rows(self, wanted: BoolArray) -> Iterator[tuple[int, list[str]]]:
        with self.path.open(encoding="utf-8", newline="\n") as stream:
            for line in stream:
                item, *cells = line[:-1].split("\t")
                if wanted[int(item)]:
                    yield int(item), cells
