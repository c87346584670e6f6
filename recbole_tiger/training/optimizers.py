"""Optimizer steps of all models; optimizers and learning-rate schedules of the generative ones.

Input: settings and a model's parameters, a loss, or a step. Output: an optimizer, its step, or the factor on
`learning_rate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from recbole_tiger.distributed import collectives
from recbole_tiger.errors import ConfigError
from recbole_tiger.nn import RowAdamW

#: Adafactor: the size that weights which start at zero count as, at the least.
ZERO_START_SIZE = 0.1
_UNSCALED = GradScaler(enabled=False)
_CLASSES = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
if hasattr(torch.optim, "Adafactor"):
    from recbole_tiger.training.adafactor import Adafactor

    _CLASSES["adafactor"] = Adafactor


def build_optimizer(config, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """RecBole's optimizers and Adafactor; weight decay on matrices only (norms are scales, not weights).

    Adafactor's step is relative to the size of a weight, and what starts at zero would hardly start at all: it counts
    as being of size `ZERO_START_SIZE` until it is larger. `update_rows=touched` is AdamW on the rows that a step reads,
    which clips gradients itself.

    Raises:
        ConfigError: for a learner that cannot train these models.
    """
    learner, decay = config["learner"], config["weight_decay"] or 0.0
    if learner not in _CLASSES:
        usable = ", ".join(_CLASSES)
        raise ConfigError(f"learner='{learner}' cannot train {config['model']} here; choose one of {usable}")
    trained = [p for p in parameters if p.requires_grad]
    groups: list[dict] = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    if config["update_rows"] == "touched":
        clip = config["clip_grad_norm"]
        return RowAdamW(groups, lr=config["learning_rate"], fused=True, max_norm=clip["max_norm"] if clip else None)
    options = {"fused": True} if learner in ("adam", "adamw") else {}
    if learner == "adafactor":
        zero = {id(p) for p in trained if p.numel() and not p.detach().any()}
        started = [{**g, "params": [p for p in g["params"] if id(p) in zero]} for g in groups]
        groups = [{**g, "params": [p for p in g["params"] if id(p) not in zero]} for g in groups]
        groups += [{**g, "eps": (None, ZERO_START_SIZE)} for g in started if g["params"]]
    return _CLASSES[learner](groups, lr=config["learning_rate"], **options)


def take_step(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Tensor,
    n_targets: int,
    clip: Mapping | None,
    scaler: GradScaler = _UNSCALED,
) -> tuple[Tensor, int]:
    """One optimizer step on a batch, of which this process has a share.

    Args:
        loss: () mean over this process's targets.
        n_targets: how many these are; 0 for a batch too small to have a row for it.
        clip: arguments of `clip_grad_norm_` for the gradients as they are, not as the scaler makes them.

    Returns:
        The mean loss () of the whole batch, and its targets.
    """
    scaled = scaler.scale(loss)
    if n_targets:
        scaled.backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss, n_targets = collectives.average_gradients(parameters, loss.detach(), n_targets)
    if clip:
        scaler.unscale_(optimizer)
        clip_grad_norm_(parameters, **clip)
    scaler.step(optimizer)
    scaler.update()
    return loss, n_targets


def learning_rate_factor(kind: str, step: int, warmup: int, total: int) -> float:
    """Factor on `learning_rate` at a step, from 0.

    constant: 1. inverse_sqrt: 1 for `warmup` steps, then sqrt(warmup / step), which is the paper's "0.01 for the first
    10k steps and then follows an inverse square root decay" (4.1.3). cosine: linear from 0 over `warmup` steps, then
    half a cosine down to 0 at `total`.
    """
    if kind == "inverse_sqrt":
        return math.sqrt(max(warmup, 1) / max(step, warmup, 1))
    if kind == "cosine":
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (total - warmup))))
    return 1.0
