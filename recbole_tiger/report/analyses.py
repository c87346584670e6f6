"""Tables and page sections of the analyses: invalid IDs, diversity, latency, cold start.

Input: what the modules of :mod:`recbole_tiger.analysis` measured. Output: a header and rows of text for each table, and
the sections of each page.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_tiger.analysis.cold_start import GROUPS, ColdStart
from recbole_tiger.analysis.diversity import Diversity
from recbole_tiger.analysis.invalid_ids import InvalidIDs
from recbole_tiger.analysis.latency import Latency
from recbole_tiger.report import pages
from recbole_tiger.report.figures import bars, lines, wrapped

Cells = tuple[list[str], list[list[str]]]  # header and rows
Point = tuple[int, float]  # K and epsilon

#: Lengths of the lists in the table of invalid IDs, beside the longest.
SHOWN = (1, 5, 10, 20, 50)
INVALID_IDS_PAPER = "The paper reports about 2% invalid IDs among the top 20 on Beauty (section 5, Figure 6)."
#: The paper's Table 5: Entropy@10, @20, @50 on Beauty.
ENTROPY_PAPER = {1.0: (0.76, 1.14, 1.70), 1.5: (1.14, 1.52, 2.06), 2.0: (1.38, 1.76, 2.28)}
LATENCY_FORMS = {"ms_one": ".2f", "ms_batch": ".3f", "queries_per_second": ",.0f", "model_mb": ".1f", "index_mb": ".1f"}
USER_GROUPS = {"unseen": "users whose target is unseen", "all": "all users"}


# ------------------------------------------------------------------------------------------------------ invalid IDs


def invalid_ids_table(result: InvalidIDs) -> Cells:
    """Invalid IDs and Recall by K."""
    longest = len(result.invalid)
    by_k = list(zip(result.invalid, result.recall_free, result.recall_constrained, strict=True))
    rows = [
        [str(k), f"{invalid:.2%}", f"{free:.4f}", f"{constrained:.4f}", f"{constrained - free:+.4f}"]
        for k in sorted({k for k in (*SHOWN, longest) if k <= longest})
        for invalid, free, constrained in by_k[k - 1 : k]
    ]
    return ["K", "invalid IDs", "Recall@K, unconstrained", "Recall@K, constrained", "gain"], rows


def invalid_ids_sections(result: InvalidIDs) -> list[pages.Section]:
    """The page of invalid IDs."""
    ks = range(1, len(result.invalid) + 1)
    invalid = {"invalid IDs": result.invalid}
    recalls = {"constrained": result.recall_constrained, "unconstrained": result.recall_free}
    shares = lines(ks, invalid, x_title="K", y_title="share of the first K IDs", percent=True)
    gain, beams = lines(ks, recalls, x_title="K", y_title="Recall@K"), f"{result.search_beams} beams in both"
    figures = [
        pages.Figure(shares, title="Invalid IDs among the first K"),
        pages.Figure(gain, title="Gain of the constraint", note=beams),
    ]
    text = (
        "A Semantic ID is invalid if no item has it. Unconstrained beam search may generate any codewords, constrained "
        "search only those that lead to an item."
    )
    title, table = "Figure 6 of the paper, on this run", pages.Table(*invalid_ids_table(result))
    return [pages.Section(title, [text, INVALID_IDS_PAPER], [*figures, table])]


# -------------------------------------------------------------------------------------------------------- diversity


def diversity_table(result: Diversity) -> Cells:
    """Entropy@K and Recall@K."""
    ks = [str(k) for k in result.k]
    rows = [
        [row["row"], *[f"{row['entropy'][k]:.2f}" for k in ks], *[f"{row['recall'][k]:.4f}" for k in ks]]
        for row in result.rows
    ]
    return ["", *[f"Entropy@{k}" for k in ks], *[f"Recall@{k}" for k in ks]], rows


def offered_table(result: Diversity) -> Cells:
    """The paper's Table 4: what the users of each target category are offered."""
    views = result.offered.values()
    rows = [
        [target, *["; ".join(f"{name} {share:.0%}" for name, share in view[target]) for view in views]]
        for target in next(iter(views))
    ]
    return ["target", *result.offered], rows


def diversity_sections(result: Diversity) -> list[pages.Section]:
    """The page of diversity."""

    def chart(measure: str, title: str) -> pages.Figure:
        series = {f"{title}@{k}": [row[measure][str(k)] for row in result.rows] for k in result.k}
        names = [wrapped(row["row"]) for row in result.rows]
        return pages.Figure(bars(names, series, y_title=title), title=f"{title}@K")

    paper = [[f"T = {t:g}", *[f"{value:.2f}" for value in values]] for t, values in ENTROPY_PAPER.items()]
    parts: list[pages.Figure | pages.Table] = [
        chart("entropy", "Entropy"),
        chart("recall", "Recall"),
        pages.Table(*diversity_table(result), title="This run"),
        pages.Table(
            ["", "Entropy@10", "Entropy@20", "Entropy@50"], paper, title="The paper's Table 5 (Beauty), to compare"
        ),
    ]
    text = "The paper's Table 4: by the category of the target, the most common categories of the recommended items."
    return [
        pages.Section("Entropy of the recommended categories, and Recall", result.notes, parts),
        pages.Section("Recommended categories by target", text, [pages.Table(*offered_table(result))]),
    ]


# ---------------------------------------------------------------------------------------------------------- latency


