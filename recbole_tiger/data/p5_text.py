"""P5's view of the data: item and user numbers, the prompts of the sequential task, and their word pieces as tensors.

Input: external ids, histories of internal item numbers, and word pieces (own ones, or those of a T5 tokenizer).
Output: prompt tokens, whole-word numbers and target tokens, gathered on the device from tables made once.

Where the paper and P5 are silent, this is chosen here: numbers run from 1 to the number of items (users) in a random
order; without a tokenizer a number is cut into pairs of digits from the left, its first pair being another piece than
the same digits inside a number, and every other word is one piece; items stand between commas; the user's number opens
the prompt (`p5_user_number`). The prompts are of P5's "direct prediction" kind, in words of our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from recbole_tiger.errors import ConfigError

#: Opens the first piece of a word, as in SentencePiece.
WORD_START = "\u2581"
SEPARATOR = ","

#: Prompts of the sequential task. One is drawn per training example; the first is the one of evaluation.
TEMPLATES = (
    "user {user} has bought {history} . which item does the user buy next ?",
    "here is what user {user} bought so far : {history} . predict the next item",
    "given the purchase history of user {user} : {history} . name the item that follows",
    "user {user} went from item to item : {history} . what comes next ?",
    "the purchases of user {user} are {history} and the next one will be",
    "what should we recommend to user {user} after {history} ?",
)


# ----------------------------------------------------------------------------------------------------------- numbers


def random_numbers(ids: Sequence[str], seed: int | Sequence[int]) -> np.ndarray:
    """A random number from 1 to n for each id: [n] int64.

    The ids are sorted before they are permuted, so the numbers depend on the set of ids and on the seed, and on nothing
    else of the data: neither its order nor an item's popularity (paper, Appendix A).
    """
    rank = np.argsort(np.asarray(ids, dtype=str), kind="stable")
    numbers = np.empty(len(rank), dtype=np.int64)
    numbers[rank] = np.random.default_rng(seed).permutation(len(rank)) + 1
    return numbers


def consecutive_numbers(items: np.ndarray, n_items: int) -> np.ndarray:
    """Numbers 1, 2, 3, … in the order in which items first appear, user after user: [n_items] int64.

    P5's own pre-processing. It is done before the split, so that neighbours of a sequence, held-out items among them,
    have neighbouring numbers and share word pieces: the numbers leak the answer (paper, Appendix A).

    Args:
        items: [n_interactions] internal item numbers from 1, grouped by user and in time order.
        n_items: items of the catalogue, without padding; those never seen come last.
    """
    distinct, first = np.unique(items, return_index=True)
    seen = distinct[np.argsort(first)]
    order = np.concatenate([seen, np.setdiff1d(np.arange(1, n_items + 1), seen)])
    numbers = np.empty(n_items, dtype=np.int64)
    numbers[order - 1] = np.arange(1, n_items + 1)
    return numbers


# ------------------------------------------------------------------------------------------------------- word pieces


@dataclass(frozen=True)
class WordPieces:
    """A vocabulary of word pieces.

    Attributes:
        size: number of tokens, special ones included.
        pad: padding, which is the decoder's start token as well.
        end: closes every text.
        starts: bool [size], whether a piece opens a word.
        split: words -> the token numbers of each.
    """

    size: int
    pad: int
    end: int
    starts: np.ndarray
    split: Callable[[Sequence[str]], list[list[int]]]


def pieces_of_word(word: str) -> list[str]:
    """A number as pairs of digits from the left, any other word whole; the first piece is marked as a word's start."""
    if not word.isdecimal():
        return [WORD_START + word]
    return [WORD_START + word[:2], *(word[i : i + 2] for i in range(2, len(word), 2))]


