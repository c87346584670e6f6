"""Checks of settings, before any work: each raises one `ConfigError` that names the key, the value and the way out.

Input: the user's settings, or the whole of them as RecBole's ``Config`` holds them. Output: nothing, or the error.
"""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import sys
from collections.abc import Collection, Mapping
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from recbole.evaluator.register import metric_information

from recbole_tiger.errors import ConfigError, names_like
from recbole_tiger.models import model_spec, models_with
from recbole_tiger.settings.chain import PROPERTIES, TEXT_PROPERTIES, default_recipe, reads_item_text, recbole_file
from recbole_tiger.settings.field import is_interval
from recbole_tiger.settings.memory import check_memory
from recbole_tiger.settings.parse import read_config_files
from recbole_tiger.settings.schema import FIELDS, keys_with
from recbole_tiger.settings.split import checked_split

if TYPE_CHECKING:
    from recbole.config import Config


#: Keys that name a column.
_FIELDS = (
    "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "RATING_FIELD", "LABEL_FIELD", "ITEM_LIST_LENGTH_FIELD",
    "POSITION_FIELD",
)  # fmt: skip
#: Entries of `eval_args` that have one value here.
_EVAL_ARGS = {"group_by": "user", "order": "TO"}


def recbole_models() -> list[str]:
    """Names of RecBole's sequential models and of ours."""
    import recbole.model.sequential_recommender as package

    names = {name for name, value in vars(package).items() if inspect.isclass(value)}
    return sorted(names | set(models_with("ours")))


def check_model(model) -> None:
    """Raise if the model is not a sequential model of RecBole or ours."""
    known = recbole_models()
    if model not in known:
        close = names_like(model, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(known)}"
        raise ConfigError(f"model='{model}' is not a sequential model of RecBole or of recbole_tiger; {hint}")


def known_keys(model: str) -> frozenset[str]:
    """Every key that RecBole or this package reads for a model."""
    return _known_keys(model, tuple(FIELDS), tuple(model_spec(model).settings))


@functools.cache
def _known_keys(model: str, _fields: tuple[str, ...], _settings: tuple[str, ...]) -> frozenset[str]:
    """Kept until a key is registered."""
    import recbole
    from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

    keys = {*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments}
    keys.update(keys_with("general"), keys_with("tokenizer"))
    theirs, spec = Path(recbole.__file__).parent / "properties", model_spec(model)
    files = [theirs / "overall.yaml", theirs / "dataset" / "sample.yaml", recbole_file(spec.family)]
    files += [PROPERTIES / "overall.yaml", *([TEXT_PROPERTIES] if spec.item_tables else [])]
    files += [*PROPERTIES.glob("dataset/*.yaml"), *PROPERTIES.glob("semantic_id/*.yaml")]
    files += [PROPERTIES / "model" / f"{spec.family}.yaml", *PROPERTIES.glob(f"model/{spec.family}_*.yaml")]  # recipes
    keys.update(read_config_files(file for file in files if file.is_file()), spec.settings)
    if "scoring" in keys:
        keys.update(keys_with("decoder"))
    return frozenset(keys)


def check_before_config(settings: Mapping) -> None:
    """Raise for what RecBole's ``Config`` would refuse without a name, or take for something else."""
    from recbole.evaluator import metrics as theirs

    mode = settings["eval_args"].get("mode", "full")
    for value in mode.values() if isinstance(mode, Mapping) else [mode]:
        if value != "full":
            raise ConfigError(
                f"eval_args mode={mode!r}: sampled evaluation orders models differently from the full ranking and is "
                "refused; use mode: full"
            )
    names = settings["metrics"]
    for name in [names] if isinstance(names, str) else names:
        if name.lower() not in metric_information:
            known = ", ".join(each for each in vars(theirs) if each.lower() in metric_information)
            raise ConfigError(f"metrics: '{name}' is not a metric; choose some of {known}")
        if {"rec.meanrank", "rec.score"} & set(metric_information[name.lower()]):
            raise ConfigError(
                f"metrics: '{name}' needs scores of all items, which generative models do not give; use top-k metrics "
                "such as Recall, NDCG, MRR, Hit, Precision"
            )


def check_keys(user: Mapping, model: str) -> None:
    """Raise for a key that nothing reads; RecBole answers ``None`` for a misspelt key and runs on."""
    known = known_keys(model)
    for key, value in user.items():
        if key not in known:
            raise ConfigError(f"unknown key '{key}' (value {value!r}) for model {model}{close_keys(key, known)}")


