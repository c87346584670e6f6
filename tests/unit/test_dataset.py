"""The dataset: RecBole's own augmentation, exact time order, ties, seen items, the popularity row."""

import numpy as np
import pandas as pd
import pytest
import torch
from catalogue import mini_settings, write_inter
from recbole.data.dataset import SequentialDataset

from recbole_tiger.config import ConfigError, build_config
from recbole_tiger.data.batches import TrainingExamples
from recbole_tiger.data.dataset import TIGERDataset, UserSequences, order_interactions
from recbole_tiger.data.split import leave_one_out
from recbole_tiger.evaluation.popularity import popularity_ranks


def random_rows(rng, n_users=12, n_items=9, longest=14):
    return [
        (f"u{u}", f"i{rng.integers(n_items)}", 1_300_000_000 + t, round(float(rng.random()), 3))
        for u in range(n_users)
        for t in range(rng.integers(1, longest))
    ]


@pytest.mark.parametrize("max_length", [1, 3, 50])
def test_augmentation_equals_recboles_loops(workplace, max_length):
    rng = np.random.default_rng(max_length)
    write_inter(workplace, random_rows(rng))
    columns = {"inter": ["user_id", "item_id", "timestamp", "rating"]}
    settings = mini_settings(workplace, MAX_ITEM_LIST_LENGTH=max_length, load_col=columns)
    config = build_config("TIGER", "mini", config_dict=settings)
    ours, theirs = TIGERDataset(config), SequentialDataset(config)
    order_interactions(theirs)
    for mine, stock in zip(ours.build(), theirs.build(), strict=True):
        assert list(mine.inter_feat.interaction) == list(stock.inter_feat.interaction)
        for field, values in stock.inter_feat.interaction.items():
            assert torch.equal(mine.inter_feat[field], values), field


def test_time_order_is_that_of_the_full_precision_clock(workplace):
    # 20 seconds apart: one and the same 32-bit float, which is what RecBole sorts by.
    start = 881_250_949
    assert np.float32(start) == np.float32(start + 20)
    rows = [("u", f"i{t}", start + 20 * t, 1) for t in (3, 0, 5, 1, 4, 2)]
    write_inter(workplace, rows)
    dataset = TIGERDataset(build_config("TIGER", "mini", config_dict=mini_settings(workplace)))
    names = dataset.field2id_token["item_id"]
    assert list(names[dataset.sequences.items]) == [f"i{t}" for t in range(6)]
    train, valid, test = dataset.build()
    assert names[test.inter_feat["item_id"][0]] == "i5" and names[valid.inter_feat["item_id"][0]] == "i4"
    assert list(names[test.inter_feat["item_id_list"][0][:5]]) == [f"i{t}" for t in range(5)]


def test_tie_order_is_the_files_or_one_fixed_shuffle(workplace):
    write_inter(workplace, [("u", f"i{t}", 5, 1) for t in range(30)])

    def order(**more):
        dataset = TIGERDataset(build_config("TIGER", "mini", config_dict=mini_settings(workplace, **more)))
        return list(dataset.field2id_token["item_id"][dataset.sequences.items])

    assert order() == [f"i{t}" for t in range(30)]
    shuffled = order(tie_order="shuffle", seed=1)
    assert shuffled != order() and sorted(shuffled) == sorted(order())
    assert order(tie_order="shuffle", seed=2) == shuffled  # the same for every seed and model of a table


def test_examples_come_once_each_in_a_seeded_order(workplace):
    write_inter(workplace, random_rows(np.random.default_rng(0), n_users=60))
    config = build_config("TIGER", "mini", config_dict=mini_settings(workplace))
    train = TIGERDataset(config).build()[0]
    examples = TrainingExamples.from_dataset(train, config, "cpu")

    def rows(seed):
        batches = list(examples.batches(16, seed))
        for batch in batches:
            assert all(len(values) == len(batch["item_id"]) for values in batch.values())
        return torch.cat(
            [torch.cat([b["user_id"][:, None], b["item_length"][:, None], b["item_id"][:, None], b["item_id_list"]], 1)
             for b in batches]
        )  # fmt: skip

    first = rows((3, 0))
    assert torch.equal(first, rows((3, 0))) and not torch.equal(first, rows((3, 1)))
    feat = train.inter_feat
    stored = torch.cat(
        [feat["user_id"][:, None], feat["item_length"][:, None], feat["item_id"][:, None], feat["item_id_list"]], 1
    )
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, stored.tolist()))


