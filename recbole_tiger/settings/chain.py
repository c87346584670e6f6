"""The chain of property files: what is shipped for a model, a dataset and a recipe, under the user's settings.

Input: names of a model and a dataset, the user's settings. Output: the shipped settings, merged in their order.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_tiger.errors import ConfigError
from recbole_tiger.models import model_spec
from recbole_tiger.settings.parse import read_config_files, read_yaml
from recbole_tiger.settings.split import SPLIT_KEYS, split_setting

_PACKAGE = Path(__file__).resolve().parent.parent
#: In a wheel the property files lie inside the package, in a checkout beside it.
PROPERTIES = _PACKAGE / "properties" if (_PACKAGE / "properties").is_dir() else _PACKAGE.parent / "properties"


#: Defaults of `item_text` and what it reads, which a run without it does not have.
TEXT_PROPERTIES = PROPERTIES / "item_text.yaml"


def reads_item_text(model: str, settings: Mapping) -> bool:
    """Whether the items of a model with item tables have text beside or in place of embeddings of their own."""
    return bool(model_spec(model).item_tables) and settings.get("item_text") in ("add", "only")


def default_recipe(model: str, dataset: str, settings: Mapping) -> str | None:
    """The recipe used when none is asked for: `tiny` on ml-100k (minutes on two cores), the model's first elsewhere.

    P5's says what it starts from, and whether its item numbers leak the order of the data.
    """
    if model_spec(model).family == "P5":
        start = "checkpoint" if settings.get("p5_checkpoint") else "scratch"
        return start + ("_leaking" if settings.get("p5_item_numbers") == "consecutive" else "")
    recipes = model_spec(model).recipes
    if not recipes:
        return None
    return "tiny" if dataset == "ml-100k" and "tiny" in recipes else recipes[0]


def model_files(model: str, recipe: str | None) -> list[Path]:
    """The property files of a model: its own, and on top of it that of a recipe other than the default.

    A registered class has those of the model that it derives from.
    """
    spec = model_spec(model)
    files = [PROPERTIES / "model" / f"{spec.family}.yaml"]
    if recipe is not None and recipe != spec.recipes[0]:
        files.append(PROPERTIES / "model" / f"{spec.family}_{recipe}.yaml")
    return files


def recbole_file(model: str) -> Path:
    """RecBole's property file of a model, which need not exist; RecBole is not imported."""
    found = importlib.util.find_spec("recbole")
    assert found is not None and found.origin is not None  # it is a requirement of this package
    return Path(found.origin).parent / "properties" / "model" / f"{model}.yaml"


def files_below(model: str, dataset: str, settings: Mapping) -> list[Path]:
    """RecBole's property files of a model, its general one first, then ours as :func:`property_files` has them."""
    theirs = recbole_file(model)
    files = [theirs.parent.parent / "overall.yaml", theirs, *property_files(model, dataset, settings)]
    return [file for file in files if file.is_file()]


def recipe_lines(model: str) -> dict[str, str]:
    """What the first line of each recipe's property file says of it: sizes, passes, measured quality and time."""
    lines = {}
    for recipe in model_spec(model).recipes:
        file = model_files(model, recipe)[-1]
        if file.is_file():
            lines[recipe] = file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").strip()
    return lines


def quicker_recipes(config: Mapping) -> str:
    """The recipes of a model that take less time than its own, a line for each with what it says; "" for none."""
    lines = recipe_lines(config["model"])
    own = _minutes(lines.get(config["recipe"] or "", ""))
    quicker = {recipe: line for recipe, line in lines.items() if _minutes(line) < own}
    return "Quicker:" + "".join(f"\n  --recipe={name}: {line}" for name, line in quicker.items()) if quicker else ""


def _minutes(line: str) -> float:
    """Minutes on one or two cores that the first line of a recipe tells; infinite where it tells none."""
    found = re.search(r"(?P<number>[\d.]+) (?P<unit>min|h|days?) on (?:one|two) cores?", line)
    return float(found["number"]) * {"m": 1, "h": 60, "d": 1440}[found["unit"][0]] if found else float("inf")


