"""Reevaluation: the best checkpoints of finished runs under other settings of evaluation.

Input: stored runs, and settings such as ``mask_seen_items=True``. Output: a run folder for each with a result of its
own, as the leaderboard reads it. Nothing is trained, and the runs themselves stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole_tiger import extension
from recbole_tiger.cache import content_key
from recbole_tiger.errors import ConfigError
from recbole_tiger.evaluation.significance import save_ranks
from recbole_tiger.experiment.configuration import config_from_plain
from recbole_tiger.experiment.loading import PreparedData, load_data_and_model, trainer_class
from recbole_tiger.experiment.popularity import popularity_row, run_popularity
from recbole_tiger.experiment.provenance import provenance
from recbole_tiger.experiment.result import RunResult
from recbole_tiger.io import folder_lock, make_folder
from recbole_tiger.leaderboard.plan import carrier_of
from recbole_tiger.leaderboard.run import say, sentence_of, write_json
from recbole_tiger.leaderboard.table import StoredRun, read_run
from recbole_tiger.models import POP
from recbole_tiger.settings.plain import plain_settings
from recbole_tiger.settings.schema import keys_with
from recbole_tiger.settings.validate import check_settings, known_keys


def of_evaluation() -> tuple[str, ...]:
    """Settings that training does not depend on, and the list of a user does; those of registered decoders too."""
    return tuple(key for key in keys_with("reevaluate") if key not in keys_with("place"))


#: Where the data is and what computes: no metric depends on it.
OF_THE_MACHINE = tuple(key for key in keys_with("reevaluate") if key in keys_with("place"))


def reevaluate_runs(
    stored: Sequence[StoredRun], changes: Mapping, root: Path, folder: Path, machine: Mapping | None = None
) -> tuple[list[StoredRun], list[tuple[str, str]]]:
    """Reevaluate what has no result under these settings yet, with a line on the screen for each run.

    Args:
        stored: runs below `root`.
        changes: keys of :func:`of_evaluation`; a run takes those that its model knows.
        folder: where the results are written, at the paths that the runs have below `root`.
        machine: keys of :data:`OF_THE_MACHINE`.

    Returns:
        the results, and (run, reason) of those that could not be evaluated; a `ConfigError` for a folder of results
        under other settings, or one that another process writes.
    """
    found, failures = [], []
    has_datasets = len({run.result["dataset"] for run in stored}) > 1
    with folder_lock(folder, "wait for it, or name another folder with --output"):
        for number, run in enumerate(stored, 1):
            known = known_keys(carrier_of(run.result["model"]))
            own = {key: value for key, value in changes.items() if key in known}
            path, seed = folder / run.folder.relative_to(root), run.result.get("seed")
            name = run.label + ("" if seed is None else f", seed {seed}")
            name += f", {run.result['dataset']}" if has_datasets else ""
            done = read_run(path)
            if done is not None and done.result.get("evaluated_again", {}).get("changes") != own:
                raise ConfigError(f"output='{folder}' holds results under other settings; name another folder")
            if done is None or done.result["evaluated_again"].get("checkpoint") != _key_of(run.folder, own):
                started = perf_counter()
                try:
                    reevaluate(run, own, path, machine)
                    outcome = f"done in {perf_counter() - started:.0f} s"
                    done = read_run(path)
                except Exception as error:  # whatever it is, the other runs are evaluated
                    outcome, done = sentence_of(error), None
                    failures.append((name, outcome))
                say(f"[{number}/{len(stored)}] {name}: {outcome}")
            if done is not None:
                found.append(done)
    return found, failures


def reevaluate(stored: StoredRun, changes: Mapping, folder: Path, machine: Mapping | None = None) -> RunResult:
    """One finished run's best checkpoint under other settings; writes a run folder without checkpoints.

    Returns:
        the result of `stored` with the metrics, ranks and times of this evaluation; what comes from training (its
        curve, its ``best_valid_score``, its commit) stays. ``evaluated_again`` says what was changed, from what, of
        which run, and the commit that evaluated.

    Raises:
        ConfigError, CheckpointError: for settings that cannot work, other data than the run's, and no checkpoint.
    """
    before, model = stored.result, stored.result["model"]
    changed = {**(machine or {}), **changes, "run_dir": str(folder), "resume": None}
    make_folder(folder)
    if model == POP:
        config = config_from_plain({**before["config"], **changed, "model": carrier_of(model)})
        check_settings(config)
        new = run_popularity(config, folder).to_dict()
        _check_data(config, stored, new["data_checksum"])
    else:
        config, network, dataset, *loaders = load_data_and_model(str(stored.folder / "best.pth"), changed)
        data = PreparedData(dataset, *loaders)
        _check_data(config, stored, data.checksum)
        new = _evaluate(config, network, data, folder, before)
    state = provenance(config)
    record = {
        "of": str(stored.folder),
        "checkpoint": _key_of(stored.folder, changes),
        "changes": dict(changes),
        "from": {key: before["config"].get(key) for key in changes},
        **{key: state[key] for key in ("commit", "dirty")},
    }
    files = {"ranks": str(folder / "ranks.npz"), "result": str(folder / "result.json")}
    new |= {"files": {**before.get("files", {}), **files}, "run_dir": str(folder), "evaluated_again": record}
    kept = {key: before.get(key) for key in ("best_valid_score", "commit", "dirty")}
    result = RunResult.from_dict({**before, **new, **kept})
    row = content_key(stored.row, dict(changes))
    about = {"label": stored.label, "row": row, "model": model, "seed": before.get("seed")}
    write_json(folder / "run.json", about)
    result.write(folder)
    return result


def _evaluate(config, network, data: PreparedData, folder: Path, before: Mapping) -> dict:
    """What evaluation adds to the result of a run; writes the ranks."""
    trainer = trainer_class(config["model"])(config, network)
    trainer.eval_collector.data_collect(data.train)
    metrics: dict[str, Any] = {}
    ranks: dict[str, Any] = {}
    for phase, loader in (("valid", data.valid), ("test", data.test)):
        started = perf_counter()
        metrics[phase] = dict(trainer.evaluate(loader, load_best_model=False))
        ranks[phase] = trainer.ranks
    seconds = perf_counter() - started  # of the test
    save_ranks(folder / "ranks.npz", ranks, max(config["topk"]))
    rate = len(ranks["test"].users) / max(seconds, 1e-9)
    return {
        "best_valid_result": metrics["valid"],
        "test_result": metrics["test"],
        "id_level_test_result": trainer.id_level,
        "popularity": popularity_row(config, data),
        "seconds": {**before["seconds"], "test": round(seconds, 2)},
        "examples_per_second": {**before["examples_per_second"], "test": round(rate, 1)},
        "config": plain_settings(config),
    }


def _key_of(folder: Path, changes: Mapping) -> str | None:
    """Of a run's best checkpoint, and of the code of a registered decoder; None for a run without a checkpoint."""
    file = folder / "best.pth"
    own_code = [extension.source_key(thing) for thing in extension.registered_in(changes).values()]
    return content_key(file, *own_code) if file.is_file() else None


def _check_data(config, stored: StoredRun, checksum: str) -> None:
    if checksum != stored.result["data_checksum"]:
        raise ConfigError(
            f"data_path='{config['data_path']}' holds other data ({checksum}) than the run '{stored.folder}' was "
            f"trained on ({stored.result['data_checksum']}); set --data_path to the folder of that data"
        )
