"""What RecBole gets of atomic files: its own reader's frame where that reads correctly, else the file's cells."""

import copy
import logging
import pickle

import numpy as np
import pandas as pd
import pytest
from catalogue import mini_settings, write_inter
from recbole.data import create_dataset
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils import FeatureSource

from recbole_tiger.data.dataset import TIGERDataset
from recbole_tiger.data.features import load_features
from recbole_tiger.errors import AtomicFileError, ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import prepare_data

ROWS = [(f"u{u}", f"i{(u + k) % 7}", 1_300_000_000 + k, k % 5) for u in range(8) for k in range(5)]


def config_of(workplace, model="TIGER", **more):
    settings = mini_settings(workplace, **more)
    if model != "TIGER":
        settings = {key: value for key, value in settings.items() if key in ("data_path", "state", *more)}
    return build_config(model, "mini", config_dict=settings)


def described(dataset):
    return [getattr(dataset, name) for name in ("field2type", "field2source", "field2seqlen", "field2bucketnum")]


@pytest.mark.parametrize(
    "more",
    [
        {"load_col": None},
        {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "tags", "vector"]}},
        {"load_col": None, "unload_col": {"inter": ["rating"], "item": ["title"]}},
        {"load_col": None, "seq_len": {"tags": 1, "vector": 2}},
    ],
)
def test_well_formed_files_give_recboles_own_frames(workplace, more):
    write_inter(workplace, ROWS)
    path = workplace / "data" / "mini" / "mini.item"
    rows = [f"i{k}\tthing {k}\t{'' if k == 2 else 'a b c'[: 2 * k + 1]}\t{k}.5 {k}e3 -1\t{k}.125" for k in range(6)]
    path.write_text(
        "item_id:token\ttitle:token\ttags:token_seq\tvector:float_seq\tprice:float\n"
        + "\n".join(rows)
        + "\ni6\t\t\t\t\n"
    )
    ours = SequentialDataset(config_of(workplace, "SASRec", **more))
    for source in (FeatureSource.INTERACTION, FeatureSource.ITEM):
        mine, theirs = copy.copy(ours), copy.copy(ours)
        for dataset in (mine, theirs):
            dataset._get_preset()
        file = str(path.with_suffix(f".{source.value}"))
        expected = Dataset._load_feat.__wrapped__(theirs, file, source)
        found = load_features(None, mine, file, source)
        for field in set(found) & {"user_id", "item_id"}:  # categories, in the order of their first appearance
            found[field] = found[field].astype(object)
        pd.testing.assert_frame_equal(found, expected)
        assert described(mine) == described(theirs)


FILTERS = {
    "user_inter_num_interval": ["[0,inf)", "[3,inf)", "[2,7]", "[0,3];[5,inf)"],
    "item_inter_num_interval": ["[0,inf)", "[4,inf)", "(1,12]"],
    "val_interval": [
        None,
        {"rating": "[1,3]"},
        {"item_id": [f"i{k}" for k in range(0, 20, 2)] + ["new1"], "age": "(0,9)"},
    ],
    "rm_dup_inter": [None, "first", "last"],
    "filter_inter_by_user_or_item": [True, False],
}


def loaded(workplace, chosen):
    """What RecBole has of the files, or its words why nothing is left."""
    try:
        data = SequentialDataset(config_of(workplace, "SASRec", load_col=None, **chosen))
    except ValueError as error:
        return str(error)
    frames = [data.inter_feat, data.user_feat, data.item_feat]
    return frames, {name: names.tolist() for name, names in data.field2id_token.items()}, described(data)