def close_keys(key: object, known: Collection[str]) -> str:
    """The end of a message about an unknown key: the nearest ones, or where all of them are listed."""
    close = names_like(key, known)
    return f"; did you mean {' or '.join(close)}?" if close else "; recbole-tiger settings --model=… lists the keys"


def text_keys(model: str) -> set[str]:
    """Keys that a model with item tables reads with `item_text` alone."""
    return set(read_config_files([TEXT_PROPERTIES])) - {"item_text"} if model_spec(model).item_tables else set()


def keys_read(model: str, settings: Mapping) -> frozenset[str]:
    """The known keys that a model reads with these settings: those of item text only where it has any."""
    return known_keys(model) - (set() if reads_item_text(model, settings) else text_keys(model))


def check_item_text(user: Mapping, model: str) -> None:
    """Raise for settings of item text that a model without `item_text` would not read."""
    if reads_item_text(model, user):
        return
    for key in sorted(text_keys(model) & user.keys()):
        raise ConfigError(
            f"{key}={user[key]!r}: {model} reads item text only with item_text=add or item_text=only; set one of them, "
            f"or leave {key} out"
        )


def say_what_is_not_read(user: Mapping, settings: Mapping, model: str) -> None:
    """Warn of the user's own settings that have no effect beside the value of another one, or with the model.

    Args:
        settings: all of them, the user's and those that are shipped.
    """
    for key, value in user.items():
        other, values = (FIELDS[key].only_with if key in FIELDS else None) or (None, ())
        if other and value is not None and value is not False and settings.get(other) not in (None, *values):
            asked = f"{other}={' or '.join(map(str, values))}"
            text = f"{key}={value!r} has no effect with {other}={settings[other]}: set {asked}, or leave {key} out"
            getLogger().warning(text)
    for key in () if model_spec(model).generative else keys_with("steps"):
        if user.get(key):
            way_out = "set epochs, max_seconds or eval_step instead, or leave it out"
            getLogger().warning(f"{key}={user[key]!r} has no effect with {model}, which counts epochs: {way_out}")


def read_settings(settings: Mapping) -> dict:
    """Settings in the types of their keys. Raises `ConfigError` for a value that cannot work."""
    return {key: FIELDS[key].read(value) if key in FIELDS else value for key, value in settings.items()}


def check_settings(config: Config) -> None:
    """Raise for a value, or a combination of values, that cannot work; what the user set gets the type of its key."""
    given = config.external_config_dict
    present = {key: config[key] for key in given if config[key] is not None}  # null: unset in a stored run
    for key, value in read_settings(present).items():
        config[key] = value
    check_before_config(config.final_config_dict)
    _check_names(config)
    if given.get("device") is not None and str(given["device"]).partition(":")[0] != config["device"].type:
        raise ConfigError(
            f"device={str(given['device'])!r}: gpu_id chooses the device, here {config['device'].type!r}; leave device "
            "out, and set --gpu_id= for the CPU or --gpu_id=0 for a GPU"
        )
    _check_evaluation(config)
    _check_feature(config, model_spec(config["model"]).feature_key)
    if model_spec(config["model"]).generative:
        _check_generative(config)
    if model_spec(config["model"]).uses_semantic_ids:
        _check_semantic_ids(config)
    if reads_item_text(config["model"], config.final_config_dict):
        _check_file(config, "content_file")
    if model_spec(config["model"]).family == "P5":
        _check_p5(config)
    if model_spec(config["model"]).family == "FEARec" and config["n_layers"] < 2:
        raise ConfigError(f"n_layers={config['n_layers']}: FEARec divides the frequencies among layers; set at least 2")
    if model_spec(config["model"]).family in ("TIGERTree", "RPG"):
        _check_sizes(config)


def _check_feature(config: Config, key: str | None) -> None:
    if key and not config["item_feature"]:
        raise ConfigError(
            f"model={config['model']} needs an item column: set --item_feature=COLUMN (one of the columns of "
            f"{config['dataset']}.item, of type token or token_seq)"
        )
    if key and config[key] not in (config["item_feature"], [config["item_feature"]]):  # whose column is not loaded
        raise ConfigError(f"{key}={config[key]!r}: set --item_feature=COLUMN instead, which all feature models read")


