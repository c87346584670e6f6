"""VQ-VAE (section 3.1.2): embeddings come in, codes out, each from its own part of the latent.

Everything but the quantization is RQ-VAE's. The latent is cut into `id_length` parts and every part has a codebook of
its own, so the codes have no order from coarse to fine, "the hierarchical nature" that the paper misses here.
"""

from __future__ import annotations

from .rqvae import RQVAE


class VQVAE(RQVAE):
    """Vector-quantized autoencoder with the latent in parts; arguments as in `RQVAE`.

    The parts differ by at most one in width (32 dimensions in 3 parts: 11, 11, 10).
    """

    name = "vqvae"
    residual = False

    def _check_arguments(self, dim: int) -> None:
        super()._check_arguments(dim)
        if self.latent_dim < self.id_length:
            raise ValueError(f"latent_dim={self.latent_dim} cannot be cut into id_length={self.id_length} parts.")

    def _slices(self) -> list[slice]:
        return even_slices(self.latent_dim, self.id_length)


def even_slices(width: int, parts: int) -> list[slice]:
    """`width` dimensions in consecutive parts of nearly equal width, the wider ones first."""
    narrow, wider = divmod(width, parts)
    bounds = [0]
    for part in range(parts):
        bounds.append(bounds[-1] + narrow + (part < wider))
    return [slice(start, stop) for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]
