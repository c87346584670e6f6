"""A plugin as a user writes one: a tokenizer, a decoder, a model and a metric, each registered at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from recbole.evaluator.base_metric import TopkMetric

from recbole_tiger import (
    Quantizer,
    beam_search,
    register_decoder,
    register_metric,
    register_model,
    register_tokenizer,
)
from recbole_tiger.model.tiger import TIGER


@dataclass(kw_only=True, eq=False)
class Quantiles(Quantizer):
    """Each level says in which quantile of a random projection an item lies.

    Args:
        id_length, codebook_size, random_state: see `Quantizer`.
        spread: scale of the projections,
            which changes nothing.
        draw: of the projections.
        offsets: added to the projections.
    """

    spread: float = 1.0
    draw: Literal["normal", "uniform"] = "normal"
    offsets: list[float] | None = None

    def _fit(self, x, *, progress, checkpoint):
        rng = np.random.default_rng(self.random_state)
        planes = getattr(rng, {"normal": "standard_normal", "uniform": "random"}[self.draw])(
            size=(self.dim_, self.id_length)
        )
        self.planes_ = torch.from_numpy(self.spread * planes)
        values = self._values(self._matrix(x))
        self.edges_ = [
            values[:, level].quantile(torch.arange(1, size).double() / size)
            for level, size in enumerate(self.codebook_sizes_)
        ]

    def _values(self, x):
        rows = [row.double() @ self.planes_ for row in x]  # one by one: the same for any batch
        return torch.stack(rows) if rows else torch.zeros(0, self.id_length, dtype=torch.double)

    def _encode(self, x):
        columns = zip(self._values(x).T.contiguous(), self.edges_, strict=True)
        return torch.stack([torch.bucketize(value, edges) for value, edges in columns], 1)

    def _last_level_costs(self, x, codes):
        distance = self._encode(x)[:, -1:] - torch.arange(self.codebook_sizes_[-1])
        return distance.abs().float()


def no_repeats(decoder, trie, *, k, beam_size, excluded, temperature, normalise, widen: int = 1):
    """Beam search with more beams.

    Args:
        widen: so many times the beams.
    """
    return beam_search(
        decoder, trie, k=k, beam_size=widen * beam_size, excluded=excluded, temperature=temperature, normalise=normalise
    )


class Doubled(TIGER):
    """TIGER with a loss of its own.

    Settings:
        loss_factor: of the loss.
    """

    default_settings = {"loss_factor": 2.0, "dropout_rate": 0.0}

    def calculate_loss(self, interaction):
        return self.config_factor * super().calculate_loss(interaction)

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.config_factor = config["loss_factor"]


class FirstHit(TopkMetric):
    """1 where the first item of the list is the right one."""

    def __init__(self, config):
        super().__init__(config)

    def calculate_metric(self, dataobject):
        hits, _ = self.used_info(dataobject)
        values = np.repeat(hits[:, :1], hits.shape[1], axis=1).astype(float)
        return self.topk_result("firsthit", values)


register_tokenizer("quantiles", Quantiles)
register_decoder("no_repeats", no_repeats)
register_model(Doubled)
register_metric(FirstHit)
