"""BERT4RecFixed: RecBole's BERT4Rec without two bugs that cost it data, trained on the examples of the other models.

RecBole's model drops the oldest item at test time to make room for the mask, even where there is room, and masks items
of the history only, so that a user's last training item is never predicted. The stock model stays beside this one.

Reference:
    Fei Sun et al. "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer."
    CIKM 2019.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender.bert4rec import BERT4Rec
from torch import nn

from recbole_tiger.errors import ConfigError
from recbole_tiger.settings.schema import FIELDS


class BERT4RecFixed(BERT4Rec):
    """The Cloze task over histories with their next item; one position more than a history has, for that item's mask.

    Attributes:
        n_targets (int): masked positions that the last loss is the mean over.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)

        # load parameters info
        self.ft_ratio = config["ft_ratio"]
        for key in ("mask_ratio", "ft_ratio"):
            FIELDS[key].read(config[key])
        if self.loss_type != "CE":
            raise ConfigError(
                f"loss_type={self.loss_type!r}: BERT4RecFixed is trained with CE; BERT4Rec has BPR as well"
            )

        # define layers and loss
        self.position_embedding = nn.Embedding(self.max_seq_length + 1, self.hidden_size)
        self._init_weights(self.position_embedding)

    @staticmethod
    def append(history, lengths, item):
        """Histories [B, H] with an item ([B] or a number) after the last one: [B, H + 1]."""
        return F.pad(history, (0, 1)).scatter(
            1, lengths[:, None], torch.as_tensor(item, device=history.device).expand(len(history))[:, None]
        )

    def masked_positions(self, lengths, width):
        """Which positions of sequences to mask: [B, width], at least one of each.

        The last one alone in a share `ft_ratio` of the sequences, which is the task at test time; in the others every
        position with probability `mask_ratio`, or the last one where that leaves none.
        """
        positions = torch.arange(width, device=lengths.device)
        last = positions == lengths[:, None] - 1  # [B, width]
        chosen = torch.rand(len(lengths), width, device=lengths.device) < self.mask_ratio
        chosen &= positions < lengths[:, None]
        only_last = (torch.rand(len(lengths), device=lengths.device) < self.ft_ratio) | ~chosen.any(1)
        return torch.where(only_last[:, None], last, chosen)

    def calculate_loss(self, interaction):
        lengths = interaction[self.ITEM_SEQ_LEN]
        sequence = self.append(interaction[self.ITEM_SEQ], lengths, interaction[self.POS_ITEM_ID])  # [B, H + 1]
        masked = self.masked_positions(lengths + 1, sequence.shape[1])
        self.n_targets = int(masked.sum())
        hidden = self.forward(sequence.masked_fill(masked, self.mask_token))[masked]  # [N, d]
        return F.cross_entropy(self._logits(hidden), sequence[masked])

    def _logits(self, hidden):
        return hidden @ self.item_embedding.weight[: self.n_items].T + self.output_bias  # [N, n_items]

    def predict(self, interaction):
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    def full_sort_predict(self, interaction):
        lengths = interaction[self.ITEM_SEQ_LEN]
        sequence = self.append(interaction[self.ITEM_SEQ], lengths, self.mask_token)
        return self._logits(self.gather_indexes(self.forward(sequence), lengths))
