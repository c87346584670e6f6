"""Sentences to content embeddings (paper, sections 3.1 and 4.1.3): one module for each encoder, here found by name."""

from __future__ import annotations

import inspect
from typing import Any

from recbole_tiger.content.encoders.base import Encoder
from recbole_tiger.content.encoders.precomputed import Precomputed
from recbole_tiger.content.encoders.sentence_transformer import SentenceTransformerEncoder
from recbole_tiger.content.encoders.tfidf_svd import TfidfSVD

__all__ = ["ENCODERS", "Encoder", "build_encoder"]

ENCODERS: dict[str, type[Encoder]] = {cls.name: cls for cls in (SentenceTransformerEncoder, TfidfSVD, Precomputed)}


def build_encoder(name: str, **settings: Any) -> Encoder:
    """The encoder of that name.

    Arguments of other encoders are left out, so that one set of settings serves all.

    Raises:
        ValueError: for a name that is no key of `ENCODERS`.
    """
    if name not in ENCODERS:
        raise ValueError(f"content_encoder={name!r} is not one of {', '.join(ENCODERS)}")
    accepted = inspect.signature(ENCODERS[name]).parameters
    return ENCODERS[name](**{key: value for key, value in settings.items() if key in accepted})
