"""Options of a sweep, each with its type, limits and help text.

Input: values of the command line or of Python code. Output: checked options, and rows for the help of the command.
The search space is in the space file.
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

    search: str | None = _option(None, "search method, by default the space's", choices=("random", "grid", "optuna"))
    trials: int | None = _option(None, "number of trials, by default the space's", f"[1,{MAX_TRIALS}]")
    search_seed: int = _option(2024, "seed of the search", "[0,inf)")
    scheduler: str | None = _option("asha", "how bad trials are stopped early", choices=("asha", "median", "none"))
    grace_period: int | None = _option(
        None, "epochs before a trial can be stopped, by default a quarter of all", "[1,inf)"
    )
    reduction_factor: float = _option(3, "ASHA continues one trial in this many", "[1.01,inf)")
    time_budget_minutes: float | None = _option(None, "all trials end after this time", "[0.01,inf)")
    cpus_per_trial: float = _option(1, "CPUs per trial", "[0.01,inf)")
    gpus_per_trial: float = _option(0, "GPUs per trial; a fraction shares one among trials", "[0,inf)")
    cpus: int | None = _option(None, "CPUs to use in all, by default all", "[1,inf)")
    max_concurrent: int | None = _option(None, "trials at once, by default as many as fit", "[1,inf)")
    max_failures: int = _option(2, "restarts of a trial whose process or node died", "[0,inf)")
    address: str | None = _option(None, "a running Ray cluster: auto, or host:port; by default Ray is started locally")
    dashboard: bool = _option(False, "open the dashboard of the locally started Ray")
    storage: str = _option("saved/tune", "folder of sweeps, which all nodes must be able to reach")
    name: str | None = _option(None, "name of this sweep's folder, by default model-dataset-space")
    resume: bool = _option(False, "continue a sweep: repeat its command with this option")

    def __post_init__(self):
        """Convert every value to the type of its option; a `ConfigError` for an impossible one."""
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
            raise ConfigError(
                f"gpus_per_trial={self.gpus_per_trial} is more than one GPU and not a whole number; give whole GPUs"
            )
        if self.name in (".", "..") or set(self.name or "") & set("/\\\0"):
            raise ConfigError(f"name={self.name!r} must be one folder name; --storage is its parent folder")


def _field_of(option: dataclasses.Field) -> Field:
    kind, _, optional = str(option.type).partition(" | ")
    limits = {key: option.metadata[key] for key in ("range", "choices")}
    return Field(option.name, kind, optional=bool(optional), **limits)


def help_rows() -> list[tuple[str, str, str]]:
    """Key, placeholder of the value, and meaning with the default, for each option."""
    rows = []
    for option in dataclasses.fields(Options):
        field = _field_of(option)
        value = {"int": "N", "float": "X", "bool": "True", "str": "NAME"}[field.type]
        default = f" ({option.default})" if option.default not in (None, False) else ""
        rows.append((option.name, "|".join(field.choices) or value, option.metadata["help"] + default))
    return rows
