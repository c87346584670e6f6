"""Weights and scores that are not finite numbers: an error before they are measured, ranked or kept.

Input: a model, or the scores of a batch. Output: nothing, or `NotFiniteError` with the model and the phase.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_tiger.errors import NotFiniteError

_WAY_OUT = "train again with a lower learning_rate or with clip_grad_norm: {max_norm: 1.0}"


def check_loss(loss: Tensor) -> None:
    """Raise `NotFiniteError` for a training loss that is NaN."""
    if torch.isnan(loss):
        raise NotFiniteError("the training loss is NaN: lower learning_rate or set clip_grad_norm: {max_norm: 1.0}")


def check_weights(model: nn.Module, phase: str) -> None:
    """Raise unless all parameters of a model are finite; the device is asked once.

    Raises:
        NotFiniteError: names the model, the phase and the first parameters that are not finite.
    """
    named = [(name, p.detach()) for name, p in model.named_parameters() if p.is_floating_point()]
    if not named or bool(torch.stack([p.isfinite().all() for _, p in named]).all()):
        return
    wrong = [name for name, p in named if not p.isfinite().all()]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    raise NotFiniteError(
        f"model={type(model).__name__}, {phase}: weights are not finite ({', '.join(wrong[:3])}{more}); {_WAY_OUT}"
    )


def check_scores(scores: Tensor, model: nn.Module, phase: str) -> None:
    """Raise for a score that is NaN or infinite; -inf stands for an item that cannot be recommended.

    Raises:
        NotFiniteError: names the model and the phase.
    """
    if not bool((scores < torch.inf).all()):  # NaN is not below anything
        raise NotFiniteError(f"model={type(model).__name__}, {phase}: scores are not finite; {_WAY_OUT}")
