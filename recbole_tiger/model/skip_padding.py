"""Histories of similar length are encoded together, so that the padding of the short ones is not computed.

Input: the class of a model of RecBole that encodes each history by itself. Output: a class with the same results.
"""

from __future__ import annotations

import torch

_SHORTEST = 4  # histories up to this length form one part; the next parts are up to twice as long, and so on


class _SkipsPadding:
    """Goes before a model's class: its `forward`, in parts of the batch."""

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """What the model's own `forward` gives for histories `[B, L]` of lengths `[B]`, padded at the end."""
        encode = super().forward  # type: ignore[misc]
        if item_seq.device.type != "cpu":  # elsewhere many small products take longer than a large one
            return encode(item_seq, item_seq_len)
        widths = [_SHORTEST]
        while widths[-1] < item_seq.shape[1]:
            widths.append(2 * widths[-1])
        part_of = torch.bucketize(item_seq_len, torch.tensor(widths))
        order = part_of.argsort(stable=True)
        parts = zip(order.split(part_of.bincount(minlength=len(widths)).tolist()), widths, strict=True)
        encoded = torch.cat([encode(item_seq[rows, :width], item_seq_len[rows]) for rows, width in parts if len(rows)])
        return torch.empty_like(encoded).index_copy(0, order, encoded)


def skipping_padding(cls: type) -> type:
    """The class of a model, which must encode each history by itself from its items alone."""
    return type(cls.__name__, (_SkipsPadding, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})
