"""Sizes of a T5 model.

Input: sizes under T5's names, from arguments or settings. Output: a `T5Config` whose values fit each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class T5Config:
    """Sizes of the model under T5's names; the defaults are the paper's (section 4.1.3).

    `pad_token_id` is the decoder's start token as well, as in T5. Without `tie_word_embeddings` the output layer has
    its own matrix and, as in T5 1.1, hidden states are not scaled by `d_model**-0.5` before it. With
    `cross_position_bias`, which T5 does not have, the decoder's attention to the encoder has a relative position bias
    as well, by a token's distance from the end of what the decoder sees.

    Raises:
        ValueError: a size that is not positive, or sizes that do not fit each other.
    """

    vocab_size: int
    d_model: int = 128
    d_kv: int = 64
    d_ff: int = 1024
    num_heads: int = 6
    num_encoder_layers: int = 4
    num_decoder_layers: int = 4
    dropout_rate: float = 0.1
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    tie_word_embeddings: bool = True
    pad_token_id: int = 0
    cross_position_bias: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, vocab_size: int, pad_token_id: int) -> T5Config:
        """The sizes that settings give under T5's names, with a vocabulary that follows from the data."""
        names = ("d_model", "d_kv", "d_ff", "num_heads", "num_encoder_layers", "num_decoder_layers")
        sizes = {name: settings[name] for name in (*names, "dropout_rate", "tie_word_embeddings")}
        cross_position_bias = bool(settings["cross_position_bias"])
        return cls(vocab_size=vocab_size, pad_token_id=pad_token_id, cross_position_bias=cross_position_bias, **sizes)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("tie_word_embeddings", "dropout_rate", "pad_token_id", "cross_position_bias"):
                if not value > 0:
                    raise ValueError(f"{name} must be positive, but it is {value!r}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate must lie in [0, 1), but it is {self.dropout_rate!r}")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id} is outside the vocabulary of {self.vocab_size} tokens")
        n_buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if n_buckets < 4 or n_buckets % 2:
            raise ValueError(f"relative_attention_num_buckets must be even and at least 4, but it is {n_buckets}")
        if distance <= n_buckets // 2:
            raise ValueError(
                f"relative_attention_max_distance ({distance}) must exceed half of relative_attention_num_buckets "
                f"({n_buckets})"
            )
