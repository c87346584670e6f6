"""A run of several processes is the run of one: same losses, same metrics, and none of its promises broken."""

import multiprocessing
import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from catalogue import TINY, settings_of, write_catalogue
from together import forked

from recbole_tiger import run_recbole_tiger
from recbole_tiger.commands import leaderboard
from recbole_tiger.distributed import collectives
from recbole_tiger.errors import ConfigError, TrainingStopped
from recbole_tiger.experiment.loading import trainer_class
from recbole_tiger.report.run_text import report
from recbole_tiger.training.checkpoint import load_checkpoint
from recbole_tiger.training.generative import TIGERTrainer
from recbole_tiger.training.sequential import SequentialTrainer

NO_DROPOUT = {
    "dropout_rate": 0.0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0,
    "item_embedding_dropout": 0.0,
}  # fmt: skip


@pytest.fixture()
def odd(workplace):
    """41 users: two processes cannot share them equally, and the last batch leaves one without a row."""
    write_catalogue(workplace / "data", n_users=41)
    return {**TINY, "data_path": str(workplace / "data"), "train_batch_size": 20, "eval_batch_size": 20}


def run(model, settings, nproc=1):
    with forked():
        return run_recbole_tiger(model, "toy", config_dict={**settings, "nproc": nproc})


def losses(result):
    return [record["train_loss"] for record in result["history"] if "train_loss" in record]


def weights(result, name="last checkpoint"):
    return torch.load(result["files"][name], weights_only=True)["state_dict"]


# -------------------------------------------------------------------------------------------------- the single process


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("TIGER", {"recipe": "tiny", "mask_seen_items": True, "collision": "none"}),
        ("TIGER", {"recipe": "tuned", "lr_scheduler": "constant"}),
        ("TIGER", {"recipe": "extended", "item_embedding_dropout": 0}),
        ("TIGERTree", {"ema_decay": 0.9}),
        ("SASRec", {"clip_grad_norm": {"max_norm": 0.5}}),
    ],
)
def test_two_processes_train_and_measure_what_one_does(odd, model, settings):
    settings = {**settings_of(model, odd, **NO_DROPOUT, epochs=2), **settings}
    one, two = run(model, settings), run(model, settings, nproc=2)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    for name, whole in weights(one).items():
        torch.testing.assert_close(weights(two)[name], whole, rtol=1e-3, atol=1e-4)
    assert two["examples_seen"] == one["examples_seen"]
    for key in ("best_valid_result", "test_result", "id_level_test_result"):
        assert two[key] == one[key]
    ranks = [np.load(result["files"]["ranks"]) for result in (one, two)]
    for name in ranks[0].files:
        np.testing.assert_array_equal(ranks[0][name], ranks[1][name])
    assert len(ranks[0]["test_users"]) == 41
    assert two["environment"]["processes"] == 2
    # Only the first process writes.
    for pattern in ("log/*/*.log", "log_tensorboard/*", f"saved/{model}-*"):
        assert len(list(Path().glob(pattern))) == 2, pattern  # one for each of the runs


# ------------------------------------------------------------------------------------------------------- its own chance


def test_processes_start_from_the_same_weights_and_draw_different_dropout(odd, monkeypatch):
    fit = SequentialTrainer.fit

    def look(self, *args, **kwargs):
        drawn = collectives.gather(float(torch.rand(())))
        assert len(set(drawn)) == collectives.count()
        collectives.check_weights(list(self.model.parameters()))
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(SequentialTrainer, "fit", look)
    run("SASRec", settings_of("SASRec", odd, epochs=1), nproc=2)


def test_weights_that_drift_apart_end_the_run(odd, monkeypatch):
    look = TIGERTrainer._check_losses

    def drift(self, *args):
        next(self.model.parameters()).data.add_(1e-6 * collectives.rank())
        return look(self, *args)

    monkeypatch.setattr(TIGERTrainer, "_check_losses", drift)
    with pytest.raises(RuntimeError, match="drifted apart"):
        run("TIGER", odd, nproc=2)


# --------------------------------------------------------------------------------------------------- stopping, going on


class Killed(Exception):
    pass


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2)])
def test_any_number_of_processes_continues_a_run(odd, monkeypatch, before, after):
    settings = {**odd, "epochs": 3, "dropout_rate": 0.2 if before == after else 0.0}
    whole = run("TIGER", settings, nproc=before)
    fit_epoch = SequentialTrainer._fit_epoch

    def fit_one_epoch(self, epoch, *args):
        fit_epoch(self, epoch, *args)
        raise Killed(self.last_model_file)

    with monkeypatch.context() as patch, pytest.raises(Killed) as killed:
        patch.setattr(SequentialTrainer, "_fit_epoch", fit_one_epoch)
        run("TIGER", settings, nproc=before)
    resumed = run("TIGER", {**settings, "resume": str(killed.value)}, nproc=after)
    if before == after:  # bit for bit, since every process goes on with its own random numbers
        assert losses(resumed) == losses(whole)
        assert all(torch.equal(weights(resumed)[name], value) for name, value in weights(whole).items())
    else:
        assert losses(resumed) == pytest.approx(losses(whole), abs=1e-5)
    assert resumed["test_result"] == whole["test_result"]


