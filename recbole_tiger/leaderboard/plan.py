"""The plan of a leaderboard: from rows, seeds and settings to the runs that make it.

Input: ``--model=A,B[key=value],C --seeds=1,2`` and settings. Output: a :class:`Plan` with one :class:`Task` per run,
each with a folder of its own named by everything that the run depends on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_tiger import extension
from recbole_tiger.cache import content_key
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.leaderboard.table import PLACE_KEYS, PROTOCOL_KEYS
from recbole_tiger.models import POP, model_spec, row_name
from recbole_tiger.settings.chain import reads_item_text
from recbole_tiger.settings.parse import parse_value, read_yaml
from recbole_tiger.settings.plain import plain_settings
from recbole_tiger.settings.schema import FIELDS, keys_with
from recbole_tiger.settings.split import SPLIT_KEYS
from recbole_tiger.settings.validate import (
    check_item_text,
    check_keys,
    check_model,
    keys_read,
    known_keys,
    recbole_models,
)

#: Pop has no Config of its own: data and protocol come with this model's.
CARRIER = "SASRec"
#: What a table is asked for: which rows on which data, with which seeds.
OF_THE_TABLE = ("model", "dataset", "seed", "seeds")


@dataclass(frozen=True)
class RowName:
    """One row as it is typed: ``label`` is ``model`` or ``model[key=value,...]``, ``tag`` the settings in brackets.

    ``SASRec+text`` is ``SASRec[item_text=add]``. A row of a file (``leaderboard/rows.py``) has a name of its own for a
    label, and ``seeds`` of its own or None.
    """

    label: str
    model: str
    tag: dict
    seeds: Sequence[int] | None = None


@dataclass(frozen=True)
class Task:
    """One run to make: a row with one seed (None: nothing to seed).

    Attributes:
        row: key of everything but the seed that the run depends on.
        folder: of the run, named by label, seed and settings.
    """

    label: str
    model: str
    dataset: str
    seed: int | None
    settings: dict
    row: str
    folder: Path

    @property
    def name(self) -> str:
        """The run in a message."""
        return self.label if self.seed is None else f"{self.label}, seed {self.seed}"

    def is_done(self) -> bool:
        """Whether the run's result is there; it is written whole, and last."""
        return (self.folder / "result.json").is_file()


@dataclass(frozen=True)
class Plan:
    """The runs of a leaderboard in the order typed, and rows whose settings cannot work, with the reason."""

    dataset: str
    folder: Path
    tasks: list[Task]
    impossible: dict[str, str]


def is_leaderboard(settings: Mapping) -> bool:
    """Whether settings ask for a table instead of one run."""
    model = settings.get("model", "")
    several = isinstance(model, (list, tuple)) or any(mark in str(model) for mark in ",[") or model == POP
    return several or not settings.keys().isdisjoint(("seeds", "leaderboard_dir", "published"))


