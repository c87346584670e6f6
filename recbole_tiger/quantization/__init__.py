"""Tokenizers: content embeddings come in, semantic-ID codes go out. Plain torch and numpy, no RecBole."""

from __future__ import annotations

import inspect
from typing import Any

from .base import Quantizer
from .hierarchical_kmeans import HierarchicalKMeans
from .lsh import LSH
from .pq import ProductQuantizer
from .random_ids import RandomIDs
from .rkmeans import ResidualKMeans
from .rqvae import RQVAE, RQVAE_PAPER, RQVAE_TUNED
from .scaling import Scaler
from .vqvae import VQVAE

QUANTIZERS: dict[str, type[Quantizer]] = {
    cls.name: cls for cls in (RQVAE, ResidualKMeans, VQVAE, ProductQuantizer, HierarchicalKMeans, LSH, RandomIDs)
}


def build_quantizer(name: str, **kwargs: Any) -> Quantizer:
    """The quantizer of that name.

    Args:
        name: a key of `QUANTIZERS`.
        kwargs: arguments of any quantizer; those that this one does not take are left out, so that one set of
            settings serves all.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in QUANTIZERS:
        raise ValueError(f"semantic_id={name!r} is unknown: choose one of {', '.join(QUANTIZERS)}.")
    accepted = inspect.signature(QUANTIZERS[name].__init__).parameters
    return QUANTIZERS[name](**{key: value for key, value in kwargs.items() if key in accepted})


__all__ = ["QUANTIZERS", "RQVAE_PAPER", "RQVAE_TUNED", "Quantizer", "Scaler", "build_quantizer"]
