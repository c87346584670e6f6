"""Semantic IDs of a dataset, made and measured without training a recommender.

Input: the settings of one or several runs on one dataset, which differ in their tokenizers. Output: the ID sets by name
and their report. The IDs are those of a training run under the same settings, from the same cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from recbole.data import create_dataset
from recbole.utils import init_seed

from recbole_tiger.analysis.id_report import IDReport, IDSet, id_report
from recbole_tiger.content.sentences import category_paths, item_titles
from recbole_tiger.experiment.loading import start_logging
from recbole_tiger.tokenization import (
    Content,
    TokenizedCatalogue,
    TrainingInteractions,
    item_content,
    item_file,
    item_table,
    prepare_semantic_ids,
    quantizer_input,
    scaler_of,
)


@dataclass(frozen=True)
class MadeIDs:
    """ID sets by name, in the order of their settings, and what was measured of them."""

    sets: dict[str, TokenizedCatalogue]
    report: IDReport


def make_ids(configs: Sequence) -> MadeIDs:
    """Make the IDs of every configuration (of a TIGER run on one dataset) and report on them side by side."""
    start_logging(configs[0])
    init_seed(configs[0]["seed"], configs[0]["reproducibility"])
    loaded = create_dataset(configs[0])
    items = [str(item) for item in loaded.field2id_token[loaded.iid_field][1:]]
    interactions = loaded.sequences.training_interactions()
    prepared = [loaded.semantic_ids] + [prepare_semantic_ids(config, items, interactions) for config in configs[1:]]
    sets = dict(zip(set_names(configs), prepared, strict=True))
    return MadeIDs(sets, _report(configs, sets, items, interactions))


def set_names(configs: Sequence) -> list[str]:
    """What to call each set: its tokenizer, or the name of its file."""
    names = [
        Path(config["semantic_id_file"]).stem if config["semantic_id"] == "file" else config["semantic_id"]
        for config in configs
    ]
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]


def _report(
    configs: Sequence, sets: Mapping[str, TokenizedCatalogue], items: Sequence[str], interactions: TrainingInteractions
) -> IDReport:
    """The report with all that the dataset says about its items.

    Embeddings are those of the sets that were made from content; with none such (random, file) they are left out.
    """
    content: Content | None = None
    measured = {}
    for config, (name, ids) in zip(configs, sets.items(), strict=True):
        quantizer, reconstruct, target = ids.quantizer, None, None
        if quantizer is not None and config["semantic_id"] != "random":
            content = item_content(config, list(items))
            target = quantizer_input(config, scaler_of(config), content.embeddings, interactions)
            reconstruct = quantizer.reconstruct
        table = ids.table
        measured[name] = IDSet(
            table.codes[1:, : table.id_length],
            None if config["semantic_id"] == "file" else table.level_sizes[: table.id_length],
            reconstruct=reconstruct,
            target=target,
        )
    config, titles, categories = configs[0], None, None
    if item_file(config).is_file():
        text, field, separator = item_table(config), config["ITEM_ID_FIELD"], config["seq_separator"]
        titles = item_titles(text, items, field, seq_separator=separator)
        if config["item_feature"] in text.columns:
            categories = category_paths(text, items, field, config["item_feature"], seq_separator=separator)
    return id_report(
        measured,
        embeddings=None if content is None else np.asarray(content.embeddings),
        categories=categories,
        titles=titles,
        progress=bool(config["show_progress"]),
    )