def test_seen_items_stop_before_the_target():
    start = np.array([0, 0, 4, 7])
    sequences = UserSequences(np.array([5, 6, 7, 8, 1, 2, 3]), start, leave_one_out(start))
    assert sequences.seen_before(np.array([1, 2]), "test").tolist() == [[5, 6, 7], [1, 2, 0]]
    assert sequences.seen_before(np.array([1]), "valid").tolist() == [[5, 6]]
    assert sequences.seen_before(np.array([], dtype=int), "test").shape == (0, 0)
    assert sequences.training_items().tolist() == [5, 6, 1, 2]


@pytest.mark.parametrize("mask_seen", [False, True])
@pytest.mark.parametrize(("phase", "held_out"), [("test", 1), ("valid", 2)])
def test_popularity_equals_a_slow_version(mask_seen, phase, held_out):
    rng = np.random.default_rng(held_out)
    histories = [rng.integers(1, 12, size=n).tolist() for n in rng.integers(1, 15, size=40)]
    start = np.concatenate([[0, 0], np.cumsum([len(h) for h in histories])])
    sequences = UserSequences(np.concatenate(histories), start, leave_one_out(start))
    train = [item for h in histories for item in (h[:-2] if len(h) > 3 else h[:-1] if len(h) == 3 else h)]
    order = sorted(range(1, 12), key=lambda item: (-train.count(item), item))
    users = [u for u, h in enumerate(histories, start=1) if len(h) > 3]
    targets, expected = [], []
    for user in users:
        seen, target = set(histories[user - 1][:-held_out]), histories[user - 1][-held_out]
        ranking = [item for item in order if not (mask_seen and item in seen)]
        targets.append(target)
        expected.append(ranking.index(target) if target in ranking else -1)
    ranks = popularity_ranks(sequences, np.array(users), np.array(targets), phase, 12, mask_seen=mask_seen)
    assert ranks.tolist() == expected


def test_too_few_interactions_and_missing_columns_are_named(workplace):
    write_inter(workplace, [("u", "i0", 1, 1), ("u", "i1", 2, 1), ("v", "i0", 1, 1)])
    with pytest.raises(ConfigError, match="no user with 3 interactions"):
        TIGERDataset(build_config("TIGER", "mini", config_dict=mini_settings(workplace)))
    with pytest.raises(ConfigError, match="TIME_FIELD='timestamp' is not loaded"):
        TIGERDataset(
            build_config(
                "TIGER", "mini", config_dict=mini_settings(workplace, load_col={"inter": ["user_id", "item_id"]})
            )
        )


def test_missing_values_are_filled_under_copy_on_write(workplace):
    write_inter(workplace, random_rows(np.random.default_rng(0)))
    path = workplace / "data" / "mini" / "mini.item"
    lines = path.read_text().splitlines()
    lines[0] += "\tcategories:token_seq\tmaker:token"
    lines[1:] = [line + ("\ta b\tx" if i % 2 else "\t\t") for i, line in enumerate(lines[1:])]
    path.write_text("\n".join(lines) + "\n")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "categories", "maker"]}
    with pd.option_context("mode.copy_on_write", True) if pd.__version__ < "3" else pd.option_context():
        config = build_config("SASRec", "mini", config_dict={"data_path": str(workplace / "data"), "load_col": columns})
        dataset = SequentialDataset(config)
    assert sorted({len(x) for x in dataset.item_feat["categories"]}) == [0, 2]
    assert dataset.item_feat["maker"].isna().sum() == 0 and (dataset.item_feat["maker"] == 0).sum() > 1
