"""A user's mistake is one clear sentence before any training."""

import json

import numpy as np
import pytest
from catalogue import write_catalogue

from recbole_tiger import run_recbole_tiger
from recbole_tiger.training.sequential import SequentialTrainer


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    def fit(*args, **kwargs):
        raise AssertionError("training started")

    monkeypatch.setattr(SequentialTrainer, "fit", fit)


def fails(match, toy, dataset="toy", model="TIGER", **more):
    with pytest.raises(ValueError, match=match):
        run_recbole_tiger(model, dataset, config_dict={**toy, **more})


def test_no_item_file(toy, workplace):
    (workplace / "data" / "toy" / "toy.item").unlink()
    fails("has no item text.*toy.item", toy)


def test_missing_and_empty_columns(toy, workplace):
    fails("content_fields.*flavour", toy, content_fields=["title", "flavour"])
    path = workplace / "data" / "toy" / "toy.item"
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    for line in lines[1:]:
        line[1] = ""
    path.write_text("\n".join("\t".join(line) for line in lines) + "\n")
    fails("title", toy, content_fields=["title", "brand"])


def test_codebook_larger_than_the_catalogue(toy):
    fails("codebook_size=64 is larger than the catalogue .48 items.: .* for example to 16", toy, codebook_size=64)


def test_embedding_files(toy, workplace):
    ids = [f"i{c}_{s}" for c in range(2) for s in range(24)]

    def given(name, items, embeddings):
        np.savez(workplace / name, item_id=np.array(items), embedding=embeddings)
        return {"content_encoder": "precomputed", "content_file": str(workplace / name)}

    good = np.random.default_rng(0).normal(size=(48, 8)).astype(np.float32)
    fails("content_file.*i1_23", toy, **given("short.npz", ids[:-1], good[:-1]))
    bad = good.copy()
    bad[3, 2] = np.nan
    fails("content_file", toy, **given("nan.npz", ids, bad))
    fails("content_file", toy, **given("flat.npz", ids, good[:, 0]))


def test_damaged_cache_is_named_and_not_used(toy, workplace, monkeypatch):
    from recbole_tiger.data.dataset import TIGERDataset
    from recbole_tiger.experiment.configuration import build_config

    TIGERDataset(build_config("TIGER", "toy", config_dict=toy))
    files = sorted((workplace / "saved" / "cache").glob("*.npz"))
    assert len(files) == 2
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        fails(file.name, toy)
        file.write_bytes(whole)


def test_semantic_id_files(toy, workplace):
    ids = {f"i{c}_{s}": [c, s] for c in range(2) for s in range(24)}

    def given(content):
        path = workplace / "ids.json"
        path.write_text(content)
        return {"semantic_id": "file", "semantic_id_file": str(path), "id_length": 2}

    fails("ids.json", toy, **given("{"))
    fails("i1_23", toy, **given(json.dumps({k: v for k, v in ids.items() if k != "i1_23"})))
    fails("ids.json", toy, **given(json.dumps({**ids, "i0_0": [1]})))


def test_filtering_that_leaves_nothing(toy):
    fails("no interactions are left.*user_inter_num_interval", toy, user_inter_num_interval="[1000,inf)")
    fails("no interactions are left.* with val_interval={'item_id'", toy, val_interval={"item_id": ["x"]})


def test_too_few_for_leave_one_out(toy, workplace):
    write_catalogue(workplace / "data", "few", n_users=3)
    path = workplace / "data" / "few" / "few.inter"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:1] + [f"u{n}\ti0_{n}\t{n}" for n in range(5)]) + "\n")
    fails("no user with 3 interactions", toy, dataset="few")


def test_feature_model_without_a_feature(toy):
    settings = {key: toy[key] for key in ("data_path", "state", "show_progress")}
    with pytest.raises(ValueError, match="FDSA needs an item column"):
        run_recbole_tiger("FDSA", "toy", config_dict=settings)
    with pytest.raises(ValueError, match="item_feature='flavour'.*categories"):
        run_recbole_tiger("FDSA", "toy", config_dict={**settings, "item_feature": "flavour"})
