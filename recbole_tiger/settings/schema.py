"""The table of settings: one `Field` per key, with all that any module needs to know of it but its default and meaning.

Input: none. Output: :data:`FIELDS`, and the keys of a scope. Defaults and meanings stand in `properties/*.yaml`. Of
RecBole's other keys only the names are known, and their values are read by their looks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recbole_tiger.settings.field import Field, are_columns, is_clipping, is_devices, is_interval
from recbole_tiger.settings.split import TARGETS

#: What a key can count for, and what that means.
SCOPES = {
    "protocol": "all rows of a table share it",
    "place": "no metric depends on it",
    "resume": "may change when a run is resumed",
    "end": "if it is larger, a run that has ended resumes",
    "steps": "counts optimizer steps, as generative models do; the others count epochs",
    "machine": "may differ between the machines of a run",
    "reevaluate": "may change for a run that is trained already",
    "path": "a sweep makes it absolute",
    "sweep": "all trials of a sweep share it",
    "content": "a file of which only the content counts",
    "derived": "computed again by every new Config",
    "general": "known to every model although no property file lists it",
    "tokenizer": "an argument of a tokenizer, known to every model",
    "decoder": "an argument of a registered decoder, known to every model with the key scoring",
    "command": "an option of a command, no setting of a run",
}
#: Tokenizers; their arguments are settings with the tokenizer's name in front, and ``file`` reads IDs from a file.
TOKENIZERS = ("rqvae", "rkmeans", "vqvae", "pq", "hierarchical_kmeans", "lsh", "random", "letter")
_INTERVAL = {"form": is_interval, "words": "an interval such as [5,inf), (0,4] or [2,3];[8,inf)"}
_DEVICES = {"form": is_devices, "words": "empty for the CPU, or numbers of GPUs such as 0 or 0,1"}
_CLIPPING: dict[str, Any] = {
    "form": is_clipping,
    "words": "a dictionary such as {max_norm: 1.0}, with norm_type if you like",
}
_COLUMNS: dict[str, Any] = {
    "form": are_columns,
    "words": "a dictionary of columns by file such as {inter: [user_id, item_id, timestamp]}",
}
_SAMPLING: dict[str, Any] = {
    "form": {"distribution", "sample_num", "alpha", "dynamic", "candidate_num"}.issuperset,
    "words": "a dictionary such as {distribution: uniform, sample_num: 1}, with alpha, dynamic and candidate_num",
}
_OF_SENTENCES: dict[str, Any] = {"only_with": ("content_encoder", ("sentence_transformers",))}
_REDUCED = ("content_standardize", ("pca", "whiten"))
_FILE = "machine path content"
_TRANSFORMS = ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_CUTOFFS = "two shares of all interactions (0.8,0.9), two dates (2014-01-01,2014-04-01) or two times"
_OVER = {"legal": "children"}


def _keys(names: str, type: str, scope: str = "", **more: Any) -> tuple[Field, ...]:
    """Fields that differ in their names only."""
    return tuple(Field(name, type, scopes=frozenset(scope.split()), **more) for name in names.split())


def _arguments(tokenizers: str, names: str, type: str, **more: Any) -> tuple[Field, ...]:
    """The same arguments of several tokenizers."""
    return tuple(
        field
        for each in tokenizers.split()
        for field in _keys(
            " ".join(f"{each}_{name}" for name in names.split()),
            type,
            "tokenizer",
            only_with=("semantic_id", (each,)),
            **more,
        )
    )


_TABLE: tuple[Field, ...] = (
    # Protocol
    *_keys("split", "str", "sweep", choices=("leave_one_out", "temporal")),
    *_keys("temporal_cutoffs", "list", "sweep", words=_CUTOFFS),
    *_keys("temporal_target", "str", "sweep", choices=TARGETS),
    *_keys("eval_args", "dict", "protocol sweep"),
    *_keys("repeatable", "bool", "protocol"),
    *_keys("metrics", "list or str", "protocol reevaluate sweep"),
    *_keys("topk", "list or int", "protocol reevaluate sweep", range="[1,inf)"),
    *_keys("tail_ratio", "float", "protocol general reevaluate sweep", range="(0,inf)", optional=True),
    *_keys("valid_metric", "str", "protocol sweep"),
    *_keys("MAX_ITEM_LIST_LENGTH", "int", "protocol", range="[1,inf)"),
    *_keys("mask_seen_items", "bool", "protocol reevaluate sweep"),
    *_keys("tie_order", "str", "protocol sweep", choices=("file", "shuffle")),
    *_keys("user_inter_num_interval item_inter_num_interval", "str", "protocol", optional=True, **_INTERVAL),
    *_keys("val_interval", "dict", "protocol", optional=True),
    *_keys("filter_inter_by_user_or_item", "bool", "protocol"),
    *_keys("rm_dup_inter", "str", "protocol", optional=True, choices=("first", "last")),
    *_keys("benchmark_filename", "list", "protocol", optional=True),
    *_keys("USER_ID_FIELD ITEM_ID_FIELD TIME_FIELD", "str", "protocol"),
    # Data
    *_keys("model dataset", "str", "general sweep"),
    *_keys("recipe", "str", "general", optional=True),
    *_keys("load_col unload_col unused_col", "dict", optional=True, **_COLUMNS),
    *_keys("threshold seq_len preload_weight discretization", "dict", optional=True),
    *_keys("normalize_field alias_of_user_id alias_of_item_id additional_feat_suffix", "list", optional=True),
    *_keys("numerical_features", "list"),
    *_keys("item_feature", "str", optional=True),
    *_keys("RATING_FIELD LABEL_FIELD NEG_PREFIX LIST_SUFFIX ITEM_LIST_LENGTH_FIELD POSITION_FIELD", "str"),
    *_keys("field_separator seq_separator", "str"),
    *_keys("encoding", "str", "resume", optional=True),
    *_keys("device", "any", "place resume general derived sweep"),
    *_keys("valid_metric_bigger MASK_INDEX MASK_ITEM_SEQ POS_ITEMS NEG_ITEMS", "any", "general derived"),
    *_keys("neg_sampling training_neg_sample_num", "any", "general"),
    *_keys("MODEL_TYPE MODEL_INPUT_TYPE eval_type single_spec local_rank", "any", "derived"),
    *_keys("valid_neg_sample_args test_neg_sample_args", "any", "derived"),
    # Training
    *_keys("seed", "int", "place", range="[0,inf)"),
    *_keys("epochs", "int", "resume end", range="[1,inf)"),
    *_keys("max_steps", "int", "resume end steps", range="[0,inf)"),
    *_keys("max_seconds", "float", "resume end", range="[0,inf)"),
    *_keys("stopping_step", "int", "resume end", range="[0,inf)"),
    *_keys("eval_steps", "int", "resume steps", range="[0,inf)"),
    *_keys("eval_step", "int", "resume", range="[1,inf)"),
    *_keys("train_batch_size", "int", range="[1,inf)"),
    *_keys("pretrain_epochs", "int", range="[0,inf)"),
    *_keys("eval_batch_size decode_batch_size", "int", "resume reevaluate", range="[1,inf)"),
    *_keys("train_neg_sample_args", "dict", optional=True, **_SAMPLING),
    *_keys("clip_grad_norm", "dict", optional=True, **_CLIPPING),
    *_keys("learner", "str", choices=("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam", "adafactor")),
    *_keys("learning_rate weight_decay item_loss_weight content_cooccurrence", "float", range="[0,inf)"),
    *_keys("lr_scheduler", "str", choices=("constant", "inverse_sqrt", "cosine")),
    *_keys("warmup_steps", "int", range="[0,inf)", only_with=("lr_scheduler", ("inverse_sqrt", "cosine"))),
    *_keys("user_buckets", "int", range="[0,inf)"),
    *_keys("loss_type", "str", choices=("CE", "BPR")),
    *_keys("precision", "str", choices=("fp32", "bf16"), optional=True),
    *_keys("compile reproducibility", "bool", "resume"),
    *_keys("metric_decimal_place loss_decimal_place", "int", "resume", range="[0,inf)"),
    *_keys("enable_amp enable_scaler shuffle", "bool"),
    *_keys("transform", "str", optional=True, choices=_TRANSFORMS),
    *_keys("train_stage", "str", "place resume"),
    # Places and processes
    *_keys("data_path", "str", "place resume machine reevaluate path sweep"),
    *_keys("cache_dir", "str", "place resume machine path sweep"),
    *_keys("checkpoint_dir", "str", "place resume machine sweep"),
    *_keys("run_dir resume", "str", "place resume machine sweep", optional=True),
    *_keys("config_files", "str or list of str", "place resume general sweep", optional=True),
    *_keys("config_file", "str", "general", optional=True),
    *_keys("plugin", "list", "place resume machine general", optional=True),
    *_keys("dataset_save_path dataloaders_save_path", "str", "place resume", optional=True),
    *_keys("save_dataset save_dataloaders", "bool", "place resume"),
    *_keys("show_progress", "bool", "place resume machine sweep"),
    *_keys("log_wandb", "bool", "place resume machine"),
    *_keys("state", "str", "place resume machine", choices=_LEVELS),
    *_keys("wandb_project", "str", "place resume machine"),
    *_keys("worker", "int", "place resume machine", range="[0,inf)"),
    *_keys("gpu_id", "str", "place resume machine reevaluate sweep", **_DEVICES),
    *_keys("use_gpu", "bool", "place resume reevaluate sweep"),
    *_keys("nproc", "int", "place resume derived general", range="[1,inf)", optional=True),
    *_keys("world_size", "int", "place resume derived general", range="[-1,inf)", optional=True),
    *_keys("group_offset", "int", "place resume derived general", range="[0,inf)", optional=True),
    *_keys("ip", "str", "place resume derived general", optional=True),
    *_keys("port", "int", "place resume derived general", range="[0,65535]", optional=True),
    *_keys("offset", "any", "place resume derived"),
    # Content and Semantic IDs
    *_keys("content_encoder", "str", choices=("sentence_transformers", "tfidf_svd", "precomputed")),
    *_keys("item_text", "str", choices=("none", "add", "only")),
    *_keys("content_model", "str", **_OF_SENTENCES),
    *_keys("content_fields", "list", optional=True),
    *_keys("content_template", "str", optional=True),
    *_keys("content_file", "str", _FILE, optional=True, only_with=("content_encoder", ("precomputed",))),
    *_keys("semantic_id_file", "str", _FILE, optional=True, only_with=("semantic_id", ("file",))),
    *_keys("collaborative_file", "str", _FILE, optional=True),
    *_keys("content_dim", "int", range="[1,inf)", optional=True, only_with=("content_encoder", ("tfidf_svd",))),
    *_keys("content_components", "int", range="[1,inf)", optional=True, only_with=_REDUCED),
    *_keys("content_batch_size", "int", range="[1,inf)", **_OF_SENTENCES),
    *_keys(
        "content_standardize",
        "bool or str",
        choices=(True, False, "zscore", "pca", "whiten", "l2", "none"),
        optional=True,
    ),
    *_keys("semantic_id", "str", choices=(*TOKENIZERS, "file")),
    *_keys("id_length", "int", range="[1,inf)"),
    *_keys("codebook_size", "int or list", range="[2,1048576]"),
    *_keys("collision", "str", choices=("append", "reassign", "none")),
    *_keys("semantic_id_seed", "int", optional=True),
    *_arguments("rkmeans pq hierarchical_kmeans", "max_iterations", "int"),
    *_arguments("pq", "rotation_iterations", "int"),
    *_arguments("rqvae vqvae letter", "hidden_sizes", "list of int"),
    *_arguments("rqvae vqvae letter", "latent_dim batch_size epochs dead_code_restart early_stop_patience", "int"),
    *_arguments("rqvae vqvae letter", "checkpoint_interval", "int"),
    *_arguments("rqvae vqvae letter", "beta learning_rate weight_decay usage_target", "float"),
    *_arguments("rqvae vqvae letter", "learner", "str", choices=("adamw", "adam", "adagrad")),
    *_arguments("rqvae vqvae letter", "codebook_init codebook_update", "str"),
    *_arguments("letter", "alignment diversity", "float", range="[0,inf)"),
    *_arguments("letter", "clusters", "int", range="[1,inf)"),
    *_arguments(" ".join(TOKENIZERS), "id_length random_state", "int"),
    *_arguments(" ".join(TOKENIZERS), "codebook_size", "int or list"),
    *_arguments("rqvae rkmeans vqvae pq hierarchical_kmeans letter", "device", "str"),
    # Models
    *_keys("d_model d_kv d_ff num_heads num_encoder_layers num_decoder_layers head_size", "int", range="[1,inf)"),
    *_keys("hidden_size inner_size embedding_size n_layers n_heads num_layers", "int", range="[1,inf)"),
    *_keys("nv nh", "int", range="[0,inf)"),
    *_keys("dropout_rate item_embedding_dropout label_smoothing ema_decay", "float", range="[0,1)"),
    *_keys("hidden_dropout_prob attn_dropout_prob dropout_prob", "float", range="[0,1)"),
    *_keys("mask_ratio", "float", range="[0,1]"),
    *_keys("ft_ratio", "float", "general", range="[0,1]"),
    *_keys("layer_norm_eps initializer_range aap_weight mip_weight map_weight sp_weight", "float"),
    *_keys("reg_weight", "float or list of float"),
    *_keys("hidden_act pooling_mode", "str"),
    *_keys("pooling_type", "str", choices=("average", "max")),
    *_keys("pre_model_path", "str", "resume machine path content", optional=True),
    *_keys("tie_word_embeddings p5_user_number cross_position_bias use_node_embeddings use_item_embeddings", "bool"),
    *_keys("repeat_bias head_attention tie_embeddings use_content", "bool"),
    *_keys("use_content_nodes", "bool or str", choices=(True, False, "map"), only_with=("use_content", (True,))),
    *_keys("encoder_mask", "str", choices=("bidirectional", "block_causal")),
    *_keys("loss_over", "str", choices=("children", "level"), renamed=_OVER),
    *_keys("update_rows", "str", choices=("all", "touched")),
    *_keys("alpha lmd lmd_sem", "float", range="[0,inf)"),
    *_keys("c topk_factor", "int", range="[1,inf)"),
    *_keys("contrast", "str", choices=("un", "su", "us", "us_x")),
    *_keys("sim", "str", choices=("dot", "cos")),
    *_keys("tau", "float", range="(0,inf)"),
    *_keys("global_ratio", "float", range="(0,1]"),
    *_keys("spatial_ratio", "float", range="[0,1]"),
    *_keys("dual_domain std", "bool"),
    *_keys("p5_checkpoint", "str", "machine path", optional=True),
    *_keys("p5_item_numbers", "str", choices=("random", "consecutive")),
    *_keys("knn_items", "int", range="[1,inf)"),
    *_keys("knn_decay", "float", range="(0,1]"),
    # Decoding
    *_keys("beam_size", "int", "reevaluate", range="[1,inf)"),
    *_keys("scoring", "str", "reevaluate", choices=("beam", "exact", "graph")),
    *_keys("graph_neighbours graph_steps", "int", "reevaluate", range="[1,inf)", only_with=("scoring", ("graph",))),
    *_keys("temperature", "float or list", "reevaluate", range="(0,inf)"),
    *_keys("likelihood", "str", "reevaluate", choices=("level", "children"), renamed=_OVER, optional=True),
    *_keys("rescore_weight", "float", "reevaluate", range="[0,inf)"),
    # Options of commands
    *_keys(
        "history histories user checkpoint new_items output output_dir runs rows category space storage name",
        "str",
        "command",
    ),
    *_keys("leaderboard_dir", "str", "command", optional=True),
    *_keys("jobs", "int", "command", range="[1,inf)"),
    *_keys("cpus_per_run gpus_per_run", "float", "command", range="[0,inf)"),
)
FIELDS: dict[str, Field] = {field.name: field for field in _TABLE}


def add_choice(key: str, choice: str) -> None:
    """Let a key have one more value; of `semantic_id`, ``file`` stays the last."""
    field = FIELDS[key]
    if choice not in field.choices:
        own = [value for value in field.choices if value != "file"]
        FIELDS[key] = replace(field, choices=(*own, choice, *(("file",) if "file" in field.choices else ())))


def keys_with(scope: str) -> tuple[str, ...]:
    """The keys of a scope, in the order of the table."""
    if scope not in SCOPES:
        raise KeyError(scope)
    return tuple(name for name, field in FIELDS.items() if scope in field.scopes)
