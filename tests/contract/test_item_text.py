"""Item text for ordinary models: each is the stock model with another item table, and without text the stock model."""

import random
import shutil

import pytest
import torch
from catalogue import TINY, settings_of, write_catalogue
from recbole.utils import get_model, init_seed

from recbole_tiger import load_data_and_model, run_recbole_tiger
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import make_trainer, prepare_data, trainer_class
from recbole_tiger.leaderboard.plan import make_plan, parse_rows
from recbole_tiger.models import model_spec, models_with
from recbole_tiger.nn import ContentMap
from recbole_tiger.quick_start import _settings_in_argv
from recbole_tiger.training.checkpoint import load_checkpoint

TEXT = {"content_encoder": "tfidf_svd", "content_dim": 16}


def settings_with(model, toy, **more):
    more = {"n_layers": 2, **more} if model == "FEARec" else more
    return settings_of(model, {key: value for key, value in toy.items() if not key.startswith("content_")}, **more)


@pytest.fixture(scope="module")
def catalogue_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_catalogue(root / "data", n_users=60)
    return {**TINY, "data_path": str(root / "data"), "cache_dir": str(root / "cache")}


def made(model, toy, **more):
    config = build_config(model, "toy", config_dict=settings_with(model, toy, train_batch_size=40, **more))
    data = prepare_data(config)
    return config, data, make_trainer(config, data).model.eval()


def loss_and_scores(model, train, test):
    torch.manual_seed(5), random.seed(5)
    model.zero_grad()
    loss = model.calculate_loss(train)
    loss.backward()
    with torch.no_grad():
        return loss.detach(), model.full_sort_predict(test)


@pytest.mark.parametrize("model", models_with("item_tables"))
def test_a_model_with_text_is_the_stock_model_with_another_table(workplace, catalogue_folder, model):
    config, data, stock = made(model, catalogue_folder)
    init_seed(config["seed"], config["reproducibility"])
    plain = get_model(model)(config, data.train._dataset)
    assert all(torch.equal(a, b) for a, b in zip(stock.parameters(), plain.parameters(), strict=True))
    train, test = next(iter(data.train)), next(iter(data.test))[0]
    for mode in ("add", "only"):
        _, _, text = made(model, catalogue_folder, item_text=mode, **TEXT)
        text.load_state_dict(stock.state_dict(), strict=False)
        oracle = get_model(model)(config, data.train._dataset).eval()
        oracle.load_state_dict(stock.state_dict())
        maps = {}
        for name in model_spec(model).item_tables:
            own, content = stock.get_parameter(f"{name}.weight").detach(), getattr(text, name).parametrizations.weight
            maps[name] = content[0].content
            torch.nn.init.normal_(maps[name].weight, std=0.1)
            mapped = maps[name].vectors.float() @ maps[name].weight.detach().t()
            assert mapped.shape == (49, own.shape[1]) and not mapped[0].any() and mapped[1:].std() > 0.1
            table = own.clone()
            table[1:49] = mapped[1:] + (own[1:49] if mode == "add" else 0)
            content.original.data = own.clone() if mode == "add" else torch.cat([own[:1], own[49:]])
            oracle.get_parameter(f"{name}.weight").data = table
        results = [loss_and_scores(each, train, test) for each in (text, oracle)]
        for ours, theirs in zip(*results, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5), mode
        for name, content in maps.items():  # the chain rule, by hand
            expected = oracle.get_parameter(f"{name}.weight").grad[:49].t() @ content.vectors.float()
            assert torch.allclose(content.weight.grad, expected, atol=1e-4), mode
        assert not torch.allclose(results[0][1], stock.full_sort_predict(test), atol=1e-3)