def _check_names(config: Config) -> None:
    """Raise unless all columns, also those that RecBole makes, have names of their own, in files that are read."""
    files = ("inter", "item", "user", "kg", "link", "net", *(config["additional_feat_suffix"] or ()))
    for key in ("load_col", "unload_col", "unused_col"):
        for file in config[key] or ():
            if file not in files:
                raise ConfigError(f"{key}: nothing reads a file '.{file}'; the endings are {', '.join(files)}")
    for file, columns in (config["unused_col"] or {}).items():
        for name in {config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]}.intersection(columns):
            raise ConfigError(f"unused_col={{{file}: {list(columns)}}}: every model needs '{name}'; leave it out")
    for file in config["unload_col"] or ():
        listed = (config["load_col"] or {}).get(file, "*" if config["load_col"] is None else ())
        if listed != "*":
            raise ConfigError(
                f"unload_col={config['unload_col']!r}: load_col names the columns of '.{file}' that are loaded already "
                f"({', '.join(listed) or 'none'}); set load_col=None as well, or leave unload_col out"
            )
    names = {key: config[key] for key in _FIELDS if config[key] is not None}
    item = config["ITEM_ID_FIELD"]
    names |= {"LIST_SUFFIX": f"{item}{config['LIST_SUFFIX']}", "NEG_PREFIX": f"{config['NEG_PREFIX']}{item}"}
    first: dict[str, str] = {}
    for key, name in names.items():
        if name == "" or name in first:
            other = f"the column of {first[name]} has that name" if name else "a column needs a name"
            raise ConfigError(f"{key}={config[key]!r} is not possible: {other}; choose another")
        first[name] = key


def precision_of(config: Config) -> str:
    """What training computes in: `precision`, or by default bf16 for a T5 on CUDA, torch's type with `enable_amp`."""
    on_cuda, has_t5 = config["device"].type == "cuda", model_spec(config["model"]).has_t5
    if config["precision"] or has_t5:
        return config["precision"] or ("bf16" if on_cuda else "fp32")
    return "fp32" if not config["enable_amp"] else "fp16" if on_cuda else "bf16"


def check_arithmetic(config: Config) -> None:
    """Raise for what cannot be trained, or not on this machine; a run that was trained can still be opened."""
    device = config["device"].type
    if config["precision"] == "bf16" and device != "cuda":
        raise ConfigError(
            f"precision=bf16 on device '{device}': bfloat16 is about 100 times slower than fp32 on a CPU without units "
            "for it; leave precision out, which gives fp32 here and bf16 on CUDA"
        )
    check_memory(config)
    wrong = "sparse_adam" if model_spec(config["model"]).generative else "adafactor"
    if config["learner"] == wrong:
        raise ConfigError(f"learner={wrong} cannot train {config['model']}; use adam, adamw, sgd, adagrad or rmsprop")
    if config["pre_model_path"] and not config["resume"]:
        _check_file(config, "pre_model_path")
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
            f"benchmark_filename={config['benchmark_filename']!r}: files that are already split are not read; give one "
            ".inter file, and split=leave_one_out or split=temporal"
        )
    for key in ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path"):
        if config[key]:
            raise ConfigError(
                f"{key}={config[key]!r}: RecBole's stored datasets ignore tie_order and Semantic IDs, so a run could "
                "read those of another one; leave it out (slow steps are cached in cache_dir)"
            )
    for key, value in (config["val_interval"] or {}).items():
        if not isinstance(value, list) and not is_interval(str(value)):
            raise ConfigError(
                f"val_interval {key}={value!r} must be an interval such as [3,inf) of a column of numbers, or a list "
                "of values"
            )
    for key, value in config["eval_args"].items():
        if key not in ("split", "mode") and (key not in _EVAL_ARGS or value != _EVAL_ARGS[key]):
            raise ConfigError(
                f"eval_args {key}={value!r} is refused: all models share one protocol; eval_args takes split, mode, "
                + ", ".join(f"{name}: {only}" for name, only in _EVAL_ARGS.items())
            )
    name, _, k = str(config["valid_metric"]).partition("@")
    if name.lower() not in [metric.lower() for metric in config["metrics"]] or k not in map(str, config["topk"]):
        raise ConfigError(
            f"valid_metric={config['valid_metric']!r} is not measured: metrics={config['metrics']}, "
            f"topk={config['topk']}; add it to them or choose another"
        )


