"""What several processes agree on and add up to; the single process is the oracle."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from catalogue import settings_of
from together import as_process, forked, together
from torch import nn

from recbole_tiger.data.batches import FieldNames, TrainingExamples, TrainingWindows
from recbole_tiger.data.prefixes import PrefixRows
from recbole_tiger.distributed import collectives, launcher
from recbole_tiger.distributed.topology import Topology
from recbole_tiger.errors import ConfigError, ProcessDied, ProcessLost, TrainingStopped
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import prepare_data


def shares(count, take):
    """What each of so many processes takes."""
    found = []
    for rank in range(count):
        with as_process(rank, count):
            found.append(take())
    return found


# ------------------------------------------------------------------------------------------------------------ the rows


def test_every_row_is_in_one_share():
    for count in range(1, 7):
        for n in range(40):
            parts = shares(count, lambda n=n: list(collectives.share_of(range(n))))
            assert sorted(row for part in parts for row in part) == list(range(n))
            sizes = [len(part) for part in parts]
            assert max(sizes) - min(sizes) <= 1


def numbered_examples(n, rng):
    """Users with one example each, whose next item is its number."""
    size = torch.from_numpy(rng.integers(2, 10, size=n))  # the history and the next item
    start = F.pad(size.cumsum(0), (1, 0))
    number = torch.zeros(int(start[-1]), dtype=torch.long)
    number[start[1:] - 1] = torch.arange(n)
    flat = {"user": torch.repeat_interleave(size), "number": number}
    rows = PrefixRows(flat, start, start[1:] - 1, 20, user_field="user", length_field="length", list_fields={})
    return TrainingExamples(rows, FieldNames(user="user", history="history", length="length", item="number"))


def numbered_windows(n, rng):
    """Users with one window each, whose user number is its number."""
    n_targets = rng.integers(1, 9, size=n)
    end = torch.from_numpy(n_targets + 1).cumsum(0)
    begin = F.pad(end[:-1], (1, 0))
    return TrainingWindows(
        items=torch.ones(int(end[-1]), dtype=torch.long),
        user=torch.arange(n),
        begin=begin,
        first_target=begin + 1,
        end=end,
        n_history=n_targets,
        n_targets=n_targets,
        names=FieldNames(user="number", history="history", length="length", item="item"),
    )


@pytest.mark.parametrize("make", [numbered_examples, numbered_windows])
def test_shares_of_training_batches_make_up_the_batches(make):
    for n in (1, 2, 7, 64, 65, 1000):
        for size in (1, 3, 64):
            examples = make(n, np.random.default_rng(n))

            def batches(examples=examples, size=size):
                found = examples.batches(size, seed=(3, 1))
                return [batch["number"].tolist() for batch in found], found.n_targets

            whole, whole_targets = batches()
            assert sorted(row for batch in whole for row in batch) == list(range(n))
            for count in (2, 3, 5):
                parts = shares(count, batches)
                assert {len(rows) for rows, _ in parts} == {len(whole)}
                for step, batch in enumerate(whole):
                    assert sorted(row for rows, _ in parts for row in rows[step]) == sorted(batch)
                    assert sum(targets[step] for _, targets in parts) == whole_targets[step]


def test_shares_of_recboles_batches_make_up_the_batches(toy):
    settings = settings_of("SASRec", toy, train_batch_size=4, eval_batch_size=4)
    config = build_config("SASRec", "toy", config_dict=settings)

    def seen():
        data = prepare_data(config)  # a loader's generator goes on from epoch to epoch
        epochs = [list(collectives.loader_shares(data.train)) for _ in range(2)]
        return epochs + [list(collectives.loader_shares(data.test))]

    [whole] = shares(1, seen)
    parts = shares(3, seen)
    assert [rows for rows, _ in whole[0]] != [rows for rows, _ in whole[1]]
    assert sorted(row for rows, _ in whole[2] for row in rows) == list(range(150))
    some_are_empty = False
    for loop, batches in enumerate(whole):
        assert {len(part[loop]) for part in parts} == {len(batches)}
        for step, (rows, _) in enumerate(batches):
            taken = [part[loop][step] for part in parts]
            assert sorted(row for mine, _ in taken for row in mine) == sorted(rows)
            for mine, batch in taken:
                batch = batch[0] if isinstance(batch, tuple) else batch
                assert (batch is None) == (not mine) and (batch is None or len(batch) == len(mine))
                some_are_empty |= batch is None
    assert some_are_empty  # the last batches have fewer than 3 rows


# -------------------------------------------------------------------------------------------------------- the gradients


class Net(nn.Module):
    """Mean squared error of a linear map; of the other parameters one is used by large inputs only, one never."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.sometimes = nn.Parameter(torch.ones(2))
        self.never = nn.Parameter(torch.ones(2))

    def loss(self, x):
        y = self.linear(x)
        large = x.abs().amax(1) > 5
        if large.any():
            y = y + large[:, None] * self.sometimes
        return y.square().mean()


