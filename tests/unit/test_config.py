"""Settings: reading, precedence, and an error for everything that cannot work."""

import pytest
import yaml
from catalogue import write_catalogue

from recbole_tiger.commands import train
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment import run
from recbole_tiger.experiment.configuration import build_config, config_from_plain
from recbole_tiger.quantization import RQVAE_PAPER, RQVAE_TUNED
from recbole_tiger.settings.chain import PROPERTIES
from recbole_tiger.settings.parse import parse_command_line, parse_value
from recbole_tiger.settings.plain import plain_settings
from recbole_tiger.settings.validate import known_keys, recbole_models
from recbole_tiger.tokenization import quantizer_of, scaler_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 1e-3),
        ("[4,16,256]", [4, 16, 256]),
        ("{'max_norm': 1.0}", {"max_norm": 1.0}),
        ("true", True),
        ("False", False),
        ("None", None),
        ("amazon-beauty", "amazon-beauty"),
        ("[5,inf)", "[5,inf)"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
    ],
)
def test_values_are_read_as_literals_and_never_evaluated(text, value):
    assert parse_value(text, "any_key") == value


@pytest.mark.parametrize("key", ["collision", "content_standardize"])
def test_none_is_a_choice_where_a_key_has_it(workplace, key):
    assert parse_command_line([f"--{key}=none", "--weight_decay=none"]) == {key: "none", "weight_decay": None}
    (workplace / "mine.yaml").write_text(f"{key}: none\n")
    for chain in ({"config_dict": {key: "none"}}, {"config_file_list": ["mine.yaml"]}, {"command_line": {key: "none"}}):
        assert build_config("TIGER", "ml-100k", **chain)[key] == "none"


@pytest.mark.parametrize("mode", ["zscore", "pca", "whiten", "l2", True, False])
def test_every_input_scaling_can_be_chosen(workplace, mode):
    settings = {"content_standardize": mode, "content_components": 8 if mode in ("pca", "whiten") else None}
    scaler = scaler_of(build_config("TIGER", "ml-100k", config_dict=settings))
    assert scaler.mode == {True: "zscore", False: "none"}.get(mode, mode)


def test_command_line_keeps_equals_signs_in_values():
    assert parse_command_line(["--content_template=a=b", "--seed=3"]) == {"content_template": "a=b", "seed": 3}


@pytest.mark.parametrize("arguments", [["seed=3"], ["--seed"], ["--=3"], ["--seed=3", "--seed=4"]])
def test_malformed_arguments_are_errors(arguments):
    with pytest.raises(ConfigError):
        parse_command_line(arguments)


def test_precedence_is_command_line_then_dict_then_files_then_ours(workplace):
    for name, rate in (("a", 0.1), ("b", 0.2)):
        (workplace / f"{name}.yaml").write_text(
            f"learning_rate: {rate}\ndropout_rate: {rate}\nd_ff: {int(rate * 100)}\n"
        )
    config = build_config(
        "TIGER", "ml-100k", ["a.yaml", "b.yaml"], {"learning_rate": 0.3, "d_ff": 33}, {"learning_rate": 0.4}
    )
    assert config["learning_rate"] == 0.4 and config["d_ff"] == 33 and config["dropout_rate"] == 0.2
    assert config["MAX_ITEM_LIST_LENGTH"] == 20 and config["valid_metric"] == "NDCG@10"  # ours over RecBole's


