"""Settings: the chain of property files, the command line, and every check that can be made before any work.

Comes in: model and dataset names, the user's files, dictionary and command line. Goes out: a RecBole ``Config`` whose
precedence is command line > dictionary > the user's files > our property files > RecBole's, or one clear error.
"""

from __future__ import annotations

import ast
import difflib
import enum
import inspect
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from recbole.config import Config
from recbole.evaluator.register import metric_information

from recbole_tiger.datasets.download import ensure_dataset, recbole_urls
from recbole_tiger.errors import ConfigError
from recbole_tiger.models import model_spec, models_with

_HERE = Path(__file__).resolve().parent
#: In a wheel the property files lie inside the package, in a checkout beside it.
PROPERTIES = _HERE / "properties" if (_HERE / "properties").is_dir() else _HERE.parent / "properties"

#: The sampler of losses that compare the next item with a sampled one: one uniform item for each example, RecBole's own default.
SAMPLER = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}

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


# ---------------------------------------------------------------------------------------------- reading the settings


def parse_value(text: str, key: str):
    """One value of the command line: a Python literal, true/false/none in any case, or the text itself.

    For a key that has a choice of that name, none is the choice. Nothing is evaluated: RecBole's own reading runs
    ``eval`` on it.
    """
    lowered = text.strip().lower()
    if lowered == "none" and "none" in CHOICES.get(key, ()):
        return "none"
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered in ("none", "null", "~"):
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def parse_command_line(arguments: Sequence[str]) -> dict:
    """``--key=value`` arguments as a dictionary; everything else is an error.

    Raises:
        ConfigError: for an argument of another form, or a key given twice with different values.
    """
    settings: dict = {}
    for argument in arguments:
        key, equals, value = argument[2:].partition("=")
        if not argument.startswith("--") or not equals or not key:
            raise ConfigError(
                f"cannot read the argument '{argument}': write --key=value, for example --dataset=ml-100k"
            )
        value = parse_value(value, key)
        if key in settings and settings[key] != value:
            raise ConfigError(f"--{key} is given twice, as {settings[key]!r} and as {value!r}: keep one")
        settings[key] = value
    return settings


def read_yaml(path: str | Path) -> dict:
    """A property file as a dictionary.

    Raises:
        ConfigError: if the file is missing, is not YAML, or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"config_files: cannot read '{path}' ({error.strerror}); name an existing YAML file"
        ) from error
    try:
        content = yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        raise ConfigError(f"config_files: '{path}' is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config_files: '{path}' must hold 'key: value' lines, but holds a {type(content).__name__}")
    return content


def _yaml_loader():
    """RecBole's YAML loader, which also reads 1e-3 as a number."""
    return Config._build_yaml_loader(None)


@contextmanager
def blank_argv():
    """Hide the command line from RecBole, which otherwise parses it in every ``Config``."""
    saved, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = saved


def default_recipe(model: str, dataset: str, settings: Mapping) -> str | None:
    """The recipe used when none is asked for: `tiny` on ml-100k (minutes on two cores), the model's first elsewhere.

    P5's says what it starts from, and whether its item numbers leak the order of the data.
    """
    if model == "P5":
        start = "checkpoint" if settings.get("p5_checkpoint") else "scratch"
        return start + ("_leaking" if settings.get("p5_item_numbers") == "consecutive" else "")
    recipes = model_spec(model).recipes
    if not recipes:
        return None
    return "tiny" if dataset == "ml-100k" and "tiny" in recipes else recipes[0]


def model_files(model: str, recipe: str | None) -> list[Path]:
    """The property files of a model: its own, and on top of it that of a recipe other than the default."""
    files = [PROPERTIES / "model" / f"{model}.yaml"]
    if recipe is not None and recipe != model_spec(model).recipes[0]:
        files.append(PROPERTIES / "model" / f"{model}_{recipe}.yaml")
    return files


