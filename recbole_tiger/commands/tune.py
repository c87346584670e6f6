"""The command ``tune``, the command line of sweeps: ``--key=value`` arguments in, a sweep run, its report printed and written.

Comes in: arguments. Goes out: files in the sweep's folder and an exit status (0 done, 1 interrupted or without a winner,
2 a setting that cannot work).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

USAGE = """Usage: python hpo/run_tune.py --space=FILE [--model=TIGER] [--dataset=ml-100k] [--key=value ...]

What is searched
  --space=FILE            a YAML file, RecBole's hyper.test, or a shipped space: id_length_codebook, tiger, semantic_ids,
                          sasrec, bert4rec, gru4rec, caser
  --search=NAME           random, grid, or optuna (pip install optuna); the space's own by default
  --trials=N              how many trials; the space's own number by default
  --search_seed=N         of the draws (2024)

What stops trials early, on validation after each epoch (valid_metric, NDCG@10 by default)
  --scheduler=NAME        asha (default), median or none
  --grace_period=N        epochs that every trial may run (a quarter of --epochs)
  --reduction_factor=N    asha goes on with one trial of N (3)
  --time_budget_minutes=N then no trial goes on

Where it runs
  --cpus_per_trial=1 --gpus_per_trial=0     fractions share a card among trials
  --cpus=N                processors to use in all (every one by default)
  --max_concurrent=N      trials at once
  --max_failures=2        restarts of a trial whose process or node died
  --address=auto          a running Ray cluster (or host:port); by default Ray is started here
  --dashboard=True        Ray's web page

Where it lies
  --storage=saved/tune    folder of sweeps; with several nodes, one that all of them reach
  --name=NAME             of this sweep's folder; by default model-dataset-space
  --resume                continue a sweep: the same command again, with this behind it

  --any_key=value         every other setting, the same for all trials (--epochs=12 --max_steps=2000 --seed=1 ...)

The test set is read once, for the winner, when all trials are over. The folder then holds report.html, report.md,
report.csv and best.yaml, which run_recbole_tiger.py --config_files= takes.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweep that the arguments describe."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)
        return 0
    from recbole_tiger.settings.field import literal
    from recbole_tiger.settings.parse import parse_command_line

    try:
        settings = parse_command_line(
            ["--resume=True" if argument == "--resume" else argument for argument in arguments]
        )
        if "resume" in settings:  # here a switch; elsewhere the path of a checkpoint
            settings["resume"] = literal(str(settings["resume"]))
        text, done = tune(settings)
    except (ValueError, OSError) as error:  # a user's mistake: the sentence, without the stack
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0 if done else 1


def tune(settings: dict) -> tuple[str, bool]:
    """Plan, run and report a sweep.

    Args:
        settings: options of the sweep and settings of its trials, as on the command line.

    Returns:
        the report, and whether the sweep is over and has a winner.

    Raises:
        ConfigError: for anything that cannot work, before the first trial.
    """
    from recbole_tiger.hpo import report, sweep
    from recbole_tiger.hpo.space import read_space
    from recbole_tiger.settings.parse import pop_config_files, read_config_files

    settings = dict(settings)
    space = read_space(settings.pop("space", None))
    names = [option.name for option in dataclasses.fields(sweep.Options)]
    options = sweep.Options(**{name: settings.pop(name) for name in names if name in settings})
    settings = {**read_config_files(pop_config_files(settings)), **settings}
    model, dataset = settings.pop("model", None), settings.pop("dataset", "ml-100k")
    plan = sweep.plan(space, model, dataset, settings, options)
    if not sweep.run(plan):
        return (
            f"Interrupted: {sweep.progress_line(plan, 0)}.\nThe same command with --resume behind it goes on from here.",
            False,
        )
    best = sweep.write_best(plan)
    tested = sweep.test_winner(plan)
    files = report.write(plan, tested)
    if best is not None:
        files = {"best configuration": str(best), **files, "checkpoint": tested["checkpoint"]}
    return report.text(plan, tested, files), tested is not None


if __name__ == "__main__":
    sys.exit(main())
