"""One pass over all positions of a window against prefix by prefix, for every model that trains both ways."""

from __future__ import annotations

import pytest
import torch


def assert_same_gradients(model, examples, windows) -> None:
    """The mean loss over all targets and its gradients are those of the prefixes, and none is zero.

    Args:
        model: without dropout.
        examples, windows: `TrainingExamples` and `TrainingWindows` of the same sequences.
    """
    assert len(examples) == windows.n_targets.sum()

    def gradients(batches):
        model.zero_grad()
        loss = 0.0
        for batch, n in zip(batches, batches.n_targets, strict=True):
            part = model.calculate_loss(batch) * n / len(examples)
            part.backward()
            loss += part.item()
        return loss, {name: p.grad.clone() for name, p in model.named_parameters()}

    loss, whole = gradients(examples.batches(100, (0,)))
    window_loss, window = gradients(windows.batches(16, (0,)))
    assert window_loss == pytest.approx(loss, abs=1e-5)
    for name, value in whole.items():
        scale = value.abs().max()
        assert scale > 0 and torch.allclose(window[name], value, atol=1e-4 * float(scale) + 1e-7), name
