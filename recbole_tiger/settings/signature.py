"""Arguments of a class or a function as settings: their types from annotations, their meanings from the docstring.

Input: a class or function with annotated keyword arguments. Output: a `Field` for each, and texts by argument.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from recbole_tiger.errors import ConfigError
from recbole_tiger.settings.field import Field

_NAMES: dict[Any, str] = {int: "int", float: "float", bool: "bool", str: "str", dict: "dict", Mapping: "dict"}


def argument_fields(
    prefix: str, thing: Callable[..., Any], scopes: Iterable[str] = (), without: Iterable[str] = ()
) -> list[Field]:
    """A setting `<prefix><argument>` for each argument that has a default.

    Args:
        thing: a class, whose constructor counts, or a function.
        scopes: of the settings.
        without: arguments that are no settings; a function without `**` must take all of them.

    Raises:
        ConfigError: for arguments that settings cannot fill.
    """
    parameters, hints = inspect.signature(thing).parameters, _hints(thing)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    missing = [name for name in without if name not in parameters and not takes_any]
    if missing:
        raise ConfigError(f"{_called(thing)} does not take {', '.join(missing)}; add the arguments, or **options")
    fields = []
    for name, parameter in parameters.items():
        if name in without or parameter.kind is parameter.VAR_KEYWORD:
            continue
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL)
        if positional or parameter.default is parameter.empty:
            raise ConfigError(f"the argument '{name}' of {_called(thing)} must have a default and be given by its name")
        fields.append(field_of(prefix + name, hints.get(name), parameter.default, scopes))
    if isinstance(thing, type):
        own = {name for name, hint in vars(thing).get("__annotations__", {}).items() if "ClassVar" not in str(hint)}
        lost = sorted(name for name in own - parameters.keys() if not name.endswith("_"))
        if lost:
            raise ConfigError(
                f"{', '.join(lost)} of {thing.__name__} are not arguments of its constructor; put @dataclass(kw_only="
                "True, eq=False) above the class"
            )
    return fields


def field_of(key: str, hint: Any, default: Any, scopes: Iterable[str] = ()) -> Field:
    """A setting of the type that an annotation says, or without one, of its default's type."""
    if hint is None:
        hint = type(default) if type(default) in (*_NAMES, list) else Any
        hint = list if isinstance(default, tuple) else hint
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    optional = type(None) in parts or default is None
    choices: list[Any] = []
    names: list[str] = []
    for part in parts:
        if part is type(None):
            continue
        if typing.get_origin(part) is Literal:
            choices += typing.get_args(part)
            names += {_NAMES.get(type(choice), "any") for choice in typing.get_args(part)}
        else:
            names.append(_name_of(part))
    names = sorted(dict.fromkeys(names), key=lambda name: name.startswith("list"))
    kind = "any" if "any" in names or not names else " or ".join(names)
    return Field(key, kind, choices=tuple(choices), optional=optional, scopes=frozenset(scopes))


def _called(thing: Any) -> str:
    return str(getattr(thing, "__name__", type(thing).__name__))


def _name_of(hint: Any) -> str:
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if isinstance(origin, type) and origin in (list, tuple, Sequence):
        of = _NAMES.get(inner[0]) if inner else None
        return f"list of {of}" if of else "list"
    return _NAMES.get(origin, "any")


def _hints(thing: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the arguments, those that cannot be resolved left out."""
    own_init = isinstance(thing, type) and not hasattr(thing, "__dataclass_fields__")
    source: Any = thing.__init__ if own_init or (isinstance(thing, type) and "__init__" in vars(thing)) else thing
    try:
        hints = typing.get_type_hints(source)
    except (NameError, TypeError, AttributeError):
        return {}
    return {name: hint for name, hint in hints.items() if typing.get_origin(hint) is not ClassVar}


def described(thing: Any, section: str = "Args") -> dict[str, str]:
    """What a docstring in Google's form says of each argument in a section, by name."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index(f"{section}:") + 1 :] if f"{section}:" in lines else ():
        if line and not line.startswith(" "):
            break
        if re.match(r" {4}\S.*:", line):
            head, _, text = line.partition(":")
            names = [name.strip() for name in head.split(",")]
            meanings.update(dict.fromkeys(names, text.strip()))
        else:
            meanings.update({name: f"{meanings[name]} {line.strip()}".strip() for name in names})
    return meanings
