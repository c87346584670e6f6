"""Searches by the name that `scoring` has, and what they share.

Input: a name. Output: a function from a step decoder and the trie of a catalogue to ranked items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from recbole_tiger.decoding.beam_search import beam_search
from recbole_tiger.decoding.exact import exact_topk
from recbole_tiger.decoding.parallel import graph_search
from recbole_tiger.decoding.trie import PrefixTrie
from recbole_tiger.decoding.types import BeamResult, ForkableStepDecoder, Normalise

#: What every search gets.
STANDARD = ("decoder", "trie", "k", "beam_size", "excluded", "temperature", "normalise")


class Search(Protocol):
    """A way to find the best items of each user; it may have keyword arguments of its own, with defaults."""

    def __call__(
        self,
        decoder: ForkableStepDecoder,
        trie: PrefixTrie,
        *,
        k: int,
        beam_size: int,
        excluded: Tensor | None,
        temperature: float | Sequence[float],
        normalise: Normalise,
    ) -> BeamResult:
        """The `k` best items of each user without those excluded; arguments as for `beam_search`."""


def _exact(decoder: ForkableStepDecoder, trie: PrefixTrie, *, beam_size: int, **options: Any) -> BeamResult:
    return exact_topk(decoder, trie, **options)


#: By name; `recbole_tiger.register_decoder` adds more.
DECODERS: dict[str, Search] = {"beam": beam_search, "exact": _exact, "graph": graph_search}
