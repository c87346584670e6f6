"""One setting's type, range and choices, and how a value is read by them.

Input: a value as typed, from YAML or from Python. Output: the value in the type of its key, or one clear error.
"""

from __future__ import annotations

import ast
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

from recbole_tiger.errors import ConfigError

_NULLS = ("none", "null", "~")
#: The largest whole number of any key: that of seeds. No count or size comes near it.
_LARGEST = 2**32 - 1
_NUMBER = r"\s*[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf)\s*"
_INTERVAL = re.compile(rf"[\[(]({_NUMBER}),({_NUMBER})[\])]")
_DEVICE = re.compile(r"-?\d+|(?:GPU|MIG)-[\w/-]+")
_PYTHON_TYPES = {"str": str, "bool": bool, "dict": Mapping}
_WORDS = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "text", "list": "a list"}
_WORDS["dict"] = "a dictionary of settings"


def literal(text: str) -> Any:
    """A text by its looks: true/false/none in any case, a Python literal, or the text itself. Nothing is evaluated."""
    lowered = text.strip().lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered in _NULLS:
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def is_interval(text: str) -> bool:
    """Whether RecBole can filter by it: intervals such as ``[5,inf)``, joined by ``;``, none of them reversed."""
    found = [_INTERVAL.fullmatch(part.strip()) for part in text.split(";")]
    return all(match is not None and float(match[1]) <= float(match[2]) for match in found)


def is_devices(text: str) -> bool:
    """Whether ``CUDA_VISIBLE_DEVICES`` can be it: nothing, or cards by number or name, separated by commas."""
    return not text or all(_DEVICE.fullmatch(part.strip()) for part in text.split(","))


def is_clipping(setting: Mapping) -> bool:
    """Whether torch's `clip_grad_norm_` takes these arguments."""
    numbers = [setting.get(key, 1.0) for key in ("max_norm", "norm_type")]
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers)
    flags = [setting.get(key) for key in ("error_if_nonfinite", "foreach")]
    return (
        "max_norm" in setting
        and set(setting) <= {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}
        and are_numbers
        and all(value > 0 for value in numbers)
        and all(flag is None or isinstance(flag, bool) for flag in flags)
    )


def are_columns(setting: Mapping) -> bool:
    """Whether RecBole can load by it: names of columns, or `*` for all, by the ending of a file."""
    return all(
        value == "*" or (isinstance(value, (list, tuple)) and all(isinstance(name, str) and name for name in value))
        for value in setting.values()
    )


