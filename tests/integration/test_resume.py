"""A run that was stopped and resumed is the run that was never stopped (oracle 6)."""

import shutil
from pathlib import Path

import pytest
import torch
from catalogue import settings_of

from recbole_tiger import run_recbole_tiger
from recbole_tiger.checkpoint import CheckpointError
from recbole_tiger.config import ConfigError
from recbole_tiger.trainer import SafeTrainer


class Killed(Exception):
    pass


def run_killed_after(epoch, model, settings, monkeypatch):
    """Train, and die once the checkpoint of an epoch is written; returns the last checkpoint's path."""
    original = SafeTrainer._fit_epoch
    files = {}

    def fit_epoch(self, number, *args):
        original(self, number, *args)
        files["last"] = self.last_model_file
        if number == epoch:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SafeTrainer, "_fit_epoch", fit_epoch)
        with pytest.raises(Killed):
            run_recbole_tiger(model, "toy", config_dict=settings)
    return files["last"]


@pytest.mark.parametrize("model", ["TIGER", "SASRec", "BERT4Rec"])
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


def test_resuming_a_finished_run_tests_it_again(toy):
    whole = run_recbole_tiger("TIGER", "toy", config_dict=toy)
    again = run_recbole_tiger("TIGER", "toy", config_dict={**toy, "resume": whole["files"]["last checkpoint"]})
    assert again["test_result"] == whole["test_result"] and len(again["history"]) == len(whole["history"])


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
    from recbole_tiger.checkpoint import save_checkpoint

    def broken_save(state, file, **kwargs):
        (file.write(b"half") if hasattr(file, "write") else Path(file).write_bytes(b"half"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", broken_save)
    with pytest.raises(OSError):
        save_checkpoint(last, {"weights": torch.zeros(3)})
    assert last.read_bytes() == last.with_name("copy.pth").read_bytes()
    assert not [p for p in last.parent.iterdir() if "tmp" in p.name]
