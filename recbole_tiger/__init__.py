"""TIGER, generative retrieval with Semantic IDs, as a plugin of RecBole.

Importing this package registers its models, datasets and trainers under RecBole's name look-ups, as soon as RecBole is
imported: RecBole's own ``run_recbole(model="TIGER", ...)``, ``load_data_and_model`` and ``full_sort_topk`` find them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from recbole_tiger.plugin.register import install_hook, register

if TYPE_CHECKING:
    from recbole_tiger.decoding import BeamResult as BeamResult
    from recbole_tiger.decoding import PrefixTrie as PrefixTrie
    from recbole_tiger.decoding import StepDecoder as StepDecoder
    from recbole_tiger.decoding import StepFunction as StepFunction
    from recbole_tiger.decoding import TrieLogitsProcessor as TrieLogitsProcessor
    from recbole_tiger.decoding import beam_search as beam_search
    from recbole_tiger.decoding import exact_topk as exact_topk
    from recbole_tiger.decoding import prefix_allowed_tokens_fn as prefix_allowed_tokens_fn
    from recbole_tiger.experiment.run import Epoch as Epoch
    from recbole_tiger.extension import register_decoder as register_decoder
    from recbole_tiger.extension import register_metric as register_metric
    from recbole_tiger.extension import register_model as register_model
    from recbole_tiger.extension import register_tokenizer as register_tokenizer
    from recbole_tiger.hpo.tune import SweepResult as SweepResult
    from recbole_tiger.hpo.tune import tune as tune
    from recbole_tiger.leaderboard.outputs import LeaderboardResult as LeaderboardResult
    from recbole_tiger.leaderboard.run import run_leaderboard as run_leaderboard
    from recbole_tiger.model.generative import GenerativeRecommender as GenerativeRecommender
    from recbole_tiger.quantization import LSH as LSH
    from recbole_tiger.quantization import RQVAE as RQVAE
    from recbole_tiger.quantization import VQVAE as VQVAE
    from recbole_tiger.quantization import HierarchicalKMeans as HierarchicalKMeans
    from recbole_tiger.quantization import ProductQuantizer as ProductQuantizer
    from recbole_tiger.quantization import Quantizer as Quantizer
    from recbole_tiger.quantization import RandomIDs as RandomIDs
    from recbole_tiger.quantization import ResidualKMeans as ResidualKMeans
    from recbole_tiger.quantization import Scaler as Scaler
    from recbole_tiger.quick_start import load_data_and_model as load_data_and_model
    from recbole_tiger.quick_start import objective_function as objective_function
    from recbole_tiger.quick_start import run_recbole_tiger as run_recbole_tiger
    from recbole_tiger.recommend import Recommender as Recommender
    from recbole_tiger.recommend_tables import Recommendation as Recommendation
    from recbole_tiger.recommend_tables import Recommendations as Recommendations
    from recbole_tiger.semantic_ids import SemanticIDTable as SemanticIDTable

__version__ = "0.1.0"

#: What is imported when it is first asked for, by module: most import torch, some RecBole.
_LAZY = {
    "decoding": "BeamResult PrefixTrie StepDecoder StepFunction TrieLogitsProcessor beam_search exact_topk "
    "prefix_allowed_tokens_fn",
    "experiment.run": "Epoch",
    "extension": "register_decoder register_metric register_model register_tokenizer",
    "model.generative": "GenerativeRecommender",
    "hpo.tune": "SweepResult tune",
    "leaderboard.outputs": "LeaderboardResult",
    "leaderboard.run": "run_leaderboard",
    "quantization": "LSH RQVAE VQVAE HierarchicalKMeans ProductQuantizer Quantizer RandomIDs ResidualKMeans Scaler",
    "quick_start": "load_data_and_model objective_function run_recbole_tiger",
    "recommend": "Recommender",
    "recommend_tables": "Recommendation Recommendations",
    "semantic_ids": "SemanticIDTable",
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names.split()}
__all__ = ["__version__", "register", *_MODULES]

install_hook()


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'recbole_tiger' has no attribute '{name}'")
    return getattr(importlib.import_module(f"recbole_tiger.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
