"""Beam search and exact scoring against a literal enumeration of the catalogue and against Hugging Face's search."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import recbole_tiger.decoding
from recbole_tiger.decoding import (
    ParallelStepDecoder,
    PrefixTrie,
    StepFunction,
    beam_search,
    exact_scores,
    exact_topk,
    free_beam_search,
    graph_search,
    rank_items,
)
from recbole_tiger.nn import Seq2Seq, Seq2SeqStepDecoder, T5Config

WINDOWS = ("ragged", "fixed")


def random_catalogue(rng, max_items, max_depth, max_codebook=300):
    """Codes [n, L] with many shared prefixes, and the sizes of the codebooks."""
    sizes = [int(rng.integers(2, max_codebook + 1)) for _ in range(rng.integers(1, max_depth + 1))]
    n_items = int(rng.integers(1, max_items + 1))
    return np.stack([rng.integers(0, rng.integers(1, size + 1), n_items) for size in sizes], 1), sizes


class ToyDecoder:
    """A small recurrent network whose logits depend on the user and on every codeword chosen so far."""

    def __init__(self, sizes, n_users, seed=0, width=8, scale=1.0):
        generator = torch.Generator().manual_seed(seed)
        self.embeddings = [torch.randn(size, width, generator=generator) for size in sizes]
        self.heads = [scale * torch.randn(size, width, generator=generator) for size in sizes]
        self.mix = torch.randn(width, width, generator=generator) / width**0.5
        self.users = torch.randn(n_users, 1, width, generator=generator)
        self.state = self.users

    def begin(self):
        return self.users @ self.heads[0].T

    def advance(self, level, parents, codes):
        state = self.state.gather(1, parents[:, :, None].expand(-1, -1, self.state.shape[2]))
        self.state = torch.tanh(state @ self.mix + self.embeddings[level - 1][codes])
        return self.state @ self.heads[level].T

    def fork(self):
        twin = object.__new__(ToyDecoder)
        twin.__dict__.update(self.__dict__)
        return twin

    def select(self, users):
        twin = self.fork()
        twin.users = twin.state = self.users[users]
        return twin


def literal_scores(decoder, codes, n_users, normalise="level", temperature=1.0):
    """Log-probability of every row of codes [n, L], one codeword at a time: [B, n]."""
    codes = torch.as_tensor(codes)
    decoder = decoder.fork()
    legal_rows = codes.tolist()
    total = torch.zeros(n_users, len(codes), dtype=torch.float64)
    logits = decoder.begin()
    parents = torch.zeros(n_users, len(codes), dtype=torch.long)
    for level in range(codes.shape[1]):
        steps = logits.double() / temperature
        if normalise == "children":
            allowed = torch.zeros(len(codes) if level else 1, logits.shape[2], dtype=torch.bool)
            for row, prefix in enumerate(legal_rows if level else [[]]):
                for other in legal_rows:
                    if other[:level] == prefix[:level]:
                        allowed[row, other[level]] = True
            steps = steps.masked_fill(~allowed, -torch.inf)
        steps = steps.log_softmax(-1).expand(-1, len(codes), -1)
        chosen = codes[:, level].expand(n_users, -1)
        total += steps.gather(2, chosen[:, :, None])[:, :, 0]
        if level + 1 < codes.shape[1]:
            logits = decoder.advance(level + 1, parents, chosen)
            parents = torch.arange(len(codes)).expand(n_users, -1)
    return total


def literal_topk(scores, items, k, excluded=()):
    """Items and scores of one user by (score, item number), padded with 0 and -inf."""
    ranked = sorted((-float(s), int(i)) for s, i in zip(scores, items, strict=True) if int(i) not in excluded)[:k]
    ranked += [(np.inf, 0)] * (k - len(ranked))
    return [i for _, i in ranked], [-s for s, _ in ranked]


def assert_same_ranking(result, expected_items, expected_scores, tolerance=2e-5):
    """Equal scores within tolerance, and the same items up to the order of scores that close together."""
    torch.testing.assert_close(result.scores.double(), expected_scores.double(), atol=tolerance, rtol=0)
    gaps = expected_scores[:, :-1] - expected_scores[:, 1:]
    clear = torch.ones_like(expected_items, dtype=torch.bool)
    clear[:, :-1] &= (gaps > 2 * tolerance) | (gaps == 0) | gaps.isnan()
    clear[:, 1:] &= (gaps > 2 * tolerance) | (gaps == 0) | gaps.isnan()
    assert clear.float().mean() > 0.5
    assert torch.equal(result.items[clear], expected_items[clear])


@pytest.mark.parametrize("seed", range(60))
def test_a_beam_as_wide_as_the_catalogue_is_exact_scoring_is_enumeration(seed):
    rng = np.random.default_rng(seed)
    codes, sizes = random_catalogue(rng, max_items=40 if seed % 3 else 250, max_depth=5)
    if seed % 4 == 0:  # duplicate IDs
        codes = codes[rng.integers(0, len(codes), len(codes))]
    n_users = int(rng.integers(1, 5))
    items = rng.permutation(len(codes) + 20)[: len(codes)] + 1
    trie = PrefixTrie.from_codes(codes, sizes, items)
    normalise = ("level", "children")[seed % 2] if len(codes) <= 40 else "level"
    decoder = ToyDecoder(sizes, n_users, seed)
    truth = literal_scores(decoder, codes, n_users, normalise)
    exact = exact_scores(decoder.fork(), trie, normalise=normalise, max_rows=int(rng.integers(1, 60)))
    assert exact.shape == (n_users, items.max() + 1)
    torch.testing.assert_close(exact[:, items].double(), truth, atol=2e-5, rtol=0)
    unused = torch.ones(exact.shape[1], dtype=torch.bool)
    unused[items] = False
    assert (exact[:, unused] == -torch.inf).all()

    k = len(codes) + 3  # wider than the catalogue
    excluded = torch.zeros(n_users, 6, dtype=torch.long)
    excluded[:, : min(5, len(items))] = torch.from_numpy(np.stack([rng.permutation(items)[:5] for _ in range(n_users)]))
    for drop in (None, excluded):
        gone = [set()] * n_users if drop is None else [set(row) for row in drop.tolist()]
        expected = [literal_topk(truth[u], items, k, gone[u]) for u in range(n_users)]
        expected_items = torch.tensor([row for row, _ in expected])
        expected_scores = torch.tensor([row for _, row in expected])
        for windows in WINDOWS:
            found = beam_search(decoder.fork(), trie, beam_size=k, excluded=drop, normalise=normalise, windows=windows)
            assert_same_ranking(found, expected_items, expected_scores)
        ranked = exact_topk(decoder.fork(), trie, k=k, excluded=drop, normalise=normalise)
        assert_same_ranking(ranked, expected_items, expected_scores)


@pytest.mark.parametrize("seed", range(8))
def test_shared_ids_come_with_the_number_of_items_that_remain_on_them(seed):
    rng = np.random.default_rng(seed)
    sizes, n_users = [5, 4, 3], 3
    codes = np.stack([rng.integers(0, size, 60) for size in sizes], 1)
    items = rng.permutation(80)[:60] + 1
    trie = PrefixTrie.from_codes(codes, sizes, items)
    decoder = ToyDecoder(sizes, n_users, seed)
    truth = literal_scores(decoder, codes, n_users)
    excluded = torch.from_numpy(np.stack([rng.choice(items, 25) for _ in range(n_users)]))
    on_id = {
        row: {int(i) for i, other in zip(items, codes.tolist(), strict=True) if tuple(other) == row}
        for row in map(tuple, codes.tolist())
    }
    for drop in (None, excluded):
        results = [beam_search(decoder.fork(), trie, beam_size=60, k=10, excluded=drop, windows=w) for w in WINDOWS]
        results.append(exact_topk(decoder.fork(), trie, k=len(on_id), excluded=drop))
        for user in range(n_users):
            gone = set() if drop is None else set(drop[user].tolist())
            scores = {row: float(truth[user, codes.tolist().index(list(row))]) for row in on_id if on_id[row] - gone}
            ranked = sorted(scores, key=lambda row: -scores[row])
            leaves = trie.leaf_of(torch.tensor([min(on_id[row]) for row in ranked])).tolist()
            counts = [len(on_id[row] - gone) for row in ranked]
            for result in results:
                padding = [-1] * (result.ids.shape[1] - len(ranked))
                assert result.ids[user].tolist() == leaves + padding
                assert result.id_counts[user].tolist() == counts + [0] * len(padding)


def slow_beam_search(decoder, codes, items, user, beam_size, k):
    """Textbook beam search of one user over dictionaries of prefixes."""
    beams = [((), 0.0)]
    for level in range(codes.shape[1]):
        legal = {tuple(row[: level + 1]) for row in codes.tolist()}
        grown = []
        for prefix, score in beams:
            branch = decoder.select([user])
            logits = branch.begin()
            for i, code in enumerate(prefix):
                logits = branch.advance(i + 1, torch.zeros(1, 1, dtype=torch.long), torch.tensor([[code]]))
            steps = logits[0, 0].double().log_softmax(-1)
            grown += [((*prefix, c), score + float(steps[c])) for c in range(len(steps)) if (*prefix, c) in legal]
        beams = sorted(grown, key=lambda beam: -beam[1])[:beam_size]
    found = []
    for prefix, score in beams:
        found += [(-score, int(i)) for i, row in zip(items, codes.tolist(), strict=True) if tuple(row) == prefix]
    found = sorted(found)[:k]
    found += [(np.inf, 0)] * (k - len(found))
    return [i for _, i in found], [-s for s, _ in found]


@pytest.mark.parametrize("seed", range(12))
def test_a_narrow_beam_keeps_what_a_textbook_beam_search_keeps(seed):
    rng = np.random.default_rng(seed)
    sizes = [12, 9, 7, 3][: int(rng.integers(2, 5))]
    codes = np.stack([rng.integers(0, size, 150) for size in sizes], 1)
    items = np.arange(1, 151)
    trie = PrefixTrie.from_codes(codes, sizes)
    decoder = ToyDecoder(sizes, 3, seed)
    for beam_size, k in ((1, 1), (4, 4), (10, 6)):
        expected = [slow_beam_search(decoder, codes, items, u, beam_size, k) for u in range(3)]
        for windows in WINDOWS:
            found = beam_search(decoder.fork(), trie, beam_size=beam_size, k=k, windows=windows)
            assert_same_ranking(
                found, torch.tensor([row for row, _ in expected]), torch.tensor([row for _, row in expected])
            )


@pytest.mark.parametrize("normalise", ["level", "children"])
def test_codewords_that_a_function_forbids_are_never_found(normalise):
    """Forbidden are the codewords of some items, below one prefix those of all."""
    codes = np.array([[a, b] for a in range(3) for b in range(3)])
    trie = PrefixTrie.from_codes(codes[:-1], [3, 4])
    logits = torch.tensor([[0.3, -torch.inf, 1.0, 0.7], [-torch.inf] * 4, [0.2, 0.1, 2.0, -torch.inf]])
    if normalise == "children":
        logits[1, 3] = 0.0  # of no item

    def function(prefixes):
        return logits[prefixes[..., -1]] if prefixes.shape[2] else torch.zeros(*prefixes.shape[:2], 3)

    for excluded in (None, torch.tensor([[7], [0]])):
        options = {"excluded": excluded, "normalise": normalise}
        exact = exact_topk(StepFunction(function, 2), trie, k=8, **options)
        for row, taken in enumerate([[], []] if excluded is None else excluded.tolist()):
            allowed = {1, 3, 7, 8} - set(taken)
            assert (
                set(exact.items[row, : len(allowed)].tolist()) == allowed and not exact.items[row, len(allowed) :].any()
            )
        if excluded is None and normalise == "children":
            torch.testing.assert_close(exact.scores.exp().sum(1), torch.full((2,), 2 / 3))
        for windows in WINDOWS:
            found = beam_search(StepFunction(function, 2), trie, beam_size=8, windows=windows, **options)
            assert torch.equal(found.items, exact.items)
            torch.testing.assert_close(found.scores, exact.scores)
    free = free_beam_search(StepFunction(function, 1), [3, 4], trie, beam_size=12)
    assert not free.scores.isnan().any()


def test_logits_may_be_wider_than_the_codebook():
    codes = np.array([[a, b] for a in range(2) for b in range(3)])
    trie = PrefixTrie.from_codes(codes, [2, 3])
    wide = ToyDecoder([5, 4], 2, seed=1)
    truth = literal_scores(wide, codes, 2)
    for windows in WINDOWS:
        found = beam_search(wide.fork(), trie, beam_size=6, windows=windows)
        torch.testing.assert_close(found.scores.double(), truth.sort(1, descending=True).values, atol=2e-5, rtol=0)
    free = free_beam_search(wide.fork(), [2, 3], trie, beam_size=6)
    assert torch.equal(free.items, found.items)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_of_any_type_are_ranked(dtype):
    scores = torch.tensor([[0.25, 2.0, -1.0, -torch.inf], [3.0, 3.0, 4.0, 0.0]], dtype=dtype)
    found = rank_items(torch.tensor([[5, 6, 7, 8], [9, 2, 4, 1]]), scores, 3)
    assert found.items.tolist() == [[6, 5, 7], [4, 2, 9]]


def test_equal_scores_are_ordered_by_item_number():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 5, 80) for _ in range(3)], 1)
    items = rng.permutation(80) + 1
    trie = PrefixTrie.from_codes(codes, 5, items)
    decoder = ToyDecoder([5] * 3, 4, scale=0.0)  # every ID equally likely
    for windows in WINDOWS:
        found = beam_search(decoder.fork(), trie, beam_size=100, k=30, windows=windows)
        assert found.items.tolist() == [list(range(1, 31))] * 4
    assert exact_topk(decoder.fork(), trie, k=30).items.tolist() == [list(range(1, 31))] * 4


@pytest.mark.parametrize("windows", WINDOWS)
def test_results_do_not_depend_on_the_batch(windows):
    rng = np.random.default_rng(5)
    codes = np.stack([rng.integers(0, 20, 400) for _ in range(3)], 1)
    trie = PrefixTrie.from_codes(codes, 20)
    decoder = ToyDecoder([20] * 3, 30)
    together = beam_search(decoder.fork(), trie, beam_size=8, windows=windows)
    shuffled = torch.from_numpy(rng.permutation(30))
    again = beam_search(decoder.select(shuffled), trie, beam_size=8, windows=windows)
    assert_same_ranking(again, together.items[shuffled], together.scores[shuffled])
    for user in range(0, 30, 7):
        alone = beam_search(decoder.select([user]), trie, beam_size=8, windows=windows)
        assert_same_ranking(alone, together.items[[user]], together.scores[[user]])


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("seed", range(8))
def test_excluded_items_never_appear_and_k_items_remain(seed, windows):
    rng = np.random.default_rng(seed)
    n_items, k = 120, 10
    codes = np.stack([rng.integers(0, 9, n_items) for _ in range(3)], 1)
    if seed % 2:
        codes = codes[rng.integers(0, n_items, n_items)]
    trie = PrefixTrie.from_codes(codes, 9)
    decoder = ToyDecoder([9] * 3, 6, seed)
    plain = beam_search(decoder.fork(), trie, beam_size=k, windows=windows)
    # The worst case: a user has seen everything that the beam would return, and more.
    seen = torch.cat([plain.items, torch.from_numpy(rng.integers(0, n_items + 1, (6, 30)))], 1)
    seen[0] = torch.arange(1, 41)
    masked = beam_search(decoder.fork(), trie, beam_size=k, excluded=seen, windows=windows)
    for user in range(6):
        left = set(range(1, n_items + 1)) - set(seen[user].tolist())
        found = masked.items[user].tolist()
        assert len(set(found)) == k and set(found) <= left
    # All but three items seen, then all of them: what remains is found, the rest is empty.
    everything = torch.arange(1, n_items + 1).expand(6, -1)
    rest = beam_search(decoder.fork(), trie, beam_size=k, excluded=everything[:, 3:], windows=windows)
    assert rest.items.sort(1).values[:, -3:].tolist() == [[1, 2, 3]] * 6
    assert (rest.items == 0).sum() == 6 * (k - 3) and torch.equal(rest.items == 0, rest.scores == -torch.inf)
    none = beam_search(decoder.fork(), trie, beam_size=k, excluded=everything, windows=windows)
    assert (none.items == 0).all() and (none.scores == -torch.inf).all()
    nothing = beam_search(decoder.fork(), trie, beam_size=k, excluded=seen[:, :0], windows=windows)
    assert torch.equal(nothing.items, plain.items)


def test_many_items_on_one_id_are_all_reached():
    codes = np.array([[0, 0]] * 30 + [[0, 1]] + [[1, 0]] * 5)
    trie = PrefixTrie.from_codes(codes, 2)
    decoder = ToyDecoder([2, 2], 2)
    scores = literal_scores(decoder, codes, 2)
    seen = torch.tensor([[1, 2, 3, 7], [31, 32, 0, 0]])
    for windows in WINDOWS:
        for k in (3, 20):
            found = beam_search(decoder.fork(), trie, beam_size=20, k=k, excluded=seen, windows=windows)
            for user in range(2):
                expected, _ = literal_topk(scores[user], range(1, 37), k, set(seen[user].tolist()))
                assert found.items[user].tolist() == expected


def test_legal_probabilities_of_all_items_sum_to_one():
    rng = np.random.default_rng(1)
    codes = np.unique(np.stack([rng.integers(0, size, 200) for size in (30, 6, 11)], 1), axis=0)
    trie = PrefixTrie.from_codes(codes, [30, 6, 11])
    decoder = ToyDecoder([30, 6, 11], 5)
    for temperature in (1.0, [0.5, 1.0, 3.0]):
        legal = exact_scores(decoder.fork(), trie, normalise="children", temperature=temperature).exp().sum(1)
        torch.testing.assert_close(legal, torch.ones(5), atol=1e-5, rtol=0)
        level = exact_scores(decoder.fork(), trie, temperature=temperature).exp().sum(1)
        assert (level < 0.999).all()


@pytest.mark.parametrize("windows", WINDOWS)
def test_legal_probabilities_do_not_depend_on_what_illegal_codewords_have(windows):
    """A model that is trained on legal continuations alone may give the others any logits."""
    codes = np.unique(np.random.default_rng(1).integers(0, 9, (60, 3)), axis=0)
    trie = PrefixTrie.from_codes(codes, 9)
    decoder = ToyDecoder([9] * 3, 5, scale=300.0)  # differences of many times what float32's exp can hold
    scores = exact_scores(decoder.fork(), trie, normalise="children")[:, 1:]
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(5))
    found = beam_search(decoder, trie, beam_size=len(codes), normalise="children", windows=windows)
    torch.testing.assert_close(found.scores, scores.gather(1, found.items - 1), atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize("windows", WINDOWS)
def test_temperature_divides_the_logits_of_its_level(windows):
    rng = np.random.default_rng(2)
    codes = np.stack([rng.integers(0, 6, 30) for _ in range(3)], 1)
    trie = PrefixTrie.from_codes(codes, 6)
    decoder = ToyDecoder([6] * 3, 2)
    cooled = ToyDecoder([6] * 3, 2)
    cooled.heads = [head / t for head, t in zip(cooled.heads, (0.5, 2.0, 7.0), strict=True)]
    found = beam_search(decoder.fork(), trie, beam_size=5, temperature=[0.5, 2.0, 7.0], windows=windows)
    expected = beam_search(cooled, trie, beam_size=5, windows=windows)
    assert_same_ranking(found, expected.items, expected.scores)
    halves = [
        beam_search(decoder.fork(), trie, beam_size=5, temperature=t, windows=windows) for t in (0.5, np.float32(0.5))
    ]
    assert torch.equal(halves[0].scores, halves[1].scores)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("temperature", [1.0, [2.0, 0.7]])
def test_samples_have_the_frequencies_of_sampling_without_replacement(windows, temperature):
    codes = np.array([[0, 0], [0, 1], [0, 3], [1, 1], [2, 0], [2, 2]])
    trie = PrefixTrie.from_codes(codes, [3, 4])
    n_draws = 20_000
    decoder = ToyDecoder([3, 4], 1, seed=4, scale=0.7)
    p = exact_scores(decoder.fork(), trie, normalise="children", temperature=temperature)[0, 1:].double().exp()
    decoder.users = decoder.state = decoder.users.expand(n_draws, -1, -1)
    generator = torch.Generator().manual_seed(0)

    def draw(beam_size, k=None):
        found = beam_search(
            decoder.fork(),
            trie,
            beam_size=beam_size,
            k=k,
            temperature=temperature,
            sample=True,
            generator=generator,
            windows=windows,
        )
        assert all(len(set(row)) == len(row) for row in found.items.tolist())
        assert (found.scores.diff(dim=1) <= 0).all()
        return found.items

    def assert_close(counts, expected):
        deviation = (counts - n_draws * expected) / (n_draws * expected * (1 - expected)).sqrt()
        assert deviation.abs().max() < 4.5, deviation

    # One item: the probabilities themselves; also when more are drawn than returned.
    assert_close(torch.bincount(draw(1)[:, 0], minlength=7)[1:], p)
    assert_close(torch.bincount(draw(3, k=1)[:, 0], minlength=7)[1:], p)
    # Two distinct items: every pair by p_i p_j / (1 - p_i) + p_j p_i / (1 - p_j).
    pairs = torch.tensor(list(itertools.combinations(range(6), 2)))
    i, j = p[pairs[:, 0]], p[pairs[:, 1]]
    found = draw(2).sort(1).values - 1
    counts = torch.stack([((found[:, 0] == a) & (found[:, 1] == b)).sum() for a, b in pairs.tolist()])
    assert_close(counts, i * j * (1 / (1 - i) + 1 / (1 - j)))


@pytest.mark.parametrize("windows", WINDOWS)
def test_samples_of_shared_ids_are_the_items_of_the_first_drawn(windows):
    """Two items on each of three IDs: a list of two is an ID, with the ID's probability."""
    trie = PrefixTrie.from_codes(np.array([[0], [1], [2], [0], [1], [2]]), 3)
    logits = torch.tensor([0.6, 0.3, 0.1]).log()
    decoder = StepFunction(lambda prefixes: logits.expand(len(prefixes), 1, -1), n_users=4000)
    options = {"beam_size": 2, "windows": windows, "sample": True, "generator": torch.Generator().manual_seed(0)}
    items = beam_search(decoder, trie, **options).items
    assert torch.equal(items[:, 0] + 3, items[:, 1])
    torch.testing.assert_close(torch.bincount(items[:, 0] - 1) / 4000, logits.exp(), atol=0.03, rtol=0)