def test_sigterm_to_one_process_stops_all_at_one_step(odd, monkeypatch):
    settings = {**odd, "epochs": 4, "dropout_rate": 0.2, "eval_steps": 4}
    whole = run("TIGER", settings, nproc=2)
    factor = TIGERTrainer._learning_rate_factor

    def stop_once(self, step):
        if step == 6 and collectives.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return factor(self, step)

    with monkeypatch.context() as patch, pytest.raises(TrainingStopped, match="after step 6;") as stopped:
        patch.setattr(TIGERTrainer, "_learning_rate_factor", stop_once)
        run("TIGER", settings, nproc=2)
    last = str(stopped.value).partition("--resume=")[2]
    resumed = run("TIGER", {**settings, "resume": last}, nproc=2)
    assert losses(resumed) == losses(whole) and resumed["test_result"] == whole["test_result"]


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_sigterm_to_the_command_stops_all(odd, monkeypatch, model):
    train_epoch, command = trainer_class(model)._train_epoch, os.getpid()

    def stop_once(self, data, epoch, **kwargs):
        if epoch == 2 and collectives.rank() == 1:
            os.kill(command, signal.SIGTERM)
        return train_epoch(self, data, epoch, **kwargs)

    monkeypatch.setattr(trainer_class(model), "_train_epoch", stop_once)
    with pytest.raises(TrainingStopped, match="continue with --resume=") as stopped:
        run(model, {**settings_of(model, odd), "epochs": 100000, "stopping_step": 100000}, nproc=2)
    last = str(stopped.value).partition("--resume=")[2]
    assert load_checkpoint(last)["epoch"] >= 0


# --------------------------------------------------------------------------------------------------------- entry points


def test_a_leaderboard_of_two_processes(odd):
    settings = {**odd, "epochs": 1, "nproc": 2, "model": "TIGER,FEARec,Pop", "dataset": "toy", "seeds": 1}
    with forked():
        text, _ = leaderboard.make(settings)
    assert "TIGER" in text and "Pop" in text and "a batch of FEARec cannot be shared" in text
    with pytest.raises(ConfigError, match="ray=True with nproc=2"):
        leaderboard.make({**settings, "ray": True})
    with pytest.raises(ConfigError, match="processes of one machine"):
        leaderboard.make({**settings, "world_size": 4})


def second_machine(settings, sender=None):
    result = run("TIGER", {**settings, "group_offset": 1})
    sender.send(result)


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_two_machines(odd, workplace):
    """The second machine has places of its own: it needs neither the caches nor the checkpoints of the first."""
    write_catalogue(workplace / "elsewhere" / "data", n_users=41)
    one = run("TIGER", {**odd, "dropout_rate": 0.0})
    both = {**odd, "dropout_rate": 0.0, "world_size": 2, "ip": "localhost", "port": free_port()}
    there = {"data_path": "elsewhere/data", "cache_dir": "elsewhere/cache", "checkpoint_dir": "elsewhere/saved"}
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    second = context.Process(target=second_machine, args=({**both, **there}, sender))
    second.start()
    first = run("TIGER", both)
    assert receiver.recv() == first and first["test_result"] == one["test_result"]
    second.join()
    assert not [path for path in Path("elsewhere").rglob("*") if path.is_file() and path.parent.name != "toy"]


def test_machines_with_different_settings_or_data_are_refused(odd, workplace):
    for different, words in (({"learning_rate": 0.5}, "learning_rate: the machines"), ({}, "hold different data")):
        if not different:
            write_catalogue(workplace / "elsewhere" / "data", n_users=41, seed=1)
            different = {"data_path": "elsewhere/data"}
        both = {**odd, "world_size": 2, "ip": "localhost", "port": free_port()}
        context = multiprocessing.get_context("fork")
        second = context.Process(target=second_machine, args=({**both, **different},))
        second.start()
        with pytest.raises(ConfigError, match=words):
            run("TIGER", both)
        second.join()
        assert second.exitcode != 0


def test_two_processes_that_inherit_nothing(odd):
    """As a user starts them."""
    settings = {**odd, "dropout_rate": 0.0, "epochs": 1}
    two = run_recbole_tiger("TIGER", "toy", config_dict={**settings, "nproc": 2})
    assert losses(two) == pytest.approx(losses(run("TIGER", settings)), abs=1e-5)
    assert "TIGER (tiny)" in report(two)
