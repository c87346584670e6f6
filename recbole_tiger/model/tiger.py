"""TIGER: Transformer Index for GEnerative Recommenders.

Reference:
    Shashank Rajput et al. "Recommender Systems with Generative Retrieval." NeurIPS 2023.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from recbole_tiger.data.tokens import PAD, Vocabulary, block_causal_mask, encoder_input
from recbole_tiger.decoding import ExhaustedNodes
from recbole_tiger.decoding.trie import compact
from recbole_tiger.model.generative import GenerativeRecommender
from recbole_tiger.nn import ItemTree, Seq2Seq, Seq2SeqStepDecoder, T5Config, TreeSeq2Seq, TreeSeq2SeqStepDecoder
from recbole_tiger.tokenization import TokenizedCatalogue

#: In place of a codeword where a window has no target; `cross_entropy` leaves it out.
NO_TARGET = -100


class TIGER(GenerativeRecommender):
    """Predicts the Semantic ID of the next item, token by token, from the Semantic IDs of a user's history.

    The loss of a level is the cross-entropy over that level's codewords: the paper trains a softmax over the whole
    vocabulary, of which the other levels' codewords can never be right. Seven switches, all off in the paper's model,
    lead from it to TIGERTree: `loss_over=children`, `use_node_embeddings`, `use_item_embeddings`, `use_content`,
    `repeat_bias`, `item_loss_weight` with `rescore_weight`, and `cross_position_bias`.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)

        # load parameters info
        self.loss_over = config["loss_over"]
        self.likelihood = config["likelihood"] or self.loss_over
        self.node_embeddings = config["use_node_embeddings"]
        self.repeat_bias = bool(config["repeat_bias"])
        self.item_loss_weight = config["item_loss_weight"] or 0.0
        self.rescore_weight = config["rescore_weight"] or 0.0
        self.label_smoothing = config["label_smoothing"]
        self.user_buckets = config["user_buckets"]
        self.encoder_mask = config["encoder_mask"]

        # load dataset info
        self.trained_ids: TokenizedCatalogue = dataset.semantic_ids
        table = self.trained_ids.table
        self.item_inputs = bool(config["use_item_embeddings"]) or self.trained_ids.vectors is not None
        user_ids = dataset.field2id_token[dataset.uid_field]

        # define layers and loss
        self.vocabulary = Vocabulary(table.level_sizes, self.user_buckets)
        self.levels = [self.vocabulary.level_slice(level) for level in range(self.vocabulary.length)]
        t5 = T5Config.of(config, vocab_size=self.vocabulary.size, pad_token_id=PAD)
        # What the loss of a plain T5 does not have.
        self.has_tree_loss = bool(
            self.loss_over == "children" or self.node_embeddings or self.repeat_bias or self.item_loss_weight
        )
        if self.has_tree_loss or self.item_inputs or self.likelihood == "children":
            self.seq2seq = TreeSeq2Seq(
                t5,
                ItemTree(table.codes, table.level_sizes),
                self.levels,
                node_embeddings=self.node_embeddings,
                item_embeddings=config["use_item_embeddings"],
                item_dropout=config["item_embedding_dropout"],
                repeat_bias=self.repeat_bias,
                item_head=self.item_loss_weight > 0,
                vectors=self.trained_ids.content_rows,
                content_nodes=config["use_content_nodes"],
            )
        else:
            self.seq2seq = Seq2Seq(t5)
        user_tokens = self.vocabulary.user_tokens(user_ids) if self.user_buckets else torch.zeros(0, dtype=torch.long)
        self.register_buffer("user_tokens", user_tokens, persistent=False)  # [n_users]
        self.register_buffer("level_offsets", torch.tensor(self.vocabulary.offsets), persistent=False)  # [L]
        self._use_semantic_ids(self.trained_ids)

    @property
    def tree_network(self) -> TreeSeq2Seq | None:
        return self.seq2seq if isinstance(self.seq2seq, TreeSeq2Seq) else None

    def _use_semantic_ids(self, prepared: TokenizedCatalogue) -> None:
        """See the base class.

        Raises:
            ValueError: for a table with other levels.
        """
        table = prepared.table
        if table.level_sizes != self.vocabulary.level_sizes:
            raise ValueError(
                f"the Semantic IDs have level sizes {table.level_sizes}, but the model was built for "
                f"{self.vocabulary.level_sizes}"
            )
        tokens = self.vocabulary.item_tokens(table.codes).to(self.user_tokens.device)
        self.register_buffer("item_tokens", tokens, persistent=False)  # [n_items, L], row 0 padding
        super()._use_semantic_ids(prepared)

    def encode(self, users: torch.Tensor | None, history: torch.Tensor):
        """Histories -> memory [B, T, d_model] and mask [B, T]. ``users`` None: no user token (a user never seen)."""
        user_tokens = self.user_tokens[users] if self.user_buckets and users is not None else None
        tokens, mask = encoder_input(self.item_tokens, history, user_tokens)
        allowed = None
        if self.encoder_mask == "block_causal":
            allowed = block_causal_mask(
                tokens.shape[1], self.vocabulary.length, user_tokens is not None, device=tokens.device
            )
        if self.item_inputs:
            embeds = self.seq2seq.embed_history(tokens, history)
        else:
            embeds = self.seq2seq.embed(tokens)
        return self.seq2seq.encode(None, mask, attention_mask=allowed, inputs_embeds=embeds), mask

    def forward(self, interaction, items: torch.Tensor) -> torch.Tensor:
        """The decoder's states [B, L, d_model] under teacher forcing with the IDs of ``items`` [B]."""
        memory, mask = self.encode(interaction[self.USER_ID], interaction[self.ITEM_SEQ])
        targets = self.item_tokens[items]  # [B, L]
        return self.seq2seq.decode(F.pad(targets[:, :-1], (1, 0), value=PAD), memory, mask)

    def calculate_loss(self, interaction):
        """Mean cross-entropy of the target items' codewords; a batch of windows has several targets in each row."""
        if "targets" in interaction:
            n_targets = interaction["n_targets"] if "n_targets" in interaction else None
            return self._loss(*self._window_states(interaction), n_targets)
        items = interaction[self.POS_ITEM_ID]
        return self._loss(self.forward(interaction, items), items, interaction[self.ITEM_SEQ], len(items))

    def _window_states(self, batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """States [N, L, d_model], items [N] and seen items [N, H] of all positions of block-causal windows.

        See ``data/batches.py``. An item is 0 where a window has no target; seen items are None where they do not count.
        """
        targets, context = batch["targets"], batch["context"]  # [B, J], [B, J] with 0 where there is no target
        history = batch[self.ITEM_SEQ]
        memory, _ = self.encode(batch[self.USER_ID], history)
        n_seen = context * self.vocabulary.length + int(bool(self.user_buckets))  # tokens before each target
        visible = torch.arange(memory.shape[1], device=memory.device) < n_seen[:, :, None]  # [B, J, T]
        tokens = self.item_tokens[targets]  # [B, J, L]
        hidden = self.seq2seq.decode_many(F.pad(tokens[:, :, :-1], (1, 0), value=PAD), memory, visible)
        seen = None
        if self.repeat_bias:
            position = torch.arange(history.shape[1], device=history.device)
            seen = torch.where(position < context[:, :, None], history[:, None], 0).flatten(0, 1)
        return hidden.flatten(0, 1), targets.flatten(), seen

    def _loss(
        self, hidden: torch.Tensor, items: torch.Tensor, seen: torch.Tensor | None, n_targets: int | None
    ) -> torch.Tensor:
        """Mean loss over levels and items.

        Args:
            hidden: [N, L, d_model] states under teacher forcing.
            items: [N], 0 for no target.
            seen: [N, H] items before each, or None.
            n_targets: items that are none of the 0; None: the device is asked.
        """
        network = self.tree_network
        if network is not None and self.has_tree_loss:
            wanted = items > 0
            n_targets = int(wanted.sum()) if n_targets is None else n_targets
            rows = compact(torch.arange(len(items), device=items.device), wanted, n_targets)
            states, items = hidden.index_select(0, rows).float(), items.index_select(0, rows)
            exhausted = None if seen is None else self._exhausted(seen.index_select(0, rows))
            with torch.autocast(hidden.device.type, enabled=False):  # ragged products are of one type
                return network.loss(
                    states, items, self.loss_over, self.label_smoothing, exhausted, self.item_loss_weight
                )
        # Where there is no target the loss is left out, not the row: how many rows remain only the device knows.
        codes = self._codes(items).masked_fill(items[:, None] == 0, NO_TARGET)
        losses = [
            F.cross_entropy(logits, codes[:, level], ignore_index=NO_TARGET, label_smoothing=self.label_smoothing)
            for level, logits in enumerate(self._logits(hidden))
        ]
        return torch.stack(losses).mean()

    def _logits(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """Logits [N, level size] of each level's codewords, of states [N, L, d_model]."""
        return [self.seq2seq.logits(hidden[:, level], block) for level, block in enumerate(self.levels)]

    def _codes(self, items: torch.Tensor) -> torch.Tensor:
        return self.item_tokens[items] - self.level_offsets  # [N, L]

    def _exhausted(self, seen: torch.Tensor) -> ExhaustedNodes | None:
        """Nodes whose items are all among `seen` [N, H]; None where it does not count."""
        network = self.tree_network
        return network.tree.trie.exhausted(seen) if network is not None and self.repeat_bias else None

    def predict(self, interaction):
        """Score of each row's item as the search has it, in most parts its log-likelihood under `likelihood`: [B]."""
        items = interaction[self.ITEM_ID]
        hidden = self.forward(interaction, items)
        if self.likelihood == "children" or self.has_tree_loss:
            network, seen = self.tree_network, self._exhausted(interaction[self.ITEM_SEQ])
            scores = network.log_likelihood(hidden, items, self.likelihood, seen)
            if self.rescore_weight:
                logits = network.item_logits(network.item_state(hidden[:, 0]), items[:, None], seen)[:, 0]
                scores = scores + self.rescore_weight * logits
            return scores
        codes = self._codes(items)
        return sum(
            F.log_softmax(logits, dim=-1).gather(1, codes[:, level, None]).squeeze(1)
            for level, logits in enumerate(self._logits(hidden))
        )

    def step_decoder(
        self, users: torch.Tensor | None, history: torch.Tensor, lengths: torch.Tensor
    ) -> Seq2SeqStepDecoder:
        """A fresh decoder of the IDs that follow these histories; arguments as in :meth:`recommend`."""
        longest = int(lengths.max()) if len(lengths) else 0
        history = history[:, :longest]
        memory, mask = self.encode(users, history)
        if self.tree_network is not None:
            return TreeSeq2SeqStepDecoder(self.seq2seq, memory, mask, PAD, self._exhausted(history))
        return Seq2SeqStepDecoder(self.seq2seq, memory, mask, self.levels, start_token=PAD)