def own_pieces(words: Iterable[str]) -> WordPieces:
    """The pieces that a collection of words needs, in sorted order after padding (0) and end (1), as in T5."""
    needed = sorted({piece for word in words for piece in pieces_of_word(word)})
    pieces = ["<pad>", "</s>", *needed]
    token = {piece: number for number, piece in enumerate(pieces)}
    return WordPieces(
        size=len(pieces),
        pad=0,
        end=1,
        starts=np.array([piece.startswith(WORD_START) for piece in pieces]),
        split=lambda words: [[token[piece] for piece in pieces_of_word(word)] for word in words],
    )


def tokenizer_pieces(folder: str, size: int, pad: int, end: int) -> WordPieces:
    """The pieces of the tokenizer of a T5 checkpoint folder.

    Args:
        folder: with ``tokenizer.json``, or whatever else transformers reads a tokenizer from.
        size, pad, end: vocabulary size and special tokens of the checkpoint's ``config.json``.

    Raises:
        ConfigError: no tokenizer is there, or one that does not cut text into pieces of single words.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    except Exception as error:  # a missing package or file, a broken one: transformers has no type of its own for them
        raise ConfigError(
            f"p5_checkpoint='{folder}': its tokenizer cannot be read ({str(error).strip().splitlines()[0]}); the "
            "folder needs tokenizer.json beside the weights"
        ) from error
    if len(names) > size:
        raise ConfigError(
            f"p5_checkpoint='{folder}': the tokenizer has {len(names)} tokens, the model {size}; use a folder whose "
            "tokenizer belongs to its weights"
        )
    starts = np.zeros(size, dtype=bool)
    starts[: len(names)] = [name is not None and name.startswith(WORD_START) for name in names]

    def split(words: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(words), add_special_tokens=False)["input_ids"]

    pieces = WordPieces(size, pad, end, starts, split)
    for template in TEMPLATES:
        text = template.format(user="7", history=f"1234 {SEPARATOR} 56")
        expected = tokenizer(text)["input_ids"]
        if [*(token for word in split(text.split()) for token in word), end] != expected or not starts[expected[0]]:
            raise ConfigError(
                f"p5_checkpoint='{folder}': its tokenizer does not cut a text word by word into SentencePiece's pieces "
                f"('{WORD_START}' opens a word) with token {end} at the end, as T5's does; use a T5 checkpoint"
            )
    return pieces


# ----------------------------------------------------------------------------------------------------------- prompts


@dataclass(frozen=True)
class Prompts:
    """Texts of a batch.

    Attributes:
        tokens: [B, T] word pieces, the end token last, padded at the end.
        mask: bool [B, T], True at tokens.
        words: [B, T] number of the word that each piece belongs to, from 1; 0 at the end token and at padding.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    words: torch.Tensor


def words_of_templates() -> list[str]:
    """Every word that the prompts hold beside numbers."""
    return sorted({SEPARATOR, *(word for part in _template_parts() for text in part for word in text.split())})


def _template_parts() -> list[tuple[str, ...]]:
    """Each template as its text before the user, between user and history, and after the history."""
    return [tuple(re.split(r"{user}|{history}", template)) for template in TEMPLATES]