def property_files(model: str, dataset: str, settings: Mapping) -> list[Path]:
    """Our property files for a run, in the order in which each overrides the one before.

    Args:
        settings: what the user has set; ``recipe`` and ``semantic_id`` choose files.
    """
    recipe = settings.get("recipe") or default_recipe(model, dataset, settings)
    recipes = model_spec(model).recipes
    if settings.get("recipe") and recipe not in recipes:
        offered = f"choose one of {', '.join(recipes)}" if recipes else f"leave it out: {model} has no recipes"
        raise ConfigError(f"recipe='{recipe}' is not a recipe of {model}; {offered}")
    by_model = model_files(model, recipe)
    by_dataset = PROPERTIES / "dataset" / f"{dataset}.yaml"
    by_method = []
    if model_spec(model).uses_semantic_ids:
        shipped = {key: value for file in by_model for key, value in read_yaml(file).items()}
        by_method = [PROPERTIES / "semantic_id" / f"{settings.get('semantic_id') or shipped['semantic_id']}.yaml"]
    files = [PROPERTIES / "overall.yaml", by_model[0], *by_method, *by_model[1:], by_dataset]
    return [file for file in files if file.is_file()]


def shipped_settings(model: str, dataset: str, settings: Mapping) -> dict:
    """The merged content of :func:`property_files`, with the feature keys of feature models filled in.

    `split` and its cut-offs become the `split` entry of `eval_args`, where RecBole looks, and stand nowhere else.

    Raises:
        ConfigError: for a recipe or a split that cannot be.
    """
    from recbole_tiger.data.split import SPLIT_KEYS, split_setting

    merged: dict = {}
    for file in property_files(model, dataset, settings):
        merged.update(read_yaml(file))
    given = {key: settings[key] for key in SPLIT_KEYS if settings.get(key) is not None}
    split = split_setting({key: given.get(key, merged.pop(key)) for key in SPLIT_KEYS})
    given.pop("split", None)
    if given and "temporal" not in split:
        key, value = next(iter(given.items()))
        raise ConfigError(f"{key}={value!r} is for split=temporal; set that as well, or leave {key} out")
    merged["eval_args"] = {**merged["eval_args"], "split": split}
    if model_spec(model).recipes:
        merged["recipe"] = settings.get("recipe") or default_recipe(model, dataset, settings)
    if model_spec(model).needs_features:
        feature = settings.get("item_feature", merged.get("item_feature"))
        if feature:
            columns = dict(settings.get("load_col") or merged.get("load_col") or {})
            columns["item"] = [settings.get("ITEM_ID_FIELD", "item_id"), feature]
            merged.update(selected_features=[feature], item_attribute=feature, load_col=columns)
    return merged


def build_config(
    model: str,
    dataset: str,
    config_file_list: Iterable[str] | None = None,
    config_dict: Mapping | None = None,
    command_line: Mapping | None = None,
    *,
    spread: bool = False,
) -> Config:
    """A checked RecBole ``Config`` for any sequential model, under this package's protocol.

    Args:
        spread: whether what is done with it can be done by several processes (:func:`recbole_tiger.experiment.run.start_run`).

    Raises:
        ConfigError: for an unknown model, dataset, key or value.
        DownloadError: if the dataset is one of RecBole's downloads, is not under `data_path`, and cannot be fetched.
    """
    from recbole_tiger.data.split import SPLIT_KEYS
    from recbole_tiger.plugin.register import register

    register()
    user: dict = {}
    for file in config_file_list or []:
        user.update(read_yaml(file))
    user.update(config_dict or {})
    user.update(command_line or {})
    model, dataset = user.get("model", model), user.get("dataset", dataset)
    check_model(model)
    check_keys(user, model)
    user = {key: value for key, value in user.items() if key not in ("model", "dataset", "config_files")}
    shipped = shipped_settings(model, dataset, user)
    settings = {**shipped, **user, "eval_args": _eval_args(shipped["eval_args"], user)}
    if shipped.get("selected_features"):  # made of the user's own load_col, and the feature column
        settings["load_col"] = shipped["load_col"]
    for key in SPLIT_KEYS:
        settings.pop(key, None)
    if settings.get("learner") is not None:
        settings["learner"] = str(settings["learner"]).lower()
    if (settings.get("loss_type") == "BPR" or model_spec(model).sampled_loss) and "train_neg_sample_args" not in user:
        # These compare the next item with a sampled one; our protocol file names no sampler, since CE needs none.
        settings["train_neg_sample_args"] = dict(SAMPLER)
    check_dataset(dataset, settings)
    settings["data_path"] = os.path.abspath(str(settings.get("data_path") or "dataset"))
    with blank_argv():
        try:
            config = Config(model=model, dataset=dataset, config_dict=settings)
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            raise ConfigError(str(error)) from error
    check_settings(config, spread)
    check_arithmetic(config)
    if dataset != "ml-100k":  # nothing is fetched for settings that cannot work
        ensure_dataset(dataset, settings["data_path"])
    return config


