"""Weights over the steps of training: AdamW for tables of which a step reads few rows, and averages.

Input: parameters, with dense or sparse gradients. Output: updated parameters, or their average to swap in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class RowAdamW(torch.optim.AdamW):
    """AdamW; of a parameter with a sparse gradient (`F.embedding(…, sparse=True)`) only the rows in it are updated.

    Such a row's moments, weight decay and bias correction advance at its own updates alone; where every row has a
    gradient at every step it is AdamW exactly. In AdamW rows without a gradient decay and move by their momentum.

    Args:
        max_norm: the norm that all gradients together are clipped to (`clip_grad_norm_` takes no sparse ones), or None.
    """

    def __init__(self, params: Any, *, max_norm: float | None = None, **options: Any) -> None:
        super().__init__(params, **options)
        self.max_norm = max_norm

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # it takes no closure
        if closure is not None:
            raise ValueError("RowAdamW takes no closure: compute the loss before the step")
        parameters = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        sparse = [(group, p, p.grad.coalesce()) for group, p in parameters if p.grad.is_sparse]
        dense = [p.grad for _, p in parameters if not p.grad.is_sparse]
        values = [gradient.values() for *_, gradient in sparse]
        if self.max_norm is not None and (dense or values):
            norm = torch.stack([part.norm() for part in (*dense, *values)]).norm()
            share = (self.max_norm / (norm + 1e-6)).clamp(max=1.0)
            for part in (*dense, *values):
                part.mul_(share)
        for group, parameter, gradient in sparse:
            self._update_rows(group, parameter, gradient.indices()[0], gradient.values())
            parameter.grad = None
        super().step()

    def _update_rows(self, group: dict[str, Any], parameter: Tensor, rows: Tensor, gradient: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(len(parameter), device=parameter.device)
        beta1, beta2 = group["betas"]
        steps = state["step"].index_select(0, rows) + 1
        mean = state["exp_avg"].index_select(0, rows).lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        for name, value in (("step", steps), ("exp_avg", mean), ("exp_avg_sq", square)):
            state[name].index_copy_(0, rows, value)
        exact = steps.double()  # 1 - 0.999 ** 1 has three digits too few in float32
        rate = (group["lr"] / (1 - beta1**exact))[:, None].to(gradient.dtype)
        denominator = (square / (1 - beta2**exact)[:, None].to(gradient.dtype)).sqrt_().add_(group["eps"])
        kept = parameter.index_select(0, rows).mul_(1 - group["lr"] * group["weight_decay"])
        parameter.index_copy_(0, rows, kept.sub_(rate * mean / denominator))


class WeightAverage:
    """Exponential moving average of weights over the steps, in which the weights before the first step have no share.

    After t steps, step s counts (1 - decay) * decay ** (t - s) / (1 - decay ** t).

    Args:
        parameters: the weights; they keep their identity, so that an optimizer continues with them.
        decay: 0 < decay < 1; 1 / (1 - decay) steps are about what is averaged over.

    Attributes:
        steps: steps averaged so far.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._parameters: list[torch.Tensor] = list(parameters)
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._in_place = False

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        share = (1 - self.decay) / (1 - self.decay**self.steps)
        # One kernel for all on CUDA, as torch.optim's own averages.
        torch._foreach_lerp_(self._averages, self._parameters, share)

    @torch.no_grad()
    def restart(self, steps: int) -> None:
        """Let the weights as they are count as the average of so many steps."""
        self.steps = steps
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            average.copy_(parameter)

    @contextmanager
    def shown(self, averaged: bool) -> Iterator[None]:
        """A `with` block in which the parameters hold the average, or the weights that are trained; blocks may nest."""
        before = self._in_place
        self._show(averaged)
        try:
            yield
        finally:
            self._show(before)

    def _show(self, averaged: bool) -> None:
        if averaged != self._in_place:
            for average, parameter in zip(self._averages, self._parameters, strict=True):
                average.data, parameter.data = parameter.data, average.data
            self._in_place = averaged
