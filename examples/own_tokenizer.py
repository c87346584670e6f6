"""Your own tokenizer, compared with a shipped one in a leaderboard.

python examples/own_tokenizer.py
recbole-tiger --plugin=examples/own_tokenizer.py --semantic_id=quantiles --quantiles_rotate=False --dataset=ml-100k
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recbole_tiger import Quantizer, register_tokenizer, run_leaderboard
from recbole_tiger.testing import check_tokenizer


@dataclass(kw_only=True, eq=False)
class Quantiles(Quantizer):
    """Codeword d is the quantile of an item along the d-th principal direction.

    Args:
        id_length, codebook_size, random_state: see `Quantizer`.
        rotate: use principal directions; False uses the first dimensions unchanged.
    """

    rotate: bool = True

    def _fit(self, x: NDArray[Any], *, progress: bool, checkpoint: str | Path | None) -> None:
        matrix = torch.from_numpy(x.astype(np.float64))
        directions = torch.eye(self.dim_, dtype=torch.float64)
        if self.rotate:
            directions = torch.linalg.eigh(matrix.T @ matrix).eigenvectors.flip(1)
        self.directions_ = directions[:, : self.id_length]  # [dim, id_length]; what is learned ends in _
        values = self._values(matrix)
        self.edges_ = [
            values[:, level].quantile(torch.arange(1, size).double() / size)
            for level, size in enumerate(self.codebook_sizes_)
        ]

    def _values(self, x: torch.Tensor) -> torch.Tensor:
        return (x.double()[:, :, None] * self.directions_).sum(1)  # row by row: no code depends on the other rows

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        levels = zip(self._values(x).T.contiguous(), self.edges_, strict=True)
        return torch.stack([torch.bucketize(values, edges) for values, edges in levels], 1)

    def _last_level_costs(self, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """For `collision=reassign`: a neighbouring quantile costs less than one far away."""
        own = self._encode(x)[:, -1:]
        return (own - torch.arange(self.codebook_sizes_[-1])).abs().float()


register_tokenizer("quantiles", Quantiles)


def main(dataset: str = "ml-100k", **settings: Any) -> pd.DataFrame:
    """Check the contract, and train TIGER on both kinds of IDs; returns the table."""
    check_tokenizer(Quantiles)
    rows = ["TIGER[semantic_id=rkmeans]", "TIGER[semantic_id=quantiles]", "Pop"]
    board = run_leaderboard(rows, dataset, config_dict={"content_encoder": "tfidf_svd", "content_dim": 32, **settings})
    print(board)
    return board.to_frame()


if __name__ == "__main__":
    main(epochs=2)
