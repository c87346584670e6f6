"""What every model of the benchmark keeps: one protocol, one result layout, safe checkpoints that load."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from catalogue import TINY, settings_of, write_catalogue
from recbole.evaluator import Collector

from recbole_tiger import load_data_and_model, run_recbole_tiger
from recbole_tiger.evaluation.evaluator import unrounded_evaluator
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import prepare_data, trainer_class
from recbole_tiger.models import model_spec
from recbole_tiger.settings.parse import read_yaml
from recbole_tiger.training.ranking import seen_items

OURS = ["TIGER", "TIGERTree", "P5", "RPG"]
MODELS = [*OURS, "SASRec", "BERT4Rec", "GRU4Rec", "Caser", "HGN", "FDSA", "S3Rec", "BSARec", "FEARec"]


@pytest.mark.parametrize("model", MODELS)
def test_one_run_end_to_end(toy, model):
    more = {
        "FEARec": {"n_layers": 2},  # it divides by the layers after the first
        "RPG": {"collision": "append"},  # metrics of items that share IDs are expectations
    }.get(model, {})
    result = run_recbole_tiger(model, "toy", config_dict=settings_of(model, toy, **more))
    assert set(result["test_result"]) == {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
    assert set(result["popularity"]) == {"valid", "test"}
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@10"]
    stored = json.loads(Path(result["files"]["result"]).read_text())
    assert stored["test_result"] == result["test_result"]
    assert {"training", "validation", "test", "data", "all"} <= set(stored["seconds"])
    assert Path(result["files"]["log"]).is_file()

    # The checkpoint opens without running code, and what it holds is what was tested.
    raw = torch.load(result["files"]["checkpoint"], weights_only=True)
    assert raw["config"]["model"] == model
    config, loaded, dataset, train_data, valid_data, test_data = load_data_and_model(result["files"]["checkpoint"])
    trainer = trainer_class(model)(config, loaded)
    again = trainer.evaluate(test_data, load_best_model=False)
    assert dict(again) == pytest.approx(result["test_result"], abs=1e-12)

    # RecBole's own collector on the dense scores gives the same metrics (oracle 3).
    collector = Collector(config)
    loaded.eval()
    with torch.no_grad():
        for interaction, _, rows, targets in test_data:
            scores = loaded.full_sort_predict(interaction).view(-1, dataset.item_num)
            scores[:, 0] = -np.inf
            collector.eval_batch_collect(scores, interaction, rows, targets)
    expected = unrounded_evaluator(config).evaluate(collector.get_data_struct())
    assert dict(again) == pytest.approx(dict(expected), abs=1e-12)


def test_all_models_see_the_same_rows(toy):
    seen = {}
    for model in ("TIGER", "SASRec", "FDSA"):
        result = run_recbole_tiger(model, "toy", config_dict=settings_of(model, toy))
        seen[model] = (result["data_checksum"], result["popularity"])
    assert seen["TIGER"] == seen["SASRec"] == seen["FDSA"]


@pytest.mark.parametrize("interval", [None, "[8,inf)"])
@pytest.mark.parametrize("model", ["FDSA", "S3Rec"])
def test_feature_models_see_the_same_rows_where_items_lack_features_or_buyers(tmp_path, model, interval):
    """RecBole drops interactions with items without a row in the .item file, and lists items without interactions."""
    folder = write_catalogue(tmp_path)
    head, *rows = (folder / "toy.item").read_text(encoding="utf-8").splitlines()
    lacking = [row for row in rows if not row.startswith(("i0_3\t", "i1_5\t"))]
    unbought = ["nobody\tHis soap\tBeauty Care_0 Rarity\tAcme", "i0_99\tHer soap\tBeauty Care_9\tAcme"]
    (folder / "toy.item").write_text("\n".join([head, unbought[0], *lacking, unbought[1]]) + "\n", encoding="utf-8")
    settings = {
        **TINY,
        "data_path": str(tmp_path),
        "checkpoint_dir": str(tmp_path / "saved"),
        "user_inter_num_interval": interval,
    }
    seen = {}
    for name in ("SASRec", model):
        result = run_recbole_tiger(name, "toy", config_dict=settings_of(name, settings))
        data = prepare_data(build_config(name, "toy", config_dict=settings_of(name, settings)))
        items = list(data.dataset.field2id_token["item_id"])
        seen[name] = (result["data_checksum"], result["popularity"], items, data.dataset.sequences.items.tolist())
    assert seen["SASRec"] == seen[model]
    features = data.test._dataset.item_feat
    assert len(features) == len(items)
    kinds = data.dataset.field2id_token["categories"]
    for token, expected in (("i0_3", []), ("i0_4", ["Beauty", "Care_0", "Soap"])):
        row = features["categories"][items.index(token)]
        assert [kinds[value] for value in row.tolist() if value] == expected
    assert "Rarity" not in kinds and "Care_9" not in kinds


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_masking_seen_items_changes_lists_and_nothing_else(toy, model):
    free = run_recbole_tiger(model, "toy", config_dict=settings_of(model, toy))
    masked = run_recbole_tiger(model, "toy", config_dict=settings_of(model, toy, mask_seen_items=True))
    assert masked["data_checksum"] == free["data_checksum"]
    assert [r["train_loss"] for r in masked["history"]] == [r["train_loss"] for r in free["history"]]
    assert masked["test_result"] != free["test_result"]
    config, loaded, dataset, *_, test_data = load_data_and_model(masked["files"]["checkpoint"])
    trainer = trainer_class(model)(config, loaded)
    loaded.eval()
    for interaction, _, _, _ in test_data:
        seen = seen_items(test_data._dataset, interaction["user_id"])
        items = trainer._topk(interaction, 10, seen).items
        assert (items > 0).all()  # ten items remain
        assert not (items[:, :, None] == seen[:, None, :]).any()


def test_shipped_model_files_name_keys_that_recbole_reads():
    import recbole

    from recbole_tiger.settings.chain import PROPERTIES

    theirs = Path(recbole.__file__).parent / "properties" / "model"
    more = {  # keys that its default file does not have
        "FEARec": {"contrast", "sim", "tau", "train_batch_size"},
    }
    for model in MODELS[len(OURS) :]:
        if not model_spec(model).ours:
            known = set(read_yaml(theirs / f"{model}.yaml")) | more.get(model, set())
            assert set(read_yaml(PROPERTIES / "model" / f"{model}.yaml")) <= known
