"""Values are read by the type of their key; the schema, the property files and the tokenizers say the same."""

import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest
import recbole.config
import yaml
from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

from recbole_tiger.commands import settings as settings_command
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.quantization.registry import QUANTIZERS
from recbole_tiger.settings.chain import PROPERTIES, described_keys, recipe_lines
from recbole_tiger.settings.parse import parse_value, pop_config_files, read_config_files, read_yaml
from recbole_tiger.settings.plain import renamed_settings
from recbole_tiger.settings.schema import FIELDS, SCOPES, TOKENIZERS, keys_with
from recbole_tiger.settings.validate import known_keys, recbole_models

FILES = sorted(PROPERTIES.rglob("*.yaml"))
RECBOLE = {*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments}


# ----------------------------------------------------------------------------------- schema, property files, tokenizers


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_line_of_a_property_file_agrees_with_the_schema(file):
    lines = described_keys(file)
    assert {line.key for line in lines} == set(read_yaml(file))
    for line in lines:
        field = FIELDS[line.key]
        assert set(line.type.split(" or ")) <= set(field.type.split(" or ")), line
        assert not line.choices or set(line.choices) == set(field.choices), line
        assert field.read(line.default) == line.default, line
        assert field.optional or line.default is not None, line


def test_every_type_and_every_null_of_the_schema_stands_in_a_property_file():
    types, nulls = {}, set()
    for line in (line for file in FILES for line in described_keys(file)):
        types.setdefault(line.key, set()).update(line.type.split(" or "))
        nulls |= {line.key} if line.default is None else set()
    for key, found in types.items():
        assert found == set(FIELDS[key].type.split(" or ")), key
    theirs = RECBOLE | set(keys_with("general"))  # of these RecBole has the defaults
    assert {key for key, field in FIELDS.items() if field.optional and key in types} - theirs - nulls == {
        "content_standardize",  # null is another word for its none
        "transform",  # null in RecBole's
    }


def test_every_key_of_ours_has_its_line_in_a_property_file():
    shipped = {line.key for file in FILES for line in described_keys(file)}
    with_defaults_elsewhere = {*RECBOLE, *keys_with("general"), *keys_with("derived"), *keys_with("command")}
    for model in recbole_models():  # defaults of RecBole's property files
        with_defaults_elsewhere |= known_keys(model) - shipped - set(keys_with("general"))
    assert set(FIELDS) - shipped - with_defaults_elsewhere == {"encoding"}  # RecBole reads it, without a default


def test_the_schema_knows_the_tokenizers_and_all_their_arguments():
    assert tuple(QUANTIZERS) == TOKENIZERS and FIELDS["semantic_id"].choices == (*TOKENIZERS, "file")
    arguments = {
        f"{name}_{argument}" for name in QUANTIZERS for argument in inspect.signature(QUANTIZERS[name]).parameters
    }
    assert arguments == {key for key in FIELDS if key.startswith(tuple(f"{name}_" for name in TOKENIZERS))}
    assert arguments <= known_keys("TIGER")


def test_scopes_are_those_that_are_described():
    assert set().union(*(field.scopes for field in FIELDS.values())) == set(SCOPES) - {"decoder"}  # a plugin brings it
    with pytest.raises(KeyError):
        keys_with("nowhere")
    assert "seed" in keys_with("place") and "seed" not in keys_with("resume")
    assert set(keys_with("place")) - {"seed"} <= set(keys_with("resume"))


def test_recipes_are_described_by_the_first_line_of_their_file():
    lines = recipe_lines("TIGER")
    assert list(lines) == ["tuned", "paper", "quick", "tiny", "extended"]
    assert lines["paper"].startswith("The paper's words")


