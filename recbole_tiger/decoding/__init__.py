"""Decoding semantic IDs: the prefix trie of a catalogue, beam search inside it or free of it, exact scoring."""

from recbole_tiger.decoding.beam_search import (
    BeamResult,
    ChildStepDecoder,
    FreeBeamResult,
    StepDecoder,
    beam_search,
    free_beam_search,
    rank_items,
)
from recbole_tiger.decoding.exact import ForkableStepDecoder, exact_scores, exact_topk
from recbole_tiger.decoding.trie import ExhaustedNodes, PrefixTrie

__all__ = [
    "BeamResult",
    "ChildStepDecoder",
    "ExhaustedNodes",
    "ForkableStepDecoder",
    "FreeBeamResult",
    "PrefixTrie",
    "StepDecoder",
    "beam_search",
    "exact_scores",
    "exact_topk",
    "free_beam_search",
    "rank_items",
]
