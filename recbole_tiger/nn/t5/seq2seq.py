"""T5 encoder-decoder in plain torch: token ids come in, hidden states and logits go out.

It computes exactly what Hugging Face's `T5ForConditionalGeneration` computes (pre-norm RMSNorm, no biases,
unscaled attention scores plus one relative position bias per stack, ReLU feed-forward), and its weights go to
and from that class one to one; see `Seq2Seq.to_hf_state_dict`. TIGER uses it with the sizes of the paper,
section 4.1.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.nn.dropout import dropout


@dataclass(frozen=True)
class T5Config:
    """Sizes of the model under T5's names; the defaults are the paper's (section 4.1.3).

    `pad_token_id` is the decoder's start token as well, as in T5. Without `tie_word_embeddings` the output
    layer has its own matrix and, as in T5 1.1, hidden states are not scaled by `d_model**-0.5` before it.
    With `cross_position_bias`, which T5 does not have, the decoder's attention to the encoder has a relative position
    bias as well, by a token's distance from the end of what is seen.
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
    def of(cls, settings: Mapping, *, vocab_size: int, pad_token_id: int) -> T5Config:
        """The sizes that settings give under T5's names, with a vocabulary that follows from the data."""
        names = (
            "d_model d_kv d_ff num_heads num_encoder_layers num_decoder_layers dropout_rate tie_word_embeddings".split()
        )
        own = {name: settings[name] for name in names}
        cross_position_bias = bool(settings["cross_position_bias"])
        return cls(vocab_size=vocab_size, pad_token_id=pad_token_id, cross_position_bias=cross_position_bias, **own)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("tie_word_embeddings", "dropout_rate", "pad_token_id", "cross_position_bias"):
                continue
            if not value > 0:
                raise ValueError(f"{field.name} must be positive, but it is {value!r}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate must lie in [0, 1), but it is {self.dropout_rate!r}")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id} is outside the vocabulary of {self.vocab_size} tokens")
        if self.relative_attention_num_buckets < 4 or self.relative_attention_num_buckets % 2:
            raise ValueError(
                "relative_attention_num_buckets must be even and at least 4, "
                f"but it is {self.relative_attention_num_buckets}"
            )
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
            raise ValueError(
                f"relative_attention_max_distance ({self.relative_attention_max_distance}) must exceed half of "
                f"relative_attention_num_buckets ({self.relative_attention_num_buckets})"
            )


class RMSNorm(nn.Module):
    """T5's layer norm: scaled by the root mean square over the last dimension, no mean, no bias."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


class RelativeBias(nn.Module):
    """T5's relative position bias, one learned number per head and distance bucket, shared by a stack's layers."""

    def __init__(self, config: T5Config, *, bidirectional: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.relative_attention_num_buckets, config.num_heads))
        self.bidirectional = bidirectional
        self.max_distance = config.relative_attention_max_distance

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket of `distance` = key position - query position: half of the buckets exact, half logarithmic."""
        n_buckets = self.weight.shape[0]
        offset = torch.zeros_like(distance)
        if self.bidirectional:
            n_buckets //= 2
            offset = (distance > 0).long() * n_buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        n_exact = n_buckets // 2
        # clamp(min=1) only keeps the logarithm finite; distances below n_exact do not use it.
        ratio = torch.log(distance.clamp(min=1).float() / n_exact) / math.log(self.max_distance / n_exact)
        logarithmic = n_exact + (ratio * (n_buckets - n_exact)).long()
        return offset + torch.where(distance < n_exact, distance, logarithmic.clamp(max=n_buckets - 1))

    def forward(self, n_queries: int, n_keys: int, first_query: int = 0) -> Tensor:
        """Bias `[H, n_queries, n_keys]`; the queries stand at positions `first_query`, `first_query + 1`, …"""
        device = self.weight.device
        queries = torch.arange(first_query, first_query + n_queries, device=device)
        distance = torch.arange(n_keys, device=device)[None, :] - queries[:, None]
        return F.embedding(self.bucket(distance), self.weight).permute(2, 0, 1)