@pytest.mark.parametrize("mode", ["add", "only"])
def test_a_checkpoint_holds_the_text(toy, workplace, mode):
    settings = settings_with("BERT4Rec", toy, item_text=mode, **TEXT)
    result = run_recbole_tiger("BERT4Rec", "toy", config_dict=settings)
    path = result["files"]["checkpoint"]
    weights = load_checkpoint(path)["state_dict"]
    own = weights["item_embedding.parametrizations.weight.original"]
    assert len(own) == (50 if mode == "add" else 2)  # padding and the mask have no text
    (workplace / "data" / "toy" / "toy.item").unlink()
    shutil.rmtree(workplace / "saved" / "cache")
    config, model, *_, test = load_data_and_model(path)
    again = trainer_class("BERT4Rec")(config, model).evaluate(test, load_best_model=False)
    assert dict(again) == pytest.approx(result["test_result"], abs=1e-12)
    assert weights["item_embedding.parametrizations.weight.0.content.weight"].abs().max() > 0.008  # it was trained


def test_the_map_is_computed_once_a_step_and_once_an_evaluation(toy, monkeypatch):
    config = build_config("SASRec", "toy", config_dict=settings_with("SASRec", toy, item_text="add", **TEXT))
    data = prepare_data(config)
    trainer, computed, original = make_trainer(config, data), [], ContentMap.all_items
    monkeypatch.setattr(ContentMap, "all_items", lambda content: computed.append(content) or original(content))
    trainer._train_epoch(data.train, 0)
    assert len(computed) == len(data.train) > 1
    trainer.eval_collector.data_collect(data.train)
    trainer.evaluate(data.test, load_best_model=False)
    assert len(computed) == len(data.train) + 1


def test_rows_say_that_they_read_text(toy, workplace):
    rows = parse_rows("SASRec,SASRec+text,GRU4Rec[item_text=only,num_layers=1],SASRec+text[n_layers=1]")
    labels = ["SASRec", "SASRec+text", "GRU4Rec (text only)[num_layers=1]", "SASRec+text[n_layers=1]"]
    assert [row.label for row in rows] == labels
    data = {"data_path": toy["data_path"]}
    alone = make_plan("SASRec", "toy", [1], settings=data)
    both = make_plan("SASRec,SASRec+text,Pop", "toy", [1], settings={**data, **TEXT})
    assert [task.label for task in both.tasks] == ["SASRec", "SASRec+text", "Pop"]
    assert both.tasks[0].row == alone.tasks[0].row  # settings of text change no row without it
    assert both.tasks[1].settings["content_dim"] == 16 and both.tasks[1].row != both.tasks[0].row
    shared = make_plan("SASRec[n_layers=1],Semantic_KNN,Pop", "toy", [1], settings={**data, **TEXT, "item_text": "add"})
    assert [task.label for task in shared.tasks] == ["SASRec+text[n_layers=1]", "Semantic_KNN", "Pop"]
    assert "item_text" not in shared.tasks[2].settings
    with pytest.raises(ConfigError, match="content_dim=16: SASRec reads item text only with item_text=add"):
        make_plan("SASRec,Pop", "toy", [1], settings={**data, "content_dim": 16})


def test_a_script_may_give_settings_of_text_to_models_without(monkeypatch):
    monkeypatch.setattr("sys.argv", ["script.py", "--content_dim=9", "--epochs=3"])
    assert _settings_in_argv("SASRec", None, None) == {"epochs": 3}
    assert _settings_in_argv("SASRec", None, {"item_text": "add"}) == {"content_dim": 9, "epochs": 3}


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        ("SASRec", {"content_dim": 16}, "content_dim=16: SASRec reads item text only with item_text=add"),
        ("SASRec", {"item_text": "none", "content_dim": 16}, "content_dim=16: SASRec reads item text"),
        ("SASRec", {"item_text": "both"}, "item_text='both'"),
        ("SASRec", {"item_text": "add", "content_encoder": "precomputed"}, "content_file=None is not a file"),
        ("TIGER", {"item_text": "add"}, "unknown key 'item_text'"),
        ("FPMC", {"item_text": "add"}, "unknown key 'item_text'"),
    ],
)
def test_text_that_nothing_reads_is_refused(toy, model, more, words):
    with pytest.raises(ConfigError, match=words):
        build_config(model, "toy", config_dict={"data_path": toy["data_path"], **more})