# ------------------------------------------------------------------------------------------------- values by their key


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("run_dir", "20241128_1830", "20241128_1830"),
        ("dataset", "2018", "2018"),
        ("dataset", "1e3", "1e3"),
        ("history", "1_2", "1_2"),
        ("history", "[1,2]", "[1,2]"),
        ("user", "0x1f", "0x1f"),
        ("checkpoint", "(3)", "(3)"),
        ("ITEM_ID_FIELD", "True", "True"),
        ("content_template", "{'a': 1}", "{'a': 1}"),
        ("gpu_id", "0,1", "0,1"),
        ("gpu_id", "", ""),
        ("user_inter_num_interval", "[5,10]", "[5,10]"),
        ("run_dir", "None", None),
        ("resume", "null", None),
        ("collision", "None", "none"),
        ("learner", "AdamW", "adamw"),
        ("loss_type", "ce", "CE"),
        ("epochs", "10", 10),
        ("epochs", "10.0", 10),
        ("epochs", "1e1", 10),
        ("max_seconds", "1e1", 10.0),
        ("learning_rate", "1e-3", 1e-3),
        ("mask_seen_items", "TRUE", True),
        ("content_standardize", "false", False),
        ("content_standardize", "PCA", "pca"),
        ("codebook_size", "64,128", [64, 128]),
        ("codebook_size", "[64.0, 1e2]", [64, 100]),
        ("topk", "5,10", [5, 10]),
        ("metrics", "Recall", "Recall"),
        ("metrics", "[Recall,NDCG]", ["Recall", "NDCG"]),
        ("content_fields", "title", ["title"]),
        ("content_fields", "['title', 'brand']", ["title", "brand"]),
        ("clip_grad_norm", "{'max_norm': 1.0}", {"max_norm": 1.0}),
        ("clip_grad_norm", "None", None),
        ("clip_grad_norm", "{max_norm: 1e-1}", {"max_norm": 0.1}),
        ("load_col", "{inter: [user_id, item_id]}", {"inter": ["user_id", "item_id"]}),
    ],
)
def test_a_value_of_the_command_line_has_the_type_of_its_key(key, text, value):
    parsed = parse_value(text, key)
    assert parsed == value and type(parsed) is type(value)
    assert FIELDS[key].read(parsed) == value  # as it is read once more on its way


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("dataset", 2018, "2018"),
        ("epochs", 10.0, 10),
        ("epochs", "1e1", 10),
        ("mask_seen_items", 1, True),
        ("gpu_id", (0, 1), "0,1"),
        ("gpu_id", 0, "0"),
        ("gpu_id", "GPU-8a1c-22,MIG-3f/1", "GPU-8a1c-22,MIG-3f/1"),
        ("user_inter_num_interval", [5, 10], "[5, 10]"),
        ("item_inter_num_interval", "(0,4.5];[8,inf)", "(0,4.5];[8,inf)"),
        ("topk", (5, 10), [5, 10]),
        ("topk", np.array([5, 10]), [5, 10]),
        ("topk", [np.int64(5), 10], [5, 10]),
        ("epochs", np.int64(3), 3),
        ("learning_rate", np.float32(0.5), 0.5),
        ("mask_seen_items", np.bool_(True), True),
        ("run_dir", Path("a/b"), "a/b"),
        ("checkpoint_dir", "~/runs", str(Path.home() / "runs")),
        ("content_template", "~/runs", "~/runs"),
    ],
)
def test_a_value_of_python_has_the_type_of_its_key(key, value, read):
    found = FIELDS[key].read(value)
    assert found == read and type(found) is type(read)


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        (
            "epochs",
            (2.5, "2.5", "nan", "inf", math.nan, math.inf, "ten", "", None, "null", True, [3], 0),
            "of at least 1",
        ),
        ("max_steps", (-1, "1e-1", None), "a whole number of at least 0"),
        ("seed", ("x", None, 1.5), "a whole number"),
        ("learning_rate", (math.nan, "nan", math.inf, "1e999", "fast", None, True, [0.1]), "a number of at least 0"),
        ("dropout_rate", (1, -0.1, "inf"), "a number of at least 0 and below 1"),
        ("knn_decay", (0, 1.1), "a number above 0 and at most 1"),
        ("temperature", ([1.0, 0], "0", [], "hot"), "a number above 0 or a list of them"),
        (
            "codebook_size",
            (1, [64, 1], [64, 2.5], "none"),
            "a whole number of at least 2 and at most 1048576",
        ),
        ("rqvae_hidden_sizes", (64, [64.5]), "a list of int"),
        ("mask_seen_items", ("yes", "on", 2, None, "None"), "True or False"),
        ("dataset", (True, ["a"], None, {"a": 1}), "text"),
        ("eval_args", ("full", None, ["TO"]), "a dictionary of settings"),
        ("metrics", (["Recall", 5], 5), "text or a list of them"),
        ("gpu_id", ("abc", "0,x", "0;1", None), "empty for the CPU, or numbers of GPUs"),
        (
            "user_inter_num_interval",
            (13, "13", "abc", "[20,inf", "[5,inf))", "[9,5]", "[nan,inf)"),
            r"such as \[5,inf\)",
        ),
    ],
)
def test_an_impossible_value_is_named_with_what_it_must_be(key, values, words):
    for value in values:
        with pytest.raises(ConfigError, match=rf"(?s)^{key}=.* must be .*{words}"):
            FIELDS[key].read(value)


