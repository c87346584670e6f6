"""The command `evaluate`: finished runs once more, from their best checkpoints, under other settings of evaluation.

Comes in: a folder of finished runs, and settings such as ``mask_seen_items=True``. Goes out: a folder with a result for each,
as the leaderboard reads them, and their tables. Nothing is trained, and the runs themselves stay as they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

from recbole_tiger.cache import content_key
from recbole_tiger.config import check_settings, config_from_plain, plain_settings
from recbole_tiger.errors import ConfigError
from recbole_tiger.evaluation.leaderboard import carrier_of, known_keys_of, run_popularity, sentence_of
from recbole_tiger.evaluation.leaderboard_formats import report, write_outputs
from recbole_tiger.evaluation.leaderboard_table import POP, StoredRun, make_leaderboards, read_run, read_runs
from recbole_tiger.evaluation.significance import save_ranks
from recbole_tiger.io import atomic_write_text

#: Settings that training does not depend on, and the list of a user does.
OF_EVALUATION = (
    "mask_seen_items metrics topk beam_size scoring temperature likelihood rescore_weight eval_batch_size decode_batch_size"
).split()
#: Where the data lies and what computes: no metric depends on it.
OF_THE_MACHINE = "data_path gpu_id use_gpu".split()

USAGE = f"""Usage: python run_recbole_tiger.py evaluate --runs=DIR --mask_seen_items=True [--output=DIR] [--key=value ...]

Evaluates finished runs again, from their best checkpoints, under other settings of evaluation; trains nothing.

  --runs=DIR              every finished run below this folder
  --output=DIR            a folder of its own for the results, which the leaderboard command reads too; the same command
                          goes on where it was killed. By default beside the runs, named by the settings
  --mask_seen_items=True  leave out of the lists what the user has had; also {", ".join(OF_EVALUATION[1:])},
                          each for the models that know it, and {", ".join(OF_THE_MACHINE)}
"""


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
        if done is not None and done.result["evaluated_again"].get("checkpoint") != _digest(one.folder):
            done = None  # the run has gone on since
        if done is None:
            started = perf_counter()
            try:
                evaluate_again(one, own, place, machine)
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


def evaluate_again(stored: StoredRun, changes: Mapping, folder: Path, machine: Mapping | None = None) -> dict:
    """One finished run's best checkpoint under other settings of evaluation; writes a run folder without checkpoints.

    Args:
        changes: keys of :data:`OF_EVALUATION`.
        machine: keys of :data:`OF_THE_MACHINE`.

    Returns:
        The result of `stored` with the metrics, ranks and times of this evaluation; what comes from training (its curve, its
        ``best_valid_score``, its commit) stays. ``evaluated_again`` says what was changed, from what, of which run, and the
        commit that evaluated.

    Raises:
        ConfigError: for settings that cannot work, or other data than the run's.
        CheckpointError: if there is no checkpoint, or a damaged one.
    """
    from recbole_tiger.quick_start import (
        PreparedData,
        data_checksum,
        load_data_and_model,
        popularity_row,
        provenance,
        trainer_class,
    )

    before, model = stored.result, stored.result["model"]
    changed = {**(machine or {}), **changes, "run_dir": str(folder), "resume": None}
    folder.mkdir(parents=True, exist_ok=True)
    if model == POP:
        config = config_from_plain({**before["config"], **changed, "model": carrier_of(model)})
        check_settings(config, spread=True)
        new = run_popularity(config, folder)
        _check_data(config, stored, new["data_checksum"])
    else:
        config, network, dataset, *loaders = load_data_and_model(str(stored.folder / "best.pth"), changed)
        _check_data(config, stored, data_checksum(dataset))
        trainer = trainer_class(model)(config, network)
        data = PreparedData(dataset, *loaders)
        trainer.eval_collector.data_collect(data.train)
        metrics, ranks, seconds = {}, {}, {}
        for phase, loader in (("valid", data.valid), ("test", data.test)):
            started = perf_counter()
            metrics[phase] = dict(trainer.evaluate(loader, load_best_model=False))
            seconds[phase] = perf_counter() - started
            ranks[phase] = trainer.ranks
        rate = len(ranks["test"].users) / max(seconds["test"], 1e-9)
        new = {
            "best_valid_result": metrics["valid"],
            "test_result": metrics["test"],
            "id_level_test_result": trainer.id_level,
            "popularity": popularity_row(config, data),
            "seconds": {**before["seconds"], "test": round(seconds["test"], 2)},
            "examples_per_second": {**before["examples_per_second"], "test": round(rate, 1)},
            "config": plain_settings(config),
        }
        save_ranks(folder / "ranks.npz", ranks, max(config["topk"]))
    files = {"ranks": str(folder / "ranks.npz"), "result": str(folder / "result.json")}
    again = {
        "of": str(stored.folder),
        "checkpoint": _digest(stored.folder),
        "changes": dict(changes),
        "from": {key: before["config"].get(key) for key in changes},
        **{key: provenance(config)[key] for key in ("commit", "dirty")},
    }
    new |= {"files": {**before.get("files", {}), **files}, "run_dir": str(folder), "evaluated_again": again}
    result = {**before, **new}
    for key in ("best_valid_score", "commit", "dirty"):
        result[key] = before.get(key)
    row = content_key(stored.row, dict(changes))
    about = {"label": stored.label, "row": row, "model": model, "seed": before.get("seed")}
    atomic_write_text(folder / "run.json", json.dumps(about, indent=1))
    atomic_write_text(files["result"], json.dumps(result, indent=1))
    return result


def _digest(folder: Path) -> str | None:
    """Of a run's best checkpoint; None for a run without one."""
    file = folder / "best.pth"
    return content_key(file) if file.is_file() else None


def _check_data(config, stored: StoredRun, checksum: str) -> None:
    if checksum != stored.result["data_checksum"]:
        raise ConfigError(
            f"data_path='{config['data_path']}' holds other data ({checksum}) than the run '{stored.folder}' was trained on "
            f"({stored.result['data_checksum']}); set --data_path to the folder of that data"
        )