class CrossBias(RelativeBias):
    """The same for the decoder's attention to the encoder, by the number of tokens that follow within what is seen."""

    SCALE = 10.0  # of the learned numbers, which start at zero and should have an effect soon

    def forward(self, seen: Tensor) -> Tensor:
        """Bias `[…, T, H]` of the tokens that are seen, bool `[…, T]`; of others it has no meaning."""
        after = seen.sum(-1, keepdim=True) - seen.cumsum(-1)
        return self.SCALE * F.embedding(self.bucket(-after), self.weight)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, rate: float, training: bool) -> Tensor:
    """T5's attention, scores unscaled: `[B, H, U, D], [B, H, T, D] x 2 -> [B, H, U, D]`; `bias` added to the
    scores.

    On the CPU a bias that needs a gradient or dropout sends `scaled_dot_product_attention` down its slow
    general path, so training computes the product itself there, with the thin dropout.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled():
        scores = query @ key.transpose(-1, -2)
        if bias is not None:
            scores = scores + bias
        return dropout(scores.softmax(-1), rate, training) @ value
    if bias is not None and bias.dtype != query.dtype:  # under autocast
        # float32's lowest number would become -inf in bfloat16, and a row without any key NaN.
        bias = bias.clamp(min=torch.finfo(query.dtype).min).to(query.dtype)
    rate = rate if training else 0.0
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=rate, scale=1.0)


class Attention(nn.Module):
    """Query, key, value and output projection of one T5 attention; key and value (and query, if self) in one matrix."""

    def __init__(self, config: T5Config, *, cross: bool) -> None:
        super().__init__()
        self.n_heads, self.d_kv = config.num_heads, config.d_kv
        self.rate = config.dropout_rate
        self.inner = config.num_heads * config.d_kv
        self.cross = cross
        if cross:
            self.q = nn.Linear(config.d_model, self.inner, bias=False)
            self.kv = nn.Linear(config.d_model, 2 * self.inner, bias=False)
        else:
            self.qkv = nn.Linear(config.d_model, 3 * self.inner, bias=False)
        self.o = nn.Linear(self.inner, config.d_model, bias=False)

    def heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """`[B, T, parts * H * D]` to `parts` views `[B, H, T, D]`."""
        n_users, length, _ = projected.shape
        return projected.view(n_users, length, parts, self.n_heads, self.d_kv).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """`[B, H, U, D]` x 3 to `[B, U, H * D]`, before the output projection."""
        attended = _attend(query, key, value, bias, self.rate, self.training)
        return attended.transpose(1, 2).reshape(query.shape[0], query.shape[2], self.inner)


class FeedForward(nn.Module):
    """ReLU feed-forward with dropout between its two matrices."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.rate = config.dropout_rate

    def forward(self, hidden: Tensor) -> Tensor:
        return self.wo(dropout(self.wi(hidden), self.rate, self.training, relu=True))


class Layer(nn.Module):
    """One pre-norm block: self-attention, in the decoder cross-attention, feed-forward; each adds to the stream."""

    def __init__(self, config: T5Config, *, cross: bool) -> None:
        super().__init__()
        self.self_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.self_attention = Attention(config, cross=False)
        if cross:
            self.cross_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
            self.cross_attention = Attention(config, cross=True)
        self.ff_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.rate = config.dropout_rate

    def add(self, hidden: Tensor, update: Tensor) -> Tensor:
        return hidden + dropout(update, self.rate, self.training)


class Stack(nn.Module):
    """Encoder or decoder: layers, the relative bias that they share and the final norm."""

    def __init__(self, config: T5Config, *, decoder: bool) -> None:
        super().__init__()
        n_layers = config.num_decoder_layers if decoder else config.num_encoder_layers
        self.relative_bias = RelativeBias(config, bidirectional=not decoder)
        self.cross_bias = CrossBias(config, bidirectional=False) if decoder and config.cross_position_bias else None
        self.layers = nn.ModuleList(Layer(config, cross=decoder) for _ in range(n_layers))
        self.final_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)


