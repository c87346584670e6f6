"""A run that was stopped and resumed is the run that was never stopped (oracle 6)."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from catalogue import settings_of, write_catalogue

from recbole_tiger import run_recbole_tiger
from recbole_tiger.errors import CheckpointError, ConfigError, TrainingStopped
from recbole_tiger.experiment.run import _named_folder
from recbole_tiger.model.tiger import TIGER
from recbole_tiger.training.generative import TIGERTrainer
from recbole_tiger.training.sequential import SequentialTrainer


class Killed(Exception):
    pass


def run_killed_after(epoch, model, settings, monkeypatch):
    """Train, and die once the checkpoint of an epoch is written; returns the last checkpoint's path."""
    original = SequentialTrainer._fit_epoch
    files = {}

    def fit_epoch(self, number, *args):
        original(self, number, *args)
        files["last"] = self.last_model_file
        if number == epoch:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SequentialTrainer, "_fit_epoch", fit_epoch)
        with pytest.raises(Killed):
            run_recbole_tiger(model, "toy", config_dict=settings)
    return files["last"]


@pytest.mark.parametrize("model", ["TIGER", "TIGERTree", "SASRec", "BERT4Rec"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_resumed_equals_uninterrupted(toy, monkeypatch, model, epoch):
    settings = settings_of(model, toy, epochs=3, dropout_rate=0.2)
    whole = run_recbole_tiger(model, "toy", config_dict=settings)
    last = run_killed_after(epoch, model, settings, monkeypatch)
    resumed = run_recbole_tiger(model, "toy", config_dict={**settings, "resume": last})
    for key in ("train_loss", "valid"):
        assert [r[key] for r in resumed["history"]] == [r[key] for r in whole["history"]]
    assert resumed["test_result"] == whole["test_result"]
    assert resumed["best_valid_score"] == whole["best_valid_score"]
    assert resumed["run_dir"] == str(Path(last).parent.resolve())
    one, other = (torch.load(r["files"]["last checkpoint"], weights_only=True) for r in (whole, resumed))
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_an_ended_run_goes_on_with_more_epochs(toy, model):
    settings = settings_of(model, toy, epochs=3, dropout_rate=0.2)
    whole = run_recbole_tiger(model, "toy", config_dict=settings)
    short = run_recbole_tiger(model, "toy", config_dict={**settings, "epochs": 1})
    last = short["files"]["last checkpoint"]
    same = run_recbole_tiger(model, "toy", config_dict={**settings, "epochs": 1, "resume": last})
    assert len(same["history"]) == 1 and same["test_result"] == short["test_result"]
    longer = run_recbole_tiger(model, "toy", config_dict={**settings, "resume": last})
    for key in ("train_loss", "valid"):
        assert [r[key] for r in longer["history"]] == [r[key] for r in whole["history"]]
    assert longer["test_result"] == whole["test_result"] != short["test_result"]


def test_an_ended_run_goes_on_with_more_steps_or_patience(toy):
    settings = settings_of("TIGER", toy, epochs=6, learning_rate=0.0)  # never better than at first
    steps = run_recbole_tiger("TIGER", "toy", config_dict={**settings, "epochs": 3, "max_steps": 2})
    assert len(steps["history"]) == 1
    resume = {"resume": steps["files"]["last checkpoint"]}
    ended = run_recbole_tiger("TIGER", "toy", config_dict={**settings, **resume, "max_steps": 2})
    assert len(ended["history"]) == 1
    impatient = run_recbole_tiger("TIGER", "toy", config_dict={**settings, **resume, "stopping_step": 1})
    assert len(impatient["history"]) == 3
    resume = {"resume": impatient["files"]["last checkpoint"]}
    ended = run_recbole_tiger("TIGER", "toy", config_dict={**settings, **resume, "stopping_step": 1})
    assert len(ended["history"]) == 3
    patient = run_recbole_tiger("TIGER", "toy", config_dict={**settings, **resume, "stopping_step": 2})
    assert len(patient["history"]) == 4


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_no_epoch_begins_after_max_seconds(toy, monkeypatch, model):
    settings = settings_of(model, toy, epochs=9, eval_step=9)
    clock = iter(range(0, 10**9, 10))
    monkeypatch.setattr(
        "recbole_tiger.training.sequential.perf_counter", lambda: next(clock)
    )  # ten seconds from look to look
    epochs, last = [], None
    for limit in (5, 10, 11, 25, 45):
        own = {"max_seconds": limit, "resume": last if limit == 45 else None}
        result = run_recbole_tiger(model, "toy", config_dict={**settings, **own})
        last = result["files"]["last checkpoint"]
        epochs.append(len(result["history"]))
        assert "valid" in result["history"][-1] and result["seconds"]["training"] == 10 * epochs[-1]
    assert epochs == [1, 1, 2, 3, 5]


def stopped_run(settings, monkeypatch, where, call):
    """Train a TIGER that gets SIGTERM in the n-th call of a method; returns the last checkpoint's path."""
    original, calls, trainers = getattr(TIGERTrainer, where), [], []

    def counted(self, *args, **kwargs):
        calls.append(1)
        trainers.append(self)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TIGERTrainer, where, counted)
        with pytest.raises(TrainingStopped, match="continue with --resume="):
            run_recbole_tiger("TIGER", "toy", config_dict=settings)
    return trainers[0]


@pytest.mark.parametrize(
    ("where", "call", "eval_steps"),
    [("_learning_rate_factor", 6, 0), ("_topk", 1, 0), ("_learning_rate_factor", 6, 3), ("_topk", 2, 3)],
)
def test_sigterm_within_an_epoch_loses_nothing(toy, monkeypatch, where, call, eval_steps):
    settings = settings_of("TIGER", toy, epochs=3, dropout_rate=0.2, eval_steps=eval_steps, train_batch_size=32)
    whole = run_recbole_tiger("TIGER", "toy", config_dict=settings)
    assert sum("valid" in record for record in whole["history"]) > 2
    before = signal.getsignal(signal.SIGTERM)
    trainer = stopped_run(settings, monkeypatch, where, call)
    assert signal.getsignal(signal.SIGTERM) is before
    resumed = run_recbole_tiger("TIGER", "toy", config_dict={**settings, "resume": trainer.last_model_file})
    places = [record.get("epochs", record["epoch"] + 1) for record in whole["history"] if "valid" in record]
    assert places == sorted(set(places)) and 0 < places[0] <= places[-1] <= 3  # in epochs, for training curves
    assert (places == [1, 2, 3]) == (eval_steps == 0)
    for key in ("epoch", "step", "epochs", "train_loss", "valid"):
        assert [r.get(key) for r in resumed["history"]] == [r.get(key) for r in whole["history"]]
    assert resumed["test_result"] == whole["test_result"] and resumed["examples_seen"] == whole["examples_seen"]
    one, other = (torch.load(r["files"]["last checkpoint"], weights_only=True) for r in (whole, resumed))
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])


