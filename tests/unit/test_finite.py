"""Weights and scores that are not finite: named, never ranked, never kept."""

import pytest
from catalogue import settings_of

from recbole_tiger import run_recbole_tiger
from recbole_tiger.errors import NotFiniteError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import make_trainer, prepare_data
from recbole_tiger.training.checkpoint import load_checkpoint
from recbole_tiger.training.sequential import SequentialTrainer


def break_weights(trainer) -> None:
    parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
    parameter.data.view(-1)[-1] = float("nan")


def trainer_and_data(model, toy):
    settings = settings_of(model, toy, ema_decay=0.0)  # of averaged weights those that are trained are not ranked
    config = build_config(model, "toy", config_dict=settings)
    data = prepare_data(config)
    trainer = make_trainer(config, data)
    trainer.eval_collector.data_collect(data.train)
    return trainer, data


@pytest.mark.parametrize("model", ["SASRec", "TIGER", "TIGERTree"])
def test_weights_that_are_not_finite_are_not_ranked(toy, model):
    trainer, data = trainer_and_data(model, toy)
    assert trainer.evaluate(data.valid, load_best_model=False)["recall@10"] >= 0
    break_weights(trainer)
    with pytest.raises(NotFiniteError, match=rf"model={model}, valid: weights are not finite \(.+\); train again with"):
        trainer.evaluate(data.valid, load_best_model=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_not_ranked(toy, value):
    trainer, data = trainer_and_data("SASRec", toy)
    original = trainer.model.full_sort_predict

    def full_sort_predict(interaction):
        scores = original(interaction)
        scores[-1, 3] = value
        return scores

    trainer.model.full_sort_predict = full_sort_predict
    with pytest.raises(NotFiniteError, match="model=SASRec, test: scores are not finite; train again with"):
        trainer.evaluate(data.test, load_best_model=False)


@pytest.mark.parametrize(("model", "eval_step"), [("SASRec", 1), ("SASRec", 9), ("TIGER", 1)])
def test_weights_that_are_not_finite_are_not_kept(toy, workplace, monkeypatch, model, eval_step):
    """Whether or not a validation follows the epoch after which they are not; what was kept before stays."""
    original = SequentialTrainer._count_training

    def broken_after_the_second_epoch(self):
        original(self)
        if len(self.history) == 1:
            break_weights(self)

    monkeypatch.setattr(SequentialTrainer, "_count_training", broken_after_the_second_epoch)
    settings = settings_of(model, toy, epochs=3, eval_step=eval_step, run_dir="mine")
    with pytest.raises(NotFiniteError, match=f"model={model}, {'valid' if eval_step == 1 else 'training'}: weights"):
        run_recbole_tiger(model, "toy", config_dict=settings)
    kept = sorted(path.name for path in (workplace / "mine").glob("*.pth"))
    assert kept == (["best.pth", "last.pth"] if eval_step == 1 else ["last.pth"])
    for name in kept:
        checkpoint = load_checkpoint(workplace / "mine" / name)
        assert checkpoint["epoch"] == 0
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
