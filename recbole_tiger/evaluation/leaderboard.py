"""Leaderboards: several models and seeds under one protocol, from one command, into one table.

Comes in: ``--model=A,B[key=value],C --seeds=1,2`` and settings. Goes out: one folder per run, and from those folders the
table as text, CSV, JSON, Markdown, LaTeX and a page. A run whose ``result.json`` is there is done and never repeated; one
that was killed goes on from its last checkpoint; one that fails says why in its row, and the others finish.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from recbole.config import Config

from recbole_tiger.cache import content_key
from recbole_tiger.config import (
    build_config,
    check_keys,
    check_model,
    known_keys,
    parse_value,
    plain_settings,
    read_yaml,
    recbole_models,
)
from recbole_tiger.data.split import SPLIT_KEYS
from recbole_tiger.errors import ConfigError
from recbole_tiger.evaluation.evaluator import Ranks, metrics_of_ranks
from recbole_tiger.evaluation.leaderboard_formats import (
    cost_cells,
    describe,
    notes,
    quality_cells,
    report,
    statistics_cells,
    write_outputs,
)
from recbole_tiger.evaluation.leaderboard_table import (
    PLACES,
    POP,
    PROTOCOL_KEYS,
    BoardRow,
    Leaderboard,
    StoredRun,
    make_leaderboards,
    read_run,
    read_runs,
)
from recbole_tiger.evaluation.popularity import popularity_ranks
from recbole_tiger.evaluation.published import check_published
from recbole_tiger.evaluation.significance import save_ranks
from recbole_tiger.io import atomic_write_text
from recbole_tiger.models import model_spec

#: Reading, tables and their forms come along, so that this module is the one door.
__all__ = [
    "BoardRow",
    "Leaderboard",
    "Plan",
    "RowName",
    "StoredRun",
    "Task",
    "carrier_of",
    "cost_cells",
    "describe",
    "known_keys_of",
    "make_leaderboards",
    "make_plan",
    "notes",
    "quality_cells",
    "read_run",
    "read_runs",
    "report",
    "run",
    "run_plan",
    "run_popularity",
    "sentence_of",
    "statistics_cells",
    "write_outputs",
]

USAGE = """Usage: python run_recbole_tiger.py --model=TIGER,SASRec,Pop --dataset=ml-100k --seeds=2024,2025 [--key=value ...]

  --model=A,B,C           rows; 'SASRec[loss_type=BPR],SASRec' gives a row settings of its own (quote the brackets);
                          beside all sequential models: Pop (most popular training items) and Semantic_KNN
  --seeds=1,2,3           each row is trained once with each
  --leaderboard_dir=DIR   where the runs lie; by default a folder in --checkpoint_dir named by data and protocol
  --split=temporal        two moments cut the time of all users instead of leave-one-out; --temporal_cutoffs=0.8,0.9 are
                          shares of all interactions, or dates; --temporal_target=last or first of a user's items of a period
  --published=True        below the table the numbers that the paper prints for this dataset, in a table of their own
  --config_files=a.yaml   shared settings, and settings of one row or model under its name (TIGER: {beam_size: 20})
  --ray=True              each run is a task of Ray, on this machine or at --ray=ADDRESS; --cpus_per_run=0.5 and
                          --gpus_per_run=0.25 say how much of a machine a run takes
  --any_key=value         every other setting, for all rows that know it
