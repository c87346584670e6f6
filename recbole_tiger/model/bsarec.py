"""BSARec: SASRec whose attention is mixed with a filter that weighs the high frequencies of a history anew.

The filter reads the whole of a sequence at once, later positions too, so every prefix of a history is a training
example of its own, as for RecBole's models; one pass over all positions would show the answer.

Reference:
    Yehjin Shin et al. "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention." AAAI 2024.
"""

from __future__ import annotations

import torch
from recbole.model.layers import FeedForward, MultiHeadAttention
from recbole.model.sequential_recommender.sasrec import SASRec
from torch import nn


class FrequencyRescaler(nn.Module):
    """The lowest frequencies of a sequence as they are, the others times a learned weight per channel, plus the input.

    Args:
        length: of all sequences.
        n_low: frequencies of the whole spectrum that are low: the constant and pairs of conjugates.
    """

    def __init__(self, length, hidden_size, n_low, dropout_prob, layer_norm_eps):
        super().__init__()
        self.sqrt_beta = nn.Parameter(torch.randn(hidden_size))  # squared, so that no weight is negative
        self.dropout = nn.Dropout(dropout_prob)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        # Fourier transform, cut and its inverse are one matrix; on a CPU its product is quicker than the transforms.
        spectrum = torch.fft.rfft(torch.eye(length), dim=0)
        spectrum[n_low // 2 + 1 :] = 0
        self.register_buffer("low_pass", torch.fft.irfft(spectrum, n=length, dim=0), persistent=False)  # [L, L]

    def forward(self, x, first=0):
        """Sequences [B, L, H] -> their positions from `first` on, [B, L - first, H]."""
        low, x = self.low_pass[first:] @ x, x[:, first:]
        return self.LayerNorm(x + self.dropout(low + self.sqrt_beta**2 * (x - low)))


class Attention(MultiHeadAttention):
    """RecBole's, for a part of the positions: of the highest layer only the last one is read."""

    def forward(self, x, attention_mask, first=0):
        """Sequences [B, L, H], and a mask [B, 1, L, L] to add -> their positions from `first` on, [B, L - first, H]."""
        asking = x[:, first:]
        query, key, value = (
            self.transpose_for_scores(part).transpose(1, 2) for part in (self.query(asking), self.key(x), self.value(x))
        )
        scores = query @ key.transpose(2, 3) / self.sqrt_attention_head_size + attention_mask[:, :, first:]
        mixed = self.attn_dropout(self.softmax(scores)) @ value  # [B, heads, L - first, head size]
        return self.LayerNorm(asking + self.out_dropout(self.dense(mixed.transpose(1, 2).flatten(2))))


class BSARecLayer(nn.Module):
    """Filter and attention side by side, mixed by the weight `alpha` of the filter, and a feed-forward network."""

    def __init__(self, config, length):
        super().__init__()
        width, dropout, eps = config["hidden_size"], config["hidden_dropout_prob"], config["layer_norm_eps"]
        self.alpha = config["alpha"]
        self.rescaler = FrequencyRescaler(length, width, config["c"], dropout, eps)
        self.attention = Attention(config["n_heads"], width, dropout, config["attn_dropout_prob"], eps)
        self.feed_forward = FeedForward(width, config["inner_size"], dropout, config["hidden_act"], eps)

    def forward(self, x, attention_mask, first=0):
        """Sequences [B, L, H] -> their positions from `first` on, [B, L - first, H]."""
        mixed = self.alpha * self.rescaler(x, first) + (1 - self.alpha) * self.attention(x, attention_mask, first)
        return self.feed_forward(mixed)


class BSARec(SASRec):
    """SASRec's embeddings, losses and scores around the layers above; histories stand at the end of their sequence."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)

        # define layers and loss
        self.trm_encoder = nn.ModuleList(BSARecLayer(config, self.max_seq_length) for _ in range(self.n_layers))

        # parameters initialization
        self.apply(self._init_weights)

    @staticmethod
    def at_the_end(item_seq, item_seq_len):
        """Histories padded at the end, [B, L], as histories padded at the start: [B, L]."""
        length = item_seq.shape[1]
        position = torch.arange(length, device=item_seq.device) - (length - item_seq_len)[:, None]
        return torch.where(position >= 0, item_seq.gather(1, position.clamp(min=0)), 0)

    def forward(self, item_seq, item_seq_len):
        item_seq = self.at_the_end(item_seq, item_seq_len)  # the last item always has the same phase
        x = self.dropout(self.LayerNorm(self.item_embedding(item_seq) + self.position_embedding.weight))  # [B, L, H]
        attention_mask = self.get_attention_mask(item_seq)
        *lower, highest = self.trm_encoder
        for layer in lower:
            x = layer(x, attention_mask)
        return highest(x, attention_mask, first=self.max_seq_length - 1)[:, 0]  # [B, H]
