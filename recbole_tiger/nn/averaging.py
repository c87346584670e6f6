"""Averaged weights.

Input: an optimizer's parameters. Output: their average over the steps, which can be swapped in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


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
