"""What models with Semantic IDs share: decoding a batch of histories into ranked items, and the IDs in a checkpoint.

A subclass says how histories become logits (`step_decoder`) and what follows from the IDs (`_use_semantic_ids`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_tiger.decoding import (
    DECODERS,
    BeamResult,
    ForkableStepDecoder,
    FreeBeamResult,
    PrefixTrie,
    beam_search,
    free_beam_search,
    of_one_width,
    rank_items,
)
from recbole_tiger.decoding.ranking import checked_temperatures
from recbole_tiger.nn import ItemTree, TreeModule
from recbole_tiger.tokenization import TokenizedCatalogue


class GenerativeRecommender(SequentialRecommender):
    """A sequential recommender that finds items by searching the prefix trie of their Semantic IDs.

    Attributes:
        trained_ids (TokenizedCatalogue): table, quantizer and scaler of training, which the weights belong to.
        prepared_ids (TokenizedCatalogue): those in use, which may have more items.
        trie (PrefixTrie): of all items, on the model's device.
        likelihood (str): what a codeword's probability is relative to, see `beam_search`'s `normalise`.
        rescore_weight (float): above 0, what the search finds is ranked by a second logit as well, see `recommend`.
    """

    input_type = InputType.POINTWISE
    trained_ids: TokenizedCatalogue
    prepared_ids: TokenizedCatalogue
    trie: PrefixTrie
    likelihood: str = "level"
    rescore_weight: float = 0.0

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.beam_size = config["beam_size"]
        self.scoring = config["scoring"]
        arguments = inspect.signature(DECODERS[self.scoring]).parameters
        own = {name: f"{self.scoring}_{name}" for name in arguments}
        self.search_options = {name: config[key] for name, key in own.items() if key in config}
        self.temperature = config["temperature"]
        self.decode_batch_size = config["decode_batch_size"]

    @property
    def tree_network(self) -> TreeModule | None:
        """The part of the model that has embeddings of nodes and items, if there is one."""
        return None

    @property
    def tells_unseen_apart(self) -> bool:
        """Whether unseen items with the same codewords have scores of their own: by their content."""
        network = self.tree_network
        return network is not None and network.content is not None and self.rescore_weight > 0

    def _use_semantic_ids(self, prepared: TokenizedCatalogue) -> None:
        """Everything that follows from the Semantic IDs: the trie, and what the model reads of every item.

        Items that were not there in training have no embedding, nor have their nodes; their codewords, and with
        `use_content` their content, speak for them.
        """
        table, network = prepared.table, self.tree_network
        checked_temperatures(self.temperature, table.codes.shape[1])  # here, not at the first search
        self.prepared_ids = prepared
        if network is None:
            self.trie = PrefixTrie.from_codes(table.codes[1:], table.level_sizes)
            return
        if prepared is self.trained_ids:
            network.tree = network.trained_tree
        else:
            number = {item: i for i, item in enumerate(self.trained_ids.table.items.tolist())}
            rows = np.array([number.get(item, 0) for item in table.items.tolist()], dtype=np.int64)
            network.use(table.codes, table.level_sizes, torch.from_numpy(rows))
        if network.content is not None:
            assert prepared.content_rows is not None, "IDs of a model with content come with vectors"
            network.use_content(prepared.content_rows)
        self.trie = network.tree.trie

    def step_decoder(
        self, users: torch.Tensor | None, history: torch.Tensor, lengths: torch.Tensor
    ) -> ForkableStepDecoder:
        """A fresh decoder of the IDs that follow these histories; arguments as in :meth:`recommend`."""
        raise NotImplementedError

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        self._move_trie()
        return self

    def _move_trie(self) -> None:
        network = self.tree_network
        self.trie = self.trie.to(next(self.parameters()).device) if network is None else network.tree.trie

    def full_sort_predict(self, interaction):
        """Scores [B, n_items]: log-likelihoods of the items in each user's beam, -inf elsewhere."""
        users, history, lengths = (interaction[key] for key in (self.USER_ID, self.ITEM_SEQ, self.ITEM_SEQ_LEN))
        result = self.recommend(users, history, lengths, self.beam_size)
        scores = result.scores.new_full((len(result.items), self.n_items), -torch.inf)
        scores.scatter_(1, result.items, result.scores)  # where there is no item, -inf goes into column 0
        scores[:, 0] = -torch.inf
        return scores

    @contextmanager
    def widened(self, k: int, scoring: str | None = None) -> Iterator[None]:
        """A `with` block in which the beam holds at least k items, of as many users at once as the memory is for.

        Args:
            scoring: ``exact`` for scores of all items, or ``beam``, whatever the model is set to.
        """
        before = self.beam_size, self.decode_batch_size, self.scoring, self.search_options
        if scoring is not None:
            self.scoring, self.search_options = scoring, {}
        if k > self.beam_size:
            self.beam_size, self.decode_batch_size = k, max(1, self.decode_batch_size * self.beam_size // k)
        try:
            yield
        finally:
            self.beam_size, self.decode_batch_size, self.scoring, self.search_options = before

    @torch.no_grad()
    def recommend(
        self,
        users: torch.Tensor | None,
        history: torch.Tensor,
        lengths: torch.Tensor,
        k: int,
        *,
        excluded: torch.Tensor | None = None,
        beam_size: int | None = None,
        temperature: float | Sequence[float] | None = None,
        sample: bool = False,
        generator: torch.Generator | None = None,
        beside: Callable[[BeamResult], BeamResult] | None = None,
    ) -> BeamResult:
        """The k most likely items after each history.

        Args:
            users: [B] internal user numbers, or None for users never seen.
            history: [B, H] item numbers in time order, padded with 0 at the end.
            lengths: [B] items of each history.
            k: length of the lists.
            excluded: [B, S] item numbers that must not appear, padded with 0.
            beside: what puts unseen items beside those found (`UnseenItems.candidates`), at the same scores. Where the
                model tells them apart, all are ranked by scores of their own. The lists are then as long as they get.

        Returns:
            items [B, k] (0 where the beam holds fewer) and scores [B, k] (-inf there), best first: log-likelihoods,
            plus `rescore_weight` times the items' logits in the softmax over all items. These are not normalised: the
            cost does not grow with the catalogue, and the ranking of a user is the same.
        """
        order = torch.argsort(lengths, stable=True)  # so that short histories are not padded
        beam_size = beam_size or self.beam_size
        rescore = self.rescore_weight > 0 and not sample  # a sample is in the order in which it was drawn
        ranked = beside if rescore and self.tells_unseen_apart else None
        n_found = k if not rescore else self.trie.n_items if self.scoring == "exact" else beam_size
        parts = []
        for rows in order.split(self.decode_batch_size):
            decoder: Any = self.step_decoder(None if users is None else users[rows], history[rows], lengths[rows])
            options: dict[str, Any] = {
                "k": n_found,
                "excluded": None if excluded is None else excluded[rows],
                "temperature": self.temperature if temperature is None else temperature,
                "normalise": self.likelihood,
                "beam_size": beam_size,
            }
            if sample:
                found = beam_search(decoder, self.trie, sample=True, generator=generator, **options)
            else:
                found = DECODERS[self.scoring](decoder, self.trie, **options, **self.search_options)
            if rescore:
                found = found if ranked is None else ranked(found)
                scores = found.scores + self.rescore_weight * decoder.item_logits(found.items)
                found = rank_items(found.items, scores, k if ranked is None else found.items.shape[1])
            parts.append(found)
        if ranked is not None:
            return BeamResult.gathered(of_one_width(parts), order)
        result = BeamResult.gathered(parts, order)
        return result if beside is None else beside(result)

    @torch.no_grad()
    def generate_ids(
        self,
        users: torch.Tensor | None,
        history: torch.Tensor,
        lengths: torch.Tensor,
        k: int,
        *,
        beam_size: int | None = None,
    ) -> FreeBeamResult:
        """The k most likely Semantic IDs after each history, items or not (paper, section 5, "Invalid IDs").

        Arguments as in :meth:`recommend`.
        """
        order = torch.argsort(lengths, stable=True)
        parts = [
            free_beam_search(
                self.step_decoder(None if users is None else users[rows], history[rows], lengths[rows]),
                self.trie.level_sizes,
                self.trie,
                beam_size=beam_size or self.beam_size,
                k=k,
                temperature=self.temperature,
            )
            for rows in order.split(self.decode_batch_size)
        ]
        back = torch.argsort(order)
        return FreeBeamResult(
            *(torch.cat([getattr(part, name) for part in parts])[back] for name in ("codes", "scores", "items"))
        )

    def other_parameter(self):
        """What a checkpoint needs beside the weights: table, quantizer and scaler, as plain values and tensors."""
        return {"semantic_ids": self.trained_ids.state_dict()}

    def load_other_parameter(self, para):
        if para:
            self.trained_ids = TokenizedCatalogue.from_state_dict(para["semantic_ids"])
            network, table = self.tree_network, self.trained_ids.table
            if network is not None:
                tree = ItemTree(table.codes, table.level_sizes)
                network.trained_tree = tree.to(next(self.parameters()).device)
            self._use_semantic_ids(self.trained_ids)
            self._move_trie()
