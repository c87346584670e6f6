"""A leaderboard as one call: the runs that are missing are made, and their tables written.

Input: rows, a dataset, seeds and settings. Output: a :class:`LeaderboardResult`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from recbole_tiger.leaderboard.outputs import as_records, tables_text, write_outputs
from recbole_tiger.leaderboard.plan import RowName, make_plan
from recbole_tiger.leaderboard.published import check_published
from recbole_tiger.leaderboard.run import failures_of, run_plan
from recbole_tiger.leaderboard.table import Leaderboard, make_leaderboards, read_run


@dataclass(frozen=True)
class LeaderboardResult:
    """A finished leaderboard; `print` shows the same as the command.

    Attributes:
        folder: folder of the runs.
        tables: one table, or more if the folder holds runs on other data.
        failures: (row, reason) of rows without a result.
        files: paths of the tables by format: `csv`, `json`, `md`, `tex`, `html`.
    """

    folder: Path
    tables: tuple[Leaderboard, ...]
    failures: tuple[tuple[str, str], ...]
    files: Mapping[str, str]

    @property
    def table(self) -> Leaderboard:
        """The first table."""
        return self.tables[0]

    def to_frame(self) -> pd.DataFrame:
        """A row for each model, best first, unrounded; the columns of ``leaderboard.csv``."""
        return pd.DataFrame(as_records(self.tables))

    def __str__(self) -> str:
        return tables_text(self.tables, self.files)


def run_leaderboard(
    models: str | Sequence[str | type] | Sequence[RowName],
    dataset: str = "ml-100k",
    seeds: Sequence[int] = (2024,),
    config_file_list: Sequence[str] = (),
    config_dict: Mapping | None = None,
    *,
    folder: str | Path | None = None,
    published: bool = False,
    jobs: int = 1,
    ray: bool | str = False,
    cpus_per_run: float = 1,
    gpus_per_run: float = 0,
) -> LeaderboardResult:
    """Train every row with every seed under one protocol; finished runs are read, not trained again.

    Args:
        models: rows as on the command line (``"TIGER,SASRec[loss_type=BPR],Pop"``), or a list of names and classes.
        dataset: name of the dataset.
        seeds: each row is trained once per seed.
        config_file_list: YAML files, which may have blocks for rows; the last one wins.
        config_dict: settings of all rows, which override the files.
        folder: folder of the runs; by default one in `checkpoint_dir`, named by data and protocol.
        published: add tables of the paper's figures for its datasets.
        jobs: number of runs at once, each in its own process with a share of the cores.
        ray: run each as a Ray task, here or at an address, with `cpus_per_run` and `gpus_per_run`.

    Raises:
        ConfigError: for impossible settings, before any training, or if no row has a result.
    """
    published = check_published(published, [dataset])
    plan = make_plan(models, dataset, seeds, config_file_list, config_dict, folder)
    run_plan(plan, jobs=jobs, ray=ray, cpus_per_run=cpus_per_run, gpus_per_run=gpus_per_run)
    found = [run for task in plan.tasks if task.is_done() and (run := read_run(task.folder)) is not None]
    failures = failures_of(plan)
    tables = make_leaderboards(found, failures, published)
    return LeaderboardResult(plan.folder, tuple(tables), tuple(failures), write_outputs(tables, plan.folder))
