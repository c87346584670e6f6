"""How many Semantic IDs of an unconstrained beam search belong to no item (paper, section 5 and Figure 6).

Input: a trained run. Output: the share of invalid IDs among the first K, and Recall@K with and without the constraint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from recbole_tiger.analysis.runs import TrainedRun, not_rescored, recommend_users

#: Models whose decoder has a probability for every codeword after every prefix.
UNCONSTRAINED_MODELS = ("TIGER",)


@dataclass(frozen=True)
class InvalidIDs:
    """Both searches, with `search_beams` beams; each list has an entry for K = 1 … k.

    `invalid` is the share of invalid IDs among the first K IDs of all users together. They keep their ranks in the
    lists of `recall_free`, Recall@K of the unconstrained search.
    """

    search_beams: int
    invalid: list[float]
    recall_free: list[float]
    recall_constrained: list[float]


def invalid_ids(trained: TrainedRun, k: int, beams: int) -> InvalidIDs:
    """Measure both searches for K = 1 … k.

    They differ in the constraint only: both are beam searches, whatever `scoring` is, and the unconstrained one knows
    no items, so that neither masks seen ones nor ranks what it finds by `rescore_weight`.
    """
    valid, items = [], []
    for part in trained.test.chunks(trained.config["eval_batch_size"], "unconstrained search"):
        found = trained.model.generate_ids(part.users, part.history, part.lengths, k, beam_size=beams)
        valid.append(found.valid.cpu())
        items.append(found.items.cpu())
    unmasked = replace(trained, test=replace(trained.test, excluded=None))
    with not_rescored(trained.model), trained.model.widened(beams, "beam"):
        constrained = recommend_users(unmasked, k, "constrained search", beam_size=beams).items
    targets = trained.test.targets.cpu()
    invalid = (~torch.cat(valid)).double().mean(0).cumsum(0) / torch.arange(1, k + 1)
    return InvalidIDs(beams, invalid.tolist(), _recalls(torch.cat(items), targets), _recalls(constrained, targets))


def _recalls(items: torch.Tensor, targets: torch.Tensor) -> list[float]:
    """Recall@1 … Recall@K of lists [n, K] without repetitions."""
    return (items == targets[:, None]).double().mean(0).cumsum(0).tolist()