def latency_table(result: Latency) -> Cells:
    """Time and memory by size of the catalogue and model."""
    rows = []
    for row in result.rows:
        numbers = [f"{row[key]:{form}}" if key in row else "-" for key, form in LATENCY_FORMS.items()]
        rows.append([f"{row['n_items']:,}", row["name"], *numbers, row["note"]])
    return ["items", "model", "ms, alone", f"ms, of {result.batch}", "queries/s", "model MB", "index MB", "note"], rows


def latency_sections(result: Latency) -> list[pages.Section]:
    """The page of latency and memory."""
    measured = [row for row in result.rows if "ms_one" in row]
    sizes = [f"{size:,}" for size in dict.fromkeys(row["n_items"] for row in measured)]

    def chart(key: str, title: str) -> pages.Figure:
        series: dict[str, list[float]] = {}
        for row in measured:
            series.setdefault(row["name"], []).append(row[key])
        drawn = lines(sizes, series, x_title="items", y_title=title, log=True, height=380)
        drawn.update_xaxes(type="category")
        drawn.update_yaxes(dtick="D2")  # 1, 2 and 5 of each power of ten
        return pages.Figure(drawn, title=title)

    charts = {"ms_one": "milliseconds, one user alone", "queries_per_second": "queries per second, in batches"}
    times = [chart(key, title) for key, title in charts.items()]
    memory: list[pages.Figure | pages.Table] = [chart("index_mb", "index, MB"), pages.Table(*latency_table(result))]
    about_time = "TIGER's rows name beams, learned codewords per item and codebook size."
    about_memory = (
        "The model's memory does not depend on the catalogue. The index does: item vectors, ANN index, or trie and "
        "tokens."
    )
    return [pages.Section("Time", about_time, times), pages.Section("Memory and numbers", about_memory, memory)]


# ------------------------------------------------------------------------------------------------------- cold start


def _summary(result: ColdStart, share: float, method: str, group: str, point: Point) -> tuple[float, float] | None:
    """Mean and standard deviation over the seeds; None for a method or a group that one of these runs does not have."""
    runs = [run for run in result.runs if run["share"] == share]
    if any(method not in run["recall"] for run in runs):
        return None
    values = [run["recall"][method][group][run["points"].index(list(point))] for run in runs]
    if None in values:
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _shares(result: ColdStart) -> list[float]:
    return sorted({run["share"] for run in result.runs})


def cold_start_table(result: ColdStart) -> Cells:
    """Recall by share of unseen items, group of users, K and epsilon; the mean over several seeds."""
    points = [(k, result.epsilon) for k in result.k]
    points += [(result.epsilon_k, eps) for eps in result.epsilons if (result.epsilon_k, eps) not in points]
    several = len(result.runs) > len(_shares(result))

    def cell(*of) -> str:
        found = _summary(result, *of)
        spread = f" ± {found[1]:.4f}" if found and several else ""
        return f"{found[0]:.4f}{spread}" if found else "-"

    rows = [
        [f"{share:.0%}", group, str(k), f"{eps:g}", *[cell(share, name, group, (k, eps)) for name in result.methods]]
        for share in _shares(result)
        for group in GROUPS
        for k, eps in points
    ]
    return ["unseen items", "users", "K", "epsilon", *result.methods], rows


def cold_start_facts(result: ColdStart) -> Cells:
    """What each run had."""
    header = [
        "unseen items", "seed", "seen items", "unseen", "of these with their own prefix", "removed interactions",
        "dropped users", "users with an unseen target", "users",
    ]  # fmt: skip
    rows = [
        [
            f"{run['share']:.0%}",
            *map(str, (run["seed"], run["n_seen"], run["n_unseen"])),
            " / ".join(map(str, run["n_unseen_with_own_prefix"])),
            *map(str, (run["n_removed"], run["n_dropped_users"], run["users"]["unseen"], run["users"]["all"])),
        ]
        for run in result.runs
    ]
    return header, rows


def _curves(result: ColdStart, share: float, group: str, points: Sequence[Point]) -> dict[str, list[float]]:
    """Mean Recall at the points, by method."""
    found = {method: [_summary(result, share, method, group, each) for each in points] for method in result.methods}
    return {method: [each[0] for each in row if each] for method, row in found.items() if None not in row}


def cold_start_sections(result: ColdStart) -> list[pages.Section]:
    """The page of cold start."""
    recall = f"Recall@{result.epsilon_k}"

    def figures(share: float, group: str) -> list[pages.Figure]:
        by_k = _curves(result, share, group, [(k, result.epsilon) for k in result.k])
        by_epsilon = _curves(result, share, group, [(result.epsilon_k, epsilon) for epsilon in result.epsilons])
        over_k = lines(result.k, by_k, x_title="K", y_title="Recall@K")
        over_epsilon = lines(result.epsilons, by_epsilon, x_title="epsilon", y_title=recall)
        users, note = USER_GROUPS[group], f"epsilon = {result.epsilon:g} (Figure 5a)"
        return [
            pages.Figure(over_k, title=f"Recall@K, {users}", note=note),
            pages.Figure(over_epsilon, title=f"{recall} by epsilon, {users}", note="Figure 5b"),
        ]

    by_share = [
        pages.Section(f"{share:.0%} of the test items unseen", "", [each for g in GROUPS for each in figures(share, g)])
        for share in _shares(result)
    ]
    tables = [pages.Table(*cold_start_table(result)), pages.Table(*cold_start_facts(result), title="The runs")]
    choices = pages.Section("Where the paper is silent", result.choices)
    return [*by_share, pages.Section("Numbers", "", tables), choices]
