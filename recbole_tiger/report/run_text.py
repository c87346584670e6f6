"""What a run prints at its end.

Input: the result of a run. Output: text: metrics beside popularity, semantic IDs, time, files.
"""

from __future__ import annotations

from recbole_tiger.datasets.paper_counts import table2_text
from recbole_tiger.models import row_name
from recbole_tiger.report.tables import text_table
from recbole_tiger.settings.split import describe_split


def report(result: dict) -> str:
    """The text that a run prints at its end."""
    parts = ["", _metrics_table(result)]
    if result["table2"]:
        parts.append(table2_text(result["dataset"], result["table2"]))
    if result["semantic_ids"]:
        parts.append(_semantic_id_table(result["semantic_ids"]))
    stages = [
        [stage + (" (from cache)" if stage in result["cached"] else ""), f"{seconds:.1f}"]
        for stage, seconds in result["seconds"].items()
    ]
    parts.append(text_table(["stage", "seconds"], stages, "lr"))
    parts.append(text_table(["file", "where"], list(result["files"].items())))
    return "\n\n".join(parts)


def _metrics_table(result: dict) -> str:
    names, config = list(result["test_result"]), result["config"]
    recipe = f" ({config['recipe']})" if config.get("recipe") else ""
    label = row_name(result["model"], config.get("item_text")) + recipe
    rows = []
    for phase, own in (("valid", result["best_valid_result"]), ("test", result["test_result"])):
        by_id = result["id_level_test_result"] if phase == "test" else None
        measured = {label: own, "  IDs, not items": by_id, "popularity": result["popularity"].get(phase)}
        for name, found in measured.items():
            if found:
                cells = [f"{found[n]:.{config['metric_decimal_place']}f}" if n in found else "" for n in names]
                rows.append([name, phase, *cells])
    heading = (
        f"{result['model']} on {result['dataset']}: {describe_split(config['eval_args']['split'])}, full ranking, "
        f"seen items {'masked' if config['mask_seen_items'] else 'not masked'}, {result['parameters']:,} parameters, "
        f"seed {config['seed']}, data {result['data_checksum']}"
    )
    return heading + "\n" + text_table(["model", "split", *names], rows)


def _semantic_id_table(report: dict) -> str:
    rows = [
        [number, level["size"], level["used"], f"{level['usage']:.1%}", f"{level['perplexity']:.1f}", prefixes]
        for number, (level, prefixes) in enumerate(zip(report["levels"], report["distinct_prefixes"], strict=True), 1)
    ]
    table = text_table(["level", "codebook", "used", "usage", "perplexity", "distinct prefixes"], rows)
    return (
        f"Semantic IDs of {report['n_items']:,} items: {report['items_in_collisions']:,} items share an ID with "
        f"another ({report['collision_groups']:,} groups, the largest of {report['largest_group']})\n{table}"
    )