def test_recipes_choose_their_files(workplace):
    tuned = build_config("TIGER", "ml-100k", config_dict={"recipe": "tuned"})
    paper = build_config("TIGER", "ml-100k", config_dict={"recipe": "paper"})
    default = build_config("TIGER", "ml-100k")
    assert default["recipe"] == "tiny" and default["d_model"] == 64
    assert tuned["d_model"] == paper["d_model"] == 128
    assert (
        default["learner"] == "adamw" and tuned["content_cooccurrence"] == 1.0 and paper["content_cooccurrence"] == 0.0
    )
    paper_words = dict(
        num_encoder_layers=4, num_decoder_layers=4, num_heads=6, d_kv=64, d_ff=1024, dropout_rate=0.1,
        user_buckets=2000, train_batch_size=256, learning_rate=0.01, warmup_steps=10000, max_steps=200000,
        lr_scheduler="inverse_sqrt",
        id_length=3, codebook_size=256, rqvae_learner="adagrad", rqvae_learning_rate=0.4, rqvae_batch_size=1024,
        rqvae_epochs=20000, rqvae_beta=0.25,
    )  # fmt: skip
    assert {key: paper[key] for key in paper_words} == paper_words
    extended = build_config("TIGER", "ml-100k", config_dict={"recipe": "extended"})
    switches = ("use_node_embeddings", "use_item_embeddings", "repeat_bias", "item_loss_weight", "cross_position_bias")
    assert all(extended[key] for key in switches) and extended["loss_over"] == "children"
    for config in (tuned, paper, default):  # the paper's model, but for the default recipe's bias
        on = [key for key in switches if config[key]]
        assert on == (["cross_position_bias"] if config is tuned else []) and config["loss_over"] == "level"
    assert tuned["encoder_mask"] == "block_causal" and paper["encoder_mask"] == "bidirectional"
    with pytest.raises(ConfigError, match="recipe='best'.*tuned, paper, quick, tiny, extended"):
        build_config("TIGER", "ml-100k", config_dict={"recipe": "best"})
    with pytest.raises(ConfigError, match="SASRec has no recipes"):
        build_config("SASRec", "ml-100k", config_dict={"recipe": "paper"})


def test_every_shipped_key_has_its_type_and_meaning():
    for file in PROPERTIES.rglob("*.yaml"):
        lines = file.read_text(encoding="utf-8").splitlines()
        for line in lines:
            if line and not line.startswith(("#", " ")) and ":" in line:
                assert " # (" in line, f"{file.name}: {line}"
        assert isinstance(yaml.safe_load("\n".join(lines)), dict), file


def test_property_files_and_quantizer_agree_on_both_recipes(workplace):
    """A quantizer made by hand and one made by a run must be the same."""
    for recipe, arguments in (("tuned", RQVAE_TUNED), ("paper", RQVAE_PAPER)):
        config = build_config("TIGER", "ml-100k", config_dict={"recipe": recipe, "semantic_id": "rqvae"})
        made = quantizer_of(config).get_params()
        assert {name: made[name] for name in arguments} == arguments


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lerning_rate": 0.1}, "unknown key 'lerning_rate'.*learning_rate"),
        ({"content_encoder": "bert"}, "content_encoder='bert'.*tfidf_svd"),
        ({"semantic_id": "vq"}, "semantic_id='vq'.*rqvae"),
        ({"beam_size": 5}, "beam_size=5 is smaller than the largest topk"),
        ({"id_length": 0}, "id_length=0"),
        ({"codebook_size": 1}, "codebook_size=1"),
        ({"codebook_size": [8, 8]}, "codebook_size=.8, 8. names 2 levels, but id_length=3"),
        ({"temperature": 0}, "temperature=0"),
        ({"dropout_rate": 1.5}, "dropout_rate=1.5"),
        ({"learner": "sgdd"}, "learner='sgdd'"),
        ({"tie_order": "random"}, "tie_order='random'"),
        ({"mask_seen_items": "yes"}, "mask_seen_items='yes'"),
        ({"train_neg_sample_args": {"distribution": "uniform"}}, "train_neg_sample_args.*half of the targets"),
        ({"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni100"}}, "uni100.*full"),
        ({"valid_metric": "NDCG@20"}, "valid_metric='NDCG@20' is not measured"),
        ({"metrics": ["GAUC"], "valid_metric": "GAUC"}, "GAUC"),
        ({"metrics": ["Recal"]}, "Recal"),
        ({"topk": [0]}, "topk"),
        ({"semantic_id": "file"}, "semantic_id=file needs --semantic_id_file"),
        ({"semantic_id": "file", "semantic_id_file": "no.json"}, "semantic_id_file='no.json' is not a file"),
        ({"content_encoder": "precomputed"}, "content_file=None is not a file"),
        ({"max_steps": 20}, "lr_scheduler=cosine ends at max_steps=20.*warmup_steps=50"),
        ({"nproc": 2}, "nproc=2.*this command runs in one process"),
        ({"train_batch_size": 0}, "train_batch_size=0"),
    ],
)
def test_impossible_settings_name_key_and_value(workplace, settings, words):
    base = {"id_length": 3} if "codebook_size" in settings else {}
    with pytest.raises(ConfigError, match=words):
        build_config("TIGER", "ml-100k", config_dict={**base, **settings})


