"""What a run records: the keys of result.json, their order, and stored results of other versions."""

import json
from dataclasses import fields, replace

import pytest
from catalogue import TINY, settings_of, write_catalogue

from recbole_tiger import objective_function, run_recbole_tiger
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.popularity import run_popularity
from recbole_tiger.experiment.result import ABSENT, RunResult

#: In the order in which results were written from the first version on.
KEYS = (
    "model dataset table2 best_valid_score valid_score_bigger best_valid_result test_result id_level_test_result "
    "popularity semantic_ids seconds files cached parameters examples_seen examples_per_second history peak_memory_mb "
    "data_checksum split environment recipe loss seed commit dirty run_dir config"
).split()
NOT_OF_POPULARITY = (
    "table2 id_level_test_result popularity semantic_ids files cached examples_seen peak_memory_mb".split()
)


@pytest.mark.parametrize("model", ["SASRec", "TIGER"])
def test_a_result_has_all_keys_in_their_order(toy, model):
    result = run_recbole_tiger(model, "toy", config_dict=settings_of(model, toy))
    with open(result["files"]["result"]) as file:
        stored = json.load(file)
    assert list(stored) == list(result) == KEYS
    assert [each.name for each in fields(RunResult)] == [*KEYS, "evaluated_again", "other"]
    again = RunResult.from_dict(stored)
    assert again.to_dict() == stored and again.test_result == stored["test_result"]
    assert list(replace(again, evaluated_again={"of": "x"}).to_dict()) == [*KEYS, "evaluated_again"]


def test_the_popularity_row_is_a_result_without_what_it_lacks(toy, workplace):
    config = build_config("SASRec", "toy", config_dict=settings_of("SASRec", toy))
    result = run_popularity(config, workplace)
    result.write(workplace)
    stored = json.loads((workplace / "result.json").read_text())
    assert list(stored) == [key for key in KEYS if key not in NOT_OF_POPULARITY]
    assert (stored["model"], stored["loss"], stored["seed"], stored["parameters"]) == ("Pop", None, None, 0)
    run = run_recbole_tiger("SASRec", "toy", config_dict=settings_of("SASRec", toy))
    assert run["popularity"] == {"valid": stored["best_valid_result"], "test": stored["test_result"]}
    assert run["data_checksum"] == stored["data_checksum"]


def test_a_stored_result_of_another_version_survives():
    stored = {"model": "TIGER", "dataset": "toy", "of_the_future": [1]}
    result = RunResult.from_dict(stored)
    assert result.split is ABSENT and result.to_dict() == stored


def test_of_several_files_of_an_objective_the_last_wins(workplace):
    write_catalogue(workplace / "data")
    for name, text in (("first", "epochs: 1\nhidden_size: 16\nseed: 5\n"), ("last", "hidden_size: 24\nseed: 6\n")):
        (workplace / f"{name}.yaml").write_text(text)
    settings = settings_of("SASRec", {**TINY, "data_path": "data"}, run_dir="mine")
    for key in ("epochs", "hidden_size"):
        del settings[key]
    objective_function({**settings, "model": "SASRec", "dataset": "toy", "seed": 7}, ["first.yaml", "last.yaml"])
    config = json.loads((workplace / "mine" / "result.json").read_text())["config"]
    assert (config["epochs"], config["hidden_size"], config["seed"]) == (1, 24, 7)
