"""The report on Semantic IDs as tables of plain text, and as a page with the paper's Figure 4.

Input: what :mod:`recbole_tiger.analysis.id_report` measured. Output: text, and one HTML page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tabulate import tabulate

from recbole_tiger.analysis.id_categories import PATH, CrossTable
from recbole_tiger.analysis.id_metrics import Collisions
from recbole_tiger.analysis.id_report import IDReport
from recbole_tiger.report import pages
from recbole_tiger.report.figures import bars, color, label, lines, wrapped

#: Group sizes that share a bar in the histogram of collisions: up to and including each.
_BINS = (2, 3, 4, 5, 10, 20, 40)
#: Prefixes of each set that the text shows items of.
_EXAMPLES = 3


def format_report(report: IDReport) -> str:
    """The report as tables of plain text, with items of some prefixes of each set."""
    histogram = []
    for name, ids in report.sets.items():
        counts = {f"{label} item{'s' * (label != '1')}": f"{groups:,}" for label, groups, _ in bins(ids.collisions)}
        histogram.append({"IDs": name, **counts})
    parts = [
        _table(overview(report)),
        "Levels\n" + _table(_level_rows(report)),
        "Prefixes, (shuffled)\n" + _table(_depth_rows(report)),
        "IDs shared by\n" + _table(histogram),
    ]
    for name, ids in report.sets.items():
        shown = []
        for example in ids.examples[:_EXAMPLES]:
            titles = [f"    {short(title, 90)}" for title in example.titles[:3]]
            shown += [f"  {prefix_text(example.prefix)} ({example.size} items)", *titles]
        if shown:
            parts.append("\n".join([f"Items of some prefixes, {name}", *shown]))
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[dict[str, str]]) -> str:
    return tabulate(list(rows), headers="keys", disable_numparse=True)


def overview(report: IDReport) -> list[dict[str, str]]:
    """One row per ID set."""
    return [
        {
            "IDs": name,
            "items": f"{ids.n_items:,}",
            "codebooks": " × ".join(map(str, ids.codebook_sizes)),
            "distinct IDs": f"{ids.collisions.distinct:,}",
            "items colliding": f"{ids.collisions.colliding_items / ids.n_items:.1%}",
            "largest group": f"{ids.collisions.largest_group:,}",
        }
        for name, ids in report.sets.items()
    ]


def _level_rows(report: IDReport) -> Iterator[dict[str, str]]:
    reconstructed = any(ids.reconstruction for ids in report.sets.values())
    for name, ids in report.sets.items():
        for level in ids.levels:
            row = {
                "IDs": name,
                "level": str(level.level),
                "codewords": f"{level.codebook_size:,}",
                "used": f"{level.used:,}",
                "usage": f"{level.usage:.1%}",
                "entropy (bits)": f"{level.entropy:.2f}",
                "perplexity": f"{level.perplexity:,.1f}",
            }
            if reconstructed:
                errors = ids.reconstruction
                row["variance left"] = f"{errors[level.level]:.1%}" if errors else "–"
            yield row


def _depth_rows(report: IDReport) -> Iterator[dict[str, str]]:
    for name, ids in report.sets.items():
        for index, prefix in enumerate(ids.prefixes):
            row = {
                "IDs": name,
                "codes": str(prefix.depth),
                "prefixes": f"{prefix.count:,}",
                "largest": f"{prefix.largest:,}",
            }
            for kind, values in (ids.categories or {}).items():
                at = values[index]
                row[f"{kind} purity"] = against(at.purity, at.purity_shuffled)
                row[f"{kind} NMI"] = against(at.nmi, at.nmi_shuffled)
            if ids.neighbors:
                kept = ids.neighbors[index]
                row["neighbours kept"] = against(kept.kept, kept.shuffled, "{:.1%}")
            yield row


def against(value: float, shuffled: float, form: str = "{:.3f}") -> str:
    """A value, and in brackets that of shuffled IDs."""
    return f"{form.format(value)} ({form.format(shuffled)})"


def bins(found: Collisions) -> list[tuple[str, int, int]]:
    """Label, number of groups and number of items of each bar of the histogram."""
    found_bins = []
    for below, upper in pairwise((0, 1, *_BINS, math.inf)):
        inside = [(size, count) for size, count in found.histogram if below < size <= upper]
        label = f"{below + 1}+" if upper == math.inf else f"{below + 1}–{upper}" if upper > below + 1 else str(upper)
        found_bins.append((label, sum(count for _, count in inside), sum(size * count for size, count in inside)))
    return found_bins


def prefix_text(codes: Sequence[int]) -> str:
    """The first codewords of an ID."""
    return f"({', '.join(map(str, codes))}, …)"


def short(text: str, width: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


# ------------------------------------------------------------------------------------------------------------ the page


def semantic_ids_page(report: IDReport, title: str = "Semantic IDs") -> str:
    """The report as one HTML page that needs no other file."""
    sections = [
        _overview_section(report),
        _usage_section(report),
        _collision_section(report),
        _reconstruction_section(report),
        _category_section(report),
        _neighbor_section(report),
        _figure_4a_section(report),
        _figure_4b_section(report),
        _example_section(report),
    ]
    subtitle = f"{len(report.sets)} ID set{'s' * (len(report.sets) > 1)} of {report.n_items:,} items"
    return pages.page(title, [section for section in sections if section.parts or section.text], subtitle=subtitle)


def _section(title: str, text: str | Sequence[str], parts: Sequence) -> pages.Section:
    """A section, which is empty without parts."""
    return pages.Section(title, text if parts else "", parts)


def _overview_section(report: IDReport) -> pages.Section:
    text = [
        "A Semantic ID is a list of codewords, one per level. Good IDs use their codebooks, tell items apart, and "
        "give similar items the same first codewords. Numbers in brackets are for the same IDs shuffled over the "
        "items."
    ]
    if not all(ids.codebook_sizes_known for ids in report.sets.values()):
        text.append("Where codebook sizes were not given, the largest code of each level plus one is taken.")
    columns = {}
    for row, (name, ids) in zip(overview(report), report.sets.items(), strict=True):
        column = columns[name] = {key: value for key, value in row.items() if key != "IDs"}
        column["usage per level"] = " · ".join(f"{level.usage:.0%}" for level in ids.levels)
        column["perplexity per level"] = " · ".join(f"{level.perplexity:.0f}" for level in ids.levels)
        if ids.reconstruction:
            column["variance left"] = f"{ids.reconstruction[-1]:.1%}"
        if ids.categories:
            leaf = ids.categories["leaf"][0]
            column["leaf purity, first code"] = against(leaf.purity, leaf.purity_shuffled)
            column["leaf NMI, first code"] = against(leaf.nmi, leaf.nmi_shuffled)
        if ids.neighbors:
            first = ids.neighbors[0]
            column["neighbours kept, first code"] = against(first.kept, first.shuffled, "{:.1%}")
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    rows = [[key, *[column.get(key, "–") for column in columns.values()]] for key in keys]
    return pages.Section("Overview", text, [pages.Table(["", *columns], rows)])


def _usage_section(report: IDReport) -> pages.Section:
    def chart(value: str, title: str, **style) -> pages.Figure:
        series = {name: [getattr(level, value) for level in ids.levels] for name, ids in report.sets.items()}
        plot = bars([f"level {number}" for number in _numbers(report)], series, **style)
        if style.get("percent"):
            plot.update_yaxes(range=[0, 1.02])
        return pages.Figure(plot, title)

    return pages.Section(
        "How the codebooks are used",
        "Perplexity is the number of codewords that would give the same entropy if all were used equally.",
        [
            chart("usage", "Codebook usage", y_title="codewords used", percent=True),
            chart("perplexity", "Perplexity", y_title="perplexity"),
        ],
    )


def _collision_section(report: IDReport) -> pages.Section:
    sets = report.sets
    alone = {name: 1 - ids.collisions.colliding_items / ids.n_items for name, ids in sets.items()}
    text = [
        "Items that share their ID with no other: " + ", ".join(f"{name} {x:.1%}" for name, x in alone.items()) + "."
    ]
    groups = {name: bins(ids.collisions)[1:] for name, ids in sets.items()}
    last = max((index for rows in groups.values() for index, (_, count, _) in enumerate(rows) if count), default=-1)
    if last < 0:
        return pages.Section("Collisions", [*text, "No two items share an ID."])
    largest = ", ".join(f"{name} {ids.collisions.largest_group}" for name, ids in sets.items())
    text.append(f"Largest group of items with one ID: {largest}.")
    shares = {name: [items / sets[name].n_items for _, _, items in rows[: last + 1]] for name, rows in groups.items()}
    names = [size for size, _, _ in next(iter(groups.values()))[: last + 1]]
    plot = bars(names, shares, x_title="items with the same ID", y_title="share of all items", percent=True)
    if max(map(max, shares.values())) < 0.05:
        plot.update_yaxes(tickformat=".2%")
    return pages.Section("Collisions", text, [pages.Figure(plot, "Items by the size of their group", wide=True)])


def _reconstruction_section(report: IDReport) -> pages.Section:
    errors = {name: ids.reconstruction for name, ids in report.sets.items() if ids.reconstruction}
    plot = lines(
        range(max(map(len, errors.values()), default=0)),
        errors,
        x_title="levels used",
        y_title="variance left",
        percent=True,
    )
    plot.update_xaxes(dtick=1)
    return _section(
        "Reconstruction",
        "The squared distance between an embedding and its reconstruction from the first codewords, as a share of the "
        "squared distance to the mean. Methods without reconstruction are left out.",
        [pages.Figure(plot, "Variance left after each level", wide=True)] if errors else [],
    )


def _beside_shuffled(report: IDReport, rows: Mapping[str, Sequence], value: str, shuffled: str, **style) -> Any:
    """Bars by depth of one attribute of each set's rows, and that of shuffled IDs over them."""
    values, chance = (
        {name: [getattr(row, attribute) for row in of] for name, of in rows.items()} for attribute in (value, shuffled)
    )
    depths = [f"{number} code{'s' * (number > 1)}" for number in _numbers(report)]
    return bars(depths, values, chance=chance, x_title="codes of the prefix", **style)


