"""Decoding semantic IDs: the prefix trie of a catalogue, beam search inside it or free of it, exact scoring."""

from recbole_tiger.decoding.beam_search import (
    BeamResult,
    ChildStepDecoder,
    FreeBeamResult,
    Seq2SeqStepDecoder,
    StepDecoder,
    beam_search,
    free_beam_search,
    rank_items,
)
from recbole_tiger.decoding.exact import ForkableStepDecoder, exact_scores, exact_topk
from recbole_tiger.decoding.trie import PrefixTrie

__all__ = [
    "BeamResult",
    "ChildStepDecoder",
    "ForkableStepDecoder",
    "FreeBeamResult",
    "PrefixTrie",
    "Seq2SeqStepDecoder",
    "StepDecoder",
    "beam_search",
    "exact_scores",
    "exact_topk",
    "free_beam_search",
    "rank_items",
]
