"""Quantizers with one codebook per level: a latent `[b, width]` in, codes `[b, id_length]` out, and back.

A level quantizes a slice of the latent: all of it, less the codewords of the levels before (residual quantization,
section 3.1.1), or a part of its own (product quantization, VQ-VAE).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from recbole_tiger.quantization.base import Quantizer
from recbole_tiger.quantization.kmeans import nearest, squared_distances, squared_norms


@dataclass(kw_only=True, eq=False)
class CodebookQuantizer(Quantizer):
    """Base of the quantizers whose codes are nearest codewords, by default in the space of the embeddings.

    Attributes:
        codebooks_: `[K_d, width_d]` per level, learned by `fit`.
    """

    #: True: a level quantizes what the levels before left over. False: each level has its own part of the latent.
    residual: ClassVar[bool] = True
    codebooks_: list[torch.Tensor] = field(init=False, repr=False)

    def _width(self) -> int:
        """Width of the latent."""
        return self.dim_

    def _codebooks(self) -> list[torch.Tensor]:
        """Learned codebooks on the device; the same list until another `fit`."""
        return self._kept("codebooks", self.codebooks_, lambda: [book.to(self._device) for book in self.codebooks_])

    def _to_latent(self, x: torch.Tensor) -> torch.Tensor:
        """Latents `[b, width]` of one batch."""
        return x

    def _from_latent(self, latent: torch.Tensor) -> torch.Tensor:
        """Embeddings `[b, dim]` of one batch of latents."""
        return latent

    def _missing(self, codebook: torch.Tensor) -> torch.Tensor:
        """What stands in a part of the latent whose code is not used; `[width_d]`."""
        return torch.zeros_like(codebook[0])

    def _slices(self) -> list[slice]:
        """The part of the latent that each level quantizes."""
        if self.residual:
            return [slice(0, self._width())] * self.id_length
        parts = np.array_split(np.arange(self._width()), self.id_length)  # the wider ones first: 32 in 3 is 11, 11, 10
        return [slice(int(part[0]), int(part[-1]) + 1) for part in parts]

    def _norms(self) -> list[torch.Tensor]:
        """Squared norms `[K_d]` of the codewords, per level."""
        codebooks = self._codebooks()
        return self._kept("norms", codebooks, lambda: [squared_norms(codebook) for codebook in codebooks])

    @torch.no_grad()
    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        return quantize(self._to_latent(x), self._codebooks(), self._norms(), self._slices())[0]

    @torch.no_grad()
    def _decode(self, codes: torch.Tensor, levels: int) -> torch.Tensor:
        latent = torch.zeros(len(codes), self._width(), device=self._device)
        for level, (part, codebook) in enumerate(zip(self._slices(), self._codebooks(), strict=True)):
            if level < levels:
                latent[:, part] += codebook[codes[:, level].to(self._device)]
            elif not self.residual:
                latent[:, part] = self._missing(codebook)
        return self._from_latent(latent)

    @torch.no_grad()
    def _last_level_costs(self, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        residual, codebooks, slices = self._to_latent(x).clone(), self._codebooks(), self._slices()
        for level, codebook in enumerate(codebooks[:-1]):
            residual[:, slices[level]] -= codebook[codes[:, level]]
        return squared_distances(residual[:, slices[-1]], codebooks[-1])


def quantize(
    latent: torch.Tensor, codebooks: list[torch.Tensor], norms: list[torch.Tensor], slices: list[slice]
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Quantizes latents level by level (section 3.1.1).

    Args:
        latent: `[b, width]`.
        codebooks: `[K_d, width_d]` per level.
        norms: squared norms `[K_d]` of the codewords, per level.
        slices: the part of the latent that each level quantizes, all of it for residual quantization.

    Returns:
        Codes `[b, m]`; what each level left over, r_d - e_d, `[b, width_d]` per level; and what is left in the
        end, z minus all codewords, `[b, width]`.
    """
    residual = latent.clone()
    codes, remainders = [], []
    for codebook, norm, part in zip(codebooks, norms, slices, strict=True):
        inputs = residual[:, part]
        code, _ = nearest(inputs, codebook, norm)
        remainder = inputs - codebook[code]
        residual[:, part] = remainder
        codes.append(code)
        remainders.append(remainder)
    return torch.stack(codes, 1), remainders, residual