def test_a_choice_is_one_of_its_own_type():
    for value in (1, "z-score", 0.5, ["pca"]):
        with pytest.raises(
            ConfigError, match="content_standardize=.* is not possible; choose one of True, False, zscore"
        ):
            FIELDS["content_standardize"].read(value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 2.5}, "epochs=2.5 must be a whole number"),
        ({"epochs": "nan"}, "epochs='nan' must be a whole number"),
        ({"weight_decay": math.inf}, "weight_decay=inf must be a number"),
        ({"gpu_id": "abc"}, "gpu_id='abc' must be empty for the CPU"),
        ({"device": "foo"}, "device='foo': gpu_id chooses the device"),
        (
            {"user_inter_num_interval": "[20,inf"},
            r"user_inter_num_interval='\[20,inf' must be an interval such as \[5,inf\)",
        ),
        ({"item_inter_num_interval": 13}, "item_inter_num_interval=13 must be an interval"),
        ({"val_interval": {"rating": "3"}}, r"val_interval rating='3' must be an interval such as \[3,inf\)"),
        ({"val_interval": "[3,inf)"}, "val_interval=.* must be a dictionary"),
        ({"eval_args": {"order": "RO"}}, "eval_args order='RO' is refused.*order: TO"),
        ({"eval_args": {"group_by": "none"}}, "eval_args group_by='none' is refused.*group_by: user"),
        ({"eval_args": {"seed": 3}}, "eval_args seed=3 is refused"),
        ({"valid_metric": "NDCG@ten"}, "valid_metric='NDCG@ten' is not measured"),
    ],
)
@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_a_run_refuses_them_before_any_work(workplace, model, settings, words):
    with pytest.raises(ConfigError, match=words):
        build_config(model, "ml-100k", config_dict=settings)


def test_a_run_reads_them_by_their_key(workplace):
    settings = {
        "epochs": "1e1",
        "stopping_step": 3.0,
        "device": "cpu",
        "gpu_id": "",
        "run_dir": 20241128,
        "topk": "5,10",
    }
    config = build_config("TIGER", "ml-100k", config_dict=settings)
    found = {key: config[key] for key in settings if key != "device"}
    assert found == {"epochs": 10, "stopping_step": 3, "gpu_id": "", "run_dir": "20241128", "topk": [5, 10]}
    assert all(type(config[key]) is int for key in ("epochs", "stopping_step"))


# ----------------------------------------------------------------------------------------------------------------- YAML