"""

#: Pop has no Config of its own: data and protocol come with this model's.
_CARRIER = "SASRec"
#: What a table is asked for: which rows on which data, with which seeds.
_OF_THE_TABLE = ("model", "dataset", "seed")
#: Settings that are files: their content is what counts.
_FILES = ("content_file", "semantic_id_file", "pre_model_path")


# ------------------------------------------------------------------------------------------------------------ the plan


@dataclass(frozen=True)
class RowName:
    """One row as it is typed: ``label`` is ``model`` or ``model[key=value,...]``, ``tag`` the settings in brackets."""

    label: str
    model: str
    tag: dict


@dataclass(frozen=True)
class Task:
    """One run to make: a row with one seed (None: nothing to seed).

    Attributes:
        row: key of everything but the seed that the run depends on.
        folder: where it lies, named by label, seed and settings.
    """

    label: str
    model: str
    dataset: str
    seed: int | None
    settings: dict
    row: str
    folder: Path


@dataclass(frozen=True)
class Plan:
    """The runs of a leaderboard in the order typed, and rows whose settings cannot work, with the reason."""

    dataset: str
    folder: Path
    tasks: list[Task]
    impossible: dict[str, str]


def is_leaderboard(settings: Mapping) -> bool:
    """Whether a command line asks for a table instead of one run."""
    model = settings.get("model", "")
    several = isinstance(model, (list, tuple)) or any(mark in str(model) for mark in ",[") or model == POP
    return several or not settings.keys().isdisjoint(("seeds", "leaderboard_dir", "published"))


def parse_rows(text: str | Sequence[str]) -> list[RowName]:
    """Rows of a ``--model`` argument.

    Raises:
        ConfigError: for something that is not ``NAME`` or ``NAME[key=value,...]``, or a row given twice.
    """
    rows: list[RowName] = []
    for part in _split(text) if isinstance(text, str) else map(str, text):
        found = re.fullmatch(r"(\w+)(?:\[(.*)\])?", part.strip())
        tag = {}
        for setting in _split(found[2]) if found and found[2] else []:
            key, equals, value = (piece.strip() for piece in setting.partition("="))
            if not equals or not key:
                found = None
                break
            tag[key] = parse_value(value, key)
        if not found:
            raise ConfigError(
                f"model: cannot read the row '{part.strip()}'; write NAME or 'NAME[key=value,key=value]', separated by commas"
            )
        label = found[1] + (f"[{','.join(s.replace(' ', '') for s in _split(found[2]))}]" if tag else "")
        if label in (row.label for row in rows):
            raise ConfigError(f"model: the row '{label}' is given twice; keep one, or give one of them other settings")
        rows.append(RowName(label, found[1], tag))
    if not rows:
        raise ConfigError("model: no row is named; write for example --model=TIGER,SASRec,Pop")
    return rows


def _split(text: str) -> list[str]:
    """Pieces between the commas that stand outside brackets."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character in "[({") - (character in "])}")
        if character == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return [piece for piece in pieces if piece.strip()]


def make_plan(
    model: str | Sequence[str],
    dataset: str,
    seeds: Sequence[int],
    config_files: Iterable[str] = (),
    settings: Mapping | None = None,
    folder: str | Path | None = None,
) -> Plan:
    """Every run of a leaderboard, with its settings checked; nothing runs yet.

    Precedence of settings: brackets > ``settings`` > a row's or model's block in the files > the files > what we ship.

    Raises:
        ConfigError: for an unknown model or key, a seed that is not a whole number, or a protocol setting for one row.
    """
    names = parse_rows(model)
    settings = dict(settings or {})
    for name in names:
        if name.model != POP:
            check_model(name.model)
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(f"seeds={list(seeds)}: {seed!r} is not a whole number; write --seeds=2024,2025")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={list(seeds)} names a seed twice; runs of one seed are the same run")
    shared, blocks = _read_files(config_files, names)
    shared.update(settings)
    for key in ("run_dir", "resume"):
        if shared.get(key):
            raise ConfigError(
                f"{key}={shared[key]!r} belongs to one run; a leaderboard names and resumes its runs itself"
            )
    if shared.get("world_size") or shared.get("group_offset"):
        raise ConfigError(
            "world_size and group_offset: the runs of a leaderboard have the processes of one machine each (--nproc=…); leave "
            "both out"
        )
    _check_shared(shared, names)

    tasks, impossible, root, data = [], {}, None, ""
    for name in names:
        own = _row_settings(name, shared, settings, blocks)
        try:
            config = build_config(carrier_of(name.model), dataset, None, own, spread=True)
        except ConfigError as error:
            impossible[name.label] = str(error)
            continue
        plain = plain_settings(config)
        if root is None:  # the same for all rows: neither a block nor brackets can name other data
            data = _data_key(config)
            key = content_key(data, {k: plain.get(k) for k in PROTOCOL_KEYS})
            root = Path(folder or Path(plain["checkpoint_dir"]) / f"leaderboard-{dataset}-{key[:8]}").absolute()
        if name.model == POP:
            plain = {key: plain.get(key) for key in PROTOCOL_KEYS}
        row = content_key(data, name.model, _comparable(plain))
        own = {**own, "data_path": plain_settings(config)["data_path"]}
        for seed in _seeds_of(name.model, seeds):
            key = content_key(row, seed)
            slug = re.sub(r"[^\w.=-]+", "_", name.label).strip("_")
            run = root / f"{slug}{'' if seed is None else f'-seed{seed}'}-{key[:8]}"
            tasks.append(Task(name.label, name.model, dataset, seed, own, row, run))
    if root is None:
        raise ConfigError("no row can run: " + "; ".join(f"{label}: {reason}" for label, reason in impossible.items()))
    return Plan(dataset, root, tasks, impossible)


