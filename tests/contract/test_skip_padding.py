"""Models that skip the padding of short histories: their results and gradients are those of RecBole's own class."""

import pytest
import torch
from catalogue import TINY, settings_of, write_catalogue
from recbole.utils import get_model

from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import make_trainer, prepare_data
from recbole_tiger.models import models_with


@pytest.mark.parametrize("model", models_with("skips_padding"))
def test_results_and_gradients_are_those_of_the_whole_batch(tmp_path, model, monkeypatch):
    write_catalogue(tmp_path / "data", n_users=40)
    settings = settings_of(model, {**TINY, "data_path": str(tmp_path / "data"), "MAX_ITEM_LIST_LENGTH": 20})
    config = build_config(model, "toy", config_dict=settings)
    data = prepare_data(config)
    skipping = make_trainer(config, data).model.eval()
    for parameter in skipping.parameters():  # away from a start at which little depends on anything
        torch.nn.init.normal_(parameter, std=0.3)
    stock = type(skipping).__mro__[2]
    assert stock is get_model(model)
    whole = stock(config, data.train._dataset).eval()
    whole.load_state_dict(skipping.state_dict())

    widths = []
    forward = stock.forward

    def noting(self, item_seq, item_seq_len):
        widths.append(item_seq.shape[1])
        assert (item_seq_len <= item_seq.shape[1]).all()
        return forward(self, item_seq, item_seq_len)

    monkeypatch.setattr(stock, "forward", noting)
    batch = next(iter(data.train))
    losses = []
    for each in (whole, skipping):
        losses.append(each.calculate_loss(batch))
        losses[-1].backward()
    torch.testing.assert_close(losses[1], losses[0])
    for (name, a), b in zip(skipping.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert widths[0] == 20 and min(widths) == 4, widths

    users = next(iter(data.test))[0]
    torch.testing.assert_close(skipping.full_sort_predict(users), whole.full_sort_predict(users))
