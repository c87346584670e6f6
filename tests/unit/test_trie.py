"""The prefix trie against a literal one in dictionaries, over random catalogues of every shape."""

import numpy as np
import pytest
import torch

from recbole_tiger.decoding import PrefixTrie
from recbole_tiger.decoding.trie_arrays import lexicographic_order


def random_catalogue(rng, max_items=300, max_depth=8, max_codebook=300, skew=True):
    """Codes [n, L] with many shared prefixes and, often, duplicate rows; sizes of the codebooks."""
    depth = int(rng.integers(1, max_depth + 1))
    n_items = int(rng.integers(1, max_items + 1))
    sizes = [int(rng.integers(1, max_codebook + 1)) for _ in range(depth)]
    used = [int(rng.integers(1, size + 1)) if skew else size for size in sizes]
    codes = np.stack([rng.integers(0, u, n_items) for u in used], 1)
    return codes, sizes


def literal_children(codes, prefix):
    depth = len(prefix)
    return sorted({int(row[depth]) for row in codes if tuple(row[:depth]) == tuple(prefix)})


@pytest.mark.parametrize("seed", range(40))
def test_every_prefix_has_the_children_of_a_literal_trie(seed):
    rng = np.random.default_rng(seed)
    codes, sizes = random_catalogue(rng, max_items=60)
    trie = PrefixTrie.from_codes(codes, sizes)
    for level in range(trie.depth):
        prefixes = sorted({tuple(row[: level + 1].tolist()) for row in codes})
        assert trie.n_nodes[level] == len(prefixes)
        nodes = trie.find(torch.tensor(prefixes))
        assert nodes.tolist() == list(range(len(prefixes)))  # ranked in lexicographic order
        first, count = trie.children(level, nodes)
        low, high = trie.item_range(level, nodes)
        for i, prefix in enumerate(prefixes):
            below = sorted(
                (tuple(row), n + 1) for n, row in enumerate(codes.tolist()) if tuple(row[: level + 1]) == prefix
            )
            assert trie.items[low[i] : high[i]].tolist() == [item for _, item in below]
            if level + 1 < trie.depth:
                wanted = literal_children(codes, prefix)
                assert trie.tokens[level + 1][first[i] : first[i] + count[i]].tolist() == wanted
                assert trie.next_codes(prefix).tolist() == wanted
        counts = [len(literal_children(codes, p)) for p in {q[:-1] for q in prefixes}]
        assert trie.max_degree[level] == max(counts)
        if level:
            dense = trie.dense_children(level - 1)
            parents = torch.repeat_interleave(trie.children(level - 1, torch.arange(trie.n_nodes[level - 1]))[1])
            assert (dense >= 0).sum() == trie.n_nodes[level]
            assert torch.equal(dense[parents, trie.tokens[level].long()].long(), torch.arange(trie.n_nodes[level]))
            assert torch.equal(trie.parent(level, torch.arange(trie.n_nodes[level])), parents)


@pytest.mark.parametrize("seed", range(20))
def test_items_codes_positions_and_find_are_inverse_to_each_other(seed):
    rng = np.random.default_rng(100 + seed)
    codes, sizes = random_catalogue(rng)
    items = rng.permutation(2 * len(codes))[: len(codes)] + 1
    trie = PrefixTrie.from_codes(codes, sizes, items)
    by_item = {int(item): row.tolist() for item, row in zip(items, codes, strict=True)}
    assert [by_item[item] for item in trie.items.tolist()] == trie.codes().tolist()
    # Leaves in lexicographic order, the items of one leaf in ascending number.
    assert list(zip(trie.codes().tolist(), trie.items.tolist(), strict=True)) == sorted(
        (row, item) for item, row in by_item.items()
    )
    assert torch.equal(trie.position(trie.items.long()), torch.arange(trie.n_items))
    absent = torch.tensor([0, -3, int(items.max()) + 1, 10**9])
    assert trie.position(absent).tolist() == [trie.n_items] * 4
    leaf = trie.find(torch.from_numpy(codes))
    assert torch.equal(trie.parent(trie.depth, trie.position(torch.from_numpy(items))), leaf)
    assert trie.has_duplicates == (len({tuple(row) for row in codes.tolist()}) < len(codes))


@pytest.mark.parametrize("seed", range(10))
def test_find_tells_ids_that_are_no_items(seed):
    rng = np.random.default_rng(seed)
    codes, sizes = random_catalogue(rng, max_depth=4, max_codebook=6)
    trie = PrefixTrie.from_codes(codes, sizes)
    asked = np.stack([rng.integers(0, size, 500) for size in sizes], 1)
    known = {tuple(row) for row in codes.tolist()}
    assert (trie.find(torch.from_numpy(asked)) >= 0).tolist() == [tuple(row) in known for row in asked.tolist()]
    assert trie.find(torch.from_numpy(asked).view(5, 100, -1)).shape == (5, 100)


@pytest.mark.parametrize(
    "sizes",
    [
        [256] * 4,
        [65536] * 3,
        [65536] * 4,
        [65536] * 8,
        [2] * 8,
        [256] * 8,
        [1, 300, 65536, 1, 2],
        [4, 16, 256],
    ],
)
def test_one_sort_key_or_several_give_the_stablelexicographic_order(sizes):
    rng = np.random.default_rng(len(sizes))
    codes = np.stack([rng.choice(rng.integers(0, s, 3), 2000) for s in sizes], 1)
    expected = sorted(range(len(codes)), key=lambda row: codes[row].tolist())  # Python's sort is stable
    assert lexicographic_order(codes, sizes).tolist() == expected
    trie = PrefixTrie.from_codes(codes, sizes)
    assert torch.equal(trie.codes(), torch.from_numpy(codes[expected]))


