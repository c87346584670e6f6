"""The dataset: RecBole's own augmentation, exact time order, ties, seen items, the popularity row."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from catalogue import mini_settings, write_inter
from recbole.data import data_preparation
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.sampler import RepeatableSampler

from recbole_tiger.data.batches import TrainingExamples, seeded_batches
from recbole_tiger.data.dataset import TIGERDataset, UserSequences, order_interactions
from recbole_tiger.data.split import leave_one_out
from recbole_tiger.errors import ConfigError
from recbole_tiger.evaluation.evaluator import popularity_ranks
from recbole_tiger.experiment.configuration import build_config


def random_rows(rng, n_users=12, n_items=9, longest=14):
    return [
        (f"u{u}", f"i{rng.integers(n_items)}", 1_300_000_000 + t, round(float(rng.random()), 3))
        for u in range(n_users)
        for t in range(rng.integers(1, longest))
    ]


def assert_same_rows(mine, stock):
    """The same columns with the same values in the same order."""
    assert list(mine) == list(stock) and len(mine) == len(stock)
    for field in stock:
        assert torch.equal(mine[field], stock[field]) and mine[field].dtype == stock[field].dtype, field


def both_datasets(workplace, seed=0, **more):
    """Made-up interactions, shuffled, ties among them, as our dataset and as RecBole's, whose loops are its own."""
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, n_users=25)
    rows = [rows[i] for i in rng.permutation(len(rows))]
    write_inter(
        workplace, [(user, item, time + 300 * (i % 3), rating) for i, (user, item, time, rating) in enumerate(rows)]
    )
    columns = {"inter": ["user_id", "item_id", "timestamp", "rating"]}
    config = build_config("TIGER", "mini", config_dict=mini_settings(workplace, load_col=columns, **more))
    ours, theirs = TIGERDataset(config), SequentialDataset(config)
    order = np.argsort(theirs.times, kind="stable")
    theirs.inter_feat, theirs.times = theirs.inter_feat.iloc[order].reset_index(drop=True), theirs.times[order]
    theirs.sequences = ours.sequences  # in order already: RecBole's own sorts and splits do the rest
    return config, ours, theirs


@pytest.mark.parametrize("max_length", [1, 3, 50])
def test_rows_equal_those_of_recboles_loops(workplace, max_length):
    _, ours, theirs = both_datasets(workplace, max_length, MAX_ITEM_LIST_LENGTH=max_length)
    for mine, stock in zip(ours.build(), theirs.build(), strict=True):
        assert_same_rows(mine.inter_feat, stock.inter_feat)
        assert dict(mine.inter_feat.interaction).keys() == stock.inter_feat.interaction.keys()


def test_loaders_and_case_studies_read_the_same(workplace):
    config, ours, theirs = both_datasets(workplace, MAX_ITEM_LIST_LENGTH=4, eval_batch_size=5, train_batch_size=7)
    mine, stock = data_preparation(config, ours), data_preparation(config, theirs)
    for loader, other in zip(mine, stock, strict=True):
        for one, two in zip(loader, other, strict=True):
            if not isinstance(one, Interaction):
                assert all(torch.equal(x, y) for x, y in zip(one[2:], two[2:], strict=True))
                one, two = one[0], two[0]
            assert_same_rows(one, two)
            assert_same_rows(one.to("cpu"), two.to("cpu"))
    feat, other = (loaders[2]._dataset.inter_feat for loaders in (mine, stock))
    for index in ([3, 1, 1], np.array([2, 0]), torch.tensor([4]), slice(1, 3), [], feat["user_id"] > 5):
        if not isinstance(index, list) or index:  # RecBole cannot make an Interaction of no rows
            assert_same_rows(feat[index], other[index])
        assert_same_rows(pickle.loads(pickle.dumps(feat[index])), feat[index])
    assert torch.equal(feat[3]["item_id_list"], other[3]["item_id_list"])