def test_sampling_is_seeded_and_scored_by_the_model():
    rng = np.random.default_rng(2)
    codes = np.unique(np.stack([rng.integers(0, 9, 200) for _ in range(3)], 1), axis=0)
    trie = PrefixTrie.from_codes(codes, 9)
    decoder = ToyDecoder([9] * 3, 7)
    exact = exact_scores(decoder.fork(), trie)

    def draw(seed, **more):
        generator = torch.Generator().manual_seed(seed)
        return beam_search(decoder.fork(), trie, beam_size=10, sample=True, generator=generator, **more)

    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first.items, again.items) and torch.equal(first.scores, again.scores)
    assert not torch.equal(first.items, other.items)
    torch.testing.assert_close(first.scores, exact.gather(1, first.items), atol=1e-5, rtol=0)
    masked = draw(1, excluded=first.items)
    assert not (masked.items[:, :, None] == first.items[:, None, :]).any() and (masked.items > 0).all()


def test_free_search_ranks_every_code_and_marks_the_invalid_ones():
    rng = np.random.default_rng(7)
    sizes = [4, 3, 5]
    codes = np.stack([rng.integers(0, size, 12) for size in sizes], 1)
    trie = PrefixTrie.from_codes(codes, sizes)
    everything = np.array(list(itertools.product(*map(range, sizes))))
    decoder = ToyDecoder(sizes, 3)
    truth = literal_scores(decoder, everything, 3)
    item_of = {tuple(row): i + 1 for i, row in reversed(list(enumerate(codes.tolist())))}
    found = free_beam_search(decoder.fork(), sizes, trie, beam_size=70)
    assert found.codes.shape == (3, 70, 3)
    order = truth.argsort(1, descending=True)
    torch.testing.assert_close(found.scores[:, :60].double(), truth.gather(1, order), atol=1e-5, rtol=0)
    assert (found.scores[:, 60:] == -torch.inf).all() and not found.valid[:, 60:].any()
    assert torch.equal(found.codes[:, :60], torch.from_numpy(everything)[order])
    expected = [[item_of.get(tuple(row), 0) for row in user] for user in found.codes[:, :60].tolist()]
    assert found.items[:, :60].tolist() == expected
    assert found.valid.sum().item() == 3 * len(item_of)
    # A narrow one keeps what a narrow search over a trie of all codes keeps.
    full = PrefixTrie.from_codes(everything, sizes)
    narrow = free_beam_search(decoder.fork(), sizes, trie, beam_size=6, k=4, temperature=[1.0, 2.0, 0.5])
    same = beam_search(decoder.fork(), full, beam_size=6, k=4, temperature=[1.0, 2.0, 0.5])
    torch.testing.assert_close(narrow.scores, same.scores)
    assert torch.equal(narrow.codes, torch.from_numpy(everything)[same.items - 1])


