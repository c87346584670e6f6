"""Whether the memory of this machine can hold a model, from its sizes alone.

Input: a ``Config``. Output: nothing, or one error with the sizes, before anything is allocated.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from recbole_tiger.errors import ConfigError
from recbole_tiger.models import model_spec

if TYPE_CHECKING:
    from recbole.config import Config

#: Sizes of T5, and of the other models.
_T5_SIZES = ("d_model", "d_kv", "d_ff", "num_encoder_layers", "num_decoder_layers")
_SIZES = ("hidden_size", "inner_size", "n_layers", "n_heads", "embedding_size")


def check_memory(config: Config, n_items: int = 0) -> None:
    """Raise for sizes whose weights this machine cannot hold: from below, matrices of the layers and item embeddings.

    Args:
        n_items: items with an embedding; their gradients may be sparse and are not counted.
    """
    size = {key: config[key] or 0 for key in (*_T5_SIZES, *_SIZES) if key in config}
    if model_spec(config["model"]).has_t5:
        width, inner, ff, n_encoder, n_decoder = (size[key] for key in _T5_SIZES)
        layers = width * (
            4 * inner * config["num_heads"] * (n_encoder + 2 * n_decoder) + 2 * ff * (n_encoder + n_decoder)
        )
    else:
        hidden, inner, depth, heads, embedding = (size.get(key, 0) for key in _SIZES)
        width = embedding or hidden
        layers = depth * hidden * (4 * hidden * bool(heads) + 2 * inner)
    n_bytes = 4 * (2 * layers + n_items * width)
    device = config["device"]
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else n_bytes
    if n_bytes > memory:
        sizes = ", ".join(f"{key}={value}" for key, value in size.items() if value)
        raise ConfigError(
            f"{sizes}: {config['model']} would have more than {layers + n_items * width:,} parameters, whose weights "
            f"and gradients need {n_bytes / 1e9:,.1f} GB, but there are {memory / 1e9:,.1f} GB of memory; choose "
            "smaller sizes"
        )