def test_ids_are_filtered_and_numbered_as_recbole_does_it(workplace, monkeypatch):
    rng, left = np.random.default_rng(7), 0
    for _ in range(24):
        pairs = np.stack([rng.integers(12, size=70), rng.integers(20, size=70) * rng.integers(1, 3, size=70) // 2])
        rows = [(f"u{u}", f"i{i}", 1_300_000_000 + rng.integers(50), rng.integers(5)) for u, i in pairs.T]
        write_inter(workplace, rows)
        for kind, count in (("user", 12), ("item", 20)):  # in another order, some of them missing, some never met
            ids = rng.permutation([*(f"{kind[0]}{k}" for k in range(count)), "new1", "new2"])[2:]
            lines = [f"{kind}_id:token\tage:float", *(f"{each}\t{rng.integers(1, 11)}" for each in ids)]
            (workplace / "data" / "mini" / f"mini.{kind}").write_text("\n".join(lines) + "\n")
        chosen = {key: values[rng.integers(len(values))] for key, values in FILTERS.items()}
        ours = loaded(workplace, chosen)
        with monkeypatch.context() as patch:
            for name in ("_load_feat", "_remap"):
                patch.setattr(Dataset, name, getattr(Dataset, name).__wrapped__)
            theirs = loaded(workplace, chosen)
        if isinstance(theirs, str):
            assert ours == theirs, chosen
            continue
        left += len(theirs[0][0]) < len(rows)
        for one, other in zip(ours[0], theirs[0], strict=True):
            pd.testing.assert_frame_equal(one, other)
        assert ours[1:] == theirs[1:], chosen
    assert left > 8


def test_every_row_stays_and_ids_are_text(workplace):
    rows = [*ROWS, *((f"{user}", "null", 1_300_000_100, 1) for user in ("NA", '"u1', "None", "nan", "N/A", "<NA>"))]
    rows += [(user, "i1", 1_300_000_200, 1) for user in ("NA", '"u1')] * 2
    write_inter(workplace, rows)
    for model in ("TIGER", "SASRec"):
        data = prepare_data(config_of(workplace, model))
        items = data.dataset.sequences.items
        assert len(items) == len(rows) and items.min() > 0
        assert {"NA", '"u1', "None", "nan", "N/A", "<NA>"} < set(data.dataset.field2id_token["user_id"])
        for loader in (data.train, data.valid, data.test):
            assert all(batch["item_id"].min() > 0 for batch in [loader._dataset.inter_feat[:]])


def test_blanks_and_filled_cells_are_counted_on_the_screen(workplace, caplog):
    write_inter(workplace, [(f"{user} ", item, time, "" if time % 2 else 1) for user, item, time, _ in ROWS])
    with caplog.at_level(logging.WARNING):
        dataset = SequentialDataset(config_of(workplace, "SASRec", load_col=None))
    assert "u0" in dataset.field2id_token["user_id"] and len(dataset.inter_feat) == len(ROWS)
    assert "mini.inter: 40 cells of user_id had blanks at an end of the id, which were removed" in caplog.text
    assert "mini.inter: 16 empty cells of rating:float are filled with the column's mean" in caplog.text


def test_columns_that_are_needed_are_loaded(workplace, caplog):
    write_inter(workplace, ROWS)
    SequentialDataset(
        config_of(workplace, "SASRec", load_col={"inter": ["user_id", "item_id", "timestamp", "ratting"]})
    )
    assert "mini.inter has no column ratting; its columns: user_id, item_id, timestamp, rating" in caplog.text
    with pytest.raises(ConfigError, match=r"load_col=.* leaves out item_id of .*mini.inter: load the ids too"):
        SequentialDataset(config_of(workplace, "SASRec", load_col={"inter": ["user_id", "timestamp"]}))
    with pytest.raises(AtomicFileError, match="no column sku, its columns are user_id"):
        SequentialDataset(config_of(workplace, "SASRec", ITEM_ID_FIELD="sku"))


def test_items_that_a_filter_leaves_out_take_their_interactions_along(workplace, caplog):
    write_inter(workplace, [(f"u{u}", f"i{k}", 1_300_000_000 + k, 1) for u in range(3) for k in range(7)])
    path = workplace / "data" / "mini" / "mini.item"
    path.write_text("item_id:token\tmaker:token\n" + "".join(f"i{k}\t{'xy'[k % 2]}\n" for k in range(6)))
    columns = {"inter": ["user_id", "item_id", "timestamp", "rating"], "item": ["item_id", "maker"]}
    more = {"load_col": columns, "item_feature": "maker", "val_interval": {"maker": ["x"]}}
    data = prepare_data(config_of(workplace, "FDSA", **more, threshold={"rating": 3}))
    # i6 has no row, so that nothing can be said of it: feature models keep it.
    assert set(data.dataset.field2id_token["item_id"][1:]) == {"i0", "i2", "i4", "i6"}
    assert "threshold={'rating': 3} has no effect" in caplog.text


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a stored dataset was opened",))


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_stored_datasets_are_never_opened(workplace, caplog, model):
    write_inter(workplace, ROWS)
    config = config_of(workplace, model)
    name = TIGERDataset.__name__ if model == "TIGER" else "SequentialDataset"
    stored = [workplace / "saved" / f"mini-{name}.pth", workplace / "saved" / f"mini-for-{model}-dataloader.pth"]
    stored[0].parent.mkdir(exist_ok=True)
    for path in stored:
        path.write_bytes(pickle.dumps(Trap()))
    with caplog.at_level(logging.WARNING):
        data = prepare_data(config)
        assert len(create_dataset(config).inter_feat) == len(ROWS)  # RecBole's own entry points
    assert len(data.dataset.sequences.items) == len(ROWS) and np.all(data.dataset.sequences.items > 0)
    for path in stored:
        assert f"{path.name}' is not read" in caplog.text
