"""How a sweep runs: every option once, with its type, limits and help text.

Input: values of the command line or of Python code. Output: checked options, and rows for the help of the command.
What is searched stands in the space.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from recbole_tiger.errors import ConfigError
from recbole_tiger.settings.field import Field

MAX_TRIALS = 10_000  # four digits name the file of each


def _option(default: Any, text: str, range: str = "", choices: tuple = ()) -> Any:
    """A field of :class:`Options`; range and choices as in :class:`recbole_tiger.settings.field.Field`."""
    return dataclasses.field(default=default, metadata={"help": text, "range": range, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a sweep; the metadata of each field is its help text and its limits."""

    search: str | None = _option(None, "by default the space's own", choices=("random", "grid", "optuna"))
    trials: int | None = _option(None, "by default the space's own number", f"[1,{MAX_TRIALS}]")
    search_seed: int = _option(2024, "of the draws", "[0,inf)")
    scheduler: str | None = _option("asha", "what stops bad trials", choices=("asha", "median", "none"))
    grace_period: int | None = _option(None, "epochs of every trial, by default a quarter of all", "[1,inf)")
    reduction_factor: float = _option(3, "asha continues one trial of this many", "[1.01,inf)")
    time_budget_minutes: float | None = _option(None, "after which no trial continues", "[0.01,inf)")
    cpus_per_trial: float = _option(1, "processors", "[0.01,inf)")
    gpus_per_trial: float = _option(0, "cards; a fraction shares one among trials", "[0,inf)")
    cpus: int | None = _option(None, "processors to use in all, by default every one", "[1,inf)")
    max_concurrent: int | None = _option(None, "trials at once, by default all that fit", "[1,inf)")
    max_failures: int = _option(2, "restarts of a trial whose process or node died", "[0,inf)")
    address: str | None = _option(None, "a running Ray cluster: auto, or host:port; by default none")
    dashboard: bool = _option(False, "open the web page of the Ray that is started here")
    storage: str = _option("saved/tune", "folder of sweeps; all nodes must reach it")
    name: str | None = _option(None, "of this sweep's folder, by default model-dataset-space")
    resume: bool = _option(False, "continue a sweep: the same command again, with this behind it")

    def __post_init__(self):
        """Read every value in the type of its option; a `ConfigError` for one that cannot work."""
        if str(self.scheduler) in ("pbt", "pb2", "PopulationBasedTraining"):
            raise ConfigError(
                f"scheduler={self.scheduler} cannot work here: it copies the weights of one trial into another and "
                "continues with changed settings, but a model's weights fit only the Semantic IDs, sizes and schedule "
                "they were trained with; choose asha, median or none"
            )
        for option in dataclasses.fields(self):
            value = _field_of(option).read(getattr(self, option.name))
            if value == "":
                raise ConfigError(f"{option.name}='' must not be empty; leave it out for the default")
            object.__setattr__(self, option.name, value)  # this class is frozen
        if self.gpus_per_trial > 1 and self.gpus_per_trial % 1:
            raise ConfigError(f"gpus_per_trial={self.gpus_per_trial}: of more than one card give only whole cards")
        if self.name in (".", "..") or set(self.name or "") & set("/\\\0"):
            raise ConfigError(f"name={self.name!r} must be one folder name; --storage is the folder that it lies in")


def _field_of(option: dataclasses.Field) -> Field:
    kind, _, optional = str(option.type).partition(" | ")
    limits = {key: option.metadata[key] for key in ("range", "choices")}
    return Field(option.name, kind, optional=bool(optional), **limits)


def help_rows() -> list[tuple[str, str, str]]:
    """Of each option the key, what stands for its value, and its meaning with the default."""
    rows = []
    for option in dataclasses.fields(Options):
        field = _field_of(option)
        value = {"int": "N", "float": "X", "bool": "True", "str": "NAME"}[field.type]
        default = f" ({option.default})" if option.default not in (None, False) else ""
        rows.append((option.name, "|".join(field.choices) or value, option.metadata["help"] + default))
    return rows
