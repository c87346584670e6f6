"""A training step's options, what it reports when it fails, and what a user sees of it."""

import dataclasses
import functools
import io
import re
import sys
import types

import numpy as np
import pytest
import torch
from catalogue import settings_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from recbole_tiger import run_recbole_tiger
from recbole_tiger.errors import ConfigError, TrainingStopped
from recbole_tiger.experiment import provenance, run
from recbole_tiger.experiment.configuration import build_config, config_from_plain
from recbole_tiger.experiment.loading import make_trainer, prepare_data
from recbole_tiger.nn.t5.stack import attend
from recbole_tiger.settings.plain import plain_settings
from recbole_tiger.settings.validate import precision_of
from recbole_tiger.training import generative, progress


def trained(toy, n_steps, model="TIGER", **more):
    """A trainer after so many steps, and the losses of these steps."""
    config = build_config(model, "toy", config_dict=settings_of(model, toy, max_steps=n_steps, **more))
    data = prepare_data(config)
    trainer = make_trainer(config, data)
    losses, step = [], trainer._loss_func
    trainer._loss_func = lambda batch: losses.append(step(batch)) or losses[-1]
    trainer._train_epoch(data.train, 0)
    return trainer, torch.stack(losses).detach()


# ------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("encoder_mask", ["bidirectional", "block_causal"])
def test_the_compiled_loss_is_one_graph_of_any_shape_with_the_same_losses(toy, monkeypatch, encoder_mask):
    """The traced graph runs as it is: the compiler behind it takes minutes, so `benchmarks/training.py` checks that."""
    graphs = []

    def compiler(function, **options):
        assert options == {"dynamic": True}

        return compile_(function, **options, backend=lambda graph, _: graphs.append(1) or graph, fullgraph=True)

    compile_ = torch.compile
    settings = dict(encoder_mask=encoder_mask, dropout_rate=0.0, train_batch_size=31, user_buckets=3)
    eager, expected = trained(toy, 9, **settings)
    monkeypatch.setattr(torch, "compile", compiler)
    compiled, losses = trained(toy, 9, compile=True, **settings)
    assert torch.allclose(losses, expected, atol=1e-6) and losses[-1] < losses[0]
    assert 1 <= len(graphs) <= 2  # a second one where two sizes of the first batch were equal by chance
    for name, value in eager.model.state_dict().items():
        assert torch.allclose(compiled.model.state_dict()[name], value, atol=1e-4), name


@pytest.mark.parametrize(
    ("model", "more"),
    [("TIGER", {"encoder_mask": "bidirectional"}), ("TIGER", {"encoder_mask": "block_causal"}), ("P5", {})],
)
def test_bf16_trains_on_what_fp32_trains_on_and_clips(toy, monkeypatch, model, more):
    """CUDA's autocast, made to happen on the CPU: the losses are near, parameters and gradients stay fp32."""
    settings = {"dropout_rate": 0.0, "clip_grad_norm": {"max_norm": 1e-3}, "learner": "sgd", "lr_scheduler": "constant",
                "learning_rate": 1.0, "weight_decay": 0.0, **more}  # fmt: skip
    _, expected = trained(toy, 6, model, **settings)
    before = {}

    def remember(self, *args, **kwargs):
        original(self, *args, **kwargs)
        before.update({name: p.detach().clone() for name, p in self.model.named_parameters()})
        self.precision = "bf16"

    original = generative.TIGERTrainer.__init__
    monkeypatch.setattr(generative.TIGERTrainer, "__init__", remember)
    trainer, losses = trained(toy, 6, model, **settings)
    assert not torch.equal(losses, expected) and torch.allclose(losses, expected, rtol=2e-3)
    parameters = dict(trainer.model.named_parameters())
    assert {p.dtype for p in parameters.values()} == {p.grad.dtype for p in parameters.values()} == {torch.float32}
    moved = torch.cat([(p.detach() - before[name]).flatten() for name, p in parameters.items()]).norm()
    assert 1e-3 < moved <= 6.01e-3  # six steps of rate 1, each clipped to 0.001


def test_a_baseline_clips_gradients_as_they_are_whatever_the_scaler(toy):
    """RecBole clips scaled ones: as if max_norm were 65,536 times smaller."""
    settings = {"clip_grad_norm": {"max_norm": 1e-3}, "learner": "sgd", "learning_rate": 1.0, "train_batch_size": 2000}
    config = build_config("SASRec", "toy", config_dict=settings_of("SASRec", toy, **settings))
    data = prepare_data(config)
    trainer = make_trainer(config, data)
    trainer.enable_scaler = True
    before = torch.nn.utils.parameters_to_vector(trainer.model.parameters()).detach().clone()
    assert trainer._train_epoch(data.train, 0) > 1.0
    moved = torch.nn.utils.parameters_to_vector(trainer.model.parameters()) - before
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)
    parts = trainer._train_epoch(data.train, 1, loss_func=lambda batch: (trainer._loss(batch), torch.tensor(2.0)))
    assert len(parts) == 2 and parts[0] > 1.0 and parts[1] == 2.0

    trainer._fit = dataclasses.replace(trainer._fit, saved=False)
    with pytest.raises(TrainingStopped, match="nothing was saved"):
        trainer._request_stop()


