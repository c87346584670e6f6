"""T5 encoder-decoder in plain torch, exactly as Hugging Face's `T5ForConditionalGeneration` computes it.

Input: token ids. Output: hidden states and logits. That is pre-norm RMSNorm, no biases, unscaled attention scores plus
one relative position bias per stack, ReLU feed-forward. TIGER uses it with the sizes of the paper, section 4.1.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.nn.dropout import dropout
from recbole_tiger.nn.t5.config import T5Config
from recbole_tiger.nn.t5.huggingface import export_weights, import_weights
from recbole_tiger.nn.t5.stack import Attention, CrossBias, FeedForward, RelativeBias, RMSNorm, Stack, mask_to_bias


class LengthGroups:
    """A padded batch `[B, T]` as groups of users of similar length, each cut to its longest.

    Its tokens become one matrix `[M, d]`, group after group, `b x t` rows each. A group holds so few tokens that its
    intermediate results stay in the processor's caches. On an accelerator, where data-dependent shapes would cost a
    synchronisation, and under `torch.compile`, which they would break, there is one group: the batch as it is.
    """

    MAX_TOKENS = 4096  # of a group
    MAX_PADDING = 128  # tokens of padding in a group that are cheaper than one more group

    def __init__(self, mask: Tensor) -> None:
        self.shape = n_users, length = mask.shape
        self.sizes = [(n_users, length)]  # (b, t) of each group
        self.order: Tensor | None = None  # user at each sorted position; None: as they come
        self.masks = [mask]  # [b, t] of each group
        if mask.device.type != "cpu" or torch.compiler.is_compiling() or n_users * length == 0:
            return
        columns = torch.arange(1, length + 1)
        # The last real column + 1 (padding may stand anywhere), 1 for a user without any token.
        last, order = (mask * columns).amax(1).clamp_(min=1).sort(descending=True, stable=True)
        self.sizes = self._cut(*(part.tolist() for part in torch.unique_consecutive(last, return_counts=True)))
        if len(self.sizes) == 1 and self.sizes[0][1] == length:
            return
        self.order = order
        groups = list(zip(order.split([b for b, _ in self.sizes]), (t for _, t in self.sizes), strict=True))
        self.masks = [mask[users, :t] for users, t in groups]
        index = [(users[:, None] * length + columns[:t] - 1).flatten() for users, t in groups]
        self.index = torch.cat(index)  # [M] position in the flattened batch
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
        """`[B, …]` from the order of the groups in the batch's."""
        return rows if self.order is None else rows[self.order.argsort()]

    def split_users(self, rows: Tensor) -> tuple[Tensor, ...]:
        """`[B, …]` in the order of the groups to one `[b, …]` per group."""
        return torch.split(rows, [b for b, _ in self.sizes])


