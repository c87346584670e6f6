"""The command line and YAML files as plain dictionaries; nothing is evaluated, and RecBole is not imported.

Input: ``--key=value`` arguments, paths of YAML files. Output: dictionaries of settings.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from recbole_tiger.errors import ConfigError
from recbole_tiger.settings.field import literal
from recbole_tiger.settings.schema import FIELDS


def parse_value(text: str, key: str) -> Any:
    """One value of the command line, in the type of its key; by its looks for a key without a `Field`.

    A dictionary may be written as in YAML. Nothing is evaluated, while RecBole's own reading runs ``eval`` on it, and
    nothing is checked.
    """
    value = FIELDS[key].parse(text) if key in FIELDS else literal(text)
    if isinstance(value, str) and key in FIELDS and FIELDS[key].type == "dict":
        with suppress(yaml.YAMLError, ValueError, TypeError):
            value = yaml.load(value, Loader=_Loader)
    return value


def parse_command_line(arguments: Sequence[str]) -> dict:
    """``--key=value`` arguments as a dictionary; everything else is an error. Raises `ConfigError` for an argument of
    another form, or a key given twice with different values."""
    settings: dict = {}
    for argument in arguments:
        key, equals, value = argument[2:].partition("=")
        if not argument.startswith("--") or not equals or not key:
            raise ConfigError(
                f"cannot read the argument '{argument}': write --key=value, for example --dataset=ml-100k"
            )
        value = parse_value(value, key)
        if key in settings and settings[key] != value:
            raise ConfigError(f"--{key} is given twice, as {settings[key]!r} and as {value!r}: keep one")
        settings[key] = value
    return settings


def read_yaml(path: str | Path) -> dict:
    """A property file as a dictionary. Raises `ConfigError` if the file is missing, is not YAML, or is not a
    mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text in UTF-8"
        raise ConfigError(f"config_files: cannot read '{path}' ({reason}); name an existing YAML file") from error
    try:
        content = yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise ConfigError(f"config_files: '{path}' is not valid YAML: its brackets are nested too deeply") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # the latter for a tag that does not fit
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        words = f"{problem} (line {mark.line + 1})" if mark and problem else " ".join(str(error).split())
        raise ConfigError(f"config_files: '{path}' is not valid YAML: {words}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config_files: '{path}' must hold 'key: value' lines, but holds a {type(content).__name__}")
    return content


def read_config_files(paths: str | Path | Iterable[str | Path] | None) -> dict:
    """The settings of one or several property files; of a key in two of them the last one counts. Raises `ConfigError`
    as :func:`read_yaml`."""
    settings: dict = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths or ():
        content = read_yaml(path)
        if "config_files" in content:
            raise ConfigError(
                f"config_files: '{path}' names further files ({content['config_files']!r}), which are not read; name "
                "all of them on the command line"
            )
        settings.update(content)
    return settings


def pop_config_files(settings: dict) -> list[str]:
    """Take the paths of `config_files` out of settings: a list, one path, or several separated by blanks.

    A path with blanks is one if such a file exists, or if it stands in quotes or in a list.

    Raises:
        ConfigError: for something else, or an open quote.
    """
    given = FIELDS["config_files"].read(settings.pop("config_files", None))
    if given is None or isinstance(given, list):
        return given or []
    if Path(given).is_file() or not {"'", '"'} & set(given):
        return [given] if Path(given).is_file() else given.split()
    try:
        return shlex.split(given)
    except ValueError as error:
        raise ConfigError(f"config_files={given!r} cannot be read ({error}); close the quote") from error


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
# What a plain value can be taken for, but for null.
_LOOKS_LIKE = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp", "merge", "value")}


class _Loader(yaml.SafeLoader):
    """RecBole's YAML loader, which also reads 1e-3 as a number, without what YAML would read as something else.

    Text keys keep plain values as they are written. Keys that are no text or stand twice, numbers that are not finite,
    and those that YAML takes for others (8 for 010, 90 for 1:30) are errors.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        """A mapping, once its keys are checked."""
        seen: set[str] = set()
        for key, value in getattr(node, "value", ()):
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                raise ConstructorError(
                    None, None, f"the key {_shown(key)} is not text; write it in quotes", key.start_mark
                )
            if key.value in seen:
                raise ConstructorError(None, None, f"the key {key.value} is given twice; keep one", key.start_mark)
            seen.add(key.value)
            is_plain = isinstance(value, yaml.ScalarNode) and value.tag in _LOOKS_LIKE
            if is_plain and key.value in FIELDS and FIELDS[key.value].is_text:
                value.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)

    def construct_number(self, node: Any) -> float:
        """A number that is what it looks like."""
        is_float = node.tag == _FLOAT
        value = self.construct_yaml_float(node) if is_float else self.construct_yaml_int(node)
        if not math.isfinite(value):
            raise ConstructorError(None, None, f"{node.value} is not a finite number", node.start_mark)
        if ":" in node.value or (not is_float and re.fullmatch(r"[-+]?0[\d_]+", node.value)):
            problem = f"{node.value} is the number {value:g} in YAML; write that, or quotes for text"
            raise ConstructorError(None, None, problem, node.start_mark)
        return value


def _shown(key: yaml.Node) -> str:
    return key.value if isinstance(key, yaml.ScalarNode) else "in brackets"


for _tag in (_INT, _FLOAT):
    _Loader.add_constructor(_tag, _Loader.construct_number)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"""^(?:
         [-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
        |\.[0-9_]+(?:[eE][-+][0-9]+)?
        |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
