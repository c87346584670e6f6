"""Checks of settings, before any work: each raises one `ConfigError` that names the key, the value and the way out.

Input: the user's settings, or the whole of them as RecBole's ``Config`` holds them. Output: nothing, or the error.
"""

from __future__ import annotations

import difflib
import inspect
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recbole.evaluator.register import metric_information

from recbole_tiger.errors import ConfigError
from recbole_tiger.models import model_spec, models_with
from recbole_tiger.settings.chain import PROPERTIES, default_recipe
from recbole_tiger.settings.parse import read_yaml
from recbole_tiger.settings.split import checked_split

if TYPE_CHECKING:
    from recbole.config import Config

CHOICES: dict[str, tuple] = {
    "content_encoder": ("sentence_transformers", "tfidf_svd", "precomputed"),
    "collision": ("append", "reassign", "none"),
    "encoder_mask": ("bidirectional", "block_causal"),
    "lr_scheduler": ("constant", "inverse_sqrt", "cosine"),
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam", "adafactor"),
    "scoring": ("beam", "exact"),
    "likelihood": ("level", "legal"),
    "tie_order": ("file", "shuffle"),
    "mask_seen_items": (True, False),
    "constrained": (True, False),
    "content_standardize": (True, False, "zscore", "pca", "whiten", "l2", "none"),
    "tie_word_embeddings": (True, False),
    "loss_type": ("CE", "BPR"),
    "p5_item_numbers": ("random", "consecutive"),
    "p5_user_number": (True, False),
    "loss_over": ("legal", "level"),
    "update_rows": ("all", "touched"),
    "use_item_embeddings": (True, False),
    "use_node_embeddings": (True, False),
    "head_attention": (True, False),
    "repeat_bias": (True, False),
    "cross_position_bias": (True, False),
    "tie_embeddings": (True, False),
    "precision": ("fp32", "bf16"),
    "compile": (True, False),
}
_POSITIVE_INTEGERS = (
    "id_length beam_size d_model d_kv d_ff num_heads num_encoder_layers num_decoder_layers train_batch_size "
    "eval_batch_size epochs eval_step MAX_ITEM_LIST_LENGTH content_batch_size decode_batch_size"
).split()
_FROM_ZERO = (
    "user_buckets warmup_steps max_steps max_seconds eval_steps stopping_step label_smoothing weight_decay item_loss_weight "
    "rescore_weight content_cooccurrence"
).split()
#: Keys that RecBole reads although no property file of its own lists them.
_RECBOLE_EXTRA = (
    "recipe model dataset config_files config_file nproc world_size ip port group_offset show_progress "
    "gpu_id use_gpu device numerical_features discretization benchmark_filename wandb_project log_wandb transform "
    "neg_sampling training_neg_sample_num enable_amp enable_scaler metric_decimal_place ft_ratio seq_len "
    "additional_feat_suffix preload_weight MASK_INDEX MASK_ITEM_SEQ POS_ITEMS NEG_ITEMS resume shuffle"
).split()


def recbole_models() -> list[str]:
    """Names of RecBole's sequential models and of ours."""
    import recbole.model.sequential_recommender as package

    names = {name for name, value in vars(package).items() if inspect.isclass(value)}
    return sorted(names | set(models_with("ours")))


def check_model(model) -> None:
    """Raise if the model is not a sequential model of RecBole or ours."""
    known = recbole_models()
    if model not in known:
        close = difflib.get_close_matches(str(model), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(known)}"
        raise ConfigError(f"model='{model}' is not a sequential model of RecBole or of recbole_tiger; {hint}")


def known_keys(model: str) -> set[str]:
    """Every key that RecBole or this package reads for a model."""
    import recbole
    from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

    from recbole_tiger.quantization import QUANTIZERS

    keys = {*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments, *_RECBOLE_EXTRA}
    theirs = Path(recbole.__file__).parent / "properties"
    files = [theirs / "overall.yaml", theirs / "dataset" / "sample.yaml", theirs / "model" / f"{model}.yaml"]
    files += [*PROPERTIES.glob("*.yaml"), *PROPERTIES.glob("dataset/*.yaml"), *PROPERTIES.glob("semantic_id/*.yaml")]
    files += [PROPERTIES / "model" / f"{model}.yaml", *PROPERTIES.glob(f"model/{model}_*.yaml")]  # and its recipes
    for file in files:
        if file.is_file():
            keys.update(read_yaml(file))
    for name, quantizer in QUANTIZERS.items():
        keys.update(f"{name}_{argument}" for argument in inspect.signature(quantizer).parameters)
    return keys


