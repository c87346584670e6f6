"""Semantic_KNN: the items whose content is nearest to that of the last items of a history; nothing is trained.

What content alone gives, beside models that learn from interactions: the row that a generative recommender with
Semantic IDs from the same embeddings has to beat.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_tiger.distributed.collectives import from_main
from recbole_tiger.settings.schema import FIELDS
from recbole_tiger.tokenization import item_content, scaler_of


class Semantic_KNN(SequentialRecommender):
    """Score of an item: cosine similarities with the last `knn_items` items, weighted by `knn_decay` per step back.

    An item is not its own neighbour: its similarity with itself is left out of the sum.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)

        # load parameters info
        self.knn_items, self.knn_decay = (FIELDS[key].read(config[key]) for key in ("knn_items", "knn_decay"))

        # load dataset info
        items = [str(item) for item in dataset.field2id_token[dataset.iid_field][1:]]
        embeddings = from_main(lambda: item_content(config, items).embeddings)
        scaler = scaler_of(config)
        vectors = F.normalize(torch.from_numpy(scaler.fit(embeddings).transform(embeddings)).float(), dim=1)

        # define layers and loss
        self.item_embedding = nn.Embedding.from_pretrained(F.pad(vectors, (0, 0, 1, 0)), freeze=True, padding_idx=0)

    def forward(self, history, lengths):
        """Similarity-weighted sum of the last items [B, dim], those items [B, k] and their weights [B, k]."""
        back = torch.arange(min(self.knn_items, history.shape[1]), device=history.device)  # [k] from the last item
        position = lengths[:, None] - 1 - back
        last = history.gather(1, position.clamp(min=0))  # [B, k]
        weights = torch.where(position >= 0, self.knn_decay ** back.float(), 0.0)  # [B, k]
        return (weights[:, :, None] * self.item_embedding(last)).sum(1), last, weights

    def calculate_loss(self, interaction):
        """Nothing to learn: a constant that RecBole's loop can differentiate."""
        return torch.zeros((), device=self.item_embedding.weight.device, requires_grad=True)

    def predict(self, interaction):
        """Scores of the rows' items: [B]."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    def full_sort_predict(self, interaction):
        """Scores [B, n_items]."""
        query, last, weights = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        table = self.item_embedding.weight
        scores = query @ table.T
        own = (table * table).sum(1)  # 1, or 0 for an item whose embedding is 0
        return scores.scatter_add_(1, last, -weights * own[last])
