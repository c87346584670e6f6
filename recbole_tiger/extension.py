"""Registration of tokenizers, decoders, models and metrics, in this process and in those that it starts.

Input: classes and functions, registered by a call, by an entry point of an installed package, or by a plugin (a file or
a module that calls these functions when it is imported). Output: names that settings take like those of this library.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import re
import secrets
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from recbole_tiger.cache import content_key
from recbole_tiger.decoding.registry import DECODERS, STANDARD, Search
from recbole_tiger.errors import ConfigError
from recbole_tiger.models import ENTRY_POINTS, MODELS, ModelSpec, model_spec
from recbole_tiger.quantization import QUANTIZERS, Quantizer
from recbole_tiger.settings.chain import Described
from recbole_tiger.settings.field import Field
from recbole_tiger.settings.schema import FIELDS, add_choice
from recbole_tiger.settings.signature import argument_fields, described, field_of

T = TypeVar("T", bound=type)

#: The names of what is shipped, which nothing replaces.
_SHIPPED = {"semantic_id": frozenset(QUANTIZERS) | {"file"}, "scoring": frozenset(DECODERS), "model": frozenset(MODELS)}
_OWN_KEYS: dict[tuple[str, str], list[str]] = {}  # the settings of each registered name
_MEANINGS: dict[str, str] = {}  # of these settings
_PLUGINS: dict[str, ModuleType] = {}
_entry_points_are_loaded = False


# ------------------------------------------------------------------------------------------------------- registration


def register_tokenizer(name: str, cls: type[Quantizer]) -> type[Quantizer]:
    """Register a class as tokenizer for `semantic_id=NAME`.

    The arguments of its constructor become the settings `NAME_argument`, with type and default as they are written
    there (`Literal` gives choices), and their meanings from `Args:` in its docstring.

    Args:
        name: lower-case letters, digits and underscores.
        cls: a `Quantizer`; `recbole_tiger.testing.check_tokenizer` says whether it keeps the contract.

    Raises:
        ConfigError: for a name that is taken, or a class that cannot be made from settings.
    """
    _check_name("semantic_id", name, QUANTIZERS.get(name), cls)
    if not (isinstance(cls, type) and issubclass(cls, Quantizer)):
        raise ConfigError(
            f"tokenizer '{name}': {cls!r} is not a subclass of recbole_tiger.Quantizer; derive it from it"
        )
    if inspect.isabstract(cls):
        raise ConfigError(f"tokenizer '{name}': {cls.__name__} lacks {', '.join(sorted(cls.__abstractmethods__))}")
    _add_fields(("semantic_id", name), argument_fields(f"{name}_", cls, scopes=("tokenizer",)), described(cls))
    cls.name = name
    QUANTIZERS[name] = cls
    add_choice("semantic_id", name)
    return cls


def register_decoder(name: str, search: Search) -> Search:
    """Register a search as decoder for `scoring=NAME`, in validation, test, `recommend` and `evaluate`.

    Keyword arguments beyond those of :class:`recbole_tiger.decoding.Search` become the settings `NAME_argument`.

    Args:
        name: lower-case letters, digits and underscores.
        search: a function from a step decoder and a trie to ranked items; `recbole_tiger.testing.check_decoder` says
            whether it keeps the contract.

    Raises:
        ConfigError: for a name that is taken, or a function that does not take what a search gets.
    """
    _check_name("scoring", name, DECODERS.get(name), search)
    fields = argument_fields(f"{name}_", search, ("decoder", "reevaluate"), without=STANDARD)
    _add_fields(("scoring", name), fields, described(search))
    DECODERS[name] = search
    add_choice("scoring", name)
    return search


def register_model(cls: T) -> T:
    """Register a class, a sequential model in RecBole's form, as `model=NAME`, where NAME is the name of the class.

    A class that derives from a model of this library or of RecBole inherits its dataset, trainer, recipes and settings;
    one that derives from `GenerativeRecommender` those of TIGER. Two attributes of the class are read:
    `default_settings`, its own keys with their defaults, and `shares_batches`, True if the loss of a batch is the mean
    of the losses of its parts, so that several processes may share a batch.

    RecBole's `Config(model=YourClass)` registers a class that derives from a model of this library automatically.

    Raises:
        ConfigError: for a class that is not a sequential model, or has the name of another model.
    """
    if not (isinstance(cls, type) and any(each.__name__ == "SequentialRecommender" for each in cls.__mro__)):
        raise ConfigError(
            f"model {cls!r} is not a sequential recommender; derive the class from one of the models, or from "
            "recbole.model.abstract_recommender.SequentialRecommender"
        )
    name = cls.__name__
    _check_name("model", name, model_spec(name).cls, cls)
    own = dict(getattr(cls, "default_settings", {}))
    _add_fields(("model", name), [field_of(key, None, value) for key, value in own.items()], described(cls, "Settings"))
    base = _base_of(cls)
    shares = bool(vars(cls).get("shares_batches", False))  # not inherited: a loss of one's own may not
    MODELS[name] = replace(
        base,
        name=name,
        cls=cls,
        base=base.name or None,
        settings=own,
        shares_batches=shares,
        item_tables=(),
        skips_padding=False,
    )
    sys.modules.pop(f"recbole.model.sequential_recommender.{name.lower()}", None)  # of a class that this one replaces
    return cls


def register_metric(cls: T) -> T:
    """Register a metric for `metrics`: a class in the form of `recbole.evaluator.metrics`, also known to RecBole.

    Raises:
        ConfigError: for a class that is not a metric in RecBole's form, or has the name of another metric.
    """
    from recbole.evaluator import register
    from recbole.evaluator.base_metric import AbstractMetric

    if not (isinstance(cls, type) and issubclass(cls, AbstractMetric) and hasattr(cls, "metric_need")):
        raise ConfigError(f"metric {cls!r} is not a subclass of recbole.evaluator.base_metric.AbstractMetric")
    metric: Any = cls
    name, taken = metric.__name__.lower(), register.metrics_dict.get(metric.__name__.lower())
    if taken is not None and not _is_same(taken, cls):
        raise ConfigError(f"metric '{name}' is {taken.__module__}.{taken.__name__} already; choose another name")
    register.metrics_dict[name] = cls
    register.metric_information[name] = metric.metric_need
    register.metric_types[name] = metric.metric_type
    if metric.smaller and name not in register.smaller_metrics:
        register.smaller_metrics.append(name)
    return cls


def name_of(model: Any) -> Any:
    """The name of a model that is given by its name or by its class; a class that is no shipped one is registered."""
    if not isinstance(model, type):
        return model
    if not _is_shipped(model):
        register_model(model)
    return model.__name__


def _is_shipped(cls: type) -> bool:
    return cls.__module__.startswith(("recbole.model.", "recbole_tiger.model."))


def register_derived(cls: type) -> None:
    """Register a class that derives from a model of this library, unless it is one or is registered."""
    if model_spec(cls.__name__).cls is not cls and not _is_shipped(cls) and _base_of(cls).ours:
        register_model(cls)


def _base_of(cls: type) -> ModelSpec:
    """What is known of the nearest model that a class derives from; "" is the name where it derives from none."""
    for ancestor in cls.__mro__[1:]:
        name, spec = ancestor.__name__, model_spec(ancestor.__name__)
        if spec.cls is ancestor:
            return replace(spec, name=spec.family)
        if name == "GenerativeRecommender":
            return replace(model_spec("TIGER"), has_t5=False)
        if _is_shipped(ancestor) and not ancestor.__module__.endswith("abstract_recommender"):
            return spec
    return ModelSpec("")


def _is_same(old: Any, new: Any) -> bool:
    """Whether one is a later definition of the other, as when a cell of a notebook or a file is run again."""
    return (old.__module__, old.__qualname__) == (getattr(new, "__module__", None), getattr(new, "__qualname__", None))


def _check_name(key: str, name: str, taken: Any, new: Any) -> None:
    if key != "model" and not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
        raise ConfigError(f"{key}={name!r} cannot be a name: write lower-case letters, digits and underscores")
    if name in _SHIPPED[key]:
        raise ConfigError(f"{key}={name!r} is shipped with recbole_tiger; choose another name")
    if taken is not None and not _is_same(taken, new):
        raise ConfigError(f"{key}={name!r} is registered already, by {taken.__module__}; choose another name")


def _add_fields(owner: tuple[str, str], fields: Iterable[Field], meanings: Mapping[str, str]) -> None:
    """Add the settings of a registered name, in place of those that it had before."""
    fields, before = list(fields), _OWN_KEYS.get(owner, [])
    prefix = "" if owner[0] == "model" else f"{owner[1]}_"
    for field in fields:
        if field.name in FIELDS and field.name not in before and owner[0] != "model":
            raise ConfigError(f"{owner[0]}={owner[1]!r}: the setting {field.name} is taken; choose another name")
    for key in before:
        FIELDS.pop(key, None)
    _OWN_KEYS[owner] = [field.name for field in fields if field.name not in FIELDS]
    FIELDS.update({field.name: field for field in fields if field.name not in FIELDS})
    _MEANINGS.update({f"{prefix}{argument}": text for argument, text in meanings.items()})


# -------------------------------------------------------------------------------------- plugins and installed packages


def load(plugins: str | Iterable[str] | None = None) -> list[str]:
    """Load the entry points of installed packages, and plugins, each once in a process.

    Args:
        plugins: paths of Python files, or names of modules: a list of them, or a text in which commas separate them.

    Returns:
        all plugins of this process, files by their absolute paths: what a process that this one starts has to load.

    Raises:
        ConfigError: for a plugin that cannot be found, or fails.
    """
    _load_entry_points()
    for plugin in map(str, FIELDS["plugin"].read(plugins) or ()):
        name = os.path.abspath(plugin) if plugin.endswith(".py") else plugin
        if name not in _PLUGINS:
            _PLUGINS[name] = _guarded(f"plugin='{plugin}'", functools.partial(_import, name))
    return list(_PLUGINS)


def _load_entry_points() -> None:
    global _entry_points_are_loaded
    if _entry_points_are_loaded:
        return
    _entry_points_are_loaded = True
    registers: dict[str, Callable] = {"tokenizers": register_tokenizer, "decoders": register_decoder}
    for group in ENTRY_POINTS:
        for entry in entry_points(group=f"recbole_tiger.{group}"):
            where = f"entry point {entry.name} = {entry.value} of an installed package (group recbole_tiger.{group})"
            thing = _guarded(where, entry.load)
            register_model(thing) if group == "models" else registers[group](entry.name, thing)


def _import(name: str) -> ModuleType:
    if not name.endswith(".py"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError("is not a module that Python finds; give a path that ends in .py, or install the module")
        return importlib.import_module(name)
    if not Path(name).is_file():
        raise ConfigError("is not a file; give the path of a Python file, or the name of a module")
    own = f"recbole_tiger_plugin_{Path(name).stem}_{content_key(name)[:8]}"  # files of one name are several modules
    spec = importlib.util.spec_from_file_location(own, name)
    assert spec is not None and spec.loader is not None  # of a file that ends in .py
    module = sys.modules[own] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own]
        raise
    return module


def _guarded(where: str, work: Callable[[], Any]) -> Any:
    """What some code of others gives, its errors as a `ConfigError` that says where."""
    try:
        return work()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{error.filename}, line {error.lineno}" if isinstance(error, SyntaxError) else None
        raise ConfigError(
            f"{where} failed with {type(error).__name__}: {error} ({line or f'{frame.filename}, line {frame.lineno}'})"
        ) from error


# ------------------------------------------------------------------------------------------- what is known of the rest


def registered_in(settings: Mapping) -> dict[str, Any]:
    """The registered classes and functions that settings name, by key: `model`, `semantic_id`, `scoring`."""
    named = {
        "model": model_spec(settings.get("model")).cls,
        "semantic_id": QUANTIZERS.get(str(settings.get("semantic_id"))),
        "scoring": DECODERS.get(str(settings.get("scoring"))),
    }
    return {key: thing for key, thing in named.items() if thing is not None and settings[key] not in _SHIPPED[key]}


def check_registered(settings: Mapping, known_models: Iterable[str], metrics: Collection[str] | None = None) -> None:
    """Raise for the settings of a stored run whose model, tokenizer or decoder is not registered in this process.

    A checkpoint names its plugin, but opening one runs no code: who opens it says what is to be loaded.

    Args:
        metrics: names in lower case; None where none is computed.

    Raises:
        ConfigError: naming what is missing.
    """
    known = {"model": [*known_models], "semantic_id": [*QUANTIZERS, "file"], "scoring": DECODERS}
    named = [(key, settings[key], settings[key] in names) for key, names in known.items() if settings.get(key)]
    if metrics is not None:
        named += [("metrics", name, name.lower() in metrics) for name in settings["metrics"]]
    for key, name, is_known in named:
        if not is_known:
            plugin = ",".join(settings.get("plugin") or ()) or "FILE.py"
            raise ConfigError(
                f"{key}='{name}' of this run is not registered here; import the module that registers it, or "
                f"give --plugin={plugin}"
            )


def source_key(thing: Any) -> str:
    """A key of the source file of a class or function; a new one every time where there is no such file.

    What a registered class has made is kept under it, so that a changed class makes anew.
    """
    try:
        inspect.getsource(thing)  # raises where the file does not hold it, as for a cell of a notebook
        return content_key(Path(str(inspect.getsourcefile(thing))))
    except (OSError, TypeError):
        return secrets.token_hex(16)


def described_keys(chosen: Mapping, shipped: Mapping[str, Described]) -> list[Described]:
    """What is known of the settings of the registered model, tokenizer and decoder that some settings choose.

    Args:
        chosen: names under `model`, `semantic_id` and `scoring`.
        shipped: keys of the property files, whose defaults a model may change.
    """
    defaults = dict(model_spec(chosen.get("model")).settings)
    for key, thing in registered_in(chosen).items():
        if key != "model":
            parameters = inspect.signature(thing).parameters.values()
            defaults |= {f"{chosen[key]}_{each.name}": each.default for each in parameters}
    return [
        replace(shipped[key], default=default)
        if key in shipped
        else Described(key, default, _kind(FIELDS[key]), _MEANINGS.get(key, ""), FIELDS[key].choices)
        for key, default in defaults.items()
        if key in FIELDS
    ]


def _kind(field: Field) -> str:
    return "|".join(map(str, field.choices)) or field.type


def help_text() -> str:
    """The settings of all that is registered, as lines of the help; "" where nothing is."""
    lines = []
    for (key, name), keys in _OWN_KEYS.items():
        lines.append(f"\nsettings of {key}={name}:")
        for own in keys:
            lines.append(f"  --{own}  ({_kind(FIELDS[own])}) {_MEANINGS.get(own, '')}".rstrip())
    return "\n".join(lines) + "\n" if lines else ""