def check_keys(user: Mapping, model: str) -> None:
    """Raise for a key that nothing reads; RecBole answers ``None`` for a misspelt key and runs on."""
    known = known_keys(model)
    for key, value in user.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=2, cutoff=0.6)
            hint = f"; did you mean {' or '.join(close)}?" if close else "; the README lists the keys"
            raise ConfigError(f"unknown key '{key}' (value {value!r}) for model {model}{hint}")


def check_settings(config: Config) -> None:
    """Raise for a value, or a combination of values, that cannot work."""
    for key, choices in CHOICES.items():
        value = config[key]
        if value is not None and value not in choices:
            raise ConfigError(f"{key}={value!r} is not possible; choose one of {', '.join(map(str, choices))}")
    for key in _POSITIVE_INTEGERS:
        value = config[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{key}={value!r} must be a whole number of at least 1")
    for key in _FROM_ZERO:
        value = config[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
            raise ConfigError(f"{key}={value!r} must be a number of at least 0")
    _check_shares(config, *(key for key in ("dropout_rate", "item_embedding_dropout") if config[key] is not None))
    _check_evaluation(config)
    if model_spec(config["model"]).needs_features and not config["item_feature"]:
        raise ConfigError(
            f"model={config['model']} needs an item column: set --item_feature=COLUMN (one of the columns of "
            f"{config['dataset']}.item, of type token or token_seq)"
        )
    if model_spec(config["model"]).generative:
        _check_generative(config)
    if model_spec(config["model"]).uses_semantic_ids:
        _check_semantic_ids(config)
    if config["model"] == "TIGER":
        _check_shares(config, "label_smoothing", "ema_decay")
    if config["model"] == "P5":
        _check_p5(config)
    if config["model"] == "TIGERTree":
        _check_tree(config)


def _check_shares(config: Config, *keys: str) -> None:
    for key in keys:
        value = config[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ConfigError(f"{key}={value!r} must be a number from 0 up to, not including, 1")


def precision_of(config: Config) -> str:
    """What training computes in: `precision`, or by default bf16 on CUDA for the models of that key, fp32 elsewhere."""
    by_default = config["device"].type == "cuda" and model_spec(config["model"]).has_t5
    return config["precision"] or ("bf16" if by_default else "fp32")


def check_arithmetic(config: Config) -> None:
    """Raise where this machine cannot train as asked; a run that was trained elsewhere can still be opened here."""
    device = config["device"].type
    if config["precision"] == "bf16" and device != "cuda":
        raise ConfigError(
            f"precision=bf16 on device '{device}': bfloat16 is about 100 times slower than fp32 on a CPU without units "
            "for it; leave precision out, which gives fp32 here and bf16 on CUDA"
        )
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if config["compile"] and device == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(
            f"compile=True needs a C++ compiler, and there is no '{compiler}' here; install one, name another in the "
            "environment variable CXX, or set compile=False"
        )


def _check_evaluation(config: Config) -> None:
    checked_split(config["eval_args"]["split"])
    if config["benchmark_filename"]:
        raise ConfigError(
            f"benchmark_filename={config['benchmark_filename']!r}: files that are split already are not read, since the "
            "order of time is made here; give one .inter file, and split=leave_one_out or split=temporal"
        )
    for key in ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path"):
        if config[key]:
            raise ConfigError(
                f"{key}={config[key]!r}: RecBole's stored datasets do not know tie_order or the Semantic IDs, and a run would "
                "read those of another one; leave it out (what takes long is kept in cache_dir)"
            )
    for phase, mode in config["eval_args"]["mode"].items():
        if mode != "full":
            raise ConfigError(
                f"eval_args mode {phase}='{mode}': sampled evaluation orders models differently from the full ranking "
                "and is refused; use mode: full"
            )
    for metric in config["metrics"]:
        needs = set(metric_information[metric.lower()])
        if needs & {"rec.meanrank", "rec.score"}:
            raise ConfigError(
                f"metrics: '{metric}' needs a score for every item, which is not kept here: a generative model gives none, and "
                "all models are measured alike; use top-k metrics such as Recall, NDCG, MRR, Hit, Precision"
            )
    name, _, k = str(config["valid_metric"]).partition("@")
    if name.lower() not in [metric.lower() for metric in config["metrics"]] or int(k or 0) not in config["topk"]:
        raise ConfigError(
            f"valid_metric={config['valid_metric']!r} is not measured: metrics={config['metrics']}, topk={config['topk']}; "
            "add it to them or choose another"
        )


def _check_generative(config: Config) -> None:
    sampler = config["train_neg_sample_args"]["distribution"]
    if sampler not in (None, "none"):
        raise ConfigError(
            f"train_neg_sample_args: {config['model']} learns from the true next item only, but distribution='{sampler}' "
            "would replace half of the targets by random items; set train_neg_sample_args to None"
        )
    if config["scoring"] == "beam" and config["beam_size"] < max(config["topk"]):
        raise ConfigError(
            f"beam_size={config['beam_size']} is smaller than the largest topk ({max(config['topk'])}): a list of that "
            "length cannot be filled; raise beam_size or lower topk"
        )
    if config["rescore_weight"]:
        if not config["item_loss_weight"]:
            raise ConfigError(
                f"rescore_weight={config['rescore_weight']} ranks by logits that item_loss_weight=0 does not train; set "
                "item_loss_weight above 0, or leave rescore_weight out"
            )
        if config["collision"] == "none":
            raise ConfigError(
                f"rescore_weight={config['rescore_weight']} tells items apart that share a Semantic ID (collision=none), whose "
                "metrics are expectations over their order; set collision=append or reassign, or leave rescore_weight out"
            )
    for key in ("enable_amp", "enable_scaler"):
        if config[key]:
            raise ConfigError(
                f"{key}=True is not for {config['model']}; leave it out"
                + (", precision=bf16 is what you want on CUDA" if model_spec(config["model"]).has_t5 else "")
            )
    steps, warmup = config["max_steps"] or 0, config["warmup_steps"] or 0
    if config["lr_scheduler"] == "cosine" and 0 < steps <= warmup:
        raise ConfigError(
            f"lr_scheduler=cosine ends at max_steps={steps}, which must be larger than warmup_steps={warmup}; "
            "raise max_steps, or use lr_scheduler=constant or inverse_sqrt"
        )
    temperatures = config["temperature"]
    for value in temperatures if isinstance(temperatures, (list, tuple)) else [temperatures]:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ConfigError(f"temperature={temperatures!r} must be a number above 0, or one per level")


def _check_semantic_ids(config: Config) -> None:
    from recbole_tiger.quantization import QUANTIZERS

    method, sizes, length = config["semantic_id"], config["codebook_size"], config["id_length"]
    if method not in (*QUANTIZERS, "file"):
        raise ConfigError(f"semantic_id={method!r} is unknown; choose one of {', '.join((*QUANTIZERS, 'file'))}")
    if method == "file" and not config["semantic_id_file"]:
        raise ConfigError("semantic_id=file needs --semantic_id_file=FILE.json, a map of item id to codes")
    for size in sizes if isinstance(sizes, (list, tuple)) else [sizes]:
        if isinstance(size, bool) or not isinstance(size, int) or size < 2:
            raise ConfigError(f"codebook_size={sizes!r}: every codebook needs a whole number of at least 2 codewords")
    if isinstance(sizes, (list, tuple)) and len(sizes) != length:
        raise ConfigError(f"codebook_size={sizes!r} names {len(sizes)} levels, but id_length={length}; make them agree")
    for key in ("content_file", "semantic_id_file"):
        needed = config["content_encoder"] == "precomputed" if key == "content_file" else method == "file"
        if needed and not (config[key] and Path(config[key]).is_file()):
            raise ConfigError(f"{key}={config[key]!r} is not a file; give the path of an existing one")


def _check_p5(config: Config) -> None:
    expected = default_recipe("P5", config["dataset"], config.final_config_dict)
    if config["recipe"] != expected:
        raise ConfigError(
            f"recipe='{config['recipe']}' does not fit p5_checkpoint={config['p5_checkpoint']!r} and "
            f"p5_item_numbers={config['p5_item_numbers']!r}, which make it '{expected}'; leave recipe out"
        )
    if config["encoder_mask"] != "bidirectional":
        raise ConfigError(f"encoder_mask={config['encoder_mask']!r} is not for P5, which reads a text; leave it out")
    folder = config["p5_checkpoint"]
    if folder and not (Path(str(folder)) / "config.json").is_file():
        raise ConfigError(
            f"p5_checkpoint='{folder}' is not a folder with a config.json; name that of a T5 checkpoint, or leave it out "
            "to train from scratch"
        )


def _check_tree(config: Config) -> None:
    for key in ("hidden_size", "n_layers", "n_heads", "inner_size", "head_size"):
        value = config[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{key}={value!r} must be a whole number of at least 1")
    if config["hidden_size"] % config["n_heads"]:
        raise ConfigError(
            f"hidden_size={config['hidden_size']} cannot be divided among n_heads={config['n_heads']} attention heads; "
            "choose a multiple"
        )
    rates = ("hidden_dropout_prob", "attn_dropout_prob", "item_embedding_dropout", "label_smoothing", "ema_decay")
    _check_shares(config, *rates)
    if config["update_rows"] == "touched" and (config["learner"] != "adamw" or config["ema_decay"]):
        raise ConfigError(
            f"update_rows=touched leaves most rows of a table alone at a step, which learner={config['learner']} with "
            f"ema_decay={config['ema_decay']} cannot; set learner=adamw and ema_decay=0, or update_rows=all"
        )