def property_files(model: str, dataset: str, settings: Mapping) -> list[Path]:
    """Our property files for a run, in the order in which each overrides the one before.

    Args:
        settings: what the user has set; ``recipe`` and ``semantic_id`` choose files.
    """
    recipe = settings.get("recipe") or default_recipe(model, dataset, settings)
    recipes = model_spec(model).recipes
    if settings.get("recipe") and recipe not in recipes:
        offered = f"choose one of {', '.join(recipes)}" if recipes else f"leave it out: {model} has no recipes"
        raise ConfigError(f"recipe='{recipe}' is not a recipe of {model}; {offered}")
    by_model = model_files(model, recipe)
    by_dataset = PROPERTIES / "dataset" / f"{dataset}.yaml"
    by_method = []
    if model_spec(model).uses_semantic_ids:
        shipped = read_config_files(by_model)
        by_method = [PROPERTIES / "semantic_id" / f"{settings.get('semantic_id') or shipped['semantic_id']}.yaml"]
    by_text = [TEXT_PROPERTIES] if reads_item_text(model, settings) else []
    files = [PROPERTIES / "overall.yaml", *by_text, by_model[0], *by_method, *by_model[1:], by_dataset]
    if model_spec(model).cls is not None:  # RecBole reads the file of a model by its own name only
        files.insert(0, recbole_file(model_spec(model).family))
    return [file for file in files if file.is_file()]


def shipped_settings(model: str, dataset: str, settings: Mapping) -> dict:
    """The merged content of :func:`property_files`, with the feature keys of feature models filled in.

    `split` and its cut-offs become the `split` entry of `eval_args`, where RecBole looks, and stand nowhere else.

    Raises:
        ConfigError: for a recipe or a split that cannot be.
    """
    merged = {**read_config_files(property_files(model, dataset, settings)), **model_spec(model).settings}
    given = {key: settings[key] for key in SPLIT_KEYS if settings.get(key) is not None}
    split = split_setting({key: given.get(key, merged.pop(key)) for key in SPLIT_KEYS})
    given.pop("split", None)
    if given and "temporal" not in split:
        key, value = next(iter(given.items()))
        raise ConfigError(f"{key}={value!r} is for split=temporal; set that as well, or leave {key} out")
    merged["eval_args"] = {**merged["eval_args"], "split": split}
    if model_spec(model).recipes:
        merged["recipe"] = settings.get("recipe") or default_recipe(model, dataset, settings)
    feature_key = model_spec(model).feature_key
    if feature_key:
        feature = settings.get("item_feature", merged.get("item_feature"))
        if feature:
            columns = dict(settings.get("load_col") or merged.get("load_col") or {})
            columns["item"] = [settings.get("ITEM_ID_FIELD", "item_id"), feature]
            merged[feature_key] = [feature] if feature_key == "selected_features" else feature
            merged["load_col"] = columns
    return merged


def changed_settings(config: Mapping) -> dict:
    """The plain settings of a run that are not the defaults of its model, recipe and dataset, RecBole's below ours."""
    model, dataset = config["model"], config["dataset"]
    chosen = {key: config[key] for key in ("semantic_id", "item_text") if config.get(key) is not None}
    if config.get("recipe") in model_spec(model).recipes:
        chosen["recipe"] = config["recipe"]
    shipped = shipped_settings(model, dataset, chosen)
    defaults = {**read_config_files(files_below(model, dataset, chosen)), **shipped}
    return {key: config[key] for key, value in defaults.items() if key in config and config[key] != value}


@dataclass(frozen=True)
class Described:
    """A line of a property file: a key with its default, and the type, meaning and choices of its comment."""

    key: str
    default: Any
    type: str
    meaning: str
    choices: tuple = ()


_COMMENTED = re.compile(r"^(\w+):.*? # \(([^)]+)\) (.+)$", re.MULTILINE)


def described_keys(file: Path) -> list[Described]:
    """What a property file says of its keys, for help and documentation: the one place where their meaning stands."""
    defaults, found = read_yaml(file), []
    for key, type, meaning in _COMMENTED.findall(file.read_text(encoding="utf-8")):
        choices = re.search(r"Range in (\[.*?\])", meaning)
        found.append(
            Described(key, defaults[key], type, meaning, tuple(ast.literal_eval(choices[1])) if choices else ())
        )
    return found