@pytest.mark.parametrize(
    ("more", "where", "call"),
    [
        ({"max_steps": 3, "eval_batch_size": 64}, "_topk", 1),
        ({"max_seconds": 1e-6, "eval_batch_size": 64}, "_topk", 1),
        ({}, "save_last", 2),  # after the last step: the test must not be mistaken for a validation
    ],
)
def test_sigterm_at_the_end_of_a_run_loses_nothing(toy, monkeypatch, more, where, call):
    settings = settings_of("TIGER", toy, train_batch_size=300, **more)
    whole = run_recbole_tiger("TIGER", "toy", config_dict=settings)
    trainer = stopped_run(settings, monkeypatch, where, call)
    assert trainer.global_step == torch.load(whole["files"]["last checkpoint"], weights_only=True)["global_step"]
    resumed = run_recbole_tiger("TIGER", "toy", config_dict={**settings, "resume": trainer.last_model_file})
    for key in ("epoch", "train_loss", "valid"):
        assert [r[key] for r in resumed["history"]] == [r[key] for r in whole["history"]]
    assert resumed["test_result"] == whole["test_result"] and resumed["best_valid_score"] == whole["best_valid_score"]


def test_validations_within_epochs_are_reported_and_end_a_run(toy):
    """The second one stands between two epochs, and no epoch follows it."""
    settings = settings_of("TIGER", toy, epochs=3, eval_steps=1, train_batch_size=500, learning_rate=0.0)
    seen = []
    ended = run_recbole_tiger("TIGER", "toy", config_dict={**settings, "stopping_step": 0}, on_epoch=seen.append)
    first, epoch, second = ended["history"]
    assert (first["step"], second["step"], epoch["epoch"]) == (1, 2, 0)
    assert [each.valid for each in seen] == [first["valid"], second["valid"]]
    assert [each.number for each in seen] == [1, 1] and [each.is_best for each in seen] == [True, False]
    assert seen[0].train_loss != seen[1].train_loss == epoch["train_loss"]
    assert 0 < seen[0].seconds <= seen[1].seconds == epoch["seconds"]
    settings["resume"], seen = ended["files"]["last checkpoint"], seen[1:]
    again = run_recbole_tiger("TIGER", "toy", config_dict={**settings, "stopping_step": 0}, on_epoch=seen.append)
    assert seen[1] == replace(seen[0], left=seen[1].left) and again["history"] == ended["history"]
    longer = run_recbole_tiger("TIGER", "toy", config_dict={**settings, "stopping_step": 1})["history"]
    assert longer[:3] == ended["history"] and [r.get("step") for r in longer[3:]] == [3, None]


