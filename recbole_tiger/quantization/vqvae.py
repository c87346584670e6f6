"""VQ-VAE (section 3.1.2): embeddings in, codes out, each from its own part of the latent.

Everything but the quantization is RQ-VAE's. The latent is cut into `id_length` parts and every part has a codebook of
its own, so the codes have no order from coarse to fine, "the hierarchical nature" that the paper misses here.
"""

from __future__ import annotations

import torch

from recbole_tiger.quantization.rqvae import RQVAE


class VQVAE(RQVAE):
    """Vector-quantized autoencoder; the parts of the latent differ by at most one in width. Arguments as in `RQVAE`."""

    name = "vqvae"
    residual = False

    def _check_arguments(self, dim: int) -> None:
        super()._check_arguments(dim)
        if self.latent_dim < self.id_length:
            raise ValueError(f"latent_dim={self.latent_dim} cannot be cut into id_length={self.id_length} parts.")

    def _missing(self, codebook: torch.Tensor) -> torch.Tensor:
        return codebook.mean(0)
