"""The report on Semantic IDs as tables of plain text.

Input: what :mod:`recbole_tiger.analysis.id_report` measured. Output: text, and the cells that the page shows as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tabulate import tabulate

from recbole_tiger.analysis.id_metrics import Collisions
from recbole_tiger.analysis.id_report import IDReport

#: Group sizes that share a bar in the histogram of collisions: up to and including each.
_BINS = (2, 3, 4, 5, 10, 20, 40)
#: Prefixes of each set that the text shows items of.
_EXAMPLES = 3


def format_report(report: IDReport) -> str:
    """The report as tables of plain text, with items of some prefixes of each set."""
    histogram = [
        {
            "IDs": name,
            **{f"{label} item{'s' * (label != '1')}": f"{groups:,}" for label, groups, _ in bins(ids.collisions)},
        }
        for name, ids in report.sets.items()
    ]
    parts = [
        _table(overview(report)),
        "Levels\n" + _table(_level_rows(report)),
        "Prefixes, (shuffled)\n" + _table(_depth_rows(report)),
        "IDs shared by\n" + _table(histogram),
    ]
    for name, ids in report.sets.items():
        if ids.examples:
            lines = [
                f"  {prefix_text(example.prefix)} ({example.size} items)\n"
                + "\n".join(f"    {short(title, 90)}" for title in example.titles[:3])
                for example in ids.examples[:_EXAMPLES]
            ]
            parts.append(f"Items of some prefixes, {name}\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[dict[str, str]]) -> str:
    return tabulate(list(rows), headers="keys", disable_numparse=True)


def overview(report: IDReport) -> list[dict[str, str]]:
    """One row per ID set."""
    rows = []
    for name, ids in report.sets.items():
        found = ids.collisions
        rows.append(
            {
                "IDs": name,
                "items": f"{ids.n_items:,}",
                "codebooks": " × ".join(map(str, ids.codebook_sizes)),
                "distinct IDs": f"{found.distinct:,}",
                "items colliding": f"{found.colliding_items / ids.n_items:.1%}",
                "largest group": f"{found.largest_group:,}",
            }
        )
    return rows


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
    found_bins, below = [], 0
    for upper in (1, *_BINS, None):
        inside = [(size, count) for size, count in found.histogram if size > below and (upper is None or size <= upper)]
        if upper is None:
            label = f"{below + 1}+"
        else:
            label = str(upper) if upper == below + 1 else f"{below + 1}–{upper}"
        found_bins.append((label, sum(count for _, count in inside), sum(size * count for size, count in inside)))
        below = upper or below
    return found_bins


def prefix_text(codes: Sequence[int]) -> str:
    """The first codewords of an ID."""
    return f"({', '.join(map(str, codes))}, …)"


def short(text: str, width: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
