"""The trie of a catalogue for Hugging Face's `generate`, so that any model generates only items.

Input: a trie, and the first token of each level in the model's vocabulary. Output: a logits processor, or the function
that `prefix_allowed_tokens_fn` takes. transformers is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recbole_tiger.decoding.ranking import check_normalise
from recbole_tiger.decoding.trie import PrefixTrie
from recbole_tiger.decoding.types import Normalise


def prefix_allowed_tokens_fn(
    trie: PrefixTrie, first_tokens: Sequence[int], eos_token_id: int, prompt_length: int = 1
) -> Callable[[int, Tensor], list[int]]:
    """The function for `generate(prefix_allowed_tokens_fn=…)`, called for each beam: simple but slow.

    Args:
        trie: of the catalogue, on the CPU.
        first_tokens: token of codeword 0 of each level; codeword `c` is token `first_tokens[level] + c`.
        eos_token_id: the token after a whole ID.
        prompt_length: tokens before the ID: 1 for an encoder-decoder, which has a start token, the length of the
            (left-padded) prompt for a decoder.

    Raises:
        ValueError: for another number of first tokens than levels.
    """
    _check_levels(trie, first_tokens)

    def allowed(batch: int, tokens: Tensor) -> list[int]:
        generated = tokens[prompt_length:].tolist()
        if len(generated) >= trie.depth:
            return [eos_token_id]
        prefix = [token - first for token, first in zip(generated, first_tokens, strict=False)]
        return [int(code) + first_tokens[len(prefix)] for code in trie.next_codes(prefix)]

    return allowed


class TrieLogitsProcessor:
    """A logits processor for `generate(logits_processor=[…])` that handles all beams at once.

    With beams, `length_penalty=0` and `max_new_tokens=depth + 1` (the last is `eos_token_id`), `generate` finds the
    items of :func:`beam_search` with their scores: log-probabilities over a level's codewords or over the children of a
    prefix, as `normalise` says. The arguments are those of :func:`prefix_allowed_tokens_fn` and `beam_search`.
    """

    def __init__(
        self,
        trie: PrefixTrie,
        first_tokens: Sequence[int],
        eos_token_id: int,
        prompt_length: int = 1,
        normalise: Normalise = "level",
    ) -> None:
        _check_levels(trie, first_tokens)
        check_normalise(normalise)
        self.trie = trie
        self.first_tokens = list(first_tokens)
        self.eos_token_id = eos_token_id
        self.prompt_length = prompt_length
        self.normalise = normalise

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[N, V]` of the next token after `input_ids` `[N, T]`; `-inf` where it leads to no item."""
        level = input_ids.shape[1] - self.prompt_length
        allowed = torch.full_like(scores, -torch.inf)
        if level >= self.trie.depth:
            allowed[:, self.eos_token_id] = 0.0
            return allowed
        tokens = slice(self.first_tokens[level], self.first_tokens[level] + self.trie.level_sizes[level])
        if tokens.stop > scores.shape[1]:
            raise ValueError(
                f"scores must be [beams, tokens] with a token for each codeword of level {level}, up to "
                f"{tokens.stop - 1}, but their shape is {list(scores.shape)}"
            )
        exists = self._exists(level, input_ids)
        own = scores[:, tokens]
        if self.normalise == "children":
            own = own.masked_fill(~exists, -torch.inf)
        own = own.log_softmax(-1)
        # A beam that left the trie, as one of `generate` that was never alive, has no children.
        allowed[:, tokens] = own.masked_fill(~exists, -torch.inf)
        return allowed

    def _exists(self, level: int, input_ids: Tensor) -> Tensor:
        """bool `[N, V_level]`: may the codeword follow?"""
        trie = self.trie = self.trie.to(input_ids.device)
        exists = torch.zeros((len(input_ids), trie.level_sizes[level]), dtype=torch.bool, device=input_ids.device)
        first_tokens = torch.tensor(self.first_tokens[:level], dtype=torch.long, device=input_ids.device)
        node = trie.find(input_ids[:, self.prompt_length :] - first_tokens)
        first, count = trie.children(level - 1, node.clamp(min=0))
        window = torch.arange(trie.max_degree[level], device=input_ids.device)
        row, number = ((window < count[:, None]) & (node >= 0)[:, None]).nonzero(as_tuple=True)
        exists[row, trie.tokens[level][first[row] + number].long()] = True
        return exists


def _check_levels(trie: PrefixTrie, first_tokens: Sequence[int]) -> None:
    if len(first_tokens) != trie.depth:
        raise ValueError(
            f"first_tokens must have one token for each of the {trie.depth} levels, but it has {len(first_tokens)}"
        )