def _category_section(report: IDReport) -> pages.Section:
    sets = {name: ids.categories for name, ids in report.sets.items() if ids.categories}
    if not sets:
        return pages.Section("")
    figures = []
    for kind in ("leaf", "top"):
        for value, name in (("purity", "Purity"), ("nmi", "Normalised mutual information")):
            rows = {key: values[kind] for key, values in sets.items()}
            plot = _beside_shuffled(report, rows, value, f"{value}_shuffled")
            plot.update_yaxes(range=[0, 1.02])
            figures.append(pages.Figure(plot, f"{name}: {kind} category"))
    assert report.category_levels is not None  # described wherever a set has categories
    leaf, top = report.category_levels["leaf"], report.category_levels["top"]
    text = (
        "Purity is the share of items that have the most frequent category of their prefix. Small groups are pure by "
        "chance, so every bar is compared with the same IDs shuffled over the items. "
        f"There are {leaf['count']:,} leaf categories and {top['count']:,} on level {top['level']} of the paths, the "
        "first level with more than one."
    )
    left_out = max(leaf["items_without"], top["items_without"])
    if left_out:
        text += f" {left_out:,} items without a category are left out."
    return pages.Section("Do prefixes follow the categories?", text, figures)


def _neighbor_section(report: IDReport) -> pages.Section:
    rows = {name: ids.neighbors for name, ids in report.sets.items() if ids.neighbors}
    plot = _beside_shuffled(report, rows, "kept", "shuffled", y_title="with the same prefix", percent=True)
    asked = "every item" if report.n_queries == report.n_items else f"{report.n_queries:,} random items"
    return _section(
        "Are neighbours kept together?",
        f"For {asked}, how many of the {report.n_neighbors} items with the nearest embeddings (cosine) have the same "
        "first codes.",
        [pages.Figure(plot, "Neighbours kept", wide=True)] if rows else [],
    )


