"""Cross-entropy over all items of a catalogue, without ever holding the matrix of all logits.

Input: states and item embeddings. Output: their mean loss. Derivatives are computed with the loss, on a block of rows
while its logits are in the cache: the time is that of the three matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Rows of logits computed at a time: on a CPU what its cache holds, elsewhere what keeps the device busy.
_ROWS = {"cpu": 128}
_ROWS_ELSEWHERE = 4096


class _ItemCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, embeddings: Tensor, targets: Tensor, row: Tensor, column: Tensor, added: Tensor
    ) -> Tensor:
        n = len(states)
        of_states, of_embeddings = torch.empty_like(states), torch.zeros_like(embeddings)
        of_added, total = torch.zeros_like(added), states.new_zeros(())
        size = _ROWS.get(states.device.type, _ROWS_ELSEWHERE)
        first = [0, len(row)]
        if n > size:
            first = torch.searchsorted(row, torch.arange(0, n + size, size, device=row.device)).tolist()
        for block, start in enumerate(range(0, n, size)):
            here, target = states[start : start + size], targets[start : start + size, None]
            logits = here @ embeddings.t()
            pairs = slice(first[block], first[block + 1])
            index = (row[pairs] - start, column[pairs])
            logits.index_put_(index, added, accumulate=True)
            highest = logits.amax(1, keepdim=True)
            chosen = logits.gather(1, target) - highest
            mass = logits.sub_(highest).exp_().sum(1, keepdim=True)
            total += (mass.log() - chosen).sum()
            # From here on the block holds the derivative by its logits.
            logits.mul_(1 / (n * mass)).scatter_add_(1, target, torch.full_like(mass, -1 / n))
            torch.mm(logits, embeddings, out=of_states[start : start + size])
            of_embeddings.addmm_(logits.t(), here)
            of_added += logits[index].sum()
        ctx.save_for_backward(of_states, of_embeddings, of_added)
        return total / n

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_states, of_embeddings, of_added = ctx.saved_tensors
        return gradient * of_states, gradient * of_embeddings, None, None, None, gradient * of_added


def item_cross_entropy(
    states: Tensor, embeddings: Tensor, targets: Tensor, pairs: tuple[Tensor, Tensor] | None, added: Tensor | None
) -> Tensor:
    """Mean of the cross-entropies of the softmaxes over `states @ embeddings.T`.

    Args:
        states: `[N, d]`, N at least 1.
        embeddings: `[n, d]`.
        targets: `[N]` rows of `embeddings`.
        pairs: rows (ascending) and columns of logits, each pair once, that the scalar `added` is added to, or None.
    """
    if pairs is None:
        pairs, added = (targets[:0], targets[:0]), states.new_zeros(())
    loss: Tensor = _ItemCrossEntropy.apply(states, embeddings, targets, *pairs, added)  # type: ignore[no-untyped-call]
    return loss
