"""How long a run takes at most: the arithmetic of the clock, and what a user sees of it."""

import dataclasses
import logging
import math

import pytest
import torch
from catalogue import settings_of

from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import make_trainer, prepare_data
from recbole_tiger.settings import chain
from recbole_tiger.training import progress, sequential
from recbole_tiger.training.progress import RunClock, RunProgress, RunSize, duration_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (720, "12 min"), (3590, "1 h"), (12000, "3 h 20 min"),
     (3600 * 24, "1 d"), (3600 * 52.2, "2 d 4 h")],
)  # fmt: skip
def test_durations_in_words(seconds, text):
    assert duration_text(seconds) == text


def test_what_is_left_of_a_run():
    clock = RunClock(RunSize(passes=10, validation_at=(3, 6, 9, 10)))
    assert clock.left() is None and clock.bar_text(0) == "1 of at most 10 epochs · 0 s"
    clock.trained(0.5, 30.0)  # a minute per epoch
    assert clock.left() == pytest.approx(9.5 * 60)
    assert clock.estimate_text() == (
        "10 min left at most, without validation and test: 10 min of training (1 min per epoch)"
    )
    clock.validation_seconds = 20.0
    assert clock.validations_left() == 4 and clock.left() == pytest.approx(9.5 * 60 + 5 * 20)  # and the test
    clock.trained(2.5, 150.0)
    assert clock.validations_left() == 3  # the one after epoch 3 is over
    assert clock.bar_text(200.0) == "4 of at most 10 epochs · 3 min, 8 min left at most"
    assert (
        clock.estimate_text()
        == "8 min left at most: 7 min of training (1 min per epoch), 1 min for 3 validations and the test"
    )
    clock.trained(7.0, 420.0)
    assert clock.left() == pytest.approx(20.0) and clock.bar_text(0.0).startswith("10 of at most 10 epochs")


def test_a_time_limit_ends_the_run_and_its_validations():
    clock = RunClock(RunSize(passes=100, validation_at=tuple(range(1, 101)), max_seconds=300))
    clock.trained(1.0, 60.0)
    clock.validation_seconds = 10.0
    assert clock.passes_left() == pytest.approx(4.0)
    assert clock.left() == pytest.approx(240 + 6 * 10)  # after passes 2 to 5, once at the end, and the test
    clock.trained(5.0, 300.0)
    assert clock.passes_left() == 0


def test_a_resumed_run_is_judged_by_the_speed_of_this_process():
    clock = RunClock(RunSize(passes=4), passes=2.0, training_seconds=1000.0)
    assert clock.left() is None
    clock.trained(1.0, 10.0)
    assert clock.left() == pytest.approx(10.0) and clock.bar_text(1010.0) == (
        "4 of at most 4 epochs · 17 min, 10 s left at most, without validation and test"
    )


def test_half_a_pass_is_the_last_one():
    assert RunSize(2.5).n_passes() == 3 and RunSize(0.1).n_passes() == 1 and RunSize(3).n_passes() == 3


def test_the_estimate_is_said_once_after_the_first_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    said, probed = [], []
    run = RunProgress(
        RunClock(RunSize(2, (2,))), lambda: probed.append(1) or 7.0, lambda text, s: said.append((text, s))
    )
    bar = run.bar(10, 0, " batches", show=False)
    for _ in range(8):
        now[0] += 4.0
        run.advance(bar, 1, 10)
    assert probed == [1] and len(said) == 1
    text, seconds = said[0]
    assert seconds == pytest.approx(17 * 4 + 2 * 7) and text.startswith(
        "1 min left at most: 1 min of training (40 s per epoch)"
    )
    run.validated(9.0)
    assert run.clock.validation_seconds == 9.0


def of(toy, model, **more):
    config = build_config(model, "toy", config_dict=settings_of(model, toy, **more))
    data = prepare_data(config)
    return make_trainer(config, data), data


@pytest.mark.parametrize(
    ("model", "more", "size"),
    [
        ("SASRec", {"epochs": 5, "eval_step": 2}, RunSize(5, (2, 4, 5))),
        ("SASRec", {"epochs": 4, "eval_step": 2, "max_seconds": 9}, RunSize(4, (2, 4), 9)),
        ("TIGER", {"epochs": 4, "max_steps": 0, "lr_scheduler": "constant", "eval_step": 3}, RunSize(4, (3, 4))),
    ],
)
def test_the_size_of_a_run(toy, model, more, size):
    trainer, data = of(toy, model, **more)
    if model == "TIGER":
        trainer._prepare_examples(data.train)
    assert trainer.run_progress.clock.size == size


def test_the_first_stage_of_s3rec_has_passes_of_its_own(toy):
    trainer, _ = of(toy, "S3Rec", epochs=5, eval_step=2, pretrain_epochs=2, train_stage="pretrain")
    assert trainer.run_progress.clock.size == RunSize(2)
    trainer.config["train_stage"] = "finetune"
    assert trainer._run_size() == RunSize(5, (2, 4, 5))


