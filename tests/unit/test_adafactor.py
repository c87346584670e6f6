"""The Adafactor that stays on the device takes the steps of torch's; that it reads nothing: test_pretend_gpu.py."""

import copy

import pytest
import torch

from recbole_tiger.training.adafactor import Adafactor

SHAPES = [(7,), (5, 3), (2, 4, 6), (1,), (9, 1)]


def stepped(optimizer_class, n_steps, **options):
    """Parameters after some steps of random gradients, in double precision."""
    generator = torch.Generator().manual_seed(3)
    parameters = [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in SHAPES]
    parameters[1].data.zero_()
    optimizer = optimizer_class(
        [{"params": parameters[:1]}, {"params": parameters[1:2], "eps": (None, 0.1)}, {"params": parameters[2:]}],
        lr=0.05,
        weight_decay=0.1,
        **options,
    )
    optimizer.on_device = True  # torch's own does not know it
    for step in range(n_steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 10.0 ** (step % 3)
        parameters[0].grad = None if step == 2 else parameters[0].grad
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("n_steps", [1, 12])
def test_its_steps_are_torchs_in_double_precision(n_steps, maximize):
    ours, optimizer = stepped(Adafactor, n_steps, maximize=maximize)
    theirs, reference = stepped(torch.optim.Adafactor, n_steps, maximize=maximize)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
    kept = [
        {number: sorted(name for name, value in state.items() if value is not None) for number, state in each.items()}
        for each in (optimizer.state_dict()["state"], reference.state_dict()["state"])
    ]
    assert kept[0] == kept[1] != {}


def test_a_state_of_torchs_continues_on_the_device():
    parameters, reference = stepped(torch.optim.Adafactor, 3)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    optimizer = Adafactor([{"params": copies[:1]}, {"params": copies[1:2]}, {"params": copies[2:]}], lr=1.0)
    optimizer.on_device = True
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    for each in (*parameters, *copies):
        each.grad = torch.ones_like(each)
    reference.step()
    optimizer.step()
    for ours, theirs in zip(copies, parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