def parse_rows(text: str | Sequence[str | type]) -> list[RowName]:
    """Rows of a ``--model`` argument; a `ConfigError` unless each is NAME, NAME+text or NAME[key=value,…], and once.

    From Python a row may be a class as well.
    """
    rows: list[RowName] = []
    for part in _split(text) if isinstance(text, str) else (str(extension.name_of(each)) for each in text):
        found = re.fullmatch(r"(\w+)(\+text)?(?:\[(.*)\])?", part.strip())
        tag, shown = {"item_text": "add"} if found and found[2] else {}, []
        for setting in _split(found[3]) if found and found[3] else []:
            key, equals, value = (piece.strip() for piece in setting.partition("="))
            if not equals or not key:
                found = None
                break
            if key in tag:
                raise ConfigError(f"model: the row '{part.strip()}' sets {key} twice; keep one")
            tag[key] = parse_value(value, key)
            shown += [setting.replace(" ", "")] if key != "item_text" else []
        if not found:
            raise ConfigError(
                f"model: cannot read the row '{part.strip()}'; write NAME or 'NAME[key=value,key=value]', separated by "
                "commas"
            )
        label = row_name(found[1], tag.get("item_text")) + (f"[{','.join(shown)}]" if shown else "")
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
    model: str | Sequence[str | type] | Sequence[RowName],
    dataset: str,
    seeds: Sequence[int],
    config_files: Iterable[str] = (),
    settings: Mapping | None = None,
    folder: str | Path | None = None,
) -> Plan:
    """Every run of a leaderboard, with its settings checked; nothing runs yet. A `ConfigError` for what cannot work.

    Precedence of settings: brackets > ``settings`` > a row's or model's block in the files > the files > what we ship.
    """
    settings, config_files = dict(settings or {}), list(config_files)
    for file in config_files:
        extension.load(read_yaml(file).get("plugin"))
    plugins = extension.load(settings.pop("plugin", None))  # all of them, those of the files too
    names = [row for row in model if isinstance(row, RowName)] or parse_rows(model)  # type: ignore[arg-type]
    _check_rows_and_seeds(names, seeds)
    shared, blocks = _read_files(config_files, names)
    shared.update(settings)
    if plugins:  # for runs in other processes
        shared["plugin"] = plugins
    _check_shared(shared, names, blocks)

    tasks, impossible, root, data = [], {}, None, ""
    labels: dict[str, str] = {}  # by row
    for name in names:
        own = _row_settings(name, shared, settings, blocks)
        try:
            config = build_config(carrier_of(name.model), dataset, None, own, distributable=True)
        except ConfigError as error:
            impossible[name.label] = str(error)
            continue
        plain = plain_settings(config)
        own["data_path"] = plain["data_path"]
        protocol = {key: plain.get(key) for key in PROTOCOL_KEYS}
        if root is None:  # the same for all rows: neither a block nor brackets can name other data
            data = _data_key(config)
            name_of_folder = f"leaderboard-{dataset}-{content_key(data, protocol)[:8]}"
            root = Path(folder or Path(plain["checkpoint_dir"]) / name_of_folder).absolute()
        row = content_key(data, name.model, _comparable(protocol if name.model == POP else plain))
        label = name.label if "item_text" in name.tag else _with_text(name, own)
        if row in labels:
            raise ConfigError(
                f"model: the rows '{labels[row]}' and '{label}' have the same settings and would be the same runs; "
                "keep one, or give one of them other settings"
            )
        labels[row] = label
        for seed in [None] if name.model == POP or model_spec(name.model).untrained else name.seeds or seeds:
            tasks.append(Task(label, name.model, dataset, seed, own, row, root / _folder_name(name, seed, row)))
    if root is None:
        raise ConfigError("no row can run: " + "; ".join(f"{label}: {reason}" for label, reason in impossible.items()))
    return Plan(dataset, root, tasks, impossible)


def _check_rows_and_seeds(names: Sequence[RowName], seeds: Sequence[int]) -> None:
    for name in names:
        if name.model != POP:
            check_model(name.model)
    for several in (seeds, *(name.seeds for name in names if name.seeds is not None)):
        if isinstance(several, (int, str)) or not several:
            raise ConfigError(f"seeds={several!r} must be a list of at least one seed; write --seeds=2024,2025")
        for seed in several:
            if isinstance(seed, bool) or not isinstance(seed, int):
                raise ConfigError(f"seeds={list(several)}: {seed!r} is not a whole number; write --seeds=2024,2025")
            FIELDS["seed"].read(seed)
        if len(set(several)) < len(several):
            raise ConfigError(f"seeds={list(several)} names a seed twice; runs of one seed are the same run")


def _with_text(name: RowName, own: Mapping) -> str:
    """The label of a row whose text is asked for outside its brackets."""
    head = name.model if name.label.startswith(name.model) else name.label
    return row_name(head, own.get("item_text")) + name.label.removeprefix(head)


def _folder_name(name: RowName, seed: int | None, row: str) -> str:
    label = re.sub(r"[^\w.=-]+", "_", name.label).strip("_")
    return f"{label}{'' if seed is None else f'-seed{seed}'}-{content_key(row, seed)[:8]}"


def carrier_of(model: str) -> str:
    """The model whose `Config` a row has: its own, but for Pop."""
    return CARRIER if model == POP else model


