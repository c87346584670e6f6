"""Block-causal training: windows cover every target once, and one pass has the gradients of prefix by prefix."""

import numpy as np
import pytest
import torch
from catalogue import settings_of
from gradients import assert_same_gradients

from recbole_tiger.data.batches import TrainingExamples, TrainingWindows
from recbole_tiger.data.dataset import UserSequences
from recbole_tiger.data.split import leave_one_out
from recbole_tiger.data.tokens import block_causal_mask
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import prepare_data
from recbole_tiger.model.tiger import TIGER


def test_block_causal_mask_by_hand():
    mask = block_causal_mask(5, 2, user_token=True)
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]
    assert block_causal_mask(4, 2, user_token=False).int().tolist() == [[1, 1, 0, 0]] * 2 + [[1, 1, 1, 1]] * 2


@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_every_target_is_trained_once_with_its_own_past(size):
    rng = np.random.default_rng(size)
    lengths = np.concatenate([[0], rng.integers(0, 70, size=60)])  # user 0 is padding
    start = np.concatenate([[0], np.cumsum(lengths)])
    items = np.arange(1, start[-1] + 1)  # every interaction has a number of its own
    sequences = UserSequences(items, start, leave_one_out(start))
    config = {"MAX_ITEM_LIST_LENGTH": size, "USER_ID_FIELD": "u", "ITEM_ID_FIELD": "i", "LIST_SUFFIX": "_list",
              "ITEM_LIST_LENGTH_FIELD": "n"}  # fmt: skip
    windows = TrainingWindows.from_sequences(sequences, config, "cpu")
    fields = windows.read(torch.arange(len(windows)), size, int(windows.n_targets.max()))
    trained = []
    for user, history, n, targets, context in zip(
        *(fields[k].tolist() for k in ("u", "i_list", "n", "targets", "context")), strict=True
    ):
        assert all(x > 0 for x in history[:n]) and not any(history[n:])
        for target, seen in zip(targets, context, strict=True):
            if seen == 0:
                assert target == 0
                continue
            trained.append(target)
            place = target - 1 - start[user]  # items of the user before the target
            assert 1 <= seen <= min(place, size) and seen >= min(place, max(size // 2, 1))
            assert history[:seen] == list(range(target - seen, target))  # the items right before it
    kept = [
        start[u] + 1 + j for u in range(len(lengths)) for j in range(1, lengths[u] - min(max(lengths[u] - 2, 0), 2))
    ]
    assert sorted(trained) == kept
    assert windows.n_targets.sum() == len(kept)


@pytest.mark.parametrize("user_buckets", [0, 5])
def test_one_pass_has_the_gradients_of_prefix_by_prefix(toy, user_buckets):
    settings = settings_of("TIGER", toy, encoder_mask="block_causal", dropout_rate=0.0, user_buckets=user_buckets,
                           num_encoder_layers=2, num_decoder_layers=2)  # fmt: skip
    config = build_config("TIGER", "toy", config_dict=settings)
    data = prepare_data(config)
    torch.manual_seed(0)
    model = TIGER(config, data.train._dataset)
    examples = TrainingExamples.from_dataset(data.train._dataset, config, "cpu")
    windows = TrainingWindows.from_sequences(data.dataset.sequences, config, "cpu")
    assert_same_gradients(model, examples, windows)