def _eval_args(shipped: Mapping, user: Mapping) -> dict:
    """The shipped `eval_args`, in which `split` stands already, below the entries of the user's."""
    from recbole_tiger.data.split import SPLIT_KEYS, checked_split

    own = user.get("eval_args") or {}
    if not isinstance(own, Mapping):
        raise ConfigError(f"eval_args={own!r} must be a dictionary, for example {{'mode': 'full'}}")
    twice = [key for key in SPLIT_KEYS if user.get(key) is not None]
    if "split" in own and twice:
        raise ConfigError(
            f"{twice[0]}={user[twice[0]]!r} and eval_args split={own['split']!r} both name a split; leave one of them out"
        )
    merged = {**shipped, **own}
    return {**merged, "split": checked_split(merged["split"])}


# --------------------------------------------------------------------------------------------------------- the checks


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


def check_dataset(dataset: str, settings: Mapping) -> None:
    """Raise if the dataset neither lies under ``data_path`` nor can be fetched by RecBole."""
    if dataset == "ml-100k":  # inside RecBole's wheel
        return
    if not isinstance(dataset, str) or not dataset:
        raise ConfigError(f"dataset={dataset!r} is not a name; give --dataset=NAME")
    root = Path(str(settings.get("data_path") or "dataset"))
    folder = root / dataset
    file = folder / f"{dataset}.inter"
    if file.is_file():
        return
    known = dataset in recbole_urls()
    if folder.is_dir() and not (known and not any(folder.iterdir())):  # an empty one is filled by the download
        raise ConfigError(
            f"dataset='{dataset}': the folder '{folder}' has no file '{file.name}'; the folder and its files must "
            "carry the dataset's name"
        )
    if not known:
        present = sorted(p.name for p in root.iterdir() if (p / f"{p.name}.inter").is_file()) if root.is_dir() else []
        there = f" (there: {', '.join(present)})" if present else ""
        raise ConfigError(
            f"dataset='{dataset}' is not under data_path='{root}'{there} and RecBole knows no download of that name; "
            f"put it at '{folder / (dataset + '.inter')}' or set --data_path"
        )


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


def check_settings(config: Config, spread: bool = False) -> None:
    """Raise for a value, or a combination of values, that cannot work; `spread` as in :func:`build_config`."""
    from recbole_tiger.distributed.topology import check_processes

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
    check_processes(config, spread)
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
    from recbole_tiger.data.split import checked_split

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
    if config["lr_scheduler"] == "cosine" and steps <= warmup:
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


# ------------------------------------------------------------------------------------------ settings as plain values

#: Values that ``Config`` derives anew from the others, and how many processes there are: any number can go on from a checkpoint.
_DERIVED = (
    "MODEL_TYPE MODEL_INPUT_TYPE eval_type device single_spec local_rank valid_metric_bigger valid_neg_sample_args "
    "test_neg_sample_args MASK_INDEX MASK_ITEM_SEQ POS_ITEMS NEG_ITEMS nproc world_size ip port group_offset offset"
).split()


def plain_settings(config: Config) -> dict:
    """All settings of a run as plain Python values, for checkpoints and result files."""

    def plain(value):
        if isinstance(value, enum.Enum):
            return value.name
        if isinstance(value, torch.device):
            return str(value)
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set)):
            return [plain(item) for item in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return str(value)

    settings = {key: plain(value) for key, value in config.final_config_dict.items() if key not in _DERIVED}
    # Config joins the dataset's name to data_path; undo it, so that a new Config can do it again.
    settings["data_path"] = str(Path(config["data_path"]).parent)
    if settings["train_neg_sample_args"].get("distribution") == "none":
        settings["train_neg_sample_args"] = None
    return settings


def config_from_plain(settings: Mapping) -> Config:
    """The ``Config`` of :func:`plain_settings`; nothing in it is evaluated."""
    from recbole_tiger.plugin.register import register

    register()
    rest = {key: value for key, value in settings.items() if key not in ("model", "dataset")}
    with blank_argv():
        return Config(model=settings["model"], dataset=settings["dataset"], config_dict=rest)
