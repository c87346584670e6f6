"""Decoding of semantic IDs: the prefix trie of a catalogue, beam search inside it or unconstrained, exact scoring.

Input: a step decoder, which may be any model's, and a trie. Output: ranked items or IDs. No network is imported here.
"""

from recbole_tiger.decoding.beam_search import beam_search, free_beam_search
from recbole_tiger.decoding.exact import exact_scores, exact_topk
from recbole_tiger.decoding.huggingface import TrieLogitsProcessor, prefix_allowed_tokens_fn
from recbole_tiger.decoding.parallel import IDGraph, ParallelStepDecoder, graph_search
from recbole_tiger.decoding.ranking import of_one_width, rank_items
from recbole_tiger.decoding.registry import DECODERS, Search
from recbole_tiger.decoding.trie import ExhaustedNodes, PrefixTrie
from recbole_tiger.decoding.types import (
    BeamResult,
    ChildStepDecoder,
    ForkableStepDecoder,
    FreeBeamResult,
    StepDecoder,
    StepFunction,
)

__all__ = [
    "DECODERS",
    "BeamResult",
    "ChildStepDecoder",
    "ExhaustedNodes",
    "ForkableStepDecoder",
    "FreeBeamResult",
    "IDGraph",
    "ParallelStepDecoder",
    "PrefixTrie",
    "Search",
    "StepDecoder",
    "StepFunction",
    "TrieLogitsProcessor",
    "beam_search",
    "exact_scores",
    "exact_topk",
    "free_beam_search",
    "graph_search",
    "of_one_width",
    "prefix_allowed_tokens_fn",
    "rank_items",
]
