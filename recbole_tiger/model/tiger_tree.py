"""TIGERTree: one token per item, and a softmax over the children of a prefix in the tree of Semantic IDs.

It departs from TIGER (Rajput et al., 2023) in two things. The history has one token per item, the sum of its codewords'
embeddings and an embedding of its own, under a causal transformer: every position of a history trains in one pass.
The Semantic ID is chosen level by level among the codewords that continue its prefix to some item, in training as in
decoding, so no probability is lost on invalid IDs.
"""

from __future__ import annotations

import torch

from recbole_tiger.data.batches import window_targets
from recbole_tiger.model.generative import GenerativeRecommender
from recbole_tiger.nn import ItemTree, Seen, TreeConfig, TreeNetwork, TreeStepDecoder
from recbole_tiger.tokenization import TokenizedCatalogue


class TIGERTree(GenerativeRecommender):
    """A generative recommender whose tokens are items on the input and codewords on the output."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)

        # load parameters info
        self.likelihood = config["loss_over"]
        self.rescore_weight = config["rescore_weight"] or 0.0
        network = TreeConfig(
            hidden_size=config["hidden_size"],
            n_layers=config["n_layers"],
            n_heads=config["n_heads"],
            inner_size=config["inner_size"],
            max_length=self.max_seq_length,
            head_size=config["head_size"],
            dropout=config["hidden_dropout_prob"],
            attention_dropout=config["attn_dropout_prob"],
            item_dropout=config["item_embedding_dropout"],
            item_embeddings=config["use_item_embeddings"],
            node_embeddings=config["use_node_embeddings"],
            head_attention=config["head_attention"],
            repeat_bias=config["repeat_bias"],
            tied=config["tie_embeddings"],
            loss_over=config["loss_over"],
            label_smoothing=config["label_smoothing"],
            item_loss_weight=config["item_loss_weight"],
            sparse_gradients=config["update_rows"] == "touched",
            content_nodes=config["use_content_nodes"],
        )

        # load dataset info
        self.trained_ids: TokenizedCatalogue = dataset.semantic_ids

        # define layers and loss
        table = self.trained_ids.table
        self.network = TreeNetwork(network, ItemTree(table.codes, table.level_sizes), self.trained_ids.content_rows)
        self._use_semantic_ids(self.trained_ids)

    @property
    def tree_network(self) -> TreeNetwork:
        return self.network

    def _use_semantic_ids(self, prepared: TokenizedCatalogue) -> None:
        """See the base class; the collision level may have grown (``SemanticIDTable.add_items``).

        Raises:
            ValueError: for a table with other learned levels.
        """
        table, trained = prepared.table, self.trained_ids.table
        if table.length != trained.length or table.level_sizes[:-1] != trained.level_sizes[:-1]:
            raise ValueError(
                f"the Semantic IDs have level sizes {table.level_sizes}, but the model was built for "
                f"{trained.level_sizes}"
            )
        super()._use_semantic_ids(prepared)

    def forward(self, history: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, Seen | None]:
        """State after each history, [B, hidden_size], and what has been seen (None where nothing depends on it)."""
        return self.network.last(history, lengths)

    def calculate_loss(self, interaction):
        """Mean negative log-likelihood of the target items; a batch of windows has several targets in each row."""
        history, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if "targets" not in interaction:
            states, seen = self.forward(history, lengths)
            return self.network.loss(states, interaction[self.POS_ITEM_ID], seen)
        states, packed = self.network.states(history, lengths)
        rows, items = window_targets(interaction, packed.start)
        states, seen = self.network.at(rows, states, packed, history)
        return self.network.loss(states, items, seen)

    def predict(self, interaction):
        """Score of each row's item, as in :meth:`recommend`: [B]."""
        states, seen = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        items = interaction[self.ITEM_ID]
        scores = self.network.log_likelihood(states, items, seen)
        if self.rescore_weight:
            nodes = None if seen is None else seen.nodes
            scores = scores + self.rescore_weight * self.network.item_logits(states, items[:, None], nodes)[:, 0]
        return scores

    def step_decoder(self, users, history, lengths) -> TreeStepDecoder:
        """See the base class; users have no embedding."""
        return TreeStepDecoder(self.network, *self.forward(history, lengths))
