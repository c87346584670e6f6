"""The quantizers by name.

Input: a name and arguments, or a saved state. Output: the quantizer.
"""

from __future__ import annotations

import inspect
from typing import Any

from recbole_tiger.quantization.base import Quantizer
from recbole_tiger.quantization.hierarchical_kmeans import HierarchicalKMeans
from recbole_tiger.quantization.letter import LETTER
from recbole_tiger.quantization.lsh import LSH
from recbole_tiger.quantization.pq import ProductQuantizer
from recbole_tiger.quantization.random_ids import RandomIDs
from recbole_tiger.quantization.rkmeans import ResidualKMeans
from recbole_tiger.quantization.rqvae import RQVAE, VQVAE

QUANTIZERS: dict[str, type[Quantizer]] = {
    cls.name: cls
    for cls in (RQVAE, ResidualKMeans, VQVAE, ProductQuantizer, HierarchicalKMeans, LSH, RandomIDs, LETTER)
}


def build_quantizer(name: str, **kwargs: Any) -> Quantizer:
    """The quantizer of that name.

    Arguments of other quantizers are left out, so that one set of settings serves all.

    Raises:
        ValueError: for a name that is no key of `QUANTIZERS`.
    """
    if name not in QUANTIZERS:
        raise ValueError(f"semantic_id={name!r} is unknown: choose one of {', '.join(QUANTIZERS)}.")
    accepted = inspect.signature(QUANTIZERS[name]).parameters
    return QUANTIZERS[name](**{key: value for key, value in kwargs.items() if key in accepted})


def quantizer_from_state_dict(state: dict[str, Any]) -> Quantizer:
    """The quantizer that `Quantizer.state_dict` came from; its class is found by the stored name.

    Raises:
        ValueError: the state is not that of a quantizer, or of one whose class is not registered.
    """
    name = state.get("quantizer") if isinstance(state, dict) else None
    if isinstance(name, str) and name not in QUANTIZERS:
        raise ValueError(f"semantic_id={name!r} is not registered here: import the module that registers it first.")
    try:
        return QUANTIZERS[state["quantizer"]].from_state_dict(state)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is not the state of a quantizer ({error!r}).") from error
