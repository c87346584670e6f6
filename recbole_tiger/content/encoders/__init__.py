"""Sentences to content embeddings: one module for each encoder, found by name in `registry`."""

from recbole_tiger.content.encoders.registry import (
    DEFAULT_SVD_DIM,
    ENCODERS,
    encode_items,
    encoder_fingerprint,
    find_model,
    read_embeddings,
)

__all__ = [
    "DEFAULT_SVD_DIM",
    "ENCODERS",
    "encode_items",
    "encoder_fingerprint",
    "find_model",
    "read_embeddings",
]