class Seq2Seq(nn.Module):
    """T5 encoder-decoder over one vocabulary; `forward` is teacher forcing, `IncrementalDecoder` cached decoding.

    Shapes: B users, T input tokens, U decoder tokens, V vocabulary. Masks are True at real tokens. Padding never
    influences anything, and the encoder returns zeros there; to a user without any token cross-attention adds nothing.
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
                query = module.q.weight if module.cross else module.qkv.weight[:inner]
                normal(query, (c.d_model * c.d_kv) ** -0.5)
                normal(module.kv.weight if module.cross else module.qkv.weight[inner:], c.d_model**-0.5)
                normal(module.o.weight, inner**-0.5)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings `[…, d_model]`, before dropout."""
        embedded: Tensor = self.embedding(input_ids)
        return embedded

    def encode(
        self,
        input_ids: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Memory `[B, T, d_model]` of `input_ids [B, T]` (or `inputs_embeds [B, T, d_model]`), zeros at padding.

        Args:
            mask: bool `[B, T]`, True at real tokens; padding may stand anywhere. None: all real.
            attention_mask: extra bool `[T, T]` or `[B, T, T]`, True where the row's token may see the column's.

        Raises:
            ValueError: both token ids and embeddings, or neither.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either token ids or inputs_embeds, not both and not neither")
        embeds = self.embed(input_ids) if input_ids is not None else cast(Tensor, inputs_embeds)
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        groups = LengthGroups(mask)
        biases = self._encoder_biases(groups, attention_mask)
        parts = [self._encode(part, bias) for part, bias in zip(groups.pack(embeds), biases, strict=True)]
        return groups.unpack(parts).masked_fill(~mask[:, :, None], 0.0)

    def _encode(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """The encoder on one group: embeddings `[b, t, d_model]` and bias `[b, H, t, t]` to `[b, t, d_model]`."""
        rate, training = self.config.dropout_rate, self.training
        hidden = dropout(hidden, rate, training)
        for layer in self.encoder.layers:
            hidden = layer.add_feed_forward(layer.add_self_attention(hidden, bias))
        return dropout(self.encoder.final_norm(hidden), rate, training)

    def _encoder_biases(self, groups: LengthGroups, attention_mask: Tensor | None) -> Iterator[Tensor]:
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
            yield relative[:, :t, :t] + mask_to_bias(keys[:, None], relative.dtype)

    def decode(self, decoder_input_ids: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states `[B, U, d_model]` under teacher forcing; every position sees itself and earlier ones."""
        if mask is None:
            mask = torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)
        groups = LengthGroups(mask)
        biases = [self.cross_attention_bias(m[:, None, :], memory.dtype) for m in groups.masks]  # [b, 1 or H, 1, t]
        memories = groups.pack(memory.masked_fill(~mask[:, :, None], 0.0))

        def attend(attention: Attention, hidden: Tensor) -> Tensor:
            queries = groups.split_users(attention.q(hidden))
            attended = []
            for query, part, bias in zip(queries, memories, biases, strict=True):
                key, value = attention.heads(attention.kv(part), 2)
                attended.append(attention.attend(attention.heads(query, 1)[0], key, value, bias))
            return torch.cat(attended)

        return groups.unpack_users(self._decode(groups.pack_users(self.embed(decoder_input_ids)), attend))

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
        bias = self.cross_attention_bias(visible, memory.dtype).repeat_interleave(length, dim=2)  # [B, 1|H, J*U, T]

        def attend(attention: Attention, hidden: Tensor) -> Tensor:
            queries = attention.q(hidden).view(n_users, n_targets * length, -1)
            key, value = attention.heads(attention.kv(memory), 2)
            attended = attention.attend(attention.heads(queries, 1)[0], key, value, bias)
            return attended.view(*hidden.shape[:2], -1)

        hidden = self._decode(self.embed(decoder_input_ids.flatten(0, 1)), attend)  # [B*J, U, d_model]
        return hidden.view(n_users, n_targets, length, -1)

    def _decode(self, embeds: Tensor, attend: Callable[[Attention, Tensor], Tensor]) -> Tensor:
        """The decoder on embeddings `[N, U, d_model]`; `attend` is the attention to the encoder, `[N, U, H * D]`."""
        length = embeds.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=embeds.device).tril_()
        relative = self.decoder.relative_bias(length, length)
        self_bias = (relative + mask_to_bias(causal, relative.dtype))[None]  # [1, H, U, U]
        rate, training = self.config.dropout_rate, self.training
        hidden = dropout(embeds, rate, training)
        for layer in self.decoder.layers:
            hidden = layer.add_self_attention(hidden, self_bias)
            attention = layer.cross_attention
            hidden = layer.add(hidden, attention.o(attend(attention, layer.cross_norm(hidden))))
            hidden = layer.add_feed_forward(hidden)
        return dropout(self.decoder.final_norm(hidden), rate, training)

    def cross_attention_bias(self, visible: Tensor, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of the attention to the encoder.

        Args:
            visible: bool `[B, J, T]`, the memory that each of J queries may attend to.
            dtype: of the mask's part.

        Returns:
            `[B, 1, J, T]`, or `[B, H, J, T]` with a position bias.
        """
        bias = mask_to_bias(visible, dtype)[:, None]
        if self.decoder.cross_bias is not None:
            bias = bias + self.decoder.cross_bias(visible).permute(0, 3, 1, 2)
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

    def to_hf_state_dict(self) -> dict[str, Tensor]:
        """Copies of the weights under the names of Hugging Face's `T5ForConditionalGeneration`.

        Raises:
            ValueError: with `cross_position_bias`, which T5 does not have.
        """
        return export_weights(dict(self.named_parameters()), self.config)

    def load_hf_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a Hugging Face `T5ForConditionalGeneration` of the same sizes.

        Raises:
            ValueError: a name is missing or unknown, a shape differs, or the output layer is not tied as ours is.
        """
        import_weights(dict(self.named_parameters()), self.config, state)