def _figure_4a_section(report: IDReport) -> pages.Section:
    figures = []
    for name, ids in report.sets.items():
        table = ids.figure_4a
        if table is None:
            continue
        wide, note = None not in table.codewords, _codewords_note(table, "first")
        figures.append(pages.Figure(_stacked(table), name, note, legend="first code", wide=wide))
        if not wide:
            note = f"{table.codewords_used} codewords, each coloured by the category that most of its items have"
            figures.append(pages.Figure(_majority(table), f"{name}, all codewords", note, legend="mostly"))
    return _section(
        "Categories and first codewords (Figure 4a)",
        "Items by top category, coloured by first codeword: if the first codeword determines the category, each colour "
        "is in one bar. Codewords are ordered by the category that most of their items have.",
        figures,
    )


def _figure_4b_section(report: IDReport) -> pages.Section:
    figures = []
    for name, ids in report.sets.items():
        for table in ids.figure_4b[: 4 if len(report.sets) <= 2 else 2]:
            note = f"{table.size:,} items; {_codewords_note(table, 'second')}"
            plot = _stacked(table, horizontal=True)
            figures.append(pages.Figure(plot, f"{name}: first code {table.first}", note, legend="second code"))
    return _section(
        "Categories and second codewords (Figure 4b)",
        "Within each of the most frequent first codewords, items by finer category, coloured by second codeword.",
        figures,
    )