def carrier_of(model: str) -> str:
    """The model whose `Config` a row has: its own, but for Pop."""
    return _CARRIER if model == POP else model


def _seeds_of(model: str, seeds: Sequence[int]) -> Sequence[int | None]:
    return [None] if model == POP or model_spec(model).untrained else seeds


@functools.cache
def known_keys_of(model: str) -> frozenset[str]:
    """The settings that a row of this model knows."""
    return frozenset(known_keys(carrier_of(model)))


def _read_files(files: Iterable[str], names: Sequence[RowName]) -> tuple[dict, dict]:
    """Shared settings of YAML files, and the blocks under the name of a row or a model.

    Model, dataset and seed of a file are what :func:`run` falls back to; they are no settings of a row.
    """
    shared: dict = {}
    blocks: dict[str, dict] = {}
    models = {*recbole_models(), POP}
    for file in files:
        for key, value in read_yaml(file).items():
            if key.partition("[")[0] in models:  # blocks of rows that are not in this table are left out
                if not isinstance(value, Mapping):
                    raise ConfigError(
                        f"config_files: '{file}' has '{key}: {value!r}', but a model's block is 'key: value' lines"
                    )
                blocks.setdefault(key, {}).update(value)
            elif key not in _OF_THE_TABLE:
                shared[key] = value
    for name in names:
        for own in (blocks.get(name.model, {}), blocks.get(name.label, {}), name.tag):
            check_keys(own, carrier_of(name.model))
            for key in own:
                if key in (*PROTOCOL_KEYS, *SPLIT_KEYS, *PLACES, "model", "dataset"):
                    raise ConfigError(
                        f"{key} cannot be set for the row {name.label} alone: all rows of a table share it; set --{key}=…"
                    )
    return shared, blocks


def _check_shared(shared: Mapping, names: Sequence[RowName]) -> None:
    for key, value in shared.items():
        if not any(key in known_keys_of(name.model) for name in names):
            check_keys({key: value}, carrier_of(names[0].model))
    recipe = shared.get("recipe")
    offered = sorted({offer for name in names for offer in model_spec(name.model).recipes})
    if recipe and recipe not in offered:
        hint = f"choose one of {', '.join(offered)}" if offered else "leave it out: none of the rows has recipes"
        raise ConfigError(f"recipe='{recipe}' is not a recipe of any row; {hint}")


def _row_settings(name: RowName, shared: Mapping, command_line: Mapping, blocks: Mapping) -> dict:
    """The settings of one row: the shared ones that it knows, and its own."""
    known = known_keys_of(name.model)
    own = {**shared, **blocks.get(name.model, {}), **blocks.get(name.label, {}), **command_line, **name.tag}
    own = {key: value for key, value in own.items() if key in known and key != "seed"}
    if own.get("recipe") not in model_spec(name.model).recipes and "recipe" not in name.tag:
        own.pop("recipe", None)
    if model_spec(name.model).untrained:
        own["epochs"] = 1
    return own


def _comparable(plain: Mapping) -> dict:
    """Settings that metrics depend on, files by their content."""
    kept = {key: value for key, value in plain.items() if key not in PLACES}
    for key in _FILES:
        if kept.get(key) and Path(kept[key]).is_file():
            kept[key] = Path(kept[key])
    return kept


def _data_key(config) -> str:
    """Key of the dataset's files; a dataset that RecBole can download is downloaded first."""
    folder, dataset = Path(config["data_path"]), config["dataset"]
    if not any(folder.glob(f"{dataset}*.inter")):
        from recbole.data.dataset import SequentialDataset

        SequentialDataset(config)
    return content_key([*sorted(folder.glob(f"{dataset}*.inter")), *sorted(folder.glob(f"{dataset}.item"))])


