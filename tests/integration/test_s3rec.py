"""S3Rec's two stages: each resumes where it was stopped, and the second needs no more of the first than its weights."""

from pathlib import Path

import pytest
import torch
from catalogue import settings_of, write_catalogue

from recbole_tiger import load_data_and_model, run_recbole_tiger
from recbole_tiger.distributed import collectives
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.run import _choose_stage
from recbole_tiger.training.sequential import SequentialTrainer


class Killed(Exception):
    pass


def test_s3rec_says_that_its_first_stage_used_the_time_up(toy, workplace):
    settings = {**settings_of("S3Rec", toy, pretrain_epochs=3), "max_seconds": 1e-6}
    with pytest.raises(
        ConfigError, match="max_seconds=1e-06 ended in epoch 1 of pretrain_epochs=3.*--pre_model_path="
    ) as told:
        run_recbole_tiger("S3Rec", "toy", config_dict=settings)
    stored = str(told.value).split("--pre_model_path=")[1].split(" ")[0]
    result = run_recbole_tiger("S3Rec", "toy", config_dict={**settings, "max_seconds": 0, "pre_model_path": stored})
    assert len(result["history"]) == 1


def killed_in(cls, where, after, settings, monkeypatch):
    """Train S3Rec, and die in this call of a method, from 0; returns the last checkpoint's path."""
    original, files, calls = getattr(cls, where), {}, []

    def counted(self, *args, **options):
        files["last"] = self.last_model_file
        calls.append(1)
        if len(calls) > after:
            raise Killed
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(cls, where, counted)
        with pytest.raises(Killed):
            run_recbole_tiger("S3Rec", "toy", config_dict=settings)
    return files["last"]


def test_s3rec_resumes_its_first_stage(toy, workplace, monkeypatch):
    settings = settings_of("S3Rec", toy, pretrain_epochs=2, epochs=1)
    whole = run_recbole_tiger("S3Rec", "toy", config_dict=settings)
    last = killed_in(SequentialTrainer, "_train_epoch", 1, settings, monkeypatch)
    with pytest.raises(ConfigError, match="first stage; leave pre_model_path out"):
        run_recbole_tiger("S3Rec", "toy", config_dict={**settings, "resume": last, "pre_model_path": last})
    foreign = run_recbole_tiger("GRU4Rec", "toy", config_dict=settings_of("GRU4Rec", toy, epochs=1))
    foreign = foreign["files"]["last checkpoint"]
    with pytest.raises(ConfigError, match="is a checkpoint of model=GRU4Rec, not of model=S3Rec"):
        run_recbole_tiger("S3Rec", "toy", config_dict={**settings, "resume": foreign})
    with (
        monkeypatch.context() as patch,
        pytest.raises(ConfigError, match="S3Rec's first stage; leave pre_model_path out, and nproc"),
    ):
        patch.setattr(collectives, "count", lambda: 2)
        _choose_stage({"resume": last, "pre_model_path": None}, None)
    with pytest.raises(ConfigError, match="pre_model_path=.* of model=GRU4Rec; name the pretrained.pth"):
        run_recbole_tiger("S3Rec", "toy", config_dict={**settings, "pre_model_path": foreign})
    resumed = run_recbole_tiger("S3Rec", "toy", config_dict={**settings, "resume": last})
    assert [r["train_loss"] for r in resumed["history"]] == [r["train_loss"] for r in whole["history"]]
    assert resumed["test_result"] == whole["test_result"]
    one, other = (
        torch.load(Path(r["run_dir"]) / "pretrained.pth", weights_only=True)["state_dict"] for r in (whole, resumed)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_s3rec_resumes_its_second_stage_without_the_weights_of_the_first(toy, workplace, monkeypatch):
    settings = settings_of("S3Rec", toy, pretrain_epochs=1, epochs=1)
    whole = run_recbole_tiger("S3Rec", "toy", config_dict=settings)
    last = Path(killed_in(SequentialTrainer, "_fit_epoch", 0, settings, monkeypatch))
    (last.parent / "pretrained.pth").unlink()
    resumed = run_recbole_tiger("S3Rec", "toy", config_dict={**settings, "resume": str(last)})
    assert [r["train_loss"] for r in resumed["history"]] == [r["train_loss"] for r in whole["history"]]
    assert resumed["test_result"] == whole["test_result"]
    _, model, *_ = load_data_and_model(resumed["files"]["checkpoint"])
    best = torch.load(resumed["files"]["checkpoint"], weights_only=True)["state_dict"]
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    write_catalogue(workplace / "other", seed=1)
    settings |= {"data_path": str(workplace / "other"), "pre_model_path": resumed["files"]["checkpoint"]}
    with pytest.raises(ConfigError, match="pre_model_path=.* was trained on other data"):
        run_recbole_tiger("S3Rec", "toy", config_dict=settings)