def test_yaml_keeps_text_keys_as_text(tmp_path):
    text = "dataset: 2018\nrun_dir: 20241128_1830\nitem_feature: on\nresume: ~\nepochs: 1e1\nTIGER:\n  recipe: 1_0\n"
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(tmp_path / "a.yaml") == {
        "dataset": "2018", "run_dir": "20241128_1830", "item_feature": "on", "resume": None, "epochs": 10.0,
        "TIGER": {"recipe": "1_0"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nepochs: 2\nseed: 1\n", "key seed is given twice"),
        ("TIGER: {beam_size: 20, beam_size: 30}\n", "key beam_size is given twice"),
        ("learning_rate: .nan\n", ".nan is not a finite number"),
        ("temperature: [1.0, .inf]\n", ".inf is not a finite number"),
        ("3: 4\n", "key 3 is not text"),
        ("eval_args: {on: 1}\n", "key on is not text"),
        ("- seed\n", "must hold 'key: value' lines"),
        ("seed: [1\n", "is not valid YAML"),
        ("seed: 010\n", "010 is the number 8 in YAML"),
        ("codebook_size: [064, 64]\n", "064 is the number 52 in YAML"),
        ("stopping_step: 1:30\n", "1:30 is the number 90 in YAML"),
        ("max_seconds: 1:30.5\n", "1:30.5 is the number 90.5 in YAML"),
    ],
)
def test_what_yaml_would_pass_over_is_an_error_with_the_file(tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s)mine.yaml.*{words}"):
        read_yaml(file)


@pytest.mark.parametrize(
    "text", "1e-3 1.5 .5 1e5 1_0.5 010.5 0 3 0x1f yes 2014-01-01 1e-12 0.00 ~ +1e3 .5e-3 [5,1e-4]".split()
)
def test_numbers_are_those_of_recboles_loader(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"any_key: {text}\n")
    theirs = yaml.load(f"any_key: {text}", Loader=recbole.config.Config._build_yaml_loader(None))
    assert read_yaml(tmp_path / "a.yaml") == theirs


def test_of_several_files_the_last_one_wins(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.yaml").write_text(f"seed: {seed}\n{name}: {seed}\n")
    settings = {"config_files": f"{tmp_path}/a.yaml {tmp_path}/b.yaml", "epochs": 3}
    assert read_config_files(pop_config_files(settings)) == {"seed": 2, "a": 1, "b": 2}
    assert settings == {"epochs": 3} and pop_config_files(settings) == []


def test_the_former_name_of_a_value_still_works_and_warns():
    field = FIELDS["loss_over"]
    with pytest.warns(FutureWarning, match="loss_over=legal is now called loss_over=children"):
        assert field.read("legal") == "children"
    assert field.parse("Legal") == "children" and field.parse("level") == "level"
    stored = {"loss_over": "legal", "likelihood": None, "epochs": 3}
    assert renamed_settings(stored) == {"loss_over": "children", "likelihood": None, "epochs": 3}
    assert stored["loss_over"] == "legal"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ({}, "epochs=12\n"),  # of recipe tiny, ml-100k's default
        ({"recipe": "paper"}, "epochs=100000\n"),
        ({"dataset": "amazon-beauty", "key": "num_heads"}, "num_heads=6\n    (int) Attention heads (paper, 4.1.3)."),
        ({"model": "SASRec", "key": "n_layers"}, "n_layers=2\n    (int) "),
        ({"semantic_id": "letter"}, "letter_alignment="),
    ],
)
def test_the_settings_of_a_model_are_printed(words, shown):
    text = settings_command.run(dict(words))
    assert f"\n{shown}" in f"\n{text}\n" if "key" not in words else text.startswith(shown)
    if "key" not in words:
        described = {line.partition("=")[0] for line in text.splitlines() if not line.startswith(" ")}
        assert {"mask_seen_items", "topk", "d_model"} <= described <= known_keys("TIGER") | {"transform"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"key": "bema_size"}, "key='bema_size' is no setting of TIGER; did you mean beam_size"),
        ({"epochs": 3}, "epochs=3 chooses no settings"),
        ({"model": "TIGRE"}, "did you mean TIGER"),
        ({"model": "SASRec", "recipe": "tiny"}, "SASRec has no recipes"),
    ],
)
def test_what_chooses_no_settings_is_said(words, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        settings_command.run(words)
