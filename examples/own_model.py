"""Your own model: TIGER with dropout of history items in training, compared with TIGER.

python examples/own_model.py
recbole-tiger --plugin=examples/own_model.py --model=ItemDropout,TIGER --item_dropout=0.5 --dataset=ml-100k
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer, init_seed

from recbole_tiger import register_model, run_leaderboard
from recbole_tiger.model.tiger import TIGER


class ItemDropout(TIGER):
    """TIGER that drops items of the histories at random in every training step.

    Settings:
        item_dropout: share of the items of a history that are dropped.
    """

    default_settings: ClassVar[dict[str, Any]] = {"item_dropout": 0.1, "encoder_mask": "bidirectional"}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.item_dropout = config["item_dropout"]

    def calculate_loss(self, interaction):
        history = interaction[self.ITEM_SEQ]  # [B, H], 0 is padding
        kept = torch.rand(history.shape, device=history.device) >= self.item_dropout
        kept[:, 0] = True  # a history is never empty
        return super().calculate_loss({**interaction, self.ITEM_SEQ: history * kept})


register_model(ItemDropout)


def recboles_own_way(dataset: str = "ml-100k", **settings: Any) -> dict:
    """Train it with RecBole's API: dataset and trainer are TIGER's."""
    config = Config(model=ItemDropout, dataset=dataset, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    model = ItemDropout(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(train, valid)
    return dict(trainer.evaluate(test))


def main(dataset: str = "ml-100k", **settings: Any) -> pd.DataFrame:
    """Train it beside TIGER; returns the table."""
    board = run_leaderboard(["TIGER", ItemDropout, "Pop"], dataset, config_dict=settings)
    print(board)
    return board.to_frame()


if __name__ == "__main__":
    main(epochs=2)