def gradients_of(rows_of_rank):
    """Loss, targets and gradients of data that this process has some rows of."""
    model = Net()
    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
    x[10] *= 10
    own = x[rows_of_rank[collectives.rank()]]
    loss = torch.zeros(())
    if len(own):
        loss = model.loss(own)
        loss.backward()
    loss, n = collectives.average_gradients(list(model.parameters()), loss, len(own))
    return float(loss.detach()), n, {name: p.grad for name, p in model.named_parameters()}


def test_gradients_of_unequal_shares_add_up_to_those_of_the_batch():
    rows = [[0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10], []]
    loss, n, expected = gradients_of([list(range(11))])
    assert n == 11 and expected.pop("never") is None and len(expected) == 3
    for found_loss, found_n, found in together(3, gradients_of, rows):
        assert found_n == 11 and found_loss == pytest.approx(loss, rel=1e-6)
        assert found.pop("never") is None  # an optimizer leaves alone what has no gradient
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    # The mean of the means, which DistributedDataParallel takes, is another gradient, and this test would see it.
    means = [gradients_of([part])[2] for part in rows[:2]]
    naive, right = (means[0]["linear.weight"] + means[1]["linear.weight"]) / 2, expected["linear.weight"]
    assert (naive - right).abs().max() > 0.1 * right.abs().max()


# ------------------------------------------------------------------------------------------------------- the agreements


def agreements():
    rank = collectives.rank()
    table = collectives.assemble(torch.tensor([[rank, 10 + rank]]), [2 - rank], 3)
    weights = [nn.Parameter(torch.tensor([0.1, 0.2]))]
    collectives.check_weights(weights)
    weights[0].data[1] += 1e-8 * rank
    try:
        collectives.check_weights(weights)
        drift = None
    except RuntimeError as error:
        drift = str(error)
    return {
        "from_main": collectives.from_main(lambda: f"computed by {collectives.rank()}"),
        "gather": collectives.gather(rank * rank),
        "any": (collectives.any_of(rank == 2), collectives.any_of(False)),
        "table": table.tolist(),
        "differences": collectives.differences({"same": 1, "other": rank // 2}),
        "drift": drift,
    }


def test_agreements_of_three():
    found = together(3, agreements)
    assert found[0] == found[1] == found[2]
    assert found[0]["from_main"] == "computed by 0" and found[0]["gather"] == [0, 1, 4]
    assert found[0]["any"] == (True, False)
    assert found[0]["table"] == [[2, 12], [1, 11], [0, 10]]
    assert found[0]["differences"] == ["other"]
    assert "drifted apart" in found[0]["drift"]


def test_a_process_by_itself_agrees_with_itself():
    assert collectives.from_main(lambda: 3) == 3 and collectives.gather(3) == [3]
    assert collectives.any_of(True) and not collectives.any_of(False) and collectives.differences({"a": 1}) == []
    with pytest.raises(AssertionError, match="a row is missing"):
        collectives.assemble(torch.tensor([[1]]), [1], 2)


# ------------------------------------------------------------------------------------------ processes that fail or stop


def fail(how):
    """The second process fails, the first waits for it."""
    if collectives.rank() == 1:
        how()
    collectives.any_of(False)
    time.sleep(60)


def mistake():
    raise ConfigError("beam_size=3 is too small")


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        (mistake, ConfigError, "beam_size=3 is too small"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), ProcessDied, "killed by signal 9"),
        (lambda: os._exit(7), ProcessDied, r"ended \(7\)"),
    ],
)
def test_a_failing_process_ends_all_and_its_error_is_told(how, error, words):
    started = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        together(2, fail, how)
    assert time.monotonic() - started < 30
    if error is ConfigError:
        assert "in mistake" in str(caught.value.__cause__)  # the stack of the other process


