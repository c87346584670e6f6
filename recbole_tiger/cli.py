"""The one command line: ``--key=value`` with any key of RecBole or of this package.

Comes in: arguments. Goes out: a run's report on the screen and an exit status (0 done, 2 a setting that cannot work).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tabulate import tabulate

USAGE = """Usage: python run_recbole_tiger.py [--model=TIGER] [--dataset=ml-100k] [--key=value ...]

  --model=NAME            TIGER, SASRec, BERT4Rec, GRU4Rec, Caser, HGN, FDSA, S3Rec or any sequential model of RecBole
  --dataset=NAME          a folder under --data_path with NAME.inter and NAME.item, or ml-100k
  --config_files=a.yaml   the user's own settings; several in quotes, separated by blanks
  --recipe=NAME           tuned, paper or tiny (TIGER)
  --resume=FILE           continue from a run's last.pth
  --any_key=value         every other setting; the README lists them
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)
        return 0
    from recbole_tiger.config import parse_command_line
    from recbole_tiger.quick_start import run_recbole_tiger

    try:
        settings = parse_command_line(arguments)
        files = str(settings.pop("config_files", "") or "").split()
        result = run_recbole_tiger(
            settings.pop("model", "TIGER"),
            settings.pop("dataset", "ml-100k"),
            files,
            command_line=settings,
        )
    except (ValueError, OSError) as error:  # a user's mistake: the sentence, without the stack
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(result))
    return 0


def report(result: dict) -> str:
    """What a run prints at its end, as text."""
    parts = ["", _metrics_table(result)]
    if result["semantic_ids"]:
        parts.append(_semantic_id_table(result["semantic_ids"]))
    stages = [
        [stage + (" (from cache)" if stage in result["cached"] else ""), f"{seconds:.1f}"]
        for stage, seconds in result["seconds"].items()
    ]
    parts.append(
        tabulate(
            stages, headers=["stage", "seconds"], tablefmt="simple", disable_numparse=True, colalign=("left", "right")
        )
    )
    parts.append(tabulate([[name, path] for name, path in result["files"].items()], headers=["file", "where"]))
    return "\n\n".join(parts)


def _metrics_table(result: dict) -> str:
    names = list(result["test_result"])
    digits = result["config"]["metric_decimal_place"]
    rows = []
    for phase, own in (("valid", result["best_valid_result"]), ("test", result["test_result"])):
        label = result["model"]
        if result["config"].get("recipe"):
            label += f" ({result['config']['recipe']})"
        if own:
            rows.append([label, phase, *[f"{own[name]:.{digits}f}" for name in names]])
        popular = result["popularity"].get(phase)
        if popular:
            rows.append(["popularity", phase, *[f"{popular[n]:.{digits}f}" if n in popular else "" for n in names]])
    seen = "masked" if result["config"]["mask_seen_items"] else "not masked"
    heading = (
        f"{result['model']} on {result['dataset']}: leave-one-out, full ranking, seen items {seen}, "
        f"{result['parameters']:,} parameters, seed {result['config']['seed']}, data {result['data_checksum']}"
    )
    return heading + "\n" + tabulate(rows, headers=["model", "split", *names], disable_numparse=True)


def _semantic_id_table(report: dict) -> str:
    rows = [
        [
            number,
            level["size"],
            level["used"],
            f"{100 * level['usage']:.1f}%",
            f"{level['perplexity']:.1f}",
            prefixes,
        ]
        for number, (level, prefixes) in enumerate(zip(report["levels"], report["distinct_prefixes"], strict=True), 1)
    ]
    table = tabulate(
        rows, headers=["level", "codebook", "used", "usage", "perplexity", "distinct prefixes"], disable_numparse=True
    )
    return (
        f"Semantic IDs of {report['n_items']:,} items: {report['items_in_collisions']:,} items share an ID with another "
        f"({report['collision_groups']:,} groups, the largest of {report['largest_group']})\n" + table
    )


if __name__ == "__main__":
    sys.exit(main())