# ------------------------------------------------------------------------------------------------------------ the runs


def is_done(task: Task) -> bool:
    """Whether a run's result is there; it is written whole, and last."""
    return (task.folder / "result.json").is_file()


def run_plan(plan: Plan, *, ray: bool | str = False, cpus_per_run: float = 1, gpus_per_run: float = 0) -> None:
    """Make the runs that are missing. A run that fails leaves its reason in its folder, and is tried again next time."""
    missing = [task for task in plan.tasks if not is_done(task)]
    _say(f"{len(plan.tasks) - len(missing)} of {len(plan.tasks)} runs are done, {len(missing)} to go, in {plan.folder}")
    if ray:
        _run_on_ray(missing, ray, cpus_per_run, gpus_per_run)
        return
    for number, task in enumerate(missing, 1):
        going = ", from its last checkpoint" if (task.folder / "last.pth").is_file() else ""
        _say(f"[{number}/{len(missing)}] {_name(task)}{going}")
        started = perf_counter()
        failure = run_task(task)
        _say(f"[{number}/{len(missing)}] {_name(task)}: {failure or f'done in {perf_counter() - started:.0f} s'}")


def _name(task: Task) -> str:
    return task.label if task.seed is None else f"{task.label}, seed {task.seed}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_task(task: Task) -> str | None:
    """Make one run; returns why it failed, in a sentence, or None."""
    from recbole_tiger.errors import TrainingStopped
    from recbole_tiger.quick_start import start_run

    task.folder.mkdir(parents=True, exist_ok=True)
    about = {"label": task.label, "row": task.row, "model": task.model, "seed": task.seed}
    atomic_write_text(task.folder / "run.json", json.dumps(about, indent=1))
    failure = task.folder / "failure.json"
    try:
        if task.model == POP:
            config = build_config(_CARRIER, task.dataset, None, task.settings, spread=True)
            result = run_popularity(config, task.folder)
            atomic_write_text(task.folder / "result.json", json.dumps(result, indent=1))
        else:
            last = task.folder / "last.pth"
            own = {"run_dir": str(task.folder), "resume": str(last) if last.is_file() else None}
            if task.seed is not None:
                own["seed"] = task.seed
            start_run(build_config(task.model, task.dataset, None, {**task.settings, **own}, spread=True))
    except TrainingStopped as stopped:  # the whole leaderboard was asked to stop, not this row
        raise TrainingStopped(
            f"stopped by SIGTERM during {_name(task)}; the same command goes on from there"
        ) from stopped
    except Exception as error:  # whatever it is, the other rows finish
        reason = sentence_of(error)
        atomic_write_text(failure, json.dumps({"reason": reason, "traceback": traceback.format_exc()}, indent=1))
        return reason
    failure.unlink(missing_ok=True)
    return None


def sentence_of(error: Exception) -> str:
    """Why a run failed, in a sentence for the table."""
    text = " ".join(str(error).split())
    short = text if len(text) <= 300 else text[:297] + "..."
    return short if isinstance(error, (ValueError, OSError)) and short else f"{type(error).__name__}: {short}"


def run_popularity(config: Config, folder: Path) -> dict:
    """The row of the most popular training items, as a run of its own: its result, and its ranks in the folder."""
    from recbole_tiger.quick_start import data_checksum, environment, prepare_data, provenance, split_report

    started = perf_counter()
    data = prepare_data(config)
    loaded = perf_counter()
    ranks, metrics = {}, {}
    for phase, loader in (("valid", data.valid), ("test", data.test)):
        dataset = loader._dataset
        users = dataset.inter_feat[dataset.uid_field].numpy()
        targets = dataset.inter_feat[dataset.iid_field].numpy()
        found = popularity_ranks(
            data.dataset.sequences,
            users,
            targets,
            phase,
            dataset.item_num,
            mask_seen=bool(config["mask_seen_items"]),
        )
        ranks[phase], metrics[phase] = Ranks(users, found), dict(metrics_of_ranks(config, found))
    seconds = perf_counter() - loaded
    save_ranks(folder / "ranks.npz", ranks, max(config["topk"]))
    return {
        "model": POP,
        "dataset": config["dataset"],
        "best_valid_score": metrics["valid"][config["valid_metric"].lower()],
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": metrics["valid"],
        "test_result": metrics["test"],
        "seconds": {
            "data": loaded - started,
            "training": 0.0,
            "validation": 0.0,
            "test": seconds,
            "all": perf_counter() - started,
        },
        "parameters": 0,
        "examples_per_second": {"training": None, "test": len(ranks["test"].users) / max(seconds, 1e-9)},
        "history": [],
        "data_checksum": data_checksum(data.dataset),
        "split": split_report(data.dataset),
        "environment": environment(config),
        **{**provenance(config), "loss": None, "seed": None},
        "run_dir": str(folder),
        "config": {**plain_settings(config), "model": POP, "loss_type": None},
    }


