"""Leave-one-out and the global temporal split, against loops over (user, item, time), and by hand on ml-100k."""

from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from catalogue import mini_settings, write_catalogue, write_inter

from recbole_tiger.data.batches import TrainingWindows
from recbole_tiger.data.dataset import TIE_SEED
from recbole_tiger.data.identity import data_checksum
from recbole_tiger.data.split import check_clock, cutoff_times, temporal
from recbole_tiger.errors import ConfigError
from recbole_tiger.evaluation.evaluator import popularity_ranks
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import prepare_data
from recbole_tiger.experiment.popularity import popularity_row
from recbole_tiger.experiment.provenance import split_report
from recbole_tiger.settings.split import LEAVE_ONE_OUT, describe_split, split_setting

PHASES = ("train", "valid", "test")


def reference(interactions, cutoffs, target, longest):
    """(user, history, next item) of each phase, and everything before each; by loops over what the file holds."""
    phases, before = {phase: [] for phase in PHASES}, {}
    for user in {user for user, _, _ in interactions}:
        own = sorted([one for one in interactions if one[0] == user], key=lambda one: one[2])  # stable
        of_period = {"valid": [], "test": []}
        for place, (_, item, time) in enumerate(own):
            seen = [seen for _, seen, _ in own[:place]]
            if time >= cutoffs[0]:
                of_period["valid" if time < cutoffs[1] else "test"].append((item, seen))
            elif seen:
                phases["train"].append((user, seen[-longest:], item))
        for phase, found in of_period.items():
            for item, seen in found[-1:] if target == "last" else found[:1]:
                if seen:
                    phases[phase].append((user, seen[-longest:], item))
                    before[phase, user] = seen
    return {phase: sorted(rows) for phase, rows in phases.items()}, before


def rows_of(data):
    """The same from the loaders, with external ids."""
    found = {}
    for phase in PHASES:
        dataset = getattr(data, phase)._dataset
        users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
        feat = dataset.inter_feat
        found[phase] = sorted(
            (str(users[user]), [str(items[i]) for i in history[:length]], str(items[item]))
            for user, history, length, item in zip(
                *(feat[name].tolist() for name in ("user_id", "item_id_list", "item_length", "item_id")), strict=True
            )
        )
    return found