def wait_for_main():
    collectives.from_main(lambda: time.sleep(60))


def test_sigterm_before_training_ends_all():
    with pytest.raises(TrainingStopped, match="before training began"), forked():
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, 0.7)
        launcher.run_in_processes(wait_for_main, (), Topology(2, 2, "localhost", 0, 0))


def test_sigterm_while_processes_are_started_starts_no_more(monkeypatch):
    """It comes after the start of the first: the second would wait for that one until everybody's patience ends."""
    started, start = [], multiprocessing.context.ForkProcess.start

    def start_and_stop(process):
        start(process)
        started.append(process)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", start_and_stop)
    monkeypatch.setattr(launcher, "STOPPING_GRACE", 3.0)
    with pytest.raises(TrainingStopped, match="before training began"), forked():
        launcher.run_in_processes(wait_for_main, (), Topology(2, 2, "localhost", 0, 0))
    assert len(started) == 1 and started[0].exitcode is not None


def test_a_taken_port_is_named():
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(ConfigError, match=f"port={store.port}"):
        launcher.run_in_processes(print, (), Topology(2, 2, "localhost", store.port, 0))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(RuntimeError("Connection closed by peer"), ProcessLost), (TrainingStopped(), TrainingStopped)],
)
def test_only_what_torch_raises_is_a_lost_process(raised, expected):
    with pytest.raises(expected), collectives._others_needed():
        raise raised


# --------------------------------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("TIGER", {"nproc": 0}, "nproc=0 must be a whole number of at least 1"),
        ("TIGER", {"nproc": 2.5}, "nproc=2.5"),
        ("TIGER", {"nproc": 2, "group_offset": 1}, "world_size=2 counts.*up to 3"),
        ("TIGER", {"nproc": 2, "world_size": 4}, "several machines need --ip"),
        ("TIGER", {"nproc": 2, "world_size": 4, "ip": "10.0.0.1"}, "several machines need --ip"),
        ("TIGER", {"nproc": 2, "port": "ssh"}, "port='ssh'"),
        ("TIGER", {"nproc": 80, "train_batch_size": 64}, "train_batch_size=64"),
        ("FEARec", {"nproc": 2, "n_layers": 2}, "a batch of FEARec cannot be shared"),
        ("HGN", {"nproc": 2, "reg_weight": [0.1, 0]}, "reg_weight"),
        ("S3Rec", {"nproc": 2}, "pre_model_path"),
        ("TIGERTree", {"nproc": 2, "update_rows": "touched", "ema_decay": 0}, "update_rows=touched"),
    ],
)
def test_impossible_processes_are_refused(toy, model, settings, words):
    with pytest.raises(ConfigError, match=words):
        build_config(model, "toy", config_dict=settings_of(model, toy, **settings), distributable=True)


def test_several_machines_in_recboles_terms(toy):
    settings = {"nproc": 2, "world_size": 4, "ip": "10.0.0.1", "port": "5678", "group_offset": 2}
    assert Topology.of(build_config("TIGER", "toy", config_dict={**toy, **settings}, distributable=True)) == Topology(
        here=2, everywhere=4, ip="10.0.0.1", port=5678, offset=2
    )
    assert Topology.of(build_config("TIGER", "toy", config_dict=toy)).everywhere == 1
