"""Adafactor whose step stays on the device.

Input: parameters with gradients. Output: the updates of `torch.optim.Adafactor`, without its two reads of a norm by the
host for every parameter and step, for which a GPU waits, and with one kernel for many parameters where torch has one.
On a CPU, where reading costs nothing, torch's own step runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Adafactor(torch.optim.Adafactor):
    """`torch.optim.Adafactor` (Shazeer and Stern 2018) with the same arguments and the same state.

    Attributes:
        on_device: whether norms stay on the device; by default wherever that is not the CPU.
    """

    on_device: bool | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        on_device = self.on_device
        if on_device is None:
            on_device = any(p.device.type != "cpu" for group in self.param_groups for p in group["params"])
        if not on_device:
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state.update(_first_state(parameter.grad))
                    state["step"] += 1  # on the CPU, as torch keeps it
                    kind = (parameter.dtype, parameter.dim() > 1, float(state["step"]))
                    alike.setdefault(kind, []).append(parameter)
            for (dtype, factored, step), parameters in alike.items():
                self._update(parameters, dtype, factored, step, group)
        return loss

    def _update(
        self, parameters: list[Tensor], dtype: torch.dtype, factored: bool, step: float, group: dict[str, Any]
    ) -> None:
        """The step of parameters that are alike, line by line torch's, with the norms as tensors."""
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        if group["maximize"]:
            gradients = list(torch._foreach_neg(gradients))
        states = [self.state[parameter] for parameter in parameters]
        rate, decay = float(group["lr"]), group["weight_decay"]
        eps1, eps2 = group["eps"]
        eps1 = torch.finfo(dtype).eps if eps1 is None else eps1
        roots = [parameter.numel() ** 0.5 for parameter in parameters]
        scales = torch._foreach_norm(parameters)
        torch._foreach_div_(scales, roots)
        torch._foreach_clamp_min_(scales, eps2)
        torch._foreach_mul_(scales, min(rate, step**-0.5))
        if decay:
            torch._foreach_mul_(parameters, 1 - rate * decay)
        variances = _variances(gradients, states, factored, step ** group["beta2_decay"], eps1)
        torch._foreach_clamp_min_(variances, eps1 * eps1)
        torch._foreach_sqrt_(variances)
        updates = torch._foreach_div(gradients, variances)
        sizes = torch._foreach_norm(updates)
        torch._foreach_div_(sizes, [root * group["d"] for root in roots])
        torch._foreach_clamp_min_(sizes, 1.0)
        torch._foreach_div_(scales, sizes)
        torch._foreach_mul_(updates, scales)
        torch._foreach_sub_(parameters, updates)


def _variances(
    gradients: list[Tensor], states: list[dict[str, Tensor]], factored: bool, new: float, eps1: float
) -> list[Tensor]:
    """Estimates of the squares of gradients, after `new` times these have entered the running means."""
    if not factored:
        means = [state["variance"] for state in states]
        torch._foreach_lerp_(means, torch._foreach_mul(gradients, gradients), new)
        return [mean.clone() for mean in means]
    for name, dim in (("row_var", -1), ("col_var", -2)):
        squares = [gradient.norm(dim=dim, keepdim=True) for gradient in gradients]
        torch._foreach_mul_(squares, squares)
        torch._foreach_div_(squares, [float(gradient.size(dim)) for gradient in gradients])
        torch._foreach_lerp_([state[name] for state in states], squares, new)
    found = [state["row_var"] @ state["col_var"] for state in states]
    means = [state["row_var"].mean(dim=-2, keepdim=True) for state in states]
    torch._foreach_clamp_min_(means, eps1)
    torch._foreach_div_(found, means)
    return found


def _first_state(gradient: Tensor) -> dict[str, Tensor]:
    """Zeros in the shapes that `torch.optim.Adafactor` keeps."""
    state = {"step": torch.tensor(0.0, dtype=torch.get_default_dtype())}
    if gradient.dim() > 1:
        row, column = list(gradient.shape), list(gradient.shape)
        row[-1], column[-2] = 1, 1
        return state | {"row_var": gradient.new_zeros(row), "col_var": gradient.new_zeros(column)}
    return state | {"variance": torch.zeros_like(gradient)}
