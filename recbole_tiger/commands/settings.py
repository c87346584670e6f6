"""The command ``settings``: every setting of a model with its default, type and meaning.

Input: the settings of the command. Output: text, a paragraph for each key.
"""

from __future__ import annotations

import textwrap

from recbole_tiger.errors import ConfigError
from recbole_tiger.extension import described_keys as registered_keys
from recbole_tiger.settings.chain import Described, described_keys, files_below
from recbole_tiger.settings.validate import check_model, close_keys

_CHOOSING = ("dataset", "recipe", "semantic_id", "item_text", "scoring")
_WIDTH = 110


def run(settings: dict) -> str:
    """The keys that the property files of a run describe, RecBole's own first. Raises `ConfigError` for a model, recipe
    or key that there is not."""
    rest = dict(settings)
    model, dataset = rest.pop("model", "TIGER"), rest.pop("dataset", "ml-100k")
    wanted = rest.pop("key", None)
    check_model(model)
    for key, value in rest.items():
        if key not in _CHOOSING:
            raise ConfigError(f"{key}={value!r} chooses no settings; set --model, --key or {', '.join(_CHOOSING)}")
    found: dict[str, Described] = {}
    for file in files_below(model, dataset, rest):
        found |= {each.key: each for each in described_keys(file)}
    found |= {each.key: each for each in registered_keys({"model": model, **rest}, found)}
    if wanted is not None and wanted not in found:
        raise ConfigError(f"key={wanted!r} is no setting of {model}{close_keys(wanted, found)}")
    shown = found.values() if wanted is None else [found[wanted]]
    return "\n".join(_paragraph(each) for each in shown)


def _paragraph(key: Described) -> str:
    value = "~" if key.default is None else key.default
    text = textwrap.fill(f"({key.type}) {key.meaning}", _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{key.key}={value}\n{text}"
