"""What test_pretend_gpu.py runs in processes of their own that have the pretend GPU."""

from __future__ import annotations

import pytest
import torch
from pretend_gpu import DEVICE, reads, uploads

from recbole_tiger import run_recbole_tiger
from recbole_tiger.recommend import Recommender
from recbole_tiger.training import progress, sequential
from recbole_tiger.training.adafactor import Adafactor
from recbole_tiger.training.generative import TIGERTrainer
from recbole_tiger.training.sequential import SequentialTrainer


def refusals():
    here, there = torch.arange(4, device=DEVICE), torch.arange(4)
    for mixed in (
        lambda: here + there,
        lambda: there[here],
        lambda: here.index_select(0, there),
        lambda: torch.cat([here, there]),
        lambda: torch.rand(3, device=DEVICE, generator=torch.Generator()),
        lambda: here.numpy(),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            mixed()
    assert not reads and not uploads
    for reading in (
        lambda: int(here.max()),
        lambda: here[here > 1],
        lambda: here.nonzero(),
        lambda: here.tolist(),
        lambda: here.cpu(),
        lambda: torch.unique(here),
        lambda: torch.repeat_interleave(here),
        lambda: bool((here > 0).all()),
    ):
        reads.clear()
        reading()
        assert len(reads) == 1, reading
    reads.clear()
    free = here + torch.tensor(1), here[:2], here.index_select(0, here), torch.repeat_interleave(here, output_size=6)
    assert all(each.device == torch.device(DEVICE) for each in free) and not reads and not uploads
    assert here[there].device == torch.device(DEVICE) and len(uploads) == 1
    assert torch.tensor([1, 2], device=DEVICE).device == torch.device(DEVICE) and len(uploads) == 2


def adafactor():
    parameters = [torch.nn.Parameter(torch.ones(shape, device=DEVICE)) for shape in [(3,), (2, 4), (2, 3, 4)]]
    waits = {}
    for kind in (Adafactor, torch.optim.Adafactor):
        optimizer = kind(parameters, lr=0.1)
        for _ in range(2):
            reads.clear()
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 0.5)
            optimizer.step()
        waits[kind] = len(reads)
    assert waits == {Adafactor: 0, torch.optim.Adafactor: 2 * len(parameters)}


def all_of_it(model, settings):
    """A run stopped after one epoch and resumed for another, and lists for some histories."""
    counted = _counted_steps()
    first = run_recbole_tiger(model, "toy", config_dict=settings)
    last = first["files"]["last checkpoint"]
    resumed = run_recbole_tiger(model, "toy", config_dict={**settings, "epochs": 2, "resume": last})
    if model in ("TIGER", "TIGERTree"):
        recommender = Recommender.from_checkpoint(resumed["files"]["checkpoint"])
        lists = recommender.recommend([["i0_1", "i0_2"], ["i1_5"]], k=5, exclude_seen=True)
        sampled = recommender.recommend([["i0_1", "i0_2"]], k=5, sample=True, seed=3)
        assert [len(each) for each in (*lists, *sampled)] == [5, 5, 5]
    return {
        **counted,
        "losses": [r["train_loss"] for r in resumed["history"]],
        "checkpoint": resumed["files"]["checkpoint"],
        "test_result": dict(resumed["test_result"]),
    }


def _counted_steps():
    """What was waited for in each training step but the first of an epoch, and where the weights lay.

    What is kept after its first use, such as a trie's positions of items, is asked for in a run's first step.
    """
    counted = {"reads": [], "uploads": [], "devices": set()}

    def mark(model, steps):
        if steps > 1:
            counted["reads"].append(tuple(reads))
            counted["uploads"].append(tuple(uploads))
        counted["devices"] |= {str(parameter.device) for parameter in model.parameters()}
        reads.clear()
        uploads.clear()

    def _before_step(self, steps, total):
        mark(self.model, steps)
        BEFORE_STEP(self, steps, total)

    steps = []

    def take_step(model, *args):
        done = TAKE_STEP(model, *args)
        mark(model, len(steps))
        steps.append(1)
        return done

    def _train_epoch(self, *args, **kwargs):
        steps.clear()
        return TRAIN_EPOCH(self, *args, **kwargs)

    progress.FIRST_ESTIMATE_AFTER = float("inf")  # on a slow machine the estimate's validation would count as a step's
    TIGERTrainer._before_step = _before_step
    sequential.take_step = take_step
    SequentialTrainer._train_epoch = _train_epoch
    return counted


BEFORE_STEP = TIGERTrainer._before_step
TAKE_STEP = sequential.take_step
TRAIN_EPOCH = SequentialTrainer._train_epoch