def seq2seq_case(seed=0, n_items=60, tied=True):
    """A small model, a catalogue with its levels' token ranges, and padded histories of 0 to 20 items."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    sizes = [7, 5, 6, 3]
    starts = np.cumsum([1, *sizes])
    slices = [slice(int(a), int(b)) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    vocabulary = int(starts[-1]) + 10
    config = T5Config(
        vocabulary,
        d_model=24,
        d_kv=8,
        d_ff=40,
        num_heads=3,
        num_encoder_layers=2,
        num_decoder_layers=2,
        tie_word_embeddings=tied,
    )
    model = Seq2Seq(config).eval()
    codes = np.unique(np.stack([rng.integers(0, size, n_items) for size in sizes], 1), axis=0)
    lengths = np.concatenate([[0, 20, 1], rng.integers(0, 21, 6)])
    columns = 1 + 4 * 20
    ids = torch.zeros(len(lengths), columns, dtype=torch.long)
    for user, length in enumerate(lengths):
        ids[user, 0] = int(rng.integers(starts[-1], vocabulary))
        history = codes[rng.integers(0, len(codes), length)] + starts[:-1]
        ids[user, 1 : 1 + 4 * length] = torch.from_numpy(history.reshape(-1))
    return model, PrefixTrie.from_codes(codes, sizes), codes, slices, ids, ids > 0


def teacher_forced_scores(model, codes, slices, ids, mask):
    """[B, n] log-probabilities of all items by full decoding of every one."""
    tokens = torch.from_numpy(codes) + torch.tensor([s.start for s in slices])
    memory = model.encode(ids, mask)
    columns = []
    for row in tokens:
        target = row.expand(len(ids), -1)
        inputs = torch.cat([torch.zeros(len(ids), 1, dtype=torch.long), target[:, :-1]], 1)
        logits = model.logits(model.decode(inputs, memory, mask))
        steps = [logits[:, i, s].log_softmax(-1)[:, int(row[i]) - s.start] for i, s in enumerate(slices)]
        columns.append(sum(steps))
    return torch.stack(columns, 1)


@torch.no_grad()
def test_the_seq2seq_decoder_scores_as_teacher_forcing_does():
    model, trie, codes, slices, ids, mask = seq2seq_case()
    truth = teacher_forced_scores(model, codes, slices, ids, mask)

    def decoder(users=slice(None), columns=None):
        columns = slice(columns)
        memory = model.encode(ids[users][:, columns], mask[users][:, columns])
        return Seq2SeqStepDecoder(model, memory, mask[users][:, columns], slices)

    for max_rows in (9, 100, 10_000):
        exact = exact_scores(decoder(), trie, max_rows=max_rows)
        torch.testing.assert_close(exact[:, 1:], truth, atol=1e-5, rtol=0)
    expected = exact_topk(decoder(), trie, k=10)
    wide = beam_search(decoder(), trie, beam_size=len(codes), k=10)
    assert_same_ranking(wide, expected.items, expected.scores)
    narrow = beam_search(decoder(), trie, beam_size=5)
    order = [4, 0, 8, 2, 6]
    assert_same_ranking(beam_search(decoder(order), trie, beam_size=5), narrow.items[order], narrow.scores[order])
    for user in range(len(ids)):  # alone, and cut to its own length
        alone = beam_search(decoder([user], int(mask[user].sum())), trie, beam_size=5)
        assert_same_ranking(alone, narrow.items[[user]], narrow.scores[[user]])


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("beam_size", [3, 10])
def test_same_items_and_scores_as_hugging_face_generate(beam_size, tied):
    transformers = pytest.importorskip("transformers")
    model, trie, codes, slices, ids, mask = seq2seq_case(seed=3, tied=tied)
    c = model.config
    hf_config = transformers.T5Config(
        vocab_size=c.vocab_size,
        d_model=c.d_model,
        d_kv=c.d_kv,
        d_ff=c.d_ff,
        num_heads=c.num_heads,
        num_layers=c.num_encoder_layers,
        num_decoder_layers=c.num_decoder_layers,
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
        eos_token_id=None,
    )
    hf_config.tie_word_embeddings = tied  # transformers 5 ties whatever it is told and keeps the rest as the scaling
    reference = transformers.T5ForConditionalGeneration(hf_config).eval()
    reference.load_state_dict(model.to_hf_state_dict())
    starts = [s.start for s in slices]

    def allowed(_, sentence):
        prefix = [int(t) - start for t, start in zip(sentence[1:], starts, strict=False)]
        return (trie.next_codes(prefix) + starts[len(prefix)]).tolist()

    class OneLevel(transformers.LogitsProcessor):
        """Log-probabilities over the level's codebook, as ours are, instead of over the whole vocabulary."""

        def __call__(self, input_ids, scores):
            level = slices[input_ids.shape[1] - 1]
            out = torch.full_like(scores, -torch.inf)
            out[:, level] = scores[:, level].log_softmax(-1)
            return out

    from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

    generated = reference.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        num_beams=beam_size,
        num_return_sequences=beam_size,
        max_new_tokens=4,
        min_new_tokens=4,
        length_penalty=0.0,
        do_sample=False,
        logits_processor=[OneLevel(), PrefixConstrainedLogitsProcessor(allowed, beam_size)],
        output_scores=True,
        return_dict_in_generate=True,
    )
    tokens = generated.sequences[:, 1:5] - torch.tensor(starts)
    leaf = trie.find(tokens)
    assert (leaf >= 0).all()
    items = trie.items[leaf].long().view(len(ids), beam_size)
    scores = generated.sequences_scores.view(len(ids), beam_size)
    memory = model.encode(ids, mask)
    for windows in WINDOWS:
        found = beam_search(Seq2SeqStepDecoder(model, memory, mask, slices), trie, beam_size=beam_size, windows=windows)
        assert_same_ranking(found, items, scores, tolerance=1e-4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"beam_size": 3, "k": 4}, "1 to beam_size items"),
        ({"beam_size": 0}, "1 to beam_size items"),
        ({"beam_size": 3, "temperature": 0.0}, "positive"),
        ({"beam_size": 3, "temperature": [1.0]}, "names 1 levels"),
        ({"beam_size": 3, "normalise": "softmax"}, "normalise"),
        ({"beam_size": 3, "windows": "wide"}, "windows"),
        ({"beam_size": 3, "excluded": torch.zeros(2, dtype=torch.long)}, "excluded must be"),
        ({"beam_size": 3, "excluded": torch.zeros(3, 1, dtype=torch.long)}, "excluded names 3 users"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    trie = PrefixTrie.from_codes(np.array([[0, 1], [1, 1]]), 2)
    with pytest.raises(ValueError, match=message):
        beam_search(ToyDecoder([2, 2], 2), trie, **arguments)


def test_impossible_arguments_of_the_other_searches_are_refused():
    trie = PrefixTrie.from_codes(np.array([[0, 1], [1, 1]]), 2)
    with pytest.raises(ValueError, match="level_sizes"):
        free_beam_search(ToyDecoder([2, 2], 2), [2, 3], trie, beam_size=2)
    with pytest.raises(ValueError, match="normalise"):
        exact_scores(ToyDecoder([2, 2], 2), trie, normalise="all")
    with pytest.raises(ValueError, match="k must be"):
        exact_topk(ToyDecoder([2, 2], 2), trie, k=0)
    parallel = ParallelStepDecoder([torch.zeros(2, 2)] * 2, torch.zeros((3, 2), dtype=torch.long), lambda n: None)
    for shape, message in (((2,), "excluded must be"), ((3, 1), "excluded names 3 users")):
        excluded = torch.zeros(shape, dtype=torch.long)
        for decoder in (ToyDecoder([2, 2], 2), parallel):
            with pytest.raises(ValueError, match=message):
                exact_topk(decoder, trie, k=1, excluded=excluded)
        with pytest.raises(ValueError, match=message):
            graph_search(parallel, trie, k=1, beam_size=1, excluded=excluded)


def test_the_searches_load_no_network_and_no_framework():
    """`recbole_tiger.decoding` alone, without the plugin that the package registers when it is imported."""
    code = (
        "import sys, types; package = types.ModuleType('recbole_tiger'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['recbole_tiger'] = package\n"
        "import recbole_tiger.decoding, recbole_tiger.decoding.cold_start\n"
        "print(*(name for name in ('recbole', 'ray', 'scipy', 'sklearn', 'recbole_tiger.nn') if name in sys.modules))\n"
        "import recbole_tiger.nn\n"
        "print(*(name for name in ('recbole', 'ray', 'recbole_tiger.settings') if name in sys.modules))\n"
    )
    folder = Path(recbole_tiger.decoding.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "\n\n"
