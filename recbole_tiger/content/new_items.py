"""Items that came after training: their text to embeddings in the space that the quantizer was fitted in.

Comes in: rows of an ``.item`` file and a run's settings. Goes out: sentences, and an embedding for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_tiger.content.encoders import encode_items
from recbole_tiger.content.sentences import DEFAULT_FIELDS, build_sentences, read_item_table


def read_new_items(path: str | Path, config) -> tuple[pd.DataFrame, list[str]]:
    """The table and the item ids of an ``.item`` file with new items.

    Raises:
        ValueError: for a file that is missing, not in RecBole's form, or without items.
    """
    table = read_item_table(path, field_separator=config["field_separator"], encoding=config["encoding"] or "utf-8")
    field = config["ITEM_ID_FIELD"]
    if field not in table.columns:
        raise ValueError(f"new_items='{path}' has no column '{field}'; its columns: {', '.join(table.columns)}")
    if table.empty:
        raise ValueError(f"new_items='{path}' holds no items")
    return table, table[field].tolist()


def sentences_of_new_items(table: pd.DataFrame, items: Sequence[str], config) -> list[str]:
    """One sentence per new item, from the same columns as those of the catalogue.

    A column that the new items leave empty, all of them, is left out: a catalogue has none such, a file of one item may.

    Raises:
        ValueError: naming items without any text.
    """
    item_field, fields = config["ITEM_ID_FIELD"], config["content_fields"]
    if config["content_template"] is None:
        wanted = [fields] if isinstance(fields, str) else list(fields or DEFAULT_FIELDS)
        fields = [f for f in wanted if f in table.columns and f != item_field and table[f].str.strip().any()]
        if not fields:
            raise ValueError(
                f"the new items (such as {', '.join(map(str, items[:3]))}) have no text in any of the columns "
                f"{', '.join(wanted)}: without text there is no Semantic ID; fill at least one of them"
            )
    return build_sentences(
        table, items, item_field, fields, config["content_template"], seq_separator=config["seq_separator"]
    )


def embed_new_items(
    config, sentences: Sequence[str], items: Sequence[str], known_sentences: Sequence[str] | None
) -> np.ndarray:
    """Embeddings of new items, from an encoder that has not seen their text: float32 `[n, dim]`.

    A sentence encoder is used as it is; embeddings that were computed beforehand are looked up; TF-IDF and its SVD are
    those of the known sentences, onto whose directions the new ones are projected.

    Args:
        config: the run's settings.
        sentences: of the new items.
        items: their ids.
        known_sentences: of the catalogue, for `tfidf_svd`.

    Raises:
        ValueError: if the encoder cannot be had, or has no embedding for an item.
    """
    settings = dict(
        encoder=config["content_encoder"],
        model=config["content_model"],
        file=config["content_file"],
        dim=config["content_dim"],
        batch_size=config["content_batch_size"],
        device=str(config["device"]),
        random_state=0,
        progress=bool(config["show_progress"]),
    )
    if config["content_encoder"] != "tfidf_svd":
        if str(config["content_file"]).endswith(".npy") and config["content_encoder"] == "precomputed":
            raise ValueError(
                f"content_file='{config['content_file']}' holds rows without item ids, so that new items cannot be found in "
                "it; use an .npz or .parquet file with ids"
            )
        return encode_items(sentences, items, **settings)
    if known_sentences is None:
        raise ValueError(
            "content_encoder=tfidf_svd needs the catalogue's sentences, which this checkpoint does not hold; train again"
        )
    numbers = [str(number) for number in range(len(known_sentences))]
    known = encode_items(known_sentences, numbers, **settings).astype(np.float64)  # [n, dim], U S of X = U S V^T
    vectorizer, matrix = _vectorized(known_sentences)
    directions = (matrix.T @ known) / np.square(known).sum(0)  # V = X^T U / S
    return np.ascontiguousarray(vectorizer.transform(sentences) @ directions, dtype=np.float32)


def _vectorized(sentences: Sequence[str]):
    """The TF-IDF of `encoders._tfidf_svd`, fitted again, and its matrix of the same sentences."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def fitted(min_items: int):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=min_items)
        return vectorizer, vectorizer.fit_transform(sentences)

    try:
        return fitted(2 if len(sentences) > 1 else 1)
    except ValueError:  # no word is shared
        return fitted(1)