def test_the_probe_of_a_validation_is_no_training_time(toy, monkeypatch):
    trainer, data = of(toy, "SASRec")
    trainer._fit = dataclasses.replace(trainer._fit, valid_data=data.valid)
    now = [0.0]
    monkeypatch.setattr(sequential, "perf_counter", lambda: now[0])
    trainer._start_clock()
    now[0] = 2.0
    monkeypatch.setattr(progress, "probe_seconds", lambda *_: now.__setitem__(0, 7.0) or 5.0)
    assert trainer._seconds_of_a_validation() == 5.0
    now[0] = 8.0
    trainer._count_training()
    assert trainer.seconds["training"] == 3.0


def test_steps_end_a_run_within_a_pass(toy):
    trainer, data = of(toy, "TIGER", epochs=9, max_steps=7, eval_steps=3, lr_scheduler="constant", train_batch_size=40)
    trainer._prepare_examples(data.train)
    steps = len(trainer._examples.batches(40, (0,)))
    assert trainer._steps_of_a_pass() == steps
    size = trainer.run_progress.clock.size
    assert size.passes == 7 / steps and list(size.validation_at) == [3 / steps, 6 / steps, 7 / steps]


@pytest.mark.parametrize("model", ["TIGER", "SASRec", "TIGERTree"])
def test_a_run_says_how_long_it_takes_and_trains_as_if_it_had_not(toy, monkeypatch, caplog, model):
    """The probe of a validation within the first pass changes no weight and no random number that follows."""
    more = {"epochs": 2, "dropout_rate": 0.1, "train_batch_size": 16}
    more |= {"max_steps": 0, "lr_scheduler": "constant"} if model == "TIGER" else {}
    states = []
    for after in (0.0, 1e9):
        monkeypatch.setattr(progress, "FIRST_ESTIMATE_AFTER", after)
        monkeypatch.setattr(progress, "LONG_RUN", -1.0)
        trainer, data = of(toy, model, **more)
        with caplog.at_level(logging.INFO):
            caplog.clear()
            trainer.fit(data.train, data.valid, saved=False)
        told = [record.message for record in caplog.records if "left at most: " in record.message]
        assert len(told) == (after == 0.0), caplog.messages
        hints = [record.message for record in caplog.records if record.message.startswith("Quicker:")]
        assert not told or len(hints) <= 1
        states.append(trainer.model.state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_cosine_ends_with_the_last_pass_where_no_step_is_named(toy):
    more = {"lr_scheduler": "cosine", "max_steps": 0, "warmup_steps": 2, "epochs": 3, "train_batch_size": 16}
    trainer, data = of(toy, "TIGER", **more)
    trainer.fit(data.train, data.valid, saved=False)
    assert trainer.global_step == 3 * trainer._steps_of_a_pass()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    trainer, data = of(toy, "TIGER", **{**more, "warmup_steps": 10_000})
    with pytest.raises(ConfigError, match="lr_scheduler=cosine ends with epochs=3, at step .* warmup_steps=10000"):
        trainer.fit(data.train, data.valid, saved=False)


def test_a_cosine_that_outlives_the_epochs_is_said(toy, caplog):
    more = {"lr_scheduler": "cosine", "warmup_steps": 2, "epochs": 3, "train_batch_size": 16, "eval_step": 9}
    for times in (1, 2):
        trainer, data = of(toy, "TIGER", **more, max_steps=100)
        trainer._prepare_examples(data.train)
        end = 3 * trainer._steps_of_a_pass()
        trainer, data = of(toy, "TIGER", **more, max_steps=times * end)
        caplog.clear()
        trainer._prepare_examples(data.train)
        said = [text for text in caplog.messages if f"max_steps={times * end}, but epochs=3 end at step {end}" in text]
        assert len(said) == times - 1
    rate = (1 + math.cos(math.pi * (end - 2) / (2 * end - 2))) / 2
    assert f"with {rate:.0%} of the learning rate; with max_steps=0" in said[0]


def test_quicker_recipes_are_named_with_what_they_say(monkeypatch):
    lines = {
        "tuned": "4.6M; .04 in 4 h on two cores",
        "quick": "2M; .039 in 15 min on two cores",
        "paper": "no time told",
    }
    monkeypatch.setattr(chain, "recipe_lines", lambda model: lines)
    hint = chain.quicker_recipes({"model": "TIGER", "recipe": "tuned"})
    assert hint == "Quicker:\n  --recipe=quick: 2M; .039 in 15 min on two cores"
    assert chain.quicker_recipes({"model": "TIGER", "recipe": "quick"}) == ""
    assert "tuned" in chain.quicker_recipes({"model": "TIGER", "recipe": "paper"})


def test_every_recipe_of_tiger_says_what_it_is():
    lines = chain.recipe_lines("TIGER")
    assert set(lines) >= {"tuned", "paper", "tiny"} and all(len(line) > 30 for line in lines.values())