def test_attention_to_nothing_is_finite_in_bf16():
    """float32's lowest number is -inf in bfloat16, and a softmax of such a row NaN."""
    query, key, value = torch.randn(3, 1, 2, 4, 8).bfloat16()
    bias = torch.full((1, 2, 4, 4), torch.finfo(torch.float32).min)
    bias[:, :, :2] = 0
    with torch.no_grad():
        attended = attend(query, key, value, bias, 0.0, False)
    assert torch.isfinite(attended).all()
    assert torch.allclose(attended[:, :, 2:], value.mean(2, keepdim=True).expand(-1, -1, 2, -1), atol=2e-2)


def test_what_this_machine_cannot_compute_is_refused_early(toy, monkeypatch):
    def refused(match, model="TIGER", **more):
        with pytest.raises(ConfigError, match=match):
            build_config(model, "toy", config_dict=settings_of(model, toy) | more)

    refused("precision=bf16 on device 'cpu'.*100 times slower", precision="bf16")
    refused("precision='fp16' is not possible; choose one of fp32, bf16", precision="fp16")
    refused("unknown key 'compile'", model="P5", compile=True)
    refused("unknown key 'precision'", model="TIGERTree", precision="fp32")
    refused("enable_amp=True is not for TIGER; leave it out and use precision=bf16", enable_amp=True)
    refused("enable_scaler=True is not for TIGERTree; leave it out$", model="TIGERTree", enable_scaler=True)
    refused("learner=sparse_adam cannot train TIGER", learner="sparse_adam")
    refused("learner=adafactor cannot train SASRec; use adam", model="SASRec", learner="adafactor")
    refused("pre_model_path='none.pth' is not a file", model="S3Rec", pre_model_path="none.pth")
    touched = {"update_rows": "touched", "ema_decay": 0, "clip_grad_norm": {"max_norm": 1, "norm_type": 1}}
    refused("touched does not work with .*norm_type.*max_norm alone", model="TIGERTree", **touched)
    refused("benchmark_filename=.*give one .inter file", benchmark_filename=["train", "valid", "test"])
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused("compile=True needs a C.. compiler, and there is no 'no-such-compiler'", compile=True)

    # What was trained elsewhere is opened all the same; training it on, through RecBole's own entry point, is refused.
    settings = plain_settings(build_config("TIGER", "toy", config_dict=settings_of("TIGER", toy)))
    config = config_from_plain({**settings, "precision": "bf16", "compile": True})
    data = prepare_data(config)
    trainer = make_trainer(config, data)
    assert trainer.evaluate(data.test, load_best_model=False)
    with pytest.raises(ConfigError, match="precision=bf16"):
        trainer.fit(data.train, data.valid)


def test_the_default_precision_is_the_devices(toy):
    for model, on_cuda in (("TIGER", "bf16"), ("P5", "bf16"), ("TIGERTree", "fp32"), ("SASRec", "fp32")):
        config = build_config(model, "toy", config_dict=settings_of(model, toy))
        assert precision_of(config) == "fp32"
        config["device"] = torch.device("cuda")
        assert precision_of(config) == on_cuda
    config["enable_amp"] = True
    assert precision_of(config) == "fp16"
    assert precision_of({"device": torch.device("cuda"), "model": "TIGER", "precision": "fp32"}) == "fp32"


# ----------------------------------------------------------------------------------------------------- what is reported


@pytest.mark.parametrize("look_steps", [1, 50])
def test_a_loss_that_is_not_finite_is_named_by_its_step(toy, look_steps):
    more = {"lr_scheduler": "cosine", "max_steps": 100, "warmup_steps": 10, "learning_rate": 0.5, "train_batch_size": 4}
    config = build_config("TIGER", "toy", config_dict=settings_of("TIGER", toy, **more))
    data = prepare_data(config)
    trainer = make_trainer(config, data)
    assert trainer._look_steps == 1
    trainer._look_steps = look_steps  # 50 where a look waits for the device
    loss, calls = trainer._loss_func, []
    trainer._loss_func = lambda batch: (calls.append(1), loss(batch) * (float("nan") if len(calls) == 3 else 1))[1]
    with pytest.raises(ValueError, match=r"not finite at step 3 \(epoch 0, batch 3, learning rate 1.50e-01\)"):
        trainer._train_epoch(data.train, 0)
    assert len(calls) == (3 if look_steps == 1 else 50)


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("max_steps", [0, 3])
def test_the_bar_shows_loss_rate_speed_and_time_left(toy, monkeypatch, max_steps):
    screen, bars = Screen(), []

    def bar(**options):
        bars.append(tqdm(**options, file=screen, mininterval=0))
        return bars[-1]

    monkeypatch.setattr(progress, "tqdm", bar)
    monkeypatch.setattr(progress, "has_screen", lambda: True)
    more = {"train_batch_size": 40, "max_steps": max_steps, "lr_scheduler": "constant", "learning_rate": 0.002}
    config = build_config("TIGER", "toy", config_dict=settings_of("TIGER", toy, **more))
    data = prepare_data(config)
    trainer = make_trainer(config, data)
    loss = trainer._train_epoch(data.train, 0, show_progress=True)
    assert bars[0].n == bars[0].total == trainer.examples_seen
    assert trainer.global_step == (max_steps or len(trainer._examples.batches(40, (0,))))
    lines = [line for line in screen.getvalue().split("\r") if "loss" in line]
    shape = r"1 of at most \d+ epochs · \d+ s.*\d+/\d+ \[\d\d:\d\d<\d\d:\d\d, .*es/s, loss \d\.\d{4}, lr 2\.0e-03\]"
    assert len(lines) > 1 and all(re.search(shape, line) for line in lines), screen.getvalue()
    assert f"loss {loss:.4f}" in lines[-1]


