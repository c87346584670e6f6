"""Contract checks for your own tokenizers and decoders.

Input: a class or a function. Output: nothing, or an AssertionError that names the failed check. The shipped tokenizers
and searches pass the same checks.
"""

from __future__ import annotations

import inspect
import io
from typing import Any

import numpy as np
import torch

from recbole_tiger.decoding import PrefixTrie, Search, StepFunction, exact_scores, exact_topk
from recbole_tiger.io import to_plain
from recbole_tiger.quantization import Quantizer


def check_tokenizer(cls: type[Quantizer], **arguments: Any) -> None:
    """Check a tokenizer: its constructor, codes, seed, saving, and errors.

    Args:
        cls: the class.
        arguments: constructor arguments with which it is fitted quickly on 200 rows of 24 dimensions, with
            `codebook_size` of at most 200; by default `id_length=2, codebook_size=8, random_state=1`.

    Raises:
        AssertionError: naming the failed check.
    """
    x = np.random.default_rng(0).standard_normal((200, 24)).astype(np.float32)
    x += 3 * np.eye(24, dtype=np.float32)[np.arange(200) % 24]
    arguments = {"id_length": 2, "codebook_size": 8, "random_state": 1, **arguments}
    _check_constructor(cls)
    quantizer = cls(**arguments)
    for call in (quantizer.transform, lambda rows: quantizer.reconstruct(np.zeros((1, 2), dtype=np.int64))):
        _expect_error(call, x, "before fit")
    before = _global_state()
    codes = quantizer.fit_transform(x)
    assert _global_state() == before, "fit changes the global random state: draw from a generator of random_state"
    assert quantizer.n_items_ == len(x), "fit does not learn from all rows"
    sizes = np.asarray(quantizer.codebook_sizes_)
    assert codes.shape == (len(x), len(sizes)), f"codes must be [n, id_length] = {(len(x), len(sizes))}: {codes.shape}"
    assert codes.dtype == np.int64, f"codes must be int64, but they are {codes.dtype}"
    assert (codes >= 0).all() and (codes < sizes).all(), f"codes must lie in [0, {sizes.tolist()})"
    for some in (slice(None, None, -1), slice(0, 7)):
        assert np.array_equal(quantizer.transform(x[some]), codes[some]), "the code of a row depends on the other rows"
    assert np.array_equal(quantizer.transform(torch.from_numpy(x)), codes), "a tensor has other codes than an array"
    assert np.array_equal(cls(**arguments).fit_transform(x), codes), "the same random_state gives other codes"
    costs = quantizer.last_level_costs(x, codes)
    assert costs.shape == (len(x), sizes[-1]) and not np.isnan(costs).any(), "last_level_costs must be [n, K_last]"
    made = quantizer.reconstruct(codes)
    assert made is None or (made.shape == x.shape and np.isfinite(made).all()), "reconstruct must give [n, dim] or None"
    file = io.BytesIO()
    torch.save(quantizer.state_dict(), file)
    file.seek(0)
    loaded = cls.from_state_dict(torch.load(file, weights_only=True))
    assert to_plain(loaded.get_params()) == to_plain(quantizer.get_params()), "saved and loaded it has other arguments"
    assert np.array_equal(loaded.transform(x), codes), "saved and loaded it gives other codes"
    _expect_error(quantizer.fit, np.where(np.arange(24) == 3, np.nan, x), "for NaN")
    _expect_error(quantizer.transform, x[:, 1:], "for embeddings of another width")


def _check_constructor(cls: type[Quantizer]) -> None:
    """The constructor has the shared arguments, all with defaults, and stores what it gets untouched."""
    parameters = inspect.signature(cls).parameters
    lacking = {"id_length", "codebook_size", "random_state"} - parameters.keys()
    assert not lacking, f"the constructor lacks {', '.join(sorted(lacking))}"
    for name, parameter in parameters.items():
        assert parameter.default is not parameter.empty, f"the argument {name} has no default"
    marks = {name: object() for name in parameters}
    built: Any = cls(**marks)  # type: ignore[arg-type]
    for name, mark in marks.items():
        assert getattr(built, name, None) is mark, f"the constructor must store {name} untouched, as scikit-learn's do"
    learned = [name for name in vars(built) if name.endswith("_")]
    assert not learned, f"{', '.join(learned)} must not be there before fit"


def _global_state() -> str:
    return f"{torch.get_rng_state().tolist()} {np.random.get_state(legacy=False)}"


def _expect_error(call: Any, value: Any, when: str) -> None:
    try:
        call(value)
    except ValueError:
        return
    raise AssertionError(f"there must be a ValueError {when}")


def check_decoder(search: Search, *, exact: bool = True, **arguments: Any) -> None:
    """Check a search on random catalogues: shapes, order, exclusion, and that it returns only items.

    Args:
        search: the function.
        exact: whether, with a beam as wide as the catalogue, it finds the best items with their log-probabilities as
            scores; False for a search that ranks by something else.
        arguments: its own keyword arguments.

    Raises:
        AssertionError: naming the failed check.
    """
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for sizes in ([4], [3, 5], [4, 2, 6]):
        n_users, n_items = 3, int(rng.integers(8, 30))
        codes = np.stack([rng.integers(0, size, n_items) for size in sizes], 1)
        trie = PrefixTrie.from_codes(np.unique(codes, axis=0), sizes)
        tables = [torch.randn(n_users, *sizes[: level + 1], generator=generator) for level in range(len(sizes))]

        def logits(prefixes: torch.Tensor, tables: list[torch.Tensor] = tables) -> torch.Tensor:
            users = torch.arange(len(prefixes))[:, None].expand(prefixes.shape[:2])
            return tables[prefixes.shape[2]][(users, *prefixes.unbind(2))]

        scores = exact_scores(StepFunction(logits, n_users), trie)
        for k, excluded in ((1, None), (4, torch.tensor([[1, 2], [3, 0], [0, 0]])), (trie.n_items, None)):
            options: Any = {"k": k, "excluded": excluded, "temperature": 1.0, "normalise": "level"}
            found = search(StepFunction(logits, n_users), trie, beam_size=trie.n_items, **options, **arguments)
            assert found.items.shape == found.scores.shape == (n_users, k), (
                f"items and scores must be [users, k] = {[n_users, k]}, but their shapes are "
                f"{list(found.items.shape)} and {list(found.scores.shape)}"
            )
            for user, (items, values) in enumerate(zip(found.items.tolist(), found.scores.tolist(), strict=True)):
                there = [item for item in items if item]
                assert items == there + [0] * (k - len(there)), f"0 between items: {items}"
                assert len(set(there)) == len(there) <= trie.n_items, f"an item is returned twice: {items}"
                assert set(there) <= set(trie.items.tolist()), f"a returned number is not an item: {items}"
                without = set() if excluded is None else set(excluded[user].tolist())
                assert not without & set(there), f"an excluded item is in the list: {items}"
                assert values == sorted(values, reverse=True), f"scores must not rise: {values}"
                own = scores[user, there].tolist()
                wrong = exact and not np.allclose(values[: len(there)], own, atol=1e-4)
                assert not wrong, f"scores must be the log-probabilities of the IDs {own}, but they are {values}"
            if exact:
                best = exact_topk(StepFunction(logits, n_users), trie, **options)
                assert torch.equal(found.items, best.items), "a beam as wide as the catalogue must find the best items"