def _stacked(table: CrossTable, horizontal: bool = False) -> Any:
    """Items by category and codeword; codewords beyond the most frequent are not drawn."""
    pairs = zip(table.codewords, table.counts, strict=True)
    series = {str(word): counts for word, counts in pairs if word is not None}
    names = [_two_lines(name) if horizontal else wrapped(name) for name in table.categories]
    height = None if horizontal else 380
    return bars(names, series, stacked=True, horizontal=horizontal, y_title="items", height=height)


def _majority(table: CrossTable) -> Any:
    """Items by category and by the category that most items of their codeword have."""
    rows = zip(table.categories, table.majority_codewords, table.majority, strict=True)
    present = [(color(i), f"{name} ({words})", counts) for i, (name, words, counts) in enumerate(rows) if words]
    series, colors = {name: counts for _, name, counts in present}, [shade for shade, _, _ in present]
    names = [wrapped(name) for name in table.categories]
    return bars(names, series, colors=colors, stacked=True, y_title="items", height=380)


def _two_lines(path: str) -> str:
    """The finer name, and in small letters below it where it belongs."""
    above, _, name = path.rpartition(PATH)
    if not above:
        return label(path)
    return f"{label(name)}<br><span style='font-size:10px;color:#5b6477'>{label(above)}</span>"


def _codewords_note(table: CrossTable, which: str) -> str:
    if None not in table.codewords:
        return f"all {len(table.codewords)} {which} codewords in use"
    share = 1 - sum(table.counts[-1]) / table.items
    shown = f"the {len(table.codewords) - 1} most frequent of {table.codewords_used} {which} codewords"
    return f"{shown}, with {share:.0%} of the items"


def _example_section(report: IDReport) -> pages.Section:
    tables = []
    for name, ids in report.sets.items():
        rows = []
        for example in ids.examples:
            begin = [prefix_text(example.prefix), f"{example.size:,}"]
            for index, item in enumerate(example.titles):
                category = [example.categories[index]] if example.categories else []
                rows.append([*(["", ""] if index else begin), short(item, 140), *category])
        if rows:
            header = ["prefix", "items", "some of them", "leaf category"][: len(rows[0])]
            tables.append(pages.Table(header, rows, title=name))
    return _section(
        "Items that share a prefix",
        "The most frequent prefix of two codes under each of the most frequent first codewords.",
        tables,
    )


def _numbers(report: IDReport) -> range:
    """1 … the longest ID."""
    return range(1, 1 + max(ids.id_length for ids in report.sets.values()))