def test_sigterm_ends_a_baseline_at_its_last_whole_epoch(toy, monkeypatch):
    settings = settings_of("SASRec", toy, epochs=3)
    whole = run_recbole_tiger("SASRec", "toy", config_dict=settings)
    original, files = SequentialTrainer._train_epoch, []

    def train_epoch(self, data, epoch, **kwargs):
        files.append(self.last_model_file)
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, data, epoch, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SequentialTrainer, "_train_epoch", train_epoch)
        with pytest.raises(TrainingStopped):
            run_recbole_tiger("SASRec", "toy", config_dict=settings)
    resumed = run_recbole_tiger("SASRec", "toy", config_dict={**settings, "resume": files[0]})
    assert [r["train_loss"] for r in resumed["history"]] == [r["train_loss"] for r in whole["history"]]
    assert resumed["test_result"] == whole["test_result"]


def test_the_command_ends_with_status_143_and_says_how_to_go_on(toy, workplace):
    script = Path(__file__).resolve().parents[2] / "run_recbole_tiger.py"
    keys = [f"--{key}={value}" for key, value in {**toy, "epochs": 100000, "stopping_step": 100000}.items()]
    process = subprocess.Popen(
        [sys.executable, str(script), "--dataset=toy", *keys], cwd=workplace, stderr=subprocess.PIPE, text=True
    )
    while not list(workplace.glob("saved/TIGER-*/best.pth")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "continue with --resume=" in errors and "Traceback" not in errors


def test_a_checkpoint_that_cannot_be_written_is_named(toy, monkeypatch):
    def no_room(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recbole_tiger.training.checkpoint.atomic_torch_save", no_room)
    words = "cannot write the checkpoint .*last.pth.*No space left on device.*there is no previous checkpoint"
    with pytest.raises(OSError, match=words):
        run_recbole_tiger("TIGER", "toy", config_dict=toy)


def test_resuming_a_finished_run_tests_it_again(toy):
    whole = run_recbole_tiger("TIGER", "toy", config_dict=toy)
    again = run_recbole_tiger("TIGER", "toy", config_dict={**toy, "resume": whole["files"]["last checkpoint"]})
    assert again["test_result"] == whole["test_result"] and len(again["history"]) == len(whole["history"])
    assert len(list(Path("saved").glob("TIGER-*"))) == 1  # no folder for the second


def test_a_damaged_or_wrong_checkpoint_is_named(toy, workplace):
    whole = run_recbole_tiger("TIGER", "toy", config_dict=toy)
    last = Path(whole["files"]["last checkpoint"])
    broken = workplace / "broken.pth"
    broken.write_bytes(last.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="broken.pth"):
        run_recbole_tiger("TIGER", "toy", config_dict={**toy, "resume": str(broken)})
    with pytest.raises(ConfigError, match="checkpoint of model=TIGER, not of model=SASRec"):
        run_recbole_tiger("SASRec", "toy", config_dict=settings_of("SASRec", toy, resume=str(last)))


def test_killed_while_writing_leaves_the_last_checkpoint_whole(toy, monkeypatch):
    whole = run_recbole_tiger("TIGER", "toy", config_dict=toy)
    last = Path(whole["files"]["last checkpoint"])
    shutil.copy(last, last.with_name("copy.pth"))
    from recbole_tiger.training.checkpoint import save_checkpoint

    def broken_save(state, file, **kwargs):
        (file.write(b"half") if hasattr(file, "write") else Path(file).write_bytes(b"half"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", broken_save)
    with pytest.raises(OSError):
        save_checkpoint(last, {"weights": torch.zeros(3)})
    assert last.read_bytes() == last.with_name("copy.pth").read_bytes()
    assert not [p for p in last.parent.iterdir() if "tmp" in p.name]


@pytest.mark.parametrize(
    ("model", "changed", "told"),
    [
        ("TIGER", {"seed": 77}, "seed=2024 \\(now 77\\)"),
        ("SASRec", {"learning_rate": 1e-5}, "learning_rate=0.01 \\(now 1e-05\\)"),
        ("SASRec", {"hidden_size": 32}, "hidden_size=16 \\(now 32\\)"),
        ("TIGER", {"split": "temporal"}, "eval_args="),
    ],
)
def test_a_run_goes_on_under_its_own_settings_only(toy, workplace, model, changed, told):
    """A result would name settings that its weights were not trained under, or a split whose test they have seen."""
    write_catalogue(workplace / "data", clock=True)
    settings = settings_of(model, {**toy, "data_path": str(workplace / "data")}, learning_rate=0.01)
    done = run_recbole_tiger(model, "toy", config_dict=settings)
    result = Path(done["files"]["result"])
    before = result.read_bytes()
    again = {**settings, **changed, "epochs": 2, "resume": done["files"]["last checkpoint"]}
    with pytest.raises(ConfigError, match=told):
        run_recbole_tiger(model, "toy", config_dict=again)
    assert result.read_bytes() == before
    more = {
        "eval_batch_size": 7,
        "show_progress": True,
        "checkpoint_dir": str(workplace / "elsewhere"),
        "max_seconds": 1e9,
    }
    gone_on = run_recbole_tiger(model, "toy", config_dict={**settings, **more, "epochs": 2, "resume": again["resume"]})
    assert [record["epoch"] for record in gone_on["history"]] == [0, 1]


def test_a_checkpoint_without_its_best_epoch_is_named(toy, workplace):
    settings = settings_of("SASRec", toy)
    done = run_recbole_tiger("SASRec", "toy", config_dict=settings)
    alone = workplace / "alone"
    alone.mkdir()
    shutil.copy(done["files"]["last checkpoint"], alone / "last.pth")
    with pytest.raises(ConfigError, match="best.pth, beside it"):
        run_recbole_tiger("SASRec", "toy", config_dict={**settings, "resume": str(alone / "last.pth")})
    assert [path.name for path in alone.iterdir()] == ["last.pth"]


def test_ctrl_c_names_the_checkpoint(toy, monkeypatch, caplog):
    def interrupted(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(SequentialTrainer, "_fit_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_recbole_tiger("SASRec", "toy", config_dict=settings_of("SASRec", toy))
    [words] = [record.message for record in caplog.records if record.message.startswith("stopped")]
    assert Path(words.partition("--resume=")[2]).is_file()


def test_a_run_continues_in_its_own_folder(workplace):
    (workplace / "a").mkdir()
    last = workplace / "a" / "last.pth"
    last.touch()
    assert _named_folder({"resume": "a/last.pth", "run_dir": str(workplace / "a")}) == workplace / "a"
    with pytest.raises(ConfigError, match="run_dir='b' with resume='.*last.pth': .* leave run_dir out"):
        _named_folder({"resume": str(last), "run_dir": "b"})


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_a_run_folder_that_holds_a_run_is_left_alone(toy, workplace, model):
    settings = {**settings_of(model, toy), "run_dir": str(workplace / "mine")}
    run_recbole_tiger(model, "toy", config_dict=settings)
    before = {path.name: path.read_bytes() for path in (workplace / "mine").iterdir()}
    with pytest.raises(ConfigError, match="mine' holds a run already .*--resume=.*last.pth"):
        run_recbole_tiger(model, "toy", config_dict={**settings, "seed": 7})
    assert {path.name: path.read_bytes() for path in (workplace / "mine").iterdir()} == before


@pytest.mark.parametrize("eval_steps", [0, 2])
def test_validation_is_not_training_time(toy, monkeypatch, eval_steps):
    """By a clock of the test's own, which only steps and validations move."""
    clock = {"now": 0.0}
    monkeypatch.setattr("recbole_tiger.training.sequential.perf_counter", lambda: clock["now"])
    loss, validate = TIGER.calculate_loss, TIGERTrainer.evaluate

    def slow_loss(self, *args, **kwargs):
        clock["now"] += 1.0
        return loss(self, *args, **kwargs)

    def slow_validation(self, *args, **kwargs):
        clock["now"] += 100.0
        return validate(self, *args, **kwargs)

    monkeypatch.setattr(TIGER, "calculate_loss", slow_loss)
    monkeypatch.setattr(TIGERTrainer, "evaluate", slow_validation)
    result = run_recbole_tiger("TIGER", "toy", config_dict=settings_of("TIGER", toy, eval_steps=eval_steps))
    steps = torch.load(result["files"]["last checkpoint"], weights_only=True)["global_step"]
    assert result["seconds"]["training"] == steps
    n_validations = sum("valid" in record for record in result["history"])
    assert n_validations > (1 if eval_steps else 0) and result["seconds"]["validation"] == 100.0 * n_validations
