"""The loss of RQ-VAE: a batch in, its gradients in the network's parameters and what codebooks learn from out.

An encoder maps a content embedding x to a latent z; m codebooks quantize z level by level, each what the level
before left over; a decoder maps the sum of the codewords back to x. All are trained together on

    L(x) = |x - x'|^2 + sum_d ( |sg[r_d] - e_d|^2 + beta |r_d - sg[e_d]|^2 ),    r_{d+1} = r_d - e_d,

with the paper's norms taken literally: squares are summed over dimensions, and averaged over the items of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from recbole_tiger.quantization.codebooks import quantize
from recbole_tiger.quantization.kmeans import group_sums
from recbole_tiger.quantization.rqvae.network import RQVAENetwork


@dataclass(frozen=True)
class StepResult:
    """What a step on a batch leaves beside gradients.

    Attributes:
        losses: `[2]`, reconstruction and quantization term, on the device.
        counts: how often each code was chosen, `[K_d]` per level.
        sums: the sums of the inputs that chose it, `[K_d, width_d]` per level; empty where codebooks learn by gradient.
    """

    losses: torch.Tensor
    counts: list[torch.Tensor]
    sums: list[torch.Tensor]


def backward(
    network: RQVAENetwork,
    x: torch.Tensor,
    slices: list[slice],
    beta: float,
    *,
    residual: bool,
    sums_only: bool,
    further: Callable[[torch.Tensor], torch.Tensor | None] = lambda quantized: None,
) -> StepResult:
    """Leaves the gradient of the batch's mean loss in every parameter.

    The gradients of the quantization terms have a closed form. With q_d = r_d - e_d (what level d left over),
    both terms of a level have the value |q_d|^2; the codebook term's gradient with respect to e_d is -2 q_d,
    the commitment term's is 2 beta q_d with respect to z, and, because r_d = z - e_0 - ... - e_{d-1} and the
    paper puts no stop-gradient there, -2 beta q_d with respect to every earlier codeword.

    Args:
        network: its gradients must be empty.
        x: embeddings `[b, dim]`.
        slices: the part of the latent that each level quantizes.
        beta: weight of the commitment term.
        residual: whether a level quantizes what the level before left over.
        further: from the quantized latents `[b, width]` to the gradient of a further loss, which the latents get.
        sums_only: no gradient for the codebooks, but the sums that moving averages need.
    """
    latent = network.encoder(x)
    with torch.no_grad():
        codebooks = list(network.codebooks)
        norms = [codebook.square().sum(1) for codebook in codebooks]
        codes, remainders, rest = quantize(latent, codebooks, norms, slices)
        # without residuals the levels' remainders are the parts of the rest
        left = torch.stack(remainders).sum(0) if residual else rest
        distances = sum((r.square().sum(1).mean() for r in remainders), start=torch.zeros((), device=x.device))
        quantization = (1 + beta) * distances
        gradient = left * (2 * beta / len(x))  # of the commitment terms
        added = further(latent - rest)
        gradient = gradient if added is None else gradient + added
    # straight-through: the decoder sees the codewords, the gradient goes to the latent as it is
    reconstructed = network.decoder(latent - rest)
    reconstruction = (x - reconstructed).square().sum(1).mean()
    torch.autograd.backward([reconstruction, latent], [None, gradient])

    counts: list[torch.Tensor] = []
    sums: list[torch.Tensor] = []
    later = torch.zeros_like(remainders[-1])  # beta times the remainders of all later levels
    for remainder, codebook, code in reversed(list(zip(remainders, codebooks, codes.T, strict=True))):
        if sums_only:
            summed, count = group_sums(remainder + codebook[code], code, len(codebook))
            sums.insert(0, summed)
        else:
            pull = remainder + later if residual else remainder
            summed, count = group_sums(pull, code, len(codebook))
            codebook.grad = summed * (-2 / len(x))
            if residual:
                later = later + beta * remainder
        counts.insert(0, count)
    return StepResult(torch.stack([reconstruction.detach(), quantization]), counts, sums)
