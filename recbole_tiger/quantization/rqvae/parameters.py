"""The arguments of RQ-VAE: the paper's recipe and ours, what each argument means, and the network they describe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from recbole_tiger.quantization.codebooks import CodebookQuantizer

# The paper's words (section 4.1.3 unless said otherwise). What it leaves open stands below as we chose it.
RQVAE_PAPER: dict[str, Any] = {
    "id_length": 3,  # "three levels of residual quantization"
    "codebook_size": 256,  # "a codebook of cardinality 256"
    "hidden_sizes": [512, 256, 128],  # "three intermediate layers of size 512, 256 and 128"
    "latent_dim": 32,  # "a final latent representation dimension of 32"
    "beta": 0.25,
    "learner": "adagrad",
    "learning_rate": 0.4,
    "weight_decay": 0.0,  # not mentioned
    "batch_size": 1024,
    "epochs": 20000,
    "codebook_init": "first_batch",  # 3.1.1: "the k-means algorithm on the first training batch"
    "codebook_update": "gradient",  # 3.1.1: the loss "jointly trains the encoder, decoder, and the codebook"
    "dead_code_restart": 0,  # not mentioned
    "early_stop_patience": 0,  # not mentioned
}
# What we train by default: reaches the paper's codebook usage in minutes instead of 20,000 epochs. Chosen on Amazon
# Beauty with z-scored all-MiniLM-L6-v2 embeddings, by reconstruction error and collisions after 60 epochs.
RQVAE_TUNED: dict[str, Any] = {
    **RQVAE_PAPER,
    "learner": "adamw",  # Adagrad at 0.4 moves every weight by 0.4 in the first step
    "learning_rate": 2e-3,
    "weight_decay": 1e-4,
    "epochs": 200,
    "codebook_init": "all",  # more rows than one batch of 1024 for 256 centroids
    "codebook_update": "ema",  # codewords keep up with a latent that grows fast in the first epochs
    "dead_code_restart": 5,
    "early_stop_patience": 5,
}

LEARNERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
CODEBOOK_INITS = ("all", "first_batch")
CODEBOOK_UPDATES = ("gradient", "ema")


class RQVAENetwork(nn.Module):
    """Encoder, codebooks and decoder for the `dim_` and `codebook_sizes_` of a model.

    `generator` draws the weights, as `torch.nn.Linear` would: U(-b, b), b = 1 / sqrt(inputs); codebooks are zero.
    """

    def __init__(self, model: RQVAEParameters, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [model.dim_, *model.hidden_sizes, model.latent_dim]
        self.encoder = _mlp(sizes, generator)
        self.decoder = _mlp(sizes[::-1], generator)
        widths = [part.stop - part.start for part in model._slices()]
        shapes = zip(model.codebook_sizes_, widths, strict=True)
        self.codebooks = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)


def _mlp(sizes: list[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        # skip_init leaves the global random state alone
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        bound = 1 / math.sqrt(inputs)
        with torch.no_grad():
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.uniform_(-bound, bound, generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@dataclass(kw_only=True, eq=False)
class RQVAEParameters(CodebookQuantizer):
    """Arguments of `RQVAE`; the defaults are `RQVAE_TUNED`.

    Args:
        id_length, codebook_size, random_state: see `Quantizer`.
        hidden_sizes: encoder layers between embedding and latent, mirrored in the decoder.
        latent_dim: width of the latent that is quantized.
        beta: weight of the commitment term.
        learner: `adagrad`, `adam` or `adamw`.
        learning_rate, weight_decay: of the learner.
        batch_size: items per step at most; an epoch is cut into steps of equal size.
        epochs: passes over the items.
        codebook_init: k-means on the latents of `all` items, or of the `first_batch` (paper), level by level
            through the residuals.
        codebook_update: `gradient` (paper), or `ema`, moving averages of the residuals that chose a code.
        dead_code_restart: every so many epochs, codes that no item chose in the last epoch are put on the
            residuals of random items; 0 never.
        early_stop_patience: stop when every level uses at least `usage_target` of its codes and the
            reconstruction has not gained 0.1% for so many times ten epochs; 0 never.
        usage_target: see there; the paper's "high codebook usage" is 0.8.
        checkpoint_interval: epochs between two checkpoints, if `fit` is given a file.
        device: where to train and encode.
    """

    hidden_sizes: list[int] | tuple[int, ...] = tuple(RQVAE_TUNED["hidden_sizes"])
    latent_dim: int = RQVAE_TUNED["latent_dim"]
    beta: float = RQVAE_TUNED["beta"]
    learner: str = RQVAE_TUNED["learner"]
    learning_rate: float = RQVAE_TUNED["learning_rate"]
    weight_decay: float = RQVAE_TUNED["weight_decay"]
    batch_size: int = RQVAE_TUNED["batch_size"]
    epochs: int = RQVAE_TUNED["epochs"]
    codebook_init: str = RQVAE_TUNED["codebook_init"]
    codebook_update: str = RQVAE_TUNED["codebook_update"]
    dead_code_restart: int = RQVAE_TUNED["dead_code_restart"]
    early_stop_patience: int = RQVAE_TUNED["early_stop_patience"]
    usage_target: float = 0.8
    checkpoint_interval: int = 50
    device: str = "cpu"

    def _check_arguments(self, dim: int) -> None:
        choices = {"learner": LEARNERS, "codebook_init": CODEBOOK_INITS, "codebook_update": CODEBOOK_UPDATES}
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key}={getattr(self, key)!r} is unknown: choose one of {', '.join(allowed)}.")
        for key in ("latent_dim", "batch_size", "epochs", "checkpoint_interval"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)} must be at least 1.")
        for key in ("beta", "weight_decay", "dead_code_restart", "early_stop_patience"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}={getattr(self, key)} must not be negative.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive.")
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes={list(self.hidden_sizes)} must all be at least 1.")

    def _width(self) -> int:
        return self.latent_dim