def drawn(seed, n=260, n_users=14, n_items=10):
    """Interactions in random order within 40 hours of a clock: many of one user, and many of all, at one time."""
    rng = np.random.default_rng(seed)
    return [
        (f"u{user}", f"i{item}", 1_400_000_000 + 3600 * int(hour))
        for user, item, hour in zip(
            rng.integers(n_users, size=n), rng.integers(n_items, size=n), rng.integers(40, size=n), strict=True
        )
    ]


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])  # our augmentation, and RecBole's loops
@pytest.mark.parametrize(("target", "tie_order"), [("last", "file"), ("first", "file"), ("last", "shuffle")])
def test_phases_are_those_of_plain_loops(workplace, model, target, tie_order):
    for seed in range(3):
        interactions, name = drawn(seed), f"mini{seed}"
        write_inter(workplace, [(*one, 1) for one in interactions], name)
        settings = mini_settings(workplace, split="temporal", temporal_target=target, temporal_cutoffs=[0.6, 0.8],
                                 tie_order=tie_order, MAX_ITEM_LIST_LENGTH=5)  # fmt: skip
        if model == "SASRec":
            settings = {k: v for k, v in settings.items() if k not in ("semantic_id", "id_length", "codebook_size")}
        data = prepare_data(build_config(model, name, config_dict=settings))
        times = sorted(time for _, _, time in interactions)
        cutoffs = times[int(0.6 * len(times))], times[int(0.8 * len(times))]
        if tie_order == "shuffle":
            interactions = [interactions[i] for i in np.random.default_rng(TIE_SEED).permutation(len(interactions))]
        expected, before = reference(interactions, cutoffs, target, 5)
        assert rows_of(data) == expected
        assert all(expected.values()) and data.dataset.sequences.split.cutoffs == cutoffs

        # What is masked is everything before the target; popularity counts what trains.
        sequences, names = data.dataset.sequences, data.dataset.field2id_token
        counts = {item: 0 for item in names["item_id"][1:]}
        for _, item, time in interactions:
            counts[item] += time < cutoffs[0]
        ranking = sorted(names["item_id"][1:], key=lambda item: -counts[item])  # stable: ties by item number
        for phase in PHASES[1:]:
            feat = getattr(data, phase)._dataset.inter_feat
            users, targets = feat["user_id"].numpy(), feat["item_id"].numpy()
            for user, seen in zip(users, sequences.seen_before(users, phase), strict=True):
                assert list(names["item_id"][seen[seen > 0]]) == before[phase, names["user_id"][user]]
            for mask_seen in (False, True):
                ranks = popularity_ranks(sequences, users, targets, phase, len(counts) + 1, mask_seen=mask_seen)
                for user, item, rank in zip(users, targets, ranks, strict=True):
                    seen = before[phase, names["user_id"][user]] if mask_seen else []
                    left = [other for other in ranking if other not in seen]
                    assert rank == (left.index(names["item_id"][item]) if names["item_id"][item] in left else -1)

        # Windows of block-causal training hold the same targets.
        windows = TrainingWindows.from_sequences(sequences, data.train._dataset.config, "cpu")
        windows = windows.read(torch.arange(len(windows)), int(windows.n_history.max()), int(windows.n_targets.max()))
        trained = [
            (names["user_id"][user], names["item_id"][item])
            for user, items in zip(windows["user_id"].tolist(), windows["targets"].tolist(), strict=True)
            for item in items
            if item
        ]
        assert sorted(trained) == sorted((user, item) for user, _, item in expected["train"])
        report = split_report(data.dataset)
        assert report["training_interactions"] == sum(counts.values())
        for phase in PHASES[1:]:
            assert report[phase] == {
                "users": len(expected[phase]),
                "new_items": sum(counts[item] == 0 for _, _, item in expected[phase]),
            }


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_leave_one_out_is_what_recbole_makes(workplace, model):
    """Places of the targets, for masks and windows, against the rows of RecBole's own split."""
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{rng.integers(9)}", 1_400_000_000 + 60 * t, 1) for u in range(20) for t in range(u % 7)]
    write_inter(workplace, rows)
    settings = mini_settings(workplace)
    if model == "SASRec":
        settings = {"data_path": settings["data_path"], "state": "WARNING"}
    data = prepare_data(build_config(model, "mini", config_dict=settings))
    sequences = data.dataset.sequences
    for phase in PHASES[1:]:
        feat = getattr(data, phase)._dataset.inter_feat
        place = sequences.split.targets[phase]
        assert sorted(feat["user_id"].tolist()) == np.flatnonzero(place).tolist()
        users = feat["user_id"].numpy()
        assert (sequences.items[sequences.start[users] + place[users]] == feat["item_id"].numpy()).all()
    trained = data.train._dataset.inter_feat["item_id"].tolist()
    firsts = sequences.items[sequences.start[:-1][np.diff(sequences.start) > 0]].tolist()
    assert sorted(trained + firsts) == sorted(sequences.training_items().tolist())


#: Two users of ml-100k, in time order (equal times in the file's order); cuts at the start of March and of April 1998.
USER_810 = [294, 288, 321, 323, 243, 881, 873, 289, 678, 878, 313, 304, 328, 333, 876,  # before
            301, 879, 300, 902, 342, 269, 286, 339,  # in March
            338, 331, 326]  # fmt: skip
USER_61 = [258, 269, 331, 310, 333, 1127, 751, 328, 690, 327, 300, 323, 301, 304, 294,  # in March
           347, 748, 271, 678, 342, 243]  # fmt: skip