class _Groups:
    """A padded batch `[B, T]` as groups of users of similar length, each cut to its longest: little padding is left.

    Its tokens become one matrix `[M, d]`, group after group, `b x t` rows each. A group holds so few tokens that its
    intermediate results stay in the processor's caches. On an accelerator, where data-dependent shapes would cost a
    synchronisation, and under `torch.compile`, which they would break, there is one group: the batch as it is.
    """

    MAX_TOKENS = 4096  # of a group
    MAX_PADDING = 128  # tokens of padding in a group that are cheaper than one more group

    def __init__(self, mask: Tensor) -> None:
        self.shape = n_users, length = mask.shape
        self.sizes = [(n_users, length)]  # (b, t) of each group
        self.order: Tensor | None = None  # user at each sorted place; None: as they come
        self.masks = [mask]  # [b, t] of each group
        if mask.device.type != "cpu" or torch.compiler.is_compiling() or n_users * length == 0:
            return
        columns = torch.arange(1, length + 1)
        # The last real column + 1 (padding may stand anywhere), 1 for a user without any token.
        last, order = (mask * columns).amax(1).clamp_(min=1).sort(descending=True, stable=True)
        self.sizes = self._cut(*(part.tolist() for part in last.unique_consecutive(return_counts=True)))
        if len(self.sizes) == 1 and self.sizes[0][1] == length:
            return
        self.order = order
        users = order.split([b for b, _ in self.sizes])
        self.masks = [mask[group, :t] for group, (_, t) in zip(users, self.sizes, strict=True)]
        index = [
            (group[:, None] * length + columns[:t] - 1).flatten()
            for group, (_, t) in zip(users, self.sizes, strict=True)
        ]
        self.index = torch.cat(index)  # [M] place in the flattened batch
        self.back = torch.full((n_users * length,), len(self.index))
        self.back[self.index] = torch.arange(len(self.index))  # M, a row of zeros, for what is cut off

    def _cut(self, lengths: list[int], counts: list[int]) -> list[tuple[int, int]]:
        """Sizes of the groups for `counts[i]` users of `lengths[i]` tokens, lengths descending."""
        sizes: list[tuple[int, int]] = []
        longest, n_users, padding = lengths[0], 0, 0
        for length, count in zip(lengths, counts, strict=True):
            if padding + count * (longest - length) > self.MAX_PADDING:
                sizes.append((n_users, longest))
                longest, n_users, padding = length, 0, 0
            n_users += count
            padding += count * (longest - length)
        sizes.append((n_users, longest))
        cut = []
        for n_users, length in sizes:
            n_parts = -(-n_users * length // self.MAX_TOKENS)
            bounds = [n_users * part // n_parts for part in range(n_parts + 1)]
            cut += [(high - low, length) for low, high in zip(bounds[:-1], bounds[1:], strict=True) if high > low]
        return cut

    def pack(self, padded: Tensor) -> list[Tensor]:
        """`[B, T, d]` to one `[b, t, d]` per group."""
        if self.order is None:
            return [padded]
        packed = F.embedding(self.index, padded.flatten(0, 1))
        parts = packed.split([b * t for b, t in self.sizes])
        return [part.view(b, t, part.shape[1]) for part, (b, t) in zip(parts, self.sizes, strict=True)]

    def unpack(self, parts: list[Tensor]) -> Tensor:
        """One `[b, t, d]` per group to `[B, T, d]`, zeros where nothing was computed."""
        if self.order is None:
            return parts[0]
        d_model = parts[0].shape[2]
        rows = torch.cat([*(part.flatten(0, 1) for part in parts), parts[0].new_zeros(1, d_model)])
        return F.embedding(self.back, rows).view(*self.shape, d_model)

    def pack_users(self, rows: Tensor) -> Tensor:
        """`[B, …]` in the order of the groups."""
        return rows if self.order is None else rows[self.order]

    def unpack_users(self, rows: Tensor) -> Tensor:
        return rows if self.order is None else rows[self.order.argsort()]

    def split_users(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Packed `[B, …]` to one `[b, …]` per group."""
        return rows.split([b for b, _ in self.sizes])


def _mask_to_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, the lowest finite number elsewhere (`-inf` would make an empty row NaN)."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


class Seq2Seq(nn.Module):
    """T5 encoder-decoder over one vocabulary; `forward` is teacher forcing, `incremental` cached decoding.

    Shapes: B users, T input tokens, U decoder tokens, V vocabulary. Masks are True at real tokens. What
        stands at padding never influences anything, and the encoder returns zeros there; a user without any
        token has an empty memory, to which cross-attention contributes nothing.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, decoder=False)
        self.decoder = Stack(config, decoder=True)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """T5's initialisation: normal, with the standard deviations of Mesh TensorFlow times `initializer_factor`."""
        c = self.config
        factor = c.initializer_factor

        def normal(weight: Tensor, std: float) -> None:
            weight.normal_(0.0, factor * std)

        normal(self.embedding.weight, 1.0)
        if self.lm_head is not None:
            normal(self.lm_head.weight, 1.0)
        inner = c.num_heads * c.d_kv
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.weight.fill_(factor)
            elif isinstance(module, CrossBias):
                module.weight.zero_()  # the network starts as T5
            elif isinstance(module, RelativeBias):
                normal(module.weight, c.d_model**-0.5)
            elif isinstance(module, FeedForward):
                normal(module.wi.weight, c.d_model**-0.5)
                normal(module.wo.weight, c.d_ff**-0.5)
            elif isinstance(module, Attention):
                # Queries start small because scores are not divided by sqrt(d_kv).
                query, rest = (
                    (module.q.weight, module.kv.weight)
                    if module.cross
                    else (
                        module.qkv.weight[:inner],
                        module.qkv.weight[inner:],
                    )
                )
                normal(query, (c.d_model * c.d_kv) ** -0.5)
                normal(rest, c.d_model**-0.5)
                normal(module.o.weight, inner**-0.5)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings `[…, d_model]`, before dropout."""
        return self.embedding(input_ids)

    def encode(
        self,
        input_ids: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Memory `[B, T, d_model]` of `input_ids [B, T]` (or `inputs_embeds [B, T, d_model]`), zeros at
        padding.

        Args:
            mask: bool `[B, T]`, True at real tokens; padding may stand anywhere. None: all real.
            attention_mask: extra bool `[T, T]` or `[B, T, T]`, True where the row's token may see the
                column's.
        """
        embeds = self._embeds(input_ids, inputs_embeds)
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        groups = _Groups(mask)
        parts = [
            self._encode(part, bias)
            for part, bias in zip(groups.pack(embeds), self._encoder_biases(groups, attention_mask), strict=True)
        ]
        return groups.unpack(parts).masked_fill(~mask[:, :, None], 0.0)

    def _encode(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """The encoder on one group: embeddings `[b, t, d_model]` and bias `[b, H, t, t]` to `[b, t, d_model]`."""
        rate, training = self.config.dropout_rate, self.training
        hidden = dropout(hidden, rate, training)
        for layer in self.encoder.layers:
            attention = layer.self_attention
            query, key, value = attention.heads(attention.qkv(layer.self_norm(hidden)), 3)
            hidden = layer.add(hidden, attention.o(attention.attend(query, key, value, bias)))
            hidden = layer.add(hidden, layer.feed_forward(layer.ff_norm(hidden)))
        return dropout(self.encoder.final_norm(hidden), rate, training)

    def _encoder_biases(self, groups: _Groups, attention_mask: Tensor | None) -> Iterator[Tensor]:
        """Relative bias plus mask, `[b, H, t, t]` per group, shared by the layers."""
        longest = max(t for _, t in groups.sizes)
        relative = self.encoder.relative_bias(longest, longest)
        allowed_of: Sequence[Tensor | None] = [attention_mask] * len(groups.sizes)
        if attention_mask is not None and attention_mask.dim() == 3:
            allowed_of = groups.split_users(groups.pack_users(attention_mask))
        for mask, allowed, (_, t) in zip(groups.masks, allowed_of, groups.sizes, strict=True):
            keys = mask[:, None, :]  # [b, 1, t]
            if allowed is not None:
                keys = keys & allowed[..., :t, :t]
            yield relative[:, :t, :t] + _mask_to_bias(keys[:, None], relative.dtype)

    def decode(
        self,
        decoder_input_ids: Tensor | None,
        memory: Tensor,
        mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states `[B, U, d_model]` under teacher forcing; every position sees itself and earlier ones."""
        embeds = self._embeds(decoder_input_ids, inputs_embeds)
        if mask is None:
            mask = torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)
        groups = _Groups(mask)
        length = embeds.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=embeds.device).tril_()
        relative = self.decoder.relative_bias(length, length)
        self_bias = (relative + _mask_to_bias(causal, relative.dtype))[None]  # [1, H, U, U]
        cross_biases = [self._cross_bias(m[:, None, :], memory.dtype) for m in groups.masks]  # [b, 1 or H, 1, t]
        memories = groups.pack(memory.masked_fill(~mask[:, :, None], 0.0))
        rate, training = self.config.dropout_rate, self.training
        hidden = dropout(groups.pack_users(embeds), rate, training)
        for layer in self.decoder.layers:
            attention = layer.self_attention
            query, key, value = attention.heads(attention.qkv(layer.self_norm(hidden)), 3)
            hidden = layer.add(hidden, attention.o(attention.attend(query, key, value, self_bias)))
            attention = layer.cross_attention
            queries = groups.split_users(attention.q(layer.cross_norm(hidden)))
            attended = []
            for query, part, bias in zip(queries, memories, cross_biases, strict=True):
                key, value = attention.heads(attention.kv(part), 2)
                attended.append(attention.attend(attention.heads(query, 1)[0], key, value, bias))
            hidden = layer.add(hidden, attention.o(torch.cat(attended)))
            hidden = layer.add(hidden, layer.feed_forward(layer.ff_norm(hidden)))
        hidden = dropout(self.decoder.final_norm(hidden), rate, training)
        return groups.unpack_users(hidden)

    def decode_many(self, decoder_input_ids: Tensor, memory: Tensor, visible: Tensor) -> Tensor:
        """Teacher forcing of several targets per user, each of which sees a part of the user's memory of its own.

        With a block-causal encoder this trains all positions of a history in one pass.

        Args:
            decoder_input_ids: `[B, J, U]`, J targets of U tokens.
            memory: `[B, T, d_model]`.
            visible: bool `[B, J, T]`, the memory that each target may attend to.

        Returns:
            Hidden states `[B, J, U, d_model]`; those of a target that sees nothing have no meaning.
        """
        n_users, n_targets, length = decoder_input_ids.shape
        causal = torch.ones(length, length, dtype=torch.bool, device=memory.device).tril_()
        relative = self.decoder.relative_bias(length, length)
        self_bias = (relative + _mask_to_bias(causal, relative.dtype))[None]  # [1, H, U, U]
        cross_bias = self._cross_bias(visible, memory.dtype).repeat_interleave(length, dim=2)  # [B, 1 or H, J*U, T]
        rate, training = self.config.dropout_rate, self.training
        hidden = dropout(self.embed(decoder_input_ids.flatten(0, 1)), rate, training)  # [B*J, U, d_model]
        for layer in self.decoder.layers:
            attention = layer.self_attention
            query, key, value = attention.heads(attention.qkv(layer.self_norm(hidden)), 3)
            hidden = layer.add(hidden, attention.o(attention.attend(query, key, value, self_bias)))
            attention = layer.cross_attention
            queries = attention.q(layer.cross_norm(hidden)).view(n_users, n_targets * length, -1)
            key, value = attention.heads(attention.kv(memory), 2)
            attended = attention.attend(attention.heads(queries, 1)[0], key, value, cross_bias)
            hidden = layer.add(hidden, attention.o(attended).view(hidden.shape))
            hidden = layer.add(hidden, layer.feed_forward(layer.ff_norm(hidden)))
        hidden = dropout(self.decoder.final_norm(hidden), rate, training)
        return hidden.view(n_users, n_targets, length, -1)

    def _cross_bias(self, seen: Tensor, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of the attention to the encoder where bool `seen` `[B, J, T]` is seen:
        `[B, 1, J, T]`, or `[B, H, J, T]` with a position bias."""
        bias = _mask_to_bias(seen, dtype)[:, None]
        if self.decoder.cross_bias is not None:
            bias = bias + self.decoder.cross_bias(seen).permute(0, 3, 1, 2)
        return bias

    def logits(self, hidden: Tensor, tokens: slice | None = None) -> Tensor:
        """Logits `[…, V]` of hidden states `[…, d_model]`, or `[…, len(tokens)]` of a range of tokens only."""
        if self.lm_head is None:
            hidden = hidden * self.config.d_model**-0.5
            weight = self.embedding.weight
        else:
            weight = self.lm_head.weight
        return F.linear(hidden, weight if tokens is None else weight[tokens])

    def forward(self, input_ids: Tensor, mask: Tensor | None, decoder_input_ids: Tensor) -> Tensor:
        """Teacher-forced logits `[B, U, V]`."""
        return self.logits(self.decode(decoder_input_ids, self.encode(input_ids, mask), mask))

    def incremental(self, memory: Tensor, mask: Tensor | None = None) -> IncrementalDecoder:
        """Cached decoding of many beams per user over `memory [B, T, d_model]`; never drops out."""
        return IncrementalDecoder(self, memory, mask)

    def _embeds(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either token ids or inputs_embeds, not both and not neither")
        return self.embed(input_ids) if inputs_embeds is None else inputs_embeds

    def to_hf_state_dict(self) -> dict[str, Tensor]:
        """Copies of the weights under the names of Hugging Face's `T5ForConditionalGeneration`.

        Raises:
            ValueError: with `cross_position_bias`, for which it has no place.
        """
        if self.config.cross_position_bias:
            raise ValueError("T5 has no position bias in its cross-attention: set cross_position_bias to False")
        inner = self.config.num_heads * self.config.d_kv
        state: dict[str, Tensor] = {}
        for name, parameter in self.named_parameters():
            for hf_name, rows in _hf_names(name, inner):
                state[hf_name] = parameter.detach()[rows].clone()
        shared = state["shared.weight"]
        for alias in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            state[alias] = shared
        if self.lm_head is None:
            state["lm_head.weight"] = shared
        return state

    @torch.no_grad()
    def load_hf_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a Hugging Face `T5ForConditionalGeneration` of the same sizes.

        Raises:
            ValueError: a name is missing or unknown, a shape differs, or the output layer is not tied as ours
                is.
        """
        inner = self.config.num_heads * self.config.d_kv
        aliases = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
        if self.lm_head is None:
            aliases.add("lm_head.weight")
            head = state.get("lm_head.weight")
            if head is not None and not torch.equal(head, state["shared.weight"]):
                raise ValueError("lm_head.weight differs from shared.weight: set tie_word_embeddings to False")
        wanted = {hf: (p, rows) for name, p in self.named_parameters() for hf, rows in _hf_names(name, inner)}
        missing = sorted(wanted.keys() - state.keys())
        unknown = sorted(state.keys() - wanted.keys() - aliases)
        if missing or unknown:
            raise ValueError(f"the weights do not fit this model: missing {missing[:5]}, unknown {unknown[:5]}")
        for hf_name, (parameter, rows) in wanted.items():
            target = parameter[rows]
            if target.shape != state[hf_name].shape:
                raise ValueError(
                    f"{hf_name} has shape {tuple(state[hf_name].shape)}, but this model needs {tuple(target.shape)}"
                )
            target.copy_(state[hf_name])


def _hf_names(name: str, inner: int) -> list[tuple[str, slice]]:
    """Names in Hugging Face's T5 for our parameter `name`, each with the rows of ours that it holds."""
    everything = slice(None)
    if name == "embedding.weight":
        return [("shared.weight", everything)]
    if name == "lm_head.weight":
        return [(name, everything)]
    stack, rest = name.split(".", 1)
    if rest == "relative_bias.weight":
        return [(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", everything)]
    if rest == "final_norm.weight":
        return [(f"{stack}.final_layer_norm.weight", everything)]
    _, number, part, *leaf = rest.split(".")
    ff = 2 if stack == "decoder" else 1
    place = {"self_norm": 0, "self_attention": 0, "cross_norm": 1, "cross_attention": 1, "ff_norm": ff}.get(part, ff)
    prefix = f"{stack}.block.{number}.layer.{place}"
    if part.endswith("norm"):
        return [(f"{prefix}.layer_norm.weight", everything)]
    if part == "feed_forward":
        return [(f"{prefix}.DenseReluDense.{leaf[0]}.weight", everything)]
    kind = "SelfAttention" if part == "self_attention" else "EncDecAttention"
    letters = leaf[0]
    if len(letters) == 1:
        return [(f"{prefix}.{kind}.{letters}.weight", everything)]
    return [(f"{prefix}.{kind}.{letter}.weight", slice(i * inner, (i + 1) * inner)) for i, letter in enumerate(letters)]


class IncrementalDecoder:
    """Decoder with cached keys and values: K beams of a user stand on the query axis of one attention.

    What cross-attention needs of a user's memory is computed once, never per beam, and with the query and output
    projections multiplied into it: with `x` a beam's state and `m` a token's memory, head `h` scores
    `(x Wq_h) (m Wk_h)' = x (m Wk_h Wq_h')'` and adds `(m Wv_h) Wo_h` to the state, so that a step multiplies by two
    `H * T x d_model` matrices per user and has no projection left.
    Self-attention keys and values stay where they were computed; each beam carries the index of its ancestor at every
    earlier position (`parents` composed). There are no gradients, and decoding runs in the precision of the weights.
    """

    def __init__(self, model: Seq2Seq, memory: Tensor, mask: Tensor | None = None) -> None:
        self.model = model
        self.cross_bias: Tensor | None = None  # [B, 1, H * T]
        with torch.no_grad(), _full_precision(memory):
            memory = memory.to(model.embedding.weight.dtype)
            if mask is not None:
                if mask.device.type == "cpu" and mask.any():  # columns that are padding for all need no attention
                    length = int(mask.any(0).nonzero()[-1]) + 1
                    memory, mask = memory[:, :length], mask[:, :length]
                memory = memory.masked_fill(~mask[:, :, None], 0.0)
            elif model.config.cross_position_bias:
                mask = torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)
            if mask is not None:
                bias = model._cross_bias(mask[:, None], memory.dtype)[:, :, 0]  # [B, 1 or H, T]
                self.cross_bias = bias.expand(-1, model.config.num_heads, -1).flatten(1)[:, None]
            # Per layer, [B, H * T, d_model] for the scores and for the update.
            self.cross = [self._absorb(layer.cross_attention, memory) for layer in model.decoder.layers]
        # Per layer and earlier position, [B * K_u, 2 * H * D].
        self.past: list[list[Tensor]] = [[] for _ in model.decoder.layers]
        self.ancestors: list[Tensor] = []  # per earlier position: [B * K] rows of its entries in `past`
        self.n_beams = 0  # of the last step

    @staticmethod
    def _absorb(attention: Attention, memory: Tensor) -> tuple[Tensor, Tensor]:
        n_users, length, d_model = memory.shape
        n_heads, d_kv = attention.n_heads, attention.d_kv
        # [2 * H, B * T, D]: keys of all heads, then values of all heads.
        kv = attention.kv(memory).view(n_users * length, 2 * n_heads, d_kv).transpose(0, 1)
        to_query = attention.q.weight.view(n_heads, d_kv, d_model)
        to_output = attention.o.weight.view(d_model, n_heads, d_kv).permute(1, 2, 0)
        absorbed = torch.bmm(kv, torch.cat([to_query, to_output]))
        absorbed = absorbed.view(2, n_heads, n_users, length, d_model).transpose(1, 2)
        keys, values = absorbed.reshape(2, n_users, n_heads * length, d_model)
        return keys, values

    def fork(self) -> IncrementalDecoder:
        """A decoder with the same past; stepping one leaves the other as it is. Nothing is copied."""
        twin = object.__new__(IncrementalDecoder)
        twin.__dict__.update(self.__dict__)
        twin.past = [list(layer) for layer in self.past]
        twin.ancestors = list(self.ancestors)
        return twin

    @torch.no_grad()
    def step(self, token_ids: Tensor, parents: Tensor | None = None) -> Tensor:
        """Hidden states `[B, K, d_model]` after one more token per beam.

        Args:
            token_ids: `[B, K]`.
            parents: `[B, K]`, which beam of the previous step each one continues; None: the same one.
        """
        n_users, n_beams = token_ids.shape
        if self.past[0]:
            if parents is None:
                parents = torch.arange(n_beams, device=token_ids.device).expand(n_users, -1)
            users = torch.arange(n_users, device=token_ids.device)[:, None]
            parents = (users * self.n_beams + parents).flatten()
            self.ancestors = [older[parents] for older in self.ancestors] + [parents]
        self.n_beams = n_beams
        position = len(self.past[0])
        model = self.model
        with _full_precision(token_ids):
            bias = model.decoder.relative_bias(1, position + 1, position)[:, 0]  # [H, position + 1]
            hidden = model.embed(token_ids).flatten(0, 1)  # [B * K, d_model], updated in place
            for number, layer in enumerate(model.decoder.layers):
                if number == 0:
                    qkv = self._first_qkv(layer, token_ids.flatten(), hidden)
                else:
                    qkv = layer.self_attention.qkv(layer.self_norm(hidden))
                self._self_attention(number, layer, hidden, qkv, bias)
                self._cross_attention(number, layer, hidden.view(n_users, n_beams, -1))
                wide = layer.feed_forward.wi(layer.ff_norm(hidden)).relu_()
                hidden.addmm_(wide, layer.feed_forward.wo.weight.t())
            return model.decoder.final_norm(hidden).view(n_users, n_beams, -1)

    @staticmethod
    def _first_qkv(layer: Layer, token_ids: Tensor, hidden: Tensor) -> Tensor:
        """Projections of the first layer: they depend on the token alone, and the beams share few tokens."""
        if hidden.device.type != "cpu":  # the number of distinct tokens would be waited for
            return layer.self_attention.qkv(layer.self_norm(hidden))
        distinct, which = token_ids.unique(return_inverse=True)
        first = torch.empty_like(distinct).scatter_(0, which, torch.arange(len(which)))
        return layer.self_attention.qkv(layer.self_norm(hidden[first])).index_select(0, which)

    def _self_attention(self, number: int, layer: Layer, hidden: Tensor, qkv: Tensor, bias: Tensor) -> None:
        attention = layer.self_attention
        inner = attention.inner
        past = [old.index_select(0, rows) for old, rows in zip(self.past[number], self.ancestors, strict=True)]
        past.append(qkv[:, inner:])
        self.past[number].append(qkv[:, inner:])

        def heads(rows: Tensor) -> Tensor:
            return rows.unflatten(1, (attention.n_heads, attention.d_kv))

        # One query per row: a matrix product per row and head would be all overhead.
        query = heads(qkv[:, :inner])
        scores = torch.stack([(query * heads(kv[:, :inner])).sum(-1) for kv in past], -1)  # [B * K, H, position + 1]
        weights = (scores + bias).softmax(-1)
        attended = weights[..., :1] * heads(past[0][:, inner:])
        for i, kv in enumerate(past[1:], 1):
            attended.addcmul_(weights[..., i : i + 1], heads(kv[:, inner:]))
        hidden.addmm_(attended.flatten(1), attention.o.weight.t())

    def _cross_attention(self, number: int, layer: Layer, hidden: Tensor) -> None:
        keys, values = self.cross[number]
        query = layer.cross_norm(hidden)  # [B, K, d_model]
        if self.cross_bias is None:
            scores = torch.bmm(query, keys.transpose(1, 2))  # [B, K, H * T]
        else:
            scores = torch.baddbmm(self.cross_bias, query, keys.transpose(1, 2))
        n_heads = layer.cross_attention.n_heads
        weights = scores.unflatten(2, (n_heads, keys.shape[1] // n_heads)).softmax(-1).flatten(2)
        hidden.baddbmm_(weights, values)


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Switches autocasting off: in-place products need operands of one type."""
    return torch.autocast(tensor.device.type, enabled=False)
