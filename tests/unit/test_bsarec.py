"""BSARec against its layers written out: the whole Fourier spectrum, and attention one position at a time."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from catalogue import settings_of

from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import make_trainer, prepare_data
from recbole_tiger.model.bsarec import BSARec, FrequencyRescaler


@pytest.mark.parametrize(("length", "n_low"), [(6, 1), (7, 3), (8, 5), (9, 4)])
def test_the_low_pass_keeps_the_lowest_of_the_whole_spectrum(length, n_low):
    x = torch.randn(3, length, 4)
    spectrum = torch.fft.fft(x, dim=1)
    for k in range(length):
        if min(k, length - k) > n_low // 2:  # frequency k and its conjugate
            spectrum[:, k] = 0
    low = torch.fft.ifft(spectrum, dim=1).real
    layer = FrequencyRescaler(length, 4, n_low, 0.0, 1e-12)
    expected = F.layer_norm(x + low + layer.sqrt_beta.pow(2) * (x - low), (4,), eps=1e-12)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def literal(model, history, n_low):
    """The state after one history (a list of items), from the formulas of the paper."""
    length, heads = model.max_seq_length, model.n_heads
    norm = partial(F.layer_norm, normalized_shape=(model.hidden_size,), eps=1e-12)
    items = torch.tensor([0] * (length - len(history)) + history)
    x = norm(model.item_embedding.weight[items] + model.position_embedding.weight)
    for layer in model.trm_encoder:
        frequencies = torch.fft.fft(x, dim=0)
        frequencies[[k for k in range(length) if min(k, length - k) > n_low // 2]] = 0
        low = torch.fft.ifft(frequencies, dim=0).real
        filtered = norm(x + low + layer.rescaler.sqrt_beta**2 * (x - low))
        own, rows = layer.attention, []
        query, key, value = (part(x).chunk(heads, 1) for part in (own.query, own.key, own.value))
        masked = torch.ones(length, length).triu(1).bool() | (items == 0)
        for q, k, v in zip(query, key, value, strict=True):
            rows.append(torch.softmax(q @ k.t() / k.shape[1] ** 0.5 - 10000.0 * masked, -1) @ v)
        attended = norm(x + own.dense(torch.cat(rows, 1)))
        x = layer.alpha * filtered + (1 - layer.alpha) * attended
        own = layer.feed_forward
        x = norm(x + own.dense_2(F.gelu(own.dense_1(x))))
    return x[-1]


def test_scores_are_those_of_the_layers_written_out(toy):
    more = {"n_layers": 2, "n_heads": 2, "c": 3, "alpha": 0.6, "MAX_ITEM_LIST_LENGTH": 7}
    config = build_config("BSARec", "toy", config_dict=settings_of("BSARec", toy, **more))
    data = prepare_data(config)
    model = make_trainer(config, data).model.eval().double()  # single precision hardly tells -10000 + a from -10000 + b
    assert isinstance(model, BSARec)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.ones_(module.weight), torch.nn.init.zeros_(module.bias)
    batch = next(iter(data.train))[:12]
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        for row, (items, length) in enumerate(zip(batch["item_id_list"], batch["item_length"], strict=True)):
            expected = model.item_embedding.weight @ literal(model, items[:length].tolist(), 3)
            assert torch.allclose(scores[row], expected, atol=1e-5)


def test_histories_move_to_the_end():
    found = BSARec.at_the_end(torch.tensor([[5, 6, 7, 0], [9, 0, 0, 0], [1, 2, 3, 4]]), torch.tensor([3, 1, 4]))
    assert found.tolist() == [[0, 5, 6, 7], [0, 0, 0, 9], [1, 2, 3, 4]]


def test_the_last_state_sees_the_whole_history_and_an_earlier_one_too(toy):
    """The filter mixes all positions both ways: a pass over all positions at once would show later items."""
    layer = FrequencyRescaler(6, 4, 3, 0.0, 1e-12)
    x = torch.randn(1, 6, 4)
    changed = x.clone()
    changed[0, -1] += 1
    assert not torch.allclose(layer(x)[0, 0], layer(changed)[0, 0])
