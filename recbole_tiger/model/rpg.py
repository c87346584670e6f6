"""RPG: Recommendation with Parallel semantic ID Generation.

Reference:
    Yupeng Hou et al. "Generating Long Semantic IDs in Parallel for Recommendation." KDD 2025.
"""

from __future__ import annotations

import torch

from recbole_tiger.data.batches import window_targets
from recbole_tiger.decoding.parallel import IDGraph, ParallelStepDecoder
from recbole_tiger.model.generative import GenerativeRecommender
from recbole_tiger.nn.rpg import RPGConfig, RPGNetwork
from recbole_tiger.tokenization import TokenizedCatalogue


class RPG(GenerativeRecommender):
    """Predicts all codewords of the next item at once, each independently of the others.

    An item's score is the sum of its codewords' log-probabilities: of every item (`scoring=exact`), of those that a
    walk over a graph of similar IDs meets (`graph`, the paper's), or of those that a beam search keeps.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)

        # load dataset info
        self.trained_ids: TokenizedCatalogue = dataset.semantic_ids

        # define layers and loss
        self.network = RPGNetwork(
            RPGConfig(
                level_sizes=self.trained_ids.table.level_sizes,
                hidden_size=config["hidden_size"],
                n_layers=config["n_layers"],
                n_heads=config["n_heads"],
                inner_size=config["inner_size"],
                max_length=self.max_seq_length,
                input_dropout=config["dropout_prob"],
                dropout=config["hidden_dropout_prob"],
                attention_dropout=config["attn_dropout_prob"],
                tau=config["tau"],
            )
        )
        self._graph: tuple[int, IDGraph] | None = None
        self._use_semantic_ids(self.trained_ids)

    def _use_semantic_ids(self, prepared: TokenizedCatalogue) -> None:
        """See the base class.

        Raises:
            ValueError: for a table with other levels.
        """
        table, sizes = prepared.table, self.network.config.level_sizes
        if table.level_sizes != sizes:
            raise ValueError(
                f"the Semantic IDs have level sizes {table.level_sizes}, but the model was built for {sizes}"
            )
        super()._use_semantic_ids(prepared)
        first = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        codewords = torch.tensor(table.codes).clamp(min=0) + first  # those of row 0, padding, are never read
        self.register_buffer("codewords", codewords.to(self.network.codewords.device), persistent=False)
        self._graph = None

    def train(self, mode: bool = True):
        """See torch; a graph is that of the weights that made it."""
        self._graph = None
        return super().train(mode)

    def forward(self, history: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """State after each history, [B, hidden_size]."""
        states, packed = self.network.states(history, lengths, self.codewords)
        return states.index_select(0, packed.start + lengths.clamp(min=1) - 1)

    def calculate_loss(self, interaction):
        """Mean over target items and levels of the cross-entropy of their codewords (the paper's sum, divided)."""
        history, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if "targets" not in interaction:
            return self.network.loss(self.forward(history, lengths), self.codewords[interaction[self.POS_ITEM_ID]])
        states, packed = self.network.states(history, lengths, self.codewords)
        rows, items = window_targets(interaction, packed.start)
        return self.network.loss(states.index_select(0, rows), self.codewords[items])

    def predict(self, interaction):
        """Log-likelihood of each row's item: [B]."""
        decoder = self.step_decoder(None, interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return decoder.log_probabilities(1.0).gather(1, self.codewords[interaction[self.ITEM_ID]]).sum(1)

    def step_decoder(self, users, history, lengths) -> ParallelStepDecoder:
        """See the base class; users have no embedding."""
        return ParallelStepDecoder(self.network.logits(self.forward(history, lengths)), self.codewords, self._graph_of)

    def _graph_of(self, n_neighbours: int) -> IDGraph:
        """The graph of all IDs under the weights as they are, made when it is first asked for."""
        if self._graph is None or self._graph[0] != n_neighbours:
            leaves = torch.arange(self.trie.n_nodes[-1], device=self.trie.device)
            codewords = self.codewords[self.trie.first_item(leaves)]
            self._graph = (n_neighbours, IDGraph.of(self.network.similarities(), codewords, n_neighbours))
        return self._graph[1]
