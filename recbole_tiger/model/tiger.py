"""TIGER: Transformer Index for GEnerative Recommenders.

Reference:
    Shashank Rajput et al. "Recommender Systems with Generative Retrieval." NeurIPS 2023.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from recbole_tiger.data.tokens import PAD, Vocabulary, block_causal_mask, encoder_input
from recbole_tiger.decoding.beam_search import Seq2SeqStepDecoder
from recbole_tiger.decoding.trie import PrefixTrie
from recbole_tiger.model.generative import GenerativeRecommender
from recbole_tiger.nn.seq2seq import Seq2Seq, T5Config
from recbole_tiger.preprocessing import PreparedIDs

#: In place of a codeword where a window has no target; `cross_entropy` leaves it out.
NO_TARGET = -100


class TIGER(GenerativeRecommender):
    """Predicts the Semantic ID of the next item, token by token, from the Semantic IDs of a user's history.

    The loss of a level is the cross-entropy over that level's codewords: the paper trains a softmax over the whole
    vocabulary, of which the other levels' codewords can never be right.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)

        # load parameters info
        self.likelihood = config["likelihood"]
        self.label_smoothing = config["label_smoothing"]
        self.user_buckets = config["user_buckets"]
        self.encoder_mask = config["encoder_mask"]

        # load dataset info
        prepared: PreparedIDs = dataset.semantic_ids
        user_ids = dataset.field2id_token[dataset.uid_field]

        # define layers and loss
        self.vocabulary = Vocabulary(prepared.table.level_sizes, self.user_buckets)
        self.seq2seq = Seq2Seq(
            T5Config(
                vocab_size=self.vocabulary.size,
                d_model=config["d_model"],
                d_kv=config["d_kv"],
                d_ff=config["d_ff"],
                num_heads=config["num_heads"],
                num_encoder_layers=config["num_encoder_layers"],
                num_decoder_layers=config["num_decoder_layers"],
                dropout_rate=config["dropout_rate"],
                tie_word_embeddings=config["tie_word_embeddings"],
                pad_token_id=PAD,
            )
        )
        user_tokens = self.vocabulary.user_tokens(user_ids) if self.user_buckets else torch.zeros(0, dtype=torch.long)
        self.register_buffer("user_tokens", user_tokens, persistent=False)  # [n_users]
        self.register_buffer("level_offsets", torch.tensor(self.vocabulary.offsets), persistent=False)  # [L]
        self._use_semantic_ids(prepared)

    def _use_semantic_ids(self, prepared: PreparedIDs) -> None:
        """Everything that follows from the Semantic IDs: tokens of every item and the trie of all IDs."""
        table = prepared.table
        if table.level_sizes != self.vocabulary.level_sizes:
            raise ValueError(
                f"the Semantic IDs have level sizes {table.level_sizes}, but the model was built for "
                f"{self.vocabulary.level_sizes}"
            )
        self.prepared_ids = prepared
        tokens = self.vocabulary.item_tokens(table.codes).to(self.user_tokens.device)
        self.register_buffer("item_tokens", tokens, persistent=False)  # [n_items, L], row 0 padding
        self.trie = PrefixTrie.from_codes(table.codes[1:], table.level_sizes)

    def encode(self, users: torch.Tensor | None, history: torch.Tensor):
        """Histories -> memory [B, T, d_model] and mask [B, T]. ``users`` None: no user token (a user never seen)."""
        user_tokens = self.user_tokens[users] if self.user_buckets and users is not None else None
        tokens, mask = encoder_input(self.item_tokens, history, user_tokens)
        allowed = None
        if self.encoder_mask == "block_causal":
            allowed = block_causal_mask(
                tokens.shape[1], self.vocabulary.length, user_tokens is not None, device=tokens.device
            )
        return self.seq2seq.encode(tokens, mask, attention_mask=allowed), mask

    def forward(self, interaction, items: torch.Tensor) -> list[torch.Tensor]:
        """Teacher-forced logits of the IDs of ``items`` [B]: one tensor [B, level size] per level."""
        memory, mask = self.encode(interaction[self.USER_ID], interaction[self.ITEM_SEQ])
        targets = self.item_tokens[items]  # [B, L]
        hidden = self.seq2seq.decode(F.pad(targets[:, :-1], (1, 0), value=PAD), memory, mask)  # [B, L, d_model]
        return [
            self.seq2seq.logits(hidden[:, level], self.vocabulary.level_slice(level))
            for level in range(self.vocabulary.length)
        ]

    def calculate_loss(self, interaction):
        """Mean cross-entropy of the target items' codewords; a batch of windows has several targets in each row."""
        if "targets" in interaction:
            return self._window_loss(interaction)
        items = interaction[self.POS_ITEM_ID]
        codes = self.item_tokens[items] - self.level_offsets  # [B, L]
        losses = [
            F.cross_entropy(logits, codes[:, level], label_smoothing=self.label_smoothing)
            for level, logits in enumerate(self.forward(interaction, items))
        ]
        return torch.stack(losses).mean()

    def _window_loss(self, batch) -> torch.Tensor:
        """The loss of all positions of block-causal windows (see ``data/batches.py``)."""
        targets, context = batch["targets"], batch["context"]  # [B, J], [B, J] with 0 where there is no target
        memory, _ = self.encode(batch[self.USER_ID], batch[self.ITEM_SEQ])
        n_seen = context * self.vocabulary.length + int(bool(self.user_buckets))  # tokens before each target
        visible = torch.arange(memory.shape[1], device=memory.device) < n_seen[:, :, None]  # [B, J, T]
        tokens = self.item_tokens[targets]  # [B, J, L]
        hidden = self.seq2seq.decode_many(F.pad(tokens[:, :, :-1], (1, 0), value=PAD), memory, visible)
        # Where there is no target the loss is left out, not the row: how many rows remain only the device knows.
        codes = tokens - self.level_offsets
        codes = codes.masked_fill(context[:, :, None] == 0, NO_TARGET).flatten(0, 1)  # [B * J, L]
        losses = []
        for level in range(self.vocabulary.length):
            logits = self.seq2seq.logits(hidden[:, :, level].flatten(0, 1), self.vocabulary.level_slice(level))
            losses.append(
                F.cross_entropy(logits, codes[:, level], ignore_index=NO_TARGET, label_smoothing=self.label_smoothing)
            )
        return torch.stack(losses).mean()

    def predict(self, interaction):
        """Log-likelihood of each row's item: [B]."""
        items = interaction[self.ITEM_ID]
        codes = self.item_tokens[items] - self.level_offsets
        return sum(
            F.log_softmax(logits, dim=-1).gather(1, codes[:, level, None]).squeeze(1)
            for level, logits in enumerate(self.forward(interaction, items))
        )

    def step_decoder(
        self, users: torch.Tensor | None, history: torch.Tensor, lengths: torch.Tensor
    ) -> Seq2SeqStepDecoder:
        """A fresh decoder of the IDs that follow these histories; arguments as in :meth:`recommend`."""
        longest = int(lengths.max()) if len(lengths) else 0
        memory, mask = self.encode(users, history[:, :longest])
        levels = [self.vocabulary.level_slice(level) for level in range(self.vocabulary.length)]
        return Seq2SeqStepDecoder(self.seq2seq, memory, mask, levels, start_token=PAD)