class P5Text(nn.Module):
    """Writes histories as prompts and items as targets, by gathering from tables of word pieces.

    Args:
        pieces: the vocabulary.
        item_numbers: [n_items] numbers of the items 1, 2, … (internal).
        user_numbers: the same for users, or None for prompts without a user's number.
        max_items: the longest history.

    Attributes:
        targets: [n_items + 1, D] pieces of every item, then the end token, then padding; row 0 is padding.
        n_words: the largest whole-word number of a prompt, plus one.

    Raises:
        ConfigError: two items have the same pieces (a tokenizer that does not know digits).
    """

    targets: torch.Tensor
    users: torch.Tensor
    separated: torch.Tensor
    starts: torch.Tensor
    heads: torch.Tensor
    middles: torch.Tensor
    tails: torch.Tensor

    def __init__(self, pieces: WordPieces, item_numbers: np.ndarray, user_numbers: np.ndarray | None, max_items: int):
        super().__init__()
        self.pad, self.end, self.max_items = pieces.pad, pieces.end, max_items
        items = pieces.split([str(number) for number in item_numbers])
        users = [] if user_numbers is None else pieces.split([str(number) for number in user_numbers])
        separator = pieces.split([SEPARATOR])[0]
        targets = self._table([[], *([*item, pieces.end] for item in items)])
        if len(torch.unique(targets, dim=0)) < len(targets):
            raise ConfigError(
                "p5_checkpoint: its tokenizer writes two item numbers with the same pieces; use one that knows all "
                "digits"
            )
        tables = {
            "targets": targets,
            "users": self._table([[], *users]),
            "separated": self._table([[], *([*separator, *item] for item in items)]),
            "starts": torch.from_numpy(pieces.starts),
        }
        for name, texts in zip(("heads", "middles", "tails"), zip(*_template_parts(), strict=True), strict=True):
            rows = [[token for word in pieces.split(text.split()) for token in word] for text in texts]
            tables[name] = self._table(rows)
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        self.n_separator = len(separator)

        def words(name: str) -> torch.Tensor:  # of each row of a table
            table = tables[name]
            return tables["starts"][torch.where(table == self.pad, self.end, table)].sum(1)  # neither opens a word

        of_template = words("heads") + words("middles") + words("tails")
        longest = [int(words(name).max()) for name in ("users", "separated")]
        self.n_words = 1 + int(of_template.max()) + longest[0] + max_items * longest[1]

    def _table(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rows of different lengths [n, longest], padded at the end."""
        lengths = np.array([len(row) for row in rows])
        table = np.full((len(rows), lengths.max()), self.pad, dtype=np.int64)
        table[np.arange(table.shape[1]) < lengths[:, None]] = [token for row in rows for token in row]
        return torch.from_numpy(table)

    @property
    def n_templates(self) -> int:
        return len(self.heads)

    def forward(
        self,
        users: torch.Tensor | None,
        history: torch.Tensor,
        lengths: torch.Tensor,
        templates: torch.Tensor | None = None,
    ) -> Prompts:
        """Prompts of a batch.

        Args:
            users: [B] internal user numbers; 0, or None for all, writes no number.
            history: [B, H] internal item numbers in time order, padded with 0 at the end.
            lengths: [B] items of each history.
            templates: [B] numbers of the prompts; None: the one of evaluation.

        Raises:
            ValueError: for a history of more than `max_items`.
        """
        longest = int(lengths.max()) if len(lengths) else 0
        if longest > self.max_items:
            raise ValueError(
                f"a history has {longest} items, but the model was built for {self.max_items} (MAX_ITEM_LIST_LENGTH); "
                "give the most recent ones"
            )
        n_rows = len(history)
        templates = lengths.new_zeros(n_rows) if templates is None else templates
        # A model without user numbers has one row of no pieces.
        users = lengths.new_zeros(n_rows) if users is None or len(self.users) == 1 else users
        items = self.separated[history[:, :longest]]  # [B, longest, separator + item]
        if longest:
            items[:, 0, : self.n_separator] = self.pad  # nothing before the first item
        ends = lengths.new_full((n_rows, 1), self.end)
        head, middle, tail = self.heads[templates], self.middles[templates], self.tails[templates]
        scattered = torch.cat([head, self.users[users], middle, items.flatten(1), tail, ends], dim=1)
        # Move the pieces of every row together: positions are distances in the text.
        real = scattered != self.pad
        position = torch.where(real, real.cumsum(1) - 1, scattered.shape[1])
        tokens = scattered.new_full((n_rows, scattered.shape[1] + 1), self.pad).scatter_(1, position, scattered)
        tokens = tokens[:, : int(real.sum(1).max())] if n_rows else tokens
        mask = tokens != self.pad
        words = self.starts[tokens].cumsum(1).masked_fill(~mask | (tokens == self.end), 0)
        return Prompts(tokens, mask, words)
