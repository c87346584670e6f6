"""Numbers that the paper prints, for a table of their own below a leaderboard.

Input: the name of a dataset. Output: the rows of the paper's Table 1 for it, what they are and how they were measured.
They never stand in a column with measured ones, and nothing is computed from them.
"""

from __future__ import annotations

from collections.abc import Iterable

from recbole_tiger.errors import ConfigError
from recbole_tiger.report.tables import Table

METRICS = ("Recall@5", "NDCG@5", "Recall@10", "NDCG@10")
_DATASETS = ("amazon-beauty", "amazon-sports-outdoors", "amazon-toys-games")
NOTE = (
    'Copied from Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023. Leave-one-out; seen '
    "items are masked in the source of the baseline rows, S3-Rec's repository (aHuiWang/CIKM2020-S3Rec); the paper "
    "does not say whether they are for P5, whose code its authors ran with random item numbers, and for TIGER. Other "
    "code, tuning and seeds than those of the table above: not to be ranked with its rows."
)

#: As it is printed: METRICS of each of the datasets.
_PRINTED = """
P5       0.0163 0.0107 0.0254 0.0136   0.0061 0.0041 0.0095 0.0052   0.0070 0.0050 0.0121 0.0066
Caser    0.0205 0.0131 0.0347 0.0176   0.0116 0.0072 0.0194 0.0097   0.0166 0.0107 0.0270 0.0141
HGN      0.0325 0.0206 0.0512 0.0266   0.0189 0.0120 0.0313 0.0159   0.0321 0.0221 0.0497 0.0277
GRU4Rec  0.0164 0.0099 0.0283 0.0137   0.0129 0.0086 0.0204 0.0110   0.0097 0.0059 0.0176 0.0084
BERT4Rec 0.0203 0.0124 0.0347 0.0170   0.0115 0.0075 0.0191 0.0099   0.0116 0.0071 0.0203 0.0099
FDSA     0.0267 0.0163 0.0407 0.0208   0.0182 0.0122 0.0288 0.0156   0.0228 0.0140 0.0381 0.0189
SASRec   0.0387 0.0249 0.0605 0.0318   0.0233 0.0154 0.0350 0.0192   0.0463 0.0306 0.0675 0.0374
S3-Rec   0.0387 0.0244 0.0647 0.0327   0.0251 0.0161 0.0385 0.0204   0.0443 0.0294 0.0700 0.0376
TIGER    0.0454 0.0321 0.0648 0.0384   0.0264 0.0181 0.0400 0.0225   0.0521 0.0371 0.0712 0.0432
"""
#: Of the models whose numbers are not S3-Rec's (paper, 4.2.2).
_SOURCES = {"P5": "P5's code", "TIGER": "paper"}


#: The paper's Table 1, by dataset the rows: model, its METRICS, their source.
TABLE_1 = {
    dataset: tuple(
        (model, tuple(map(float, values[first : first + len(METRICS)])), _SOURCES.get(model, "S3-Rec"))
        for model, *values in map(str.split, _PRINTED.strip().splitlines())
    )
    for dataset, first in zip(_DATASETS, range(0, 12, len(METRICS)), strict=True)
}


def published_table(dataset: str) -> Table | None:
    """The paper's Table 1 for a dataset, with the source of each row; None where the paper has no numbers for it."""
    if dataset not in TABLE_1:
        return None
    return Table(
        header=["model", *METRICS, "source"],
        rows=[[model, *(f"{value:.4f}" for value in values), source] for model, values, source in TABLE_1[dataset]],
        title=f"Published, not measured here: Table 1 of TIGER's paper, {dataset}",
        note=NOTE,
        columns="lrrrrl",
    )


def check_published(wanted: object, datasets: Iterable[str]) -> bool:
    """Whether published numbers are to be shown; a `ConfigError` for datasets of which the paper has none."""
    if not isinstance(wanted, bool):
        raise ConfigError(f"published={wanted!r} is not possible; choose True or False")
    datasets = list(datasets)
    if wanted and not set(datasets) & set(TABLE_1):
        raise ConfigError(
            f"published=True: the paper has no numbers for dataset={', '.join(map(repr, sorted(set(datasets))))}, only "
            f"for {', '.join(TABLE_1)}; leave it out"
        )
    return wanted