@pytest.mark.parametrize("target", ["last", "first"])
def test_two_users_of_ml_100k_by_hand(workplace, target):
    settings = {"split": "temporal", "temporal_cutoffs": "1998-03-01, 1998-04-01", "temporal_target": target,
                "state": "WARNING", "semantic_id": "random"}  # fmt: skip
    data = prepare_data(build_config("TIGER", "ml-100k", config_dict=settings))
    found = {phase: {user: [] for user in ("810", "61")} for phase in PHASES}
    for phase, rows in rows_of(data).items():
        for user, history, item in rows:
            if user in found[phase]:
                found[phase][user].append((list(map(int, history)), int(item)))
    assert sorted(found["train"]["810"]) == sorted((USER_810[:n], USER_810[n]) for n in range(1, 15))
    assert found["train"]["61"] == []
    if target == "last":
        assert found["valid"] == {"810": [(USER_810[2:22], 339)], "61": [(USER_61[:14], 294)]}
        assert found["test"] == {"810": [(USER_810[5:25], 326)], "61": [(USER_61[:20], 243)]}
    else:
        assert found["valid"] == {"810": [(USER_810[:15], 301)], "61": []}  # nothing was known of user 61 before March
        assert found["test"] == {"810": [(USER_810[3:23], 338)], "61": [(USER_61[:15], 347)]}
    assert split_report(data.dataset)["dates"] == ["1998-03-01", "1998-04-01"]

    # No training row has anything of March or later; no user rates an item twice here.
    names = data.dataset.field2id_token
    time_of = np.zeros((len(names["user_id"]), len(names["item_id"])))
    sequences = data.dataset.sequences
    users = np.repeat(np.arange(len(names["user_id"])), np.diff(sequences.start))
    raw = {}
    path = f"{data.dataset.dataset_path}/ml-100k.inter"
    with open(path) as file:
        for line in file.read().splitlines()[1:]:
            user, item, _, time = line.split("\t")
            raw[user, item] = float(time)
    keys = zip(names["user_id"][users], names["item_id"][sequences.items], strict=True)
    time_of[users, sequences.items] = [raw[key] for key in keys]
    feat = data.train._dataset.inter_feat
    rows = feat["user_id"].numpy()
    assert len(rows) > 70_000 and time_of[rows, feat["item_id"].numpy()].max() < 888_710_400
    assert time_of[rows[:, None], feat["item_id_list"].numpy()].max() < 888_710_400
    for phase, low, high in (("valid", 888_710_400, 891_388_800), ("test", 891_388_800, np.inf)):
        feat = getattr(data, phase)._dataset.inter_feat
        times = time_of[feat["user_id"].numpy(), feat["item_id"].numpy()]
        assert len(times) > 50 and low <= times.min() and times.max() < high


def test_the_checksum_knows_the_split(workplace):
    write_catalogue(workplace / "data", clock=True)

    def prepared(**more):
        return prepare_data(
            build_config("SASRec", "toy", config_dict={"data_path": "data", "state": "WARNING", **more})
        )

    splits = [{}, {"split": "temporal"}, {"split": "temporal", "temporal_target": "first"},
              {"split": "temporal", "temporal_cutoffs": [0.7, 0.9]}]  # fmt: skip
    sums = [data_checksum(prepared(**split).dataset) for split in splits]
    assert len(set(sums)) == 4
    again = prepared(split="temporal", mask_seen_items=True, seed=3)
    assert data_checksum(again.dataset) == sums[1]
    assert set(popularity_row(again.train._dataset.config, again)) == {"valid", "test"}