@dataclass(frozen=True)
class Field:
    """One key.

    Attributes:
        name: the key.
        type: as in the comments of property files: str, int, float, bool, list, dict, or several of them with "or";
            "any" where nothing is known.
        range: of a number, and of each number in a list, as an interval such as ``[0,1)``; "" for every finite one.
        choices: the only values.
        renamed: former names of choices, each with its name of today.
        optional: may be null.
        form: whether a text or a dictionary has the form that works.
        words: what a value must be, in place of the words for type and range.
        only_with: another key, and its values with which alone this one is read.
        scopes: words of `schema.SCOPES`.
    """

    name: str
    type: str
    range: str = ""
    choices: tuple = ()
    renamed: Mapping[str, str] = dataclass_field(default_factory=dict)
    optional: bool = False
    form: Callable[[Any], bool] | None = None
    words: str = ""
    only_with: tuple[str, tuple] | None = None
    scopes: frozenset[str] = frozenset()

    @property
    def is_text(self) -> bool:
        """Whether a value stays text whatever it looks like."""
        return self.type == "str"

    @property
    def kinds(self) -> tuple[list[str], list[str]]:
        """The types of a single value, and those of an item of a list; both empty for lists of anything."""
        parts = self.type.split(" or ")
        single = [part for part in parts if not part.startswith("list")]
        return single, [part.removeprefix("list of ") for part in parts if part.startswith("list of ")] or single

    def parse(self, value: Any) -> Any:
        """The value in the type of the key where it can be one, else by its looks; nothing is checked."""
        if hasattr(value, "tolist"):  # numpy's numbers and arrays
            value = value.tolist()
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str):
            value = self._parse_text(value)
        if isinstance(value, (list, tuple)) and "list" in self.type:
            return [self._as_typed(item.tolist() if hasattr(item, "tolist") else item) for item in value]
        return self._as_typed(value)

    def _parse_text(self, text: str) -> Any:
        lowered = text.strip().lower()
        lowered = self.renamed.get(lowered, lowered)
        for choice in self.choices:
            if str(choice).lower() == lowered:
                return choice
        if self.is_text:
            is_home = text.startswith("~/") and self.scopes & {"place", "path", "command"}  # no shell expands YAML
            return None if self.optional and lowered in _NULLS else os.path.expanduser(text) if is_home else text
        value = literal(text)
        if (
            isinstance(value, str)
            and "list" in self.type
            and ("str" not in self.type or value[:1] in "[(" or "," in value)
        ):
            return [name.strip(" '\"") for name in value.strip("[]() ").split(",")]  # names need no quotes
        return value

    def _as_typed(self, value: Any) -> Any:
        if self.type == "bool" and type(value) is int and value in (0, 1):
            return bool(value)
        if isinstance(value, float) and value.is_integer() and "int" in self.type and "float" not in self.type:
            return int(value)
        if self.is_text and isinstance(value, tuple):
            return ",".join(map(str, value))
        is_scalar = isinstance(value, (int, float)) and not isinstance(value, bool)
        return str(value) if self.is_text and (is_scalar or (self.form and isinstance(value, list))) else value

    def read(self, value: Any) -> Any:
        """The value in the type of the key. Raises `ConfigError` for a value that cannot work."""
        parsed = self.parse(value)
        if isinstance(value, str) and value.strip().lower() in self.renamed:
            warnings.warn(f"{self.name}={value} is now called {self.name}={parsed}", FutureWarning, stacklevel=2)
        if self.type == "any" or (parsed is None and self.optional):
            return parsed
        if self.choices and not any(type(parsed) is type(choice) and parsed == choice for choice in self.choices):
            raise ConfigError(
                f"{self.name}={value!r} is not possible; choose one of {', '.join(map(str, self.choices))}"
            )
        if parsed == "" and self.form is None and self.scopes & {"place", "command"}:
            raise ConfigError(f"{self.name}='' must not be empty; leave it out for the default")
        if isinstance(parsed, int) and abs(parsed) > _LARGEST:
            raise ConfigError(f"{self.name}={value!r} is too large: the largest whole number is {_LARGEST}")
        single, items = self.kinds
        if isinstance(parsed, list) and "list" in self.type:
            fits = not items or (bool(parsed) and all(self._fits(item, items) for item in parsed))
        else:
            fits = self._fits(parsed, single) and (self.form is None or self.form(parsed))
        if not fits:
            raise ConfigError(f"{self.name}={value!r} must be {self.words or self._words()}")
        return parsed

    def _fits(self, value: Any, kinds: Sequence[str]) -> bool:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            is_kind = "float" in kinds or ("int" in kinds and isinstance(value, int))
            return is_kind and math.isfinite(value) and _lies_in(value, self.range)
        return any(isinstance(value, _PYTHON_TYPES[kind]) for kind in kinds if kind in _PYTHON_TYPES)

    def _words(self) -> str:
        kinds = [_WORDS[kind] for kind in self.kinds[0]] or [f"a list of {self.type.removeprefix('list of ')}"]
        if self.type == "list":
            kinds = ["a list"]
        elif "list" in self.type and self.kinds[0]:
            kinds.append("a list of them")
        return " or ".join([kinds[0] + _range_words(self.range), *kinds[1:]])


def _lies_in(value: float, interval: str) -> bool:
    if not interval:
        return True
    low, high = map(float, interval[1:-1].split(","))
    return (low < value or (low == value and interval[0] == "[")) and (
        value < high or (value == high and interval[-1] == "]")
    )


def _range_words(interval: str) -> str:
    """An interval as it follows "a number"."""
    if not interval:
        return ""
    low, high = interval[1:-1].split(",")
    start = f" of at least {low}" if interval[0] == "[" else f" above {low}"
    return start if high == "inf" else f"{start} and {'at most' if interval[-1] == ']' else 'below'} {high}"