def test_unknown_model_and_dataset(workplace):
    with pytest.raises(ConfigError, match="model='TIGRE'.*TIGER"):
        build_config("TIGRE", "ml-100k")
    with pytest.raises(ConfigError, match="dataset='my-shop' is not under data_path='dataset'.*my-shop.inter"):
        build_config("TIGER", "my-shop")
    (workplace / "dataset" / "half").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has no file 'half.inter'"):
        build_config("TIGER", "half")
    with pytest.raises(ConfigError, match="cannot read 'none.yaml'"):
        build_config("TIGER", "ml-100k", ["none.yaml"])
    (workplace / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="'bad.yaml' is not valid YAML"):
        build_config("TIGER", "ml-100k", ["bad.yaml"])


def test_models_of_recbole_are_known():
    assert {"TIGER", "SASRec", "BERT4Rec", "GRU4Rec", "Caser", "HGN", "FDSA", "S3Rec"} <= set(recbole_models())
    assert "SequentialRecommender" not in recbole_models()


def test_plain_settings_make_the_same_config(toy):
    config = build_config("TIGER", "toy", config_dict={**toy, "seed": 7})
    again = config_from_plain(plain_settings(config))
    assert plain_settings(again) == plain_settings(config)
    assert again["data_path"] == config["data_path"] and again["seed"] == 7
    assert str(again["device"]) == str(config["device"])


def test_what_is_typed_wins_over_a_files_model_and_dataset(workplace, monkeypatch):
    """As for any other key; the file that a sweep leaves has both in it."""
    (workplace / "best.yaml").write_text("model: GRU4Rec\ndataset: ml-100k\nhidden_size: 24\n")
    seen = []
    monkeypatch.setattr(run, "run_config", lambda config, **more: seen.append(config) or 1 / 0)
    for typed in ({}, {"model": "SASRec"}):
        with pytest.raises(ZeroDivisionError):
            train.run({**typed, "config_files": "best.yaml"})
    assert [(config["model"], config["hidden_size"]) for config in seen] == [("GRU4Rec", 24), ("SASRec", 24)]
    with pytest.raises(ConfigError, match="dataset='nowhere'"):
        train.run({"dataset": "nowhere", "config_files": "best.yaml"})


def test_a_model_has_its_own_keys_and_not_those_of_a_longer_name():
    for key in ("n_layers", "head_attention", "hidden_dropout_prob"):
        assert key in known_keys("TIGERTree") and key not in known_keys("TIGER")
    assert {"d_model", "warmup_steps", "rqvae_epochs"} <= known_keys("TIGER")
    with pytest.raises(ConfigError, match="unknown key 'n_layers' .* for model TIGER"):
        build_config("TIGER", "ml-100k", config_dict={"n_layers": 6})


def test_a_users_columns_and_a_feature_models_column(tmp_path):
    write_catalogue(tmp_path)
    own = {
        "data_path": str(tmp_path),
        "item_feature": "categories",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    }
    config = build_config("FDSA", "toy", config_dict=own)
    assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "categories"]}


@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_metrics_that_need_all_scores_are_refused_before_training(model):
    with pytest.raises(ConfigError, match="'GAUC' needs scores of all items"):
        build_config(model, "ml-100k", config_dict={"metrics": ["Recall", "NDCG", "GAUC"]})


@pytest.mark.parametrize(("model", "key"), [("FDSA", "selected_features"), ("S3Rec", "item_attribute")])
def test_the_item_feature_comes_under_the_key_that_the_model_reads(workplace, caplog, model, key):
    config = build_config(model, "ml-100k")
    assert config[key] in ("class", ["class"])
    stored = config_from_plain(plain_settings(config))  # as `evaluate` makes it of a stored run
    assert stored[key] == config[key] and "nothing reads" not in caplog.text