@pytest.mark.parametrize("seed", range(10))
def test_exhausted_nodes_are_found_and_counted_once(seed):
    rng = np.random.default_rng(seed)
    codes, sizes = random_catalogue(rng, max_items=40, max_depth=3, max_codebook=4)
    trie = PrefixTrie.from_codes(codes, sizes)
    gone = torch.from_numpy(rng.integers(0, len(codes) + 3, (4, 25)))  # repeated, padding and unknown ones
    exhausted = trie.exhausted(gone)
    for level in range(trie.depth):
        nodes = torch.arange(trie.n_nodes[level])
        low, high = trie.item_range(level, nodes)
        for row, taken in enumerate(map(set, gone.tolist())):
            empty = [set(trie.items[i:j].tolist()) <= taken for i, j in zip(low, high, strict=True)]
            assert exhausted.has(level, torch.tensor(row), nodes).tolist() == empty
            for start in range(len(nodes)):
                asked = (torch.tensor(number) for number in (row, start, len(nodes) - start))
                assert exhausted.count(level, *asked) == sum(empty[start:])
        rows, found = exhausted.pairs(level)
        assert len(set(zip(rows.tolist(), found.tolist(), strict=True))) == len(rows)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_codes_of_any_integer_type(dtype):
    codes = np.array([[1, 0], [0, 2], [1, 2]])
    assert PrefixTrie.from_codes(codes.astype(dtype), [2, 3]).items.tolist() == [2, 1, 3]
    descending = np.array([9, 7, 5], dtype=dtype)  # unsigned numbers have no negative differences
    assert PrefixTrie.from_codes(codes[[0, 0, 0]], [2, 3], descending).items.tolist() == [5, 7, 9]


def test_the_arrays_survive_moving():
    rng = np.random.default_rng(3)
    codes, sizes = random_catalogue(rng, max_codebook=5, max_depth=4)
    trie = PrefixTrie.from_codes(codes, sizes)
    assert trie.to("cpu") is trie
    moved = trie.to("meta")
    assert moved.device.type == "meta" and moved.n_nodes == trie.n_nodes and moved.max_degree == trie.max_degree


def test_a_single_item():
    trie = PrefixTrie.from_codes(np.array([[3, 0, 7]]), 8)
    assert trie.n_nodes == (1, 1, 1) and trie.max_degree == (1, 1, 1, 1)
    assert trie.next_codes([]).tolist() == [3] and trie.next_codes([3, 0]).tolist() == [7]
    assert trie.next_codes([2]).tolist() == []


@pytest.mark.parametrize("sizes", [[256, 256, 256, 64], [256] * 8, [65536, 65536], [4096] * 5])
def test_at_most_sixteen_bytes_per_item(sizes):
    rng = np.random.default_rng(0)
    n_items = 200_000
    # Skewed like learned codes: a few codewords hold most items, and later ones depend on earlier ones.
    codes = np.stack([(s * rng.random(n_items) ** 3).astype(np.int64) for s in sizes], 1)
    trie = PrefixTrie.from_codes(codes, sizes)
    assert trie.nbytes <= 16 * n_items
    sample = rng.integers(0, n_items, 1000)
    assert (trie.items[trie.position(torch.from_numpy(sample + 1))].numpy() == sample + 1).all()
    found = trie.find(torch.from_numpy(codes[sample]))
    assert torch.equal(found, trie.parent(trie.depth, trie.position(torch.from_numpy(sample + 1))))


@pytest.mark.parametrize(
    "codes, sizes, items, message",
    [
        (np.zeros((0, 2), int), 4, None, "empty"),
        (np.zeros((3, 66), int), 4, None, "1 to 65 codewords"),
        (np.zeros((3, 2)), 4, None, "integers"),
        (np.zeros(3, int), 4, None, "integers"),
        (np.array([[1, 4]]), 4, None, "level 1 has codes from 4 to 4, outside its codebook of 4"),
        (np.array([[-1, 2]]), 4, None, "level 0 has codes from -1"),
        (np.array([[1, 2]]), [4, 4, 4], None, "names 3 codebooks"),
        (np.array([[1, 2]]), [4, 70_000], None, "between 1 and 65536"),
        (np.array([[1, 2], [1, 3]]), 4, np.array([7, 7]), "twice"),
        (np.array([[1, 2], [1, 3]]), 4, np.array([0, 1]), "item numbers must lie"),
        (np.array([[1, 2], [1, 3]]), 4, np.array([1]), "2 integers"),
    ],
)
def test_impossible_catalogues_are_refused(codes, sizes, items, message):
    with pytest.raises(ValueError, match=message):
        PrefixTrie.from_codes(codes, sizes, items)


def test_prefixes_that_are_too_long_are_refused():
    trie = PrefixTrie.from_codes(np.array([[1, 2]]), 4)
    with pytest.raises(ValueError, match="no codeword follows"):
        trie.next_codes([1, 2])