def read_scalars(workplace):
    """{tag: {step: value}} of the event file of the one run here."""
    [folder] = {path.parent for path in (workplace / "log_tensorboard").glob("*/events*")}
    events = EventAccumulator(str(folder)).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_tensorboard_has_losses_rates_and_validation_metrics(toy, workplace, model):
    more = {
        "epochs": 3,
        "eval_step": 2,
        **({"lr_scheduler": "cosine", "max_steps": 50, "warmup_steps": 2} if model == "TIGER" else {}),
    }
    result = run_recbole_tiger(model, "toy", config_dict=settings_of(model, toy, **more))
    scalars, history = read_scalars(workplace), result["history"]
    assert scalars["Loss/Train"] == pytest.approx({r["epoch"]: r["train_loss"] for r in history})
    assert set(scalars["Learning_rate"]) == {0, 1, 2}
    assert len(set(scalars["Learning_rate"].values())) == (3 if model == "TIGER" else 1)
    validated = {r["epoch"]: r["valid"] for r in history if "valid" in r}
    assert set(validated) == {1, 2}
    for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10"):
        expected = {epoch: valid[name] for epoch, valid in validated.items()}
        assert scalars[f"Valid/{name.replace('@', '_')}"] == pytest.approx(expected, abs=1e-7)
    assert scalars["Vaild_score"] == scalars["Valid/ndcg_10"]


def test_several_validations_of_an_epoch_stand_at_their_steps(toy, workplace):
    more = {"eval_steps": 2, "train_batch_size": 40, "stopping_step": 100}
    result = run_recbole_tiger("TIGER", "toy", config_dict=settings_of("TIGER", toy, **more))
    steps = {r["step"]: r["valid"]["ndcg@10"] for r in result["history"] if "step" in r}
    found = read_scalars(workplace)["Valid/ndcg_10"]
    assert len(steps) > 1 and {step: found[step] for step in steps} == pytest.approx(steps, abs=1e-7)


def test_wandb_gets_the_same(toy, monkeypatch):
    logged, wandb = [], types.ModuleType("wandb")
    wandb.run, wandb.define_metric = None, lambda *args, **kwargs: None
    wandb.init = lambda **kwargs: setattr(wandb, "run", types.SimpleNamespace(summary={}))
    wandb.log = lambda metrics, commit: logged.append(metrics)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    result = run_recbole_tiger(
        "TIGER", "toy", config_dict=settings_of("TIGER", toy, epochs=2, eval_step=1, log_wandb=True)
    )
    train = [entry for entry in logged if "train_step" in entry]
    valid = [entry for entry in logged if "valid_step" in entry]
    history = result["history"]
    assert [e["train/train_loss"] for e in train] == [r["train_loss"] for r in history]
    assert [e["train_step"] for e in train] == [e["valid_step"] for e in valid] == [0, 1]
    assert all(e["train/learning_rate"] > 0 for e in train)
    assert [e["valid/ndcg@10"] for e in valid] == [r["valid"]["ndcg@10"] for r in history]
    assert wandb.run.summary["eval/ndcg@10"] == result["test_result"]["ndcg@10"]
    assert np.isfinite([e["valid/recall@5"] for e in valid]).all()
    resume = {"resume": result["files"]["last checkpoint"]}  # its validation is measured again, the test last
    run_recbole_tiger("TIGER", "toy", config_dict=settings_of("TIGER", toy, epochs=2, log_wandb=True, **resume))
    assert wandb.run.summary["eval/ndcg@10"] == result["test_result"]["ndcg@10"]


def test_a_result_names_the_commit_that_began_it(toy, monkeypatch):
    state = {"commit": "first", "dirty": False}
    source_state = functools.cache(lambda: dict(state))
    for module in (run, provenance):
        monkeypatch.setattr(module, "source_state", source_state)
    original = run.prepare_data

    def prepare_data(config):
        state["commit"] = "second"  # another commit is checked out while the run goes on
        return original(config)

    monkeypatch.setattr(run, "prepare_data", prepare_data)
    assert run_recbole_tiger("SASRec", "toy", config_dict=settings_of("SASRec", toy))["commit"] == "first"
