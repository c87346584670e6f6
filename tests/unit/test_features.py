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
        pd.testing.assert_frame_equal(load_features(mine, file, source), expected)
        assert described(mine) == described(theirs)


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
    assert "mini.inter: 16 empty cells of rating:float get the column's mean" in caplog.text


def test_columns_that_are_needed_are_loaded(workplace):
    write_inter(workplace, ROWS)
    with pytest.raises(ConfigError, match=r"load_col=.* leaves out item_id of .*mini.inter: its ids are needed"):
        SequentialDataset(config_of(workplace, "SASRec", load_col={"inter": ["user_id", "timestamp"]}))
    with pytest.raises(AtomicFileError, match="no column sku, its columns are user_id"):
        SequentialDataset(config_of(workplace, "SASRec", ITEM_ID_FIELD="sku"))


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
