"""The report of `check.check_dataset` in words.

Input: the dictionary of plain numbers. Output: warnings, one sentence each, and the report as rows or as text.
"""

from __future__ import annotations

from typing import Any

from recbole_tiger.datasets.normalize import UNKNOWN_TOKEN

TIE_SHARE = 0.01  # neighbours of equal time from which on we warn
LEAK_SHARE = 0.05  # neighbours with consecutive numbers, beyond chance, from which on we warn
TITLE_SHARE = 0.9  # items that should have a title
TITLE_FIELDS = ("title", "movie_title", "name")
LEAK_NAMES = {"ids": "item ids", "internal": "RecBole's internal item numbers"}


def dataset_warnings(report: dict[str, Any]) -> list[str]:
    """What a user of this dataset should know, one sentence each; empty for a sound dataset."""
    return [*_interaction_warnings(report), *_leak_warnings(report), *_item_warnings(report["item_table"])]


def _interaction_warnings(report: dict[str, Any]) -> list[str]:
    warnings = []
    if not report["has_times"]:
        warnings.append("There is no time column: the file's order is used here, but a run needs TIME_FIELD.")
    if report["users_below_3"]:
        warnings.append(f"{report['users_below_3']:,} users have fewer than 3 interactions: too few for leave-one-out.")
    ties, training, table2 = report["ties"], report["training"], report["table2"]
    if ties and ties["share"] > TIE_SHARE:
        warnings.append(
            f"{ties['share']:.1%} of the neighbours in a sequence have the same time ({ties['users']:,} users) and are "
            "in the file's order; compare tie_order=file with tie_order=shuffle."
        )
    if ties and ties["misordered"]:
        warnings.append(
            f"{ties['misordered']:,} neighbours are in the wrong order in the file and too close in time for the "
            "float32 times of stock RecBole (recbole_tiger sorts by the full times; for other programs write the file "
            "in time order)."
        )
    if report["duplicates"]:
        warnings.append(
            f"{report['duplicates']:,} interactions repeat an earlier pair of user and item; with mask_seen_items "
            "these can never be hits."
        )
    if report["misread_ids"]:
        warnings.append(
            f"{report['misread_ids']:,} ids begin with a quote or are words such as NA, which stock RecBole reads as "
            "quoted cells or as missing: rename them, or it changes or drops their interactions."
        )
    if training["items_never_in_training"]:
        warnings.append(
            f"{training['items_never_in_training']:,} items never occur in training; they are the target of "
            f"{training['share_of_test_targets']:.2%} of the test users."
        )
    if table2 and table2["different"]:
        ours, paper = table2["ours"], table2["paper"]
        warnings.append(
            f"{ours['users']:,} users and {ours['items']:,} items, {ours['mean_length']:.2f} interactions per user: "
            f"the paper's Table 2 has {paper['users']:,}, {paper['items']:,} and {paper['mean_length']:.2f}: use the "
            "5-core."
        )
    return warnings


def _leak_warnings(report: dict[str, Any]) -> list[str]:
    return [
        f"{'The ' * (which == 'ids')}{LEAK_NAMES[which]} follow the sequences: {leak['share']:.1%} of the "
        f"neighbours have consecutive numbers, {leak['shuffled']:.1%} after a shuffle. A model that reads numbers as "
        "text (P5) sees the answer (paper, Appendix A); use random numbers."
        for which, leak in report["leak"].items()
        if leak and leak["share"] > leak["shuffled"] + LEAK_SHARE
    ]


def _item_warnings(table: dict[str, Any] | None) -> list[str]:
    if table is None:
        return [
            "There is no .item file: models that need item text cannot run; TIGER can with semantic_id=random or file."
        ]
    warnings = [
        f"{table[key]:,} {text}"
        for key, text in (
            ("interacted_without_row", "items have interactions but no row in the .item file."),
            ("repeated_rows", "rows of the .item file repeat an item."),
            (
                "same_text",
                "items have the same text as another: their content embeddings, and their codewords from text alone, "
                "are equal.",
            ),
            (
                "empty_sequence_cells",
                "rows of the .item file have an empty token_seq cell, on which stock RecBole crashes under pandas 3: "
                f"write a word such as {UNKNOWN_TOKEN}.",
            ),
            (
                "cells_with_leading_quote",
                "rows of the .item file have a cell that begins with a quote, which stock RecBole reads as a quoted "
                "cell: it drops the quotes, or the rows that follow (recbole_tiger does not).",
            ),
        )
        if table[key]
    ]
    title = next((name for name in TITLE_FIELDS if name in table["fields"]), None)
    if title is None:
        warnings.append(f"The .item file has none of the columns {', '.join(TITLE_FIELDS)}.")
    elif table["fields"][title] < TITLE_SHARE:
        warnings.append(f"Only {table['fields'][title]:.1%} of the items have a {title}.")
    return warnings


def report_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The report as names and numbers in words, without the warnings."""
    training, ties, table, table2 = (report[key] for key in ("training", "ties", "item_table", "table2"))
    rows = [(name, f"{report[name]:,}") for name in ("users", "items", "interactions")]
    rows.append(("density", f"{report['density']:.4%}"))
    for name, key in (("user lengths", "user_lengths"), ("item counts", "item_counts")):
        least, mean, median, largest = (report[key][part] for part in ("least", "mean", "median", "largest"))
        rows.append((name, f"least {least:,}, mean {mean:.2f}, median {median:g}, largest {largest:,}"))
    if ties is not None:
        rows.append(("ties", f"{ties['pairs']:,} neighbours ({ties['share']:.2%}), {ties['users']:,} users"))
    rows.append(("duplicates", f"{report['duplicates']:,}"))
    targets = f"target of {training['share_of_test_targets']:.2%} of {training['test_users']:,} test users"
    rows.append(("never trained", f"{training['items_never_in_training']:,} items, {targets}"))
    for which, leak in report["leak"].items():
        if leak is not None:
            shares = f"{leak['share']:.2%} consecutive, {leak['shuffled']:.2%} after a shuffle"
            rows.append(("leak check", f"{LEAK_NAMES[which]}: {shares}"))
    if table is not None:
        without = (
            f"{table['interacted_without_row']:,} items without",
            f"{table['without_interactions']:,} without interactions",
        )
        rows.append(("item rows", f"{table['rows']:,}, {', '.join(without)}"))
        rows += [(f"with {name}", f"{share:.1%} of the items") for name, share in table["fields"].items()]
        rows.append(("same text", f"{table['same_text']:,} items"))
    if table2 is not None:
        verdict = "DIFFERENT" if table2["different"] else "the same"
        paper = table2["paper"]
        rows.append(("paper, Table 2", f"{paper['users']:,} users, {paper['items']:,} items: {verdict}"))
    return [*rows, ("checksum", report["checksum"])]


def report_text(report: dict[str, Any]) -> str:
    """The report as lines of text, warnings last."""
    rows = [("dataset", report["dataset"]), *report_rows(report)]
    width = max(len(name) for name, _ in rows) + 1
    lines = [f"{name:<{width}}{text}" for name, text in rows]
    lines += [f"WARNING: {warning}" for warning in report["warnings"]] or ["no warnings"]
    return "\n".join(lines)
