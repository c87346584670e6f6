"""Latent semantic analysis: sentences in, embeddings from TF-IDF and a truncated SVD out. Needs no model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_tiger.content.encoders.base import Encoder, versions

logger = logging.getLogger(__name__)

#: Components of the SVD where none are asked for.
DEFAULT_DIM = 128


class TfidfSVD(Encoder):
    """Words and pairs of words, weighted by rarity, in their main directions.

    Words of one item only are left out, since they say nothing about what it shares with others and would
    take from the weight of those that do.

    Args:
        dim: components of the SVD (None: 128), fewer where the text does not have as many.
        random_state: seed of the SVD.
    """

    name = "tfidf_svd"

    def __init__(self, dim: int | None = None, random_state: int = 0) -> None:
        self.dim = dim
        self.random_state = random_state

    def fingerprint(self) -> dict[str, Any]:
        return {
            "encoder": self.name,
            "dim": self._checked_dim(),
            "random_state": self.random_state,
            "versions": versions("scikit-learn", "scipy", "numpy"),
        }

    def encode_new(
        self, sentences: Sequence[str], item_ids: Sequence[str], known: Sequence[str] | None, progress: bool = False
    ) -> NDArray[np.float32]:
        """New sentences projected onto the directions of the known ones."""
        if known is None:
            raise ValueError(
                "content_encoder=tfidf_svd needs the catalogue's sentences, which this checkpoint does not hold; "
                "train again"
            )
        left = self._encode(list(known), [], progress, None).astype(np.float64)  # [n, dim], U S of X = U S V^T
        vectorizer, matrix = _vectorized(known)
        directions = (matrix.T @ left) / np.square(left).sum(0)  # V = X^T U / S
        return np.ascontiguousarray(vectorizer.transform(sentences) @ directions, dtype=np.float32)

    def _encode(
        self, sentences: list[str], item_ids: list[str], progress: bool, checkpoint: Path | None
    ) -> NDArray[np.float32]:
        from sklearn.utils.extmath import (
            randomized_svd,  # here: a run whose embeddings are cached needs no scikit-learn
        )

        dim = self._checked_dim()
        try:
            _, matrix = _vectorized(sentences)
        except ValueError as error:
            raise ValueError(
                f"content_encoder=tfidf_svd finds no words in the item text ({error}): name other columns in "
                "content_fields, or use content_encoder=sentence_transformers"
            ) from error
        # TruncatedSVD does the same, but refuses a vocabulary of one.
        left, singular, _ = randomized_svd(matrix, min(dim, *matrix.shape), n_iter=5, random_state=self.random_state)
        # Directions without extent hold rounding errors only, and a later z-score would blow these up.
        kept = max(1, int((singular > singular[0] * 1e-6).sum()))
        if kept < dim:
            terms = matrix.shape[1]
            text = "content_dim=%d: the text of %d items (%d terms) gives %d components"
            logger.info(text, dim, len(sentences), terms, kept)
        return np.ascontiguousarray(left[:, :kept] * singular[:kept], dtype=np.float32)

    def _checked_dim(self) -> int:
        dim = DEFAULT_DIM if self.dim is None else self.dim
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1:
            raise ValueError(f"content_dim={dim!r} must be a whole number of at least 1")
        return int(dim)


def _vectorized(sentences: Sequence[str]) -> tuple[Any, Any]:
    """A fitted vectorizer and its sparse matrix `[n, terms]` of the sentences."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # as above

    def fitted(min_items: int) -> tuple[Any, Any]:
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=min_items)
        return vectorizer, vectorizer.fit_transform(sentences)

    try:
        return fitted(2 if len(sentences) > 1 else 1)
    except ValueError:  # no word is shared
        return fitted(1)
