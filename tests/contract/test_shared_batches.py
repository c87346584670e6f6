"""Every model that several processes may train: a batch's loss is the mean of its shares' losses, also in gradients."""

import pytest
import torch
from catalogue import TINY, settings_of, write_catalogue

from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import make_trainer, prepare_data
from recbole_tiger.models import models_with
from recbole_tiger.training.generative import TIGERTrainer


@pytest.fixture()
def no_chance(monkeypatch):
    """Models that draw prompts or masks in their loss take the same ones for a row, whatever batch it is in."""
    from recbole_tiger.model.bert4rec_fixed import BERT4RecFixed

    def every_other(self, lengths, width):
        places = torch.arange(width)
        return (places < lengths[:, None]) & (places % 2 == 0)

    monkeypatch.setattr(BERT4RecFixed, "masked_positions", every_other)
    monkeypatch.setattr(torch, "randint", lambda high, size, **options: torch.zeros(size, dtype=torch.long))


def trainer_and_data(model, root, **more):
    write_catalogue(root / "data", n_users=30)
    settings = settings_of(model, {**TINY, "data_path": str(root / "data")}, **more)
    config = build_config(model, "toy", config_dict=settings)
    data = prepare_data(config)
    if model == "S3Rec":  # the second stage starts from a file of the first
        config["train_stage"] = "pretrain"
        torch.save({"state_dict": make_trainer(config, data).model.state_dict()}, root / "pretrained.pth")
        config["train_stage"], config["pre_model_path"] = "finetune", str(root / "pretrained.pth")
    trainer = make_trainer(config, data)
    trainer.model.eval()  # no dropout
    for parameter in trainer.model.parameters():  # away from a start at which little depends on anything
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return trainer, data


def batch_and_cut(trainer, data):
    """A batch, and a function that gives some of its rows with their number of targets."""
    if not isinstance(trainer, TIGERTrainer):
        batch = next(iter(data.train))

        def cut(rows):
            return batch[rows], trainer._targets_before(batch[rows])

        return cut, len(batch)
    batch = next(iter(trainer._make_examples(data.train._dataset).batches(37, seed=(1, 2))))

    def cut(rows):
        part = {name: value[rows] for name, value in batch.items() if name != "n_targets"}
        return part, int((part["context"] > 0).sum()) if "context" in part else len(rows)

    return cut, len(next(iter(batch.values())))


def loss_and_gradients(model, batch, n_targets):
    model.zero_grad()
    loss = model.calculate_loss(batch).sum()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), getattr(model, "n_targets", n_targets), gradients


def assert_sum(parts, shares, loss, gradients):
    for name, whole in {**gradients, "loss": loss}.items():
        found = [{**part, "loss": value}.get(name, torch.zeros(())) for value, _, part in parts]
        total = sum(share * each for share, each in zip(shares, found, strict=True))
        torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("model", "settings"),
    [(model, {"loss_type": "BPR"} if model == "FPMC" else {}) for model in models_with("shares_batches")]
    + [("TIGER", {"encoder_mask": "block_causal"})],
)
def test_shares_of_a_batch_add_up_to_it(workplace, no_chance, model, settings):
    trainer, data = trainer_and_data(model, workplace, train_batch_size=37, **settings)
    cut, n_rows = batch_and_cut(trainer, data)
    loss, n, gradients = loss_and_gradients(trainer.model, *cut(torch.arange(n_rows)))
    parts = [loss_and_gradients(trainer.model, *cut(rows)) for rows in torch.arange(n_rows).split([2, 9, n_rows - 11])]
    assert sum(targets for _, targets, _ in parts) == n
    shares = [targets / n for _, targets, _ in parts]
    assert_sum(parts, shares, loss, gradients)
    if gradients:  # the mean of the means is another gradient, which this test sees
        with pytest.raises(AssertionError):
            assert_sum(parts, [1 / len(parts)] * len(parts), loss, gradients)
