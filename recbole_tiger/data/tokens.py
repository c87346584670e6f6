"""The vocabulary of the sequence-to-sequence model, and items and users written in it.

Input: a Semantic ID table and histories of internal item numbers. Output: padded token tensors and their masks.
Token 0 is padding (and T5's decoder start); then every level has its own block of codewords ("256 x 4 tokens" in the
paper, 4.1.3); then the hashed user tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch

PAD = 0


class Vocabulary:
    """Token numbers of codewords and users.

    Args:
        level_sizes: number of codewords of each level, the collision level last.
        user_buckets: number of hashed user tokens; 0 for none.
    """

    def __init__(self, level_sizes: Sequence[int], user_buckets: int):
        self.level_sizes = tuple(int(size) for size in level_sizes)
        self.user_buckets = int(user_buckets)
        self.offsets = tuple(int(x) for x in 1 + np.concatenate([[0], np.cumsum(self.level_sizes[:-1])]))
        self.user_offset = 1 + sum(self.level_sizes)
        self.size = self.user_offset + self.user_buckets

    @property
    def length(self) -> int:
        """Tokens per item."""
        return len(self.level_sizes)

    def level_slice(self, level: int) -> slice:
        """The token numbers of one level's codewords."""
        return slice(self.offsets[level], self.offsets[level] + self.level_sizes[level])

    def item_tokens(self, codes: np.ndarray) -> torch.Tensor:
        """Codes [n_items + 1, length] with padding row 0 -> tokens of the same shape, row 0 all :data:`PAD`."""
        tokens = torch.tensor(codes, dtype=torch.long) + torch.tensor(self.offsets)
        tokens[0] = PAD
        return tokens

    def user_tokens(self, user_ids: Sequence[str]) -> torch.Tensor:
        """External user ids -> token numbers [n], by the hashing trick (paper 4.1.3, reference 39).

        CRC-32 of the id's text: the same on every machine and in every process, unlike Python's ``hash``.
        """
        if not self.user_buckets:
            raise ValueError("user_buckets=0: this vocabulary has no user tokens")
        hashes = [zlib.crc32(str(user).encode("utf-8")) % self.user_buckets for user in user_ids]
        return torch.tensor(hashes, dtype=torch.long) + self.user_offset


def encoder_input(
    item_tokens: torch.Tensor, history: torch.Tensor, user_tokens: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token sequence of a batch of histories.

    Args:
        item_tokens: [n_items + 1, L] tokens of every item, row 0 padding.
        history: [B, H] internal item numbers in time order, padded with 0 at the end.
        user_tokens: [B] token that opens each sequence, or None.

    Returns:
        tokens [B, T] and mask [B, T] (True at tokens), T = (1 if user tokens) + H * L, at least 1. The first
        position is never masked, so that an empty history without a user token is one padding token, not nothing.
    """
    tokens = item_tokens[history].flatten(1)
    if user_tokens is not None:
        tokens = torch.cat([user_tokens[:, None], tokens], dim=1)
    elif history.shape[1] == 0:
        tokens = item_tokens.new_full((len(history), 1), PAD)
    mask = tokens != PAD
    mask[:, 0] = True
    return tokens, mask


def block_causal_mask(n_tokens: int, tokens_per_item: int, user_token: bool, device=None) -> torch.Tensor:
    """Which tokens an encoder token may see when an item sees itself and earlier items only: bool [T, T].

    A user token, where there is one, stands first and is seen by all.
    """
    position = torch.arange(n_tokens, device=device)
    block = torch.div(position - int(user_token), tokens_per_item, rounding_mode="floor")  # the user token is block -1
    return block[None, :] <= block[:, None]
