"""The command `evaluate`: finished runs from their best checkpoints, under other settings of evaluation.

Input: a folder of finished runs and settings such as ``--mask_seen_items=True``. Output: a folder with a result for each, and their
tables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

from recbole_tiger.errors import ConfigError
from recbole_tiger.leaderboard.outputs import report, write_outputs
from recbole_tiger.leaderboard.plan import known_keys_of
from recbole_tiger.leaderboard.reevaluate import OF_EVALUATION, OF_THE_MACHINE, checkpoint_key, reevaluate
from recbole_tiger.leaderboard.run import sentence_of
from recbole_tiger.leaderboard.table import make_leaderboards, read_run, read_runs


def run(settings: Mapping) -> str:
    """The command.

    Raises:
        ConfigError: for settings that training depends on, or a folder of results under other settings.
        ValueError: if no finished run is there, or one is damaged.
    """
    settings = dict(settings)
    if not settings.get("runs"):
        raise ConfigError("evaluate needs --runs=DIR, a folder of finished runs")
    root = Path(str(settings.pop("runs")))
    output = settings.pop("output", None)
    # 5,10 of the command line is a tuple, in the results it is a list.
    changes = {key: json.loads(json.dumps(value)) for key, value in settings.items() if key in OF_EVALUATION}
    machine = {key: value for key, value in settings.items() if key in OF_THE_MACHINE}
    for key, value in settings.items():
        if key not in changes and key not in machine:
            raise ConfigError(
                f"{key}={value!r} is not a setting of evaluation; evaluate takes {', '.join(OF_EVALUATION)}, and "
                f"{', '.join(OF_THE_MACHINE)}"
            )
    if not changes:
        raise ConfigError("evaluate needs a setting to change, for example --mask_seen_items=True")
    told = ",".join(f"{key}={value}".replace(" ", "").replace("/", "_") for key, value in changes.items())
    folder = Path(str(output)) if output else root.resolve().with_name(f"{root.resolve().name}-{told}")
    if folder.resolve().is_relative_to(root.resolve()):
        raise ConfigError(
            f"output='{folder}' lies in the folder of the runs, where its results would be taken for runs"
        )

    stored = [run for run in read_runs(root) if "evaluated_again" not in run.result]
    if not stored:
        raise ConfigError(f"runs='{root}' holds results of evaluate only; name the folder of the runs themselves")
    found, failures = [], []
    for number, one in enumerate(stored, 1):
        own = {key: value for key, value in changes.items() if key in known_keys_of(one.result["model"])}
        place = folder / one.folder.relative_to(root)
        name = f"{one.label}, seed {one.result.get('seed')}"
        if len({run.result["dataset"] for run in stored}) > 1:
            name += f", {one.result['dataset']}"
        done = read_run(place)
        if done is not None and done.result.get("evaluated_again", {}).get("changes") != own:
            raise ConfigError(f"output='{folder}' holds results under other settings; name another folder")
        if done is not None and done.result["evaluated_again"].get("checkpoint") != checkpoint_key(one.folder):
            done = None  # the run has gone on since
        if done is None:
            started = perf_counter()
            try:
                reevaluate(one, own, place, machine)
                reason = f"done in {perf_counter() - started:.0f} s"
            except Exception as error:  # whatever it is, the other runs are evaluated
                reason = sentence_of(error)
                failures.append((name, reason))
            print(f"[{number}/{len(stored)}] {name}: {reason}", file=sys.stderr, flush=True)
            done = read_run(place)
        if done is not None:
            found.append(done)
    if not found:
        raise ConfigError("no run could be evaluated again: " + "; ".join(f"{run}: {why}" for run, why in failures))
    boards = make_leaderboards(found, failures)
    return report(boards, write_outputs(boards, folder))