@pytest.mark.parametrize("model", ["TIGER", "BERT4RecFixed", "SASRec"])
def test_recboles_own_door_divides_the_same_rows(workplace, model):
    """What RecBole's run_recbole does before it trains; its own models have no `split`, so eval_args says it."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    write_inter(workplace, [(*one, 1) for one in drawn(5)])
    settings = {"data_path": str(workplace / "data"), "state": "WARNING", "MAX_ITEM_LIST_LENGTH": 5}
    settings.update({"semantic_id": "random", "codebook_size": 4} if model == "TIGER" else {})
    chosen = {"split": "temporal", "temporal_cutoffs": [0.6, 0.8]}
    ours = prepare_data(build_config(model, "mini", config_dict={**settings, **chosen}))
    if model == "SASRec":
        chosen = {"eval_args": {**ours.train._dataset.config["eval_args"]}, "train_neg_sample_args": None,
                  "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}  # fmt: skip
    config = Config(model=model, dataset="mini", config_dict={**settings, **chosen})
    theirs = dict(zip(PHASES, data_preparation(config, create_dataset(config)), strict=True))
    assert rows_of(SimpleNamespace(**theirs)) == rows_of(ours)
    assert [loader._dataset.phase for loader in theirs.values()] == list(PHASES)


# ---------------------------------------------------------------------------------------------------------- the setting


def test_the_setting_stands_in_eval_args_and_nowhere_else(workplace):
    write_catalogue(workplace / "data", clock=True)
    for given, expected in (
        ({}, LEAVE_ONE_OUT),
        ({"split": "temporal"}, {"temporal": {"cutoffs": [0.8, 0.9], "target": "last"}}),
        (
            {"split": "temporal", "temporal_cutoffs": (date(2014, 5, 1), "2014-06-01"), "temporal_target": "first"},
            {"temporal": {"cutoffs": ["2014-05-01", "2014-06-01"], "target": "first"}},
        ),
        (
            {"eval_args": {"split": {"temporal": {"cutoffs": "0.5, 0.7", "target": "last"}}}},
            {"temporal": {"cutoffs": [0.5, 0.7], "target": "last"}},
        ),
    ):
        for model in ("TIGER", "SASRec"):
            config = build_config(model, "toy", config_dict={"data_path": "data", **given})
            assert config["eval_args"]["split"] == expected and config["eval_args"]["order"] == "TO"
            assert not {"split", "temporal_cutoffs", "temporal_target"} & set(config.final_config_dict)
    assert "1998-03-01 and 1998-04-01, each user's first item" in describe_split(
        split_setting({"split": "temporal", "temporal_cutoffs": "1998-03-01,1998-04-01", "temporal_target": "first"})
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"split": "random"}, "split='random'.*leave_one_out, temporal"),
        ({"split": "temporal", "temporal_target": "all"}, "temporal_target='all'.*last, first"),
        ({"temporal_cutoffs": [0.5, 0.6]}, "temporal_cutoffs=.* is for split=temporal"),
        ({"temporal_target": "first"}, "temporal_target='first' is for split=temporal"),
        ({"split": "temporal", "temporal_cutoffs": [0.9, 0.8]}, "training must end before validation"),
        (
            {"split": "temporal", "temporal_cutoffs": ["2015-01-01", "2014-01-01"]},
            "training must end before validation",
        ),
        ({"split": "temporal", "temporal_cutoffs": [0.8]}, "temporal_cutoffs=.*two shares"),
        ({"split": "temporal", "temporal_cutoffs": 0.8}, "temporal_cutoffs=0.8.*two shares"),
        ({"split": "temporal", "temporal_cutoffs": [0.8, 1.5]}, "temporal_cutoffs=.*two shares"),
        ({"split": "temporal", "temporal_cutoffs": [0, 0.5]}, "temporal_cutoffs=.*two shares"),
        ({"split": "temporal", "temporal_cutoffs": [0.8, "2014-01-01"]}, "temporal_cutoffs=.*two shares"),
        ({"split": "temporal", "temporal_cutoffs": ["spring", "autumn"]}, "temporal_cutoffs=.*two dates"),
        ({"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}}, "eval_args split=.*RS.*split=temporal"),
        ({"eval_args": {"split": {"TS": [0.8, 0.1, 0.1]}}}, "eval_args split=.*TS.*refused"),
        ({"eval_args": {"split": {"LS": "test_only"}}}, "eval_args split=.*test_only.*refused"),
        ({"eval_args": "full"}, "eval_args='full'"),
        ({"split": "temporal", "eval_args": {"split": LEAVE_ONE_OUT}}, "both name a split"),
        ({"benchmark_filename": ["train", "valid", "test"]}, "benchmark_filename=.*one .inter file"),
        ({"save_dataset": True}, "save_dataset=True"),
    ],
)
@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_impossible_settings_are_named(workplace, model, given, words):
    with pytest.raises(ConfigError, match=words):
        build_config(model, "ml-100k", config_dict=given)


# ---------------------------------------------------------------------------------------------- data that cannot be cut


def sequences_of(*users):
    """Times of users one after the other, and where each begins; user 0 is padding."""
    return np.concatenate([np.sort(u) for u in users]).astype(float), np.cumsum([0, 0, *map(len, users)])


def test_times_that_count_each_users_interactions_are_no_clock():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 40, size=300)
    positions = [np.arange(1, n + 1) for n in lengths]
    for counted in (
        positions,
        [1_400_000_000 + 3600 * p for p in positions],
        [p[rng.random(len(p)) < 0.7] for p in positions],  # what filters leave of positions
        [1000 * u + p for u, p in enumerate(positions)],  # numbers of the rows of a file, user after user
    ):
        with pytest.raises(ConfigError, match="times that users have in common.*leave_one_out"):
            check_clock(*sequences_of(*counted))
    for clock in (
        [np.cumsum(rng.integers(0, 9, size=n)) + rng.integers(2000) for n in lengths],  # days, users come and go
        [rng.permutation(9000)[:n] for n in lengths],  # numbers of the rows of a log in time order
        [rng.integers(31_536_000, size=20) for _ in lengths],  # seconds of a year, all users busy all the time
        [np.full(n, 5) for n in lengths],
    ):
        check_clock(*sequences_of(*clock))


def test_cut_offs_in_every_unit():
    times = 1_400_000_000 + 60 * np.arange(100.0)
    assert cutoff_times([0.8, 0.9], times) == (times[80], times[90])
    assert cutoff_times(["2014-05-13T16:54", "2014-05-13T17:54:00+00:00"], times) == (1_400_000_040, 1_400_003_640)
    assert cutoff_times(["2014-05-13", "2014-05-14"], 1000 * times) == (1_399_939_200_000, 1_400_025_600_000)
    assert cutoff_times([7, 9.5], np.arange(20.0)) == (7.0, 9.5)
    with pytest.raises(ConfigError, match="not seconds or milliseconds.*latest is 19"):
        cutoff_times(["2014-05-13", "2014-05-14"], np.arange(20.0))
    with pytest.raises(ConfigError, match="both shares fall on one moment, 5"):
        cutoff_times([0.8, 0.9], np.array([1.0, 2, 3, 4, *[5.0] * 16]))


def test_a_phase_without_rows_is_named():
    times, start = sequences_of([1, 2, 3], [2, 4, 9])
    split = temporal(times, start, (3, 5), "last")
    assert split.n_training.tolist() == [0, 2, 1]
    assert split.targets["valid"].tolist() == [0, 2, 1] and split.targets["test"].tolist() == [0, 0, 2]
    for cutoffs, words in (
        ((2, 5), "0 training items"),
        ((5, 6), "3 training items with a history, 0 users to validate on and 1 to test"),
        ((3, 10), "0 to test"),
    ):
        with pytest.raises(ConfigError, match=f"{words}.*move the cut-offs"):
            temporal(times, start, cutoffs, "last")


def test_a_run_on_positions_says_what_is_wrong_before_any_training(toy):
    with pytest.raises(ConfigError, match="dataset='toy': split=temporal needs times that users have in common"):
        prepare_data(build_config("TIGER", "toy", config_dict={**toy, "split": "temporal"}))