def _read_files(files: Iterable[str], names: Sequence[RowName]) -> tuple[dict, dict]:
    """Shared settings of YAML files, and the blocks under the name of a row or a model.

    Model, dataset and seed of a file are what the command falls back to; they are no settings of a row.
    """
    shared: dict = {}
    blocks: dict[str, dict] = {}
    models = {*recbole_models(), POP}
    for file in files:
        for key, value in read_yaml(file).items():
            # Blocks of rows that are not in this table are left out.
            if key.partition("[")[0].removesuffix("+text") in models:
                if not isinstance(value, Mapping):
                    raise ConfigError(
                        f"config_files: '{file}' has '{key}: {value!r}', but a model's block has lines 'key: value'"
                    )
                blocks.setdefault(key, {}).update(value)
            elif key not in OF_THE_TABLE:
                shared[key] = value
    for name in names:
        for own in (blocks.get(name.model, {}), blocks.get(name.label, {}), name.tag):
            check_keys(own, carrier_of(name.model))
            for key in filter({*PROTOCOL_KEYS, *SPLIT_KEYS, *PLACE_KEYS, "model", "dataset"}.__contains__, own):
                raise ConfigError(
                    f"{key} cannot be set for the row {name.label} alone: all rows of a table share it; set --{key}=…"
                )
    return shared, blocks


def _check_shared(shared: Mapping, names: Sequence[RowName], blocks: Mapping) -> None:
    for key in filter(shared.get, ("run_dir", "resume")):
        raise ConfigError(
            f"{key}={shared[key]!r} belongs to one run; leave it out: a leaderboard names and resumes its runs"
        )
    if shared.get("world_size") or shared.get("group_offset"):
        raise ConfigError(
            "world_size, group_offset: a run of a leaderboard uses the processes of one machine (--nproc=…); leave "
            "both out"
        )
    known = frozenset().union(*(_keys_of_row(name, {**shared, **_block(name, blocks), **name.tag}) for name in names))
    for key, value in shared.items():
        if key not in known:
            check_keys({key: value}, carrier_of(names[0].model))
            check_item_text({key: value}, carrier_of(names[0].model))
    recipe = shared.get("recipe")
    offered = sorted({offer for name in names for offer in model_spec(name.model).recipes})
    if recipe and recipe not in offered:
        hint = f"choose one of {', '.join(offered)}" if offered else "leave it out: none of the rows has recipes"
        raise ConfigError(f"recipe='{recipe}' is not a recipe of any row; {hint}")


def _block(name: RowName, blocks: Mapping) -> dict:
    """What the files say under the name of the row's model, and of the row."""
    return {**blocks.get(name.model, {}), **blocks.get(name.label, {})}


def _keys_of_row(name: RowName, own: Mapping) -> frozenset[str]:
    """The settings that a row reads: `item_text` only where it reads text, so that without it is the same row."""
    if reads_item_text(name.model, own):
        return known_keys(name.model)
    return keys_read(carrier_of(name.model), {}) - {"item_text"}


def _row_settings(name: RowName, shared: Mapping, command_line: Mapping, blocks: Mapping) -> dict:
    """The settings of one row: the shared ones that it knows, and its own."""
    own = {**shared, **_block(name, blocks), **command_line, **name.tag}
    known = _keys_of_row(name, own)
    own = {key: value for key, value in own.items() if key in known and key != "seed"}
    if own.get("recipe") not in model_spec(name.model).recipes and "recipe" not in name.tag:
        own.pop("recipe", None)
    if model_spec(name.model).untrained:
        own["epochs"] = 1
    return own


def _comparable(plain: Mapping) -> dict:
    """Settings that metrics depend on, files by their content."""
    kept = {key: value for key, value in plain.items() if key not in PLACE_KEYS}
    for key in keys_with("content"):
        if kept.get(key) and Path(kept[key]).is_file():
            kept[key] = Path(kept[key])
    own_code = {key: extension.source_key(thing) for key, thing in extension.registered_in(plain).items()}
    return {**kept, "source": own_code} if own_code else kept


def _data_key(config) -> str:
    """Key of the dataset's files; a dataset that RecBole can download is downloaded first."""
    folder, dataset = Path(config["data_path"]), config["dataset"]
    if not any(folder.glob(f"{dataset}*.inter")):
        from recbole.data.dataset import SequentialDataset

        SequentialDataset(config)
    return content_key([*sorted(folder.glob(f"{dataset}*.inter")), *sorted(folder.glob(f"{dataset}.item"))])
