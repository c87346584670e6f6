"""The one command line: ``[command] --key=value …`` with any key of RecBole or of this package.

Comes in: arguments. Goes out: a report on the screen and an exit status (0 done, 1 a process was lost, 2 a setting that cannot work).
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence

from tabulate import tabulate

from recbole_tiger.datasets.paper_counts import table2_text

USAGE = """Usage: python run_recbole_tiger.py [--model=TIGER] [--dataset=ml-100k] [--key=value ...]

  --model=NAME            TIGER, SASRec, BERT4Rec, GRU4Rec, Caser, HGN, FDSA, S3Rec or any sequential model of RecBole;
                          several (--model=TIGER,SASRec,Pop) with --seeds=1,2 make a leaderboard (command leaderboard --help)
  --dataset=NAME          a folder under --data_path with NAME.inter and NAME.item, or ml-100k
  --config_files=a.yaml   the user's own settings; several in quotes, separated by blanks
  --recipe=NAME           tuned, paper or tiny (TIGER)
  --resume=FILE           continue from a run's last.pth
  --nproc=N               train and evaluate in N processes, one per GPU where there are GPUs; the README has several machines
  --any_key=value         every other setting; the README lists them
"""

#: Commands beside training: a module with `USAGE` and `run(settings) -> text to print`, and what the command is for.
COMMANDS: dict[str, tuple[str, str]] = {
    "leaderboard": (
        "recbole_tiger.commands.leaderboard",
        "tables and a page of the runs that are stored in a folder",
    ),
    "evaluate": (
        "recbole_tiger.commands.evaluate",
        "finished runs once more, under other settings of evaluation (seen items masked, other beams)",
    ),
    "ids": ("recbole_tiger.commands.ids", "make Semantic IDs, without training a recommender, and report on them"),
    "cold-start": ("recbole_tiger.commands.cold_start", "how often cold-start (unseen) items are found"),
    "diversity": ("recbole_tiger.commands.diversity", "categories of recommendations drawn at several temperatures"),
    "invalid-ids": (
        "recbole_tiger.commands.invalid_ids",
        "how many Semantic IDs of unconstrained generation belong to no item",
    ),
    "latency": ("recbole_tiger.commands.latency", "time and memory beside an exact and an approximate inner product"),
    "report": ("recbole_tiger.commands.report", "one page of all runs and analyses in a folder"),
    "recommend": ("recbole_tiger.commands.recommend", "recommendations from a trained checkpoint, for any history"),
}


def usage() -> str:
    """The help text, with the commands."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{help_line}" for name, (_, help_line) in COMMANDS.items()]
    return (
        USAGE
        + "\nCommands, each with a --help of its own: python run_recbole_tiger.py COMMAND [--key=value ...]\n\n"
        + "\n".join(lines)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if command is not None and command not in COMMANDS:
        print(
            f"error: '{command}' is not a command; the commands are {', '.join(COMMANDS)}, and for a setting write --key=value",
            file=sys.stderr,
        )
        return 2
    module = importlib.import_module(COMMANDS[command][0]) if command else None
    if any(argument in ("-h", "--help") for argument in arguments):
        print(module.USAGE if module else usage())
        return 0
    from recbole_tiger.errors import ProcessDied, ProcessLost, TrainingStopped
    from recbole_tiger.settings.parse import parse_command_line

    try:
        settings = parse_command_line(arguments)
        print(module.run(settings) if module else _train(settings))
    except (ValueError, OSError) as error:  # a user's mistake: the sentence, without the stack
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ProcessDied, ProcessLost) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except TrainingStopped as stopped:
        print(str(stopped), file=sys.stderr)
        return 128 + signal.SIGTERM
    return 0


def _train(settings: dict) -> str:
    """Train and test one model, or all of a leaderboard; returns the report."""
    from recbole_tiger.commands import leaderboard
    from recbole_tiger.leaderboard.plan import is_leaderboard

    if is_leaderboard(settings):
        return leaderboard.make(settings)
    from recbole_tiger.quick_start import run_recbole_tiger
    from recbole_tiger.settings.parse import pop_config_files

    files = pop_config_files(settings)
    return report(run_recbole_tiger("TIGER", "ml-100k", files, command_line=settings))


def report(result: dict) -> str:
    """What a run prints at its end, as text."""
    parts = ["", _metrics_table(result)]
    if result["table2"]:
        parts.append(table2_text(result["dataset"], result["table2"]))
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
    from recbole_tiger.settings.split import describe_split

    names = list(result["test_result"])
    digits = result["config"]["metric_decimal_place"]
    rows = []
    for phase, own in (("valid", result["best_valid_result"]), ("test", result["test_result"])):
        label = result["model"]
        if result["config"].get("recipe"):
            label += f" ({result['config']['recipe']})"
        if own:
            rows.append([label, phase, *[f"{own[name]:.{digits}f}" for name in names]])
        if phase == "test" and result["id_level_test_result"]:
            by_id = result["id_level_test_result"]
            rows.append(["  IDs, not items", phase, *[f"{by_id[n]:.{digits}f}" if n in by_id else "" for n in names]])
        popular = result["popularity"].get(phase)
        if popular:
            rows.append(["popularity", phase, *[f"{popular[n]:.{digits}f}" if n in popular else "" for n in names]])
    seen = "masked" if result["config"]["mask_seen_items"] else "not masked"
    heading = (
        f"{result['model']} on {result['dataset']}: {describe_split(result['config']['eval_args']['split'])}, full ranking, "
        f"seen items {seen}, "
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
