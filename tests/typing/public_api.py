"""The public names as the documentation uses them, for `mypy --strict`; nothing here is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import recbole_tiger
from recbole_tiger import (
    RQVAE,
    BeamResult,
    Epoch,
    PrefixTrie,
    Quantizer,
    Recommendation,
    Recommender,
    SemanticIDTable,
    StepDecoder,
    StepFunction,
    TrieLogitsProcessor,
    beam_search,
    exact_topk,
    prefix_allowed_tokens_fn,
    register_decoder,
    register_tokenizer,
    run_leaderboard,
    run_recbole_tiger,
    tune,
)
from recbole_tiger.decoding import ForkableStepDecoder
from recbole_tiger.decoding.types import Normalise
from recbole_tiger.testing import check_decoder, check_tokenizer


@dataclass(kw_only=True, eq=False)
class Signs(Quantizer):
    scale: float = 1.0

    def _fit(self, x: NDArray[Any], *, progress: bool, checkpoint: str | Path | None) -> None:
        self.mean_ = torch.from_numpy(x.mean(0) * self.scale)

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, : self.id_length] > self.mean_[: self.id_length]).long()

    def _last_level_costs(self, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), self.codebook_sizes_[-1])


def search(
    decoder: ForkableStepDecoder,
    trie: PrefixTrie,
    *,
    k: int,
    beam_size: int,
    excluded: torch.Tensor | None,
    temperature: float | Any,
    normalise: Normalise,
    margin: float = 0.0,
) -> BeamResult:
    return beam_search(decoder, trie, beam_size=beam_size, k=k, excluded=excluded, normalise=normalise)


def extension() -> None:
    register_tokenizer("signs", Signs)
    register_decoder("own", search)
    check_tokenizer(Signs, codebook_size=2)
    check_decoder(search, margin=0.1)


def core(x: torch.Tensor, rows: NDArray[np.float32]) -> BeamResult:
    rqvae = RQVAE(id_length=3, codebook_size=16)
    codes: NDArray[np.int64] = rqvae.fit_transform(x)
    codes = rqvae.fit(rows).transform(rows)
    table = SemanticIDTable.from_codes(codes, [str(i) for i in range(len(codes))], rqvae.codebook_sizes_)
    trie = PrefixTrie.from_codes(table.codes[1:], table.level_sizes)
    decoder: StepDecoder = StepFunction(lambda prefixes: torch.zeros(2, prefixes.shape[1], 16), n_users=2)
    processor = TrieLogitsProcessor(trie, [0, 16, 32], eos_token_id=1)
    scores: torch.Tensor = processor(torch.zeros(1, 1), torch.zeros(1, 64))
    allowed: list[int] = prefix_allowed_tokens_fn(trie, [0, 16, 32], 1)(0, scores)
    exact = exact_topk(StepFunction(lambda prefixes: torch.zeros(2, 1, 16), n_users=2), trie, k=len(allowed))
    return beam_search(decoder, trie, beam_size=10, k=exact.items.shape[1])


def runs() -> float:
    def show(epoch: Epoch) -> None:
        print(epoch.number, epoch.valid["ndcg@10"], epoch.left)

    result: dict[str, Any] = run_recbole_tiger("TIGER", "ml-100k", config_dict={"epochs": 1}, on_epoch=show)
    board = run_leaderboard("TIGER,Pop", "ml-100k", seeds=(1, 2))
    best: str = board.table.rows[0].label
    frame: pd.DataFrame = board.to_frame()
    sweep = tune("tiger", dataset="ml-100k", trials=2)
    settings: dict[str, Any] | None = sweep.best_settings
    print(best, frame, settings, sweep.trials, recbole_tiger.__version__)
    return float(result["test_result"]["ndcg@10"])


def recommend() -> list[str]:
    recommender = Recommender.from_checkpoint("best.pth")
    added: int = recommender.add_items("new.item")
    lists = recommender.recommend([["50", "Toy Story"]], k=5, exclude_seen=True)
    first: Recommendation = lists[0][0]
    table: pd.DataFrame = recommender.recommend(pd.DataFrame({"user_id": ["a"], "item_id": ["50"]})).to_frame()
    recommender.save("new.pth")
    return [first.title, str(first.score), str(added), str(len(table)), *(i.item for i in recommender.new_items)]