def test_rows_keep_what_is_set_and_forget_what_is_deleted(workplace):
    feats = [dataset.build()[0].inter_feat for dataset in both_datasets(workplace)[1:]]
    for feat in feats:
        feat.update(Interaction({"label": torch.arange(len(feat)), "item_id": feat["item_id"] + 1}))
        del feat["rating_list"]
        feat.sort(by=["item_id", "user_id"])
    assert "rating_list" not in feats[0] and "label" in feats[0]
    mine, stock = feats
    assert_same_rows(mine, stock)
    assert_same_rows(mine[[5, 2]], stock[[5, 2]])
    assert_same_rows(pickle.loads(pickle.dumps(mine)), stock)
    torch.manual_seed(0)
    mine.shuffle()
    torch.manual_seed(0)
    stock.shuffle()
    assert_same_rows(mine, stock)


def test_interaction_counts_filter_as_in_recbole(workplace):
    for interval in ("[0,inf)", "[5,inf)", "(0,3]"):
        _, ours, theirs = both_datasets(workplace, user_inter_num_interval=interval)
        assert (ours.field2id_token["user_id"] == theirs.field2id_token["user_id"]).all()
        assert (ours.sequences.items == order_interactions(theirs).items).all()
        pd.testing.assert_frame_equal(ours.inter_feat, theirs.inter_feat)


def test_examples_are_recboles_rows_in_the_seeded_order(workplace):
    config, ours, theirs = both_datasets(workplace, MAX_ITEM_LIST_LENGTH=4)
    stock = theirs.build()[0].inter_feat
    batches = TrainingExamples.from_dataset(ours.build()[0], config, "cpu").batches(8, (2024, 1))
    rows = seeded_batches(stock["item_length"].numpy(), 8, (2024, 1))
    for batch, part, n in zip(batches, rows, batches.n_targets, strict=True):
        assert n == len(part)
        longest = int(batch["item_length"].max())
        assert batch["item_id_list"].shape == (n, longest)  # no more padding than the batch needs
        for field, values in batch.items():
            expected = stock[field][torch.from_numpy(part)]
            assert torch.equal(values, expected[:, :longest] if expected.dim() == 2 else expected), field


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
    write_inter(workplace, [("u", f"i{t % 20}", 5, 1) for t in range(40)])
    assert order(rm_dup_inter="first") == order(rm_dup_inter="last") == [f"i{t}" for t in range(20)]


def test_examples_come_once_each_in_a_seeded_order(workplace):
    write_inter(workplace, random_rows(np.random.default_rng(0), n_users=60))
    config = build_config("TIGER", "mini", config_dict=mini_settings(workplace))
    train = TIGERDataset(config).build()[0]
    examples = TrainingExamples.from_dataset(train, config, "cpu")

    def rows(seed):
        batches = list(examples.batches(16, seed))
        for batch in batches:
            assert all(len(values) == len(batch["item_id"]) for values in batch.values())
        columns = [[b["user_id"], b["item_length"], b["item_id"]] for b in batches]
        histories = [F.pad(b["item_id_list"], (0, 20 - b["item_id_list"].shape[1])) for b in batches]
        return torch.cat([torch.cat([torch.stack(c, 1), h], 1) for c, h in zip(columns, histories, strict=True)])

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


def test_loaders_and_samplers_need_no_lists_of_rows(workplace, monkeypatch):
    config, ours, theirs = both_datasets(workplace)
    train, valid, _ = data_preparation(config, ours)
    assert [len(rows) for rows in (train.sampler.data_source, valid.sampler.data_source)] == [
        len(loader._dataset) for loader in (train, valid)
    ]
    assert isinstance(train.sampler.data_source, range)

    def drawn():
        sampler = RepeatableSampler(["train"], theirs)
        np.random.seed(0)
        users = np.arange(1, 26).repeat(20)
        return sampler.sample_by_user_ids(users, np.random.randint(1, 10, len(users)), 2), sampler.used_ids

    ours, _ = drawn()
    monkeypatch.setattr(RepeatableSampler, "get_used_ids", lambda self: np.array([set() for _ in range(self.user_num)]))
    assert torch.equal(ours, drawn()[0])