def _run_on_ray(tasks: Sequence[Task], address: bool | str, cpus: float, gpus: float) -> None:
    """Each run as a task of Ray; its folders must be the same place on all machines."""
    import ray

    ray.init(address=None if address is True else address, ignore_reinit_error=True, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(run_task)
        pending = {remote.remote(task): task for task in tasks}
        total = len(pending)
        while pending:
            [finished], _ = ray.wait(list(pending), num_returns=1)
            task = pending.pop(finished)
            try:
                failure = ray.get(finished)
            except ray.exceptions.RayError as error:  # the worker itself died
                failure = sentence_of(error)
                reason = {"reason": failure, "traceback": str(error)}
                task.folder.mkdir(parents=True, exist_ok=True)
                atomic_write_text(task.folder / "failure.json", json.dumps(reason, indent=1))
            _say(f"[{total - len(pending)}/{total}] {_name(task)}: {failure or 'done'}")
    finally:
        ray.shutdown()


# --------------------------------------------------------------------------------------------------------- the command


def failures_of(plan: Plan) -> list[tuple[str, str]]:
    """(row, reason) of every run of a plan that has no result."""
    found = list(plan.impossible.items())
    for task in plan.tasks:
        if not is_done(task):
            path = task.folder / "failure.json"
            reason = json.loads(path.read_text(encoding="utf-8"))["reason"] if path.is_file() else "it has not run"
            found.append((_name(task), reason))
    return found


def _pop_table(settings: dict, files: Iterable[str]) -> tuple[str, str, list]:
    """Rows, dataset and seeds out of the command line, or out of the files where they are not typed."""
    if "seeds" in settings and "seed" in settings:
        raise ConfigError(
            f"seed={settings['seed']!r} and seeds={settings['seeds']!r} say the same thing twice; leave seed out"
        )
    asked = {"model": "TIGER", "dataset": "ml-100k", "seed": 2024}
    for given in (*map(read_yaml, files), settings):
        asked.update({key: given[key] for key in _OF_THE_TABLE if key in given})
    for key in _OF_THE_TABLE:
        settings.pop(key, None)
    seeds = settings.pop("seeds", asked["seed"])
    return asked["model"], asked["dataset"], list(seeds) if isinstance(seeds, (list, tuple)) else [seeds]


def run(settings: Mapping) -> str:
    """The command: make what is missing, write the outputs, return the text to print.

    Raises:
        ConfigError: for settings that cannot work, or if no row has a result.
    """
    settings = dict(settings)
    files = str(settings.pop("config_files", "") or "").split()
    model, dataset, seeds = _pop_table(settings, files)
    options = {
        "ray": settings.pop("ray", False),
        "cpus_per_run": settings.pop("cpus_per_run", 1),
        "gpus_per_run": settings.pop("gpus_per_run", 0),
    }
    published = check_published(settings.pop("published", False), [dataset])
    if options["ray"] and settings.get("nproc"):
        raise ConfigError(
            f"nproc={settings['nproc']} with ray={options['ray']}: Ray gives each run one process; leave one of them out"
        )
    plan = make_plan(
        model,
        dataset,
        seeds,
        files,
        folder=settings.pop("leaderboard_dir", None),
        settings=settings,
    )
    run_plan(plan, **options)
    found = [read_run(task.folder) for task in plan.tasks if is_done(task)]
    failures = failures_of(plan)
    runs = [run for run in found if run is not None]
    if not runs:
        raise ConfigError("no row has a result: " + "; ".join(f"{label}: {reason}" for label, reason in failures))
    boards = make_leaderboards(runs, failures, published)
    return report(boards, write_outputs(boards, plan.folder))