def _check_generative(config: Config) -> None:
    sampler = config["train_neg_sample_args"]["distribution"]
    if sampler not in (None, "none"):
        raise ConfigError(
            f"train_neg_sample_args: {config['model']} learns from the true next item only, but "
            f"distribution='{sampler}' would replace half of the targets by random items; set train_neg_sample_args to "
            "None"
        )
    if config["scoring"] == "graph" and model_spec(config["model"]).family != "RPG":
        raise ConfigError(
            f"scoring=graph needs codewords that do not depend on each other, as RPG's, but {config['model']} chooses "
            "them one after the other; use scoring=beam or scoring=exact"
        )
    if config["scoring"] in ("beam", "graph") and config["beam_size"] < max(config["topk"]):
        raise ConfigError(
            f"beam_size={config['beam_size']} is smaller than the largest topk ({max(config['topk'])}): a list of that "
            "length cannot be filled; raise beam_size or lower topk"
        )
    if config["rescore_weight"]:
        if not config["item_loss_weight"]:
            raise ConfigError(
                f"rescore_weight={config['rescore_weight']} ranks by logits that item_loss_weight=0 does not train; "
                "set item_loss_weight above 0, or leave rescore_weight out"
            )
        if config["collision"] == "none":
            raise ConfigError(
                f"rescore_weight={config['rescore_weight']} ranks items that share a Semantic ID "
                "(collision=none), but metrics are expectations over their order; set collision=append or reassign, "
                "or leave rescore_weight out"
            )
    for key, only in (("enable_amp", False), ("enable_scaler", False), ("shuffle", True), ("transform", None)):
        if config[key] not in (only, None):
            by_t5 = key.startswith("enable") and model_spec(config["model"]).has_t5
            raise ConfigError(
                f"{key}={config[key]} is not for {config['model']}; leave it out"
                + (" and use precision=bf16 on CUDA" if by_t5 else "")
            )
    steps, warmup = config["max_steps"] or 0, config["warmup_steps"] or 0
    if config["lr_scheduler"] == "cosine" and 0 < steps <= warmup:
        raise ConfigError(
            f"lr_scheduler=cosine ends at max_steps={steps}, which must be larger than warmup_steps={warmup}; "
            "raise max_steps, lower warmup_steps, or use lr_scheduler=constant or inverse_sqrt"
        )


def _check_semantic_ids(config: Config) -> None:
    method, sizes, length = config["semantic_id"], config["codebook_size"], config["id_length"]
    if method == "file" and not config["semantic_id_file"]:
        raise ConfigError("semantic_id=file needs --semantic_id_file=FILE.json, a map of item id to codes")
    if isinstance(sizes, list) and len(sizes) != length:
        raise ConfigError(f"codebook_size={sizes!r} names {len(sizes)} levels, but id_length={length}; make them agree")
    if config["use_content_nodes"] is True and config["use_content"] and not config["use_node_embeddings"]:
        raise ConfigError(
            "use_content_nodes=True with use_node_embeddings=False: there are no node embeddings to initialise from "
            "content; set use_node_embeddings=True or use_content_nodes=map"
        )
    _check_file(config, "content_file")
    _check_file(config, "semantic_id_file")
    if config["collaborative_file"]:
        if method != "letter":
            raise ConfigError(
                f"collaborative_file={config['collaborative_file']!r} is only for semantic_id=letter, but "
                f"semantic_id={method}; leave it out, or use letter"
            )
        _check_file(config, "collaborative_file")


def _check_file(config: Config, key: str) -> None:
    """Raise unless the file is there, or nothing reads the key."""
    other, values = FIELDS[key].only_with or (key, (config[key],))
    if config[other] in values and not (config[key] and Path(config[key]).is_file()):
        raise ConfigError(f"{key}={config[key]!r} is not a file; give the path of an existing one")


def _check_p5(config: Config) -> None:
    expected = default_recipe(config["model"], config["dataset"], config.final_config_dict)
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
            f"p5_checkpoint='{folder}' is not a folder with a config.json; name that of a T5 checkpoint, or leave it "
            "out to train from scratch"
        )


def _check_sizes(config: Config) -> None:
    if config["hidden_size"] % config["n_heads"]:
        raise ConfigError(
            f"hidden_size={config['hidden_size']} cannot be divided among n_heads={config['n_heads']} attention heads; "
            "choose a multiple"
        )
    more = set(config["clip_grad_norm"] or ()) - {"max_norm"}
    if config["update_rows"] == "touched" and (config["learner"] != "adamw" or config["ema_decay"] or more):
        raise ConfigError(
            f"update_rows=touched does not work with learner={config['learner']}, ema_decay={config['ema_decay']} and "
            f"clip_grad_norm={config['clip_grad_norm']}; set learner=adamw, ema_decay=0 and max_norm alone, or "
            "update_rows=all"
        )
