"""The table of semantic IDs: collisions, look-ups, files, unseen items, report."""

import io
import json
from collections import Counter

import numpy as np
import pytest
import torch

from recbole_tiger.quantization import build_quantizer
from recbole_tiger.semantic_ids import COLLISIONS, SemanticIDTable, collisions


def names(n, prefix="i"):
    return [f"{prefix}{number}" for number in range(n)]


def catalogue(rng):
    """Random codes with many collisions."""
    id_length = int(rng.integers(1, 5))
    sizes = rng.integers(2, 9, size=id_length).tolist()
    n = int(rng.integers(1, 120))
    return rng.integers(0, sizes, size=(n, id_length)), sizes


# ---------------------------------------------------------------------- append


def test_the_papers_example():
    table = SemanticIDTable.from_codes(np.array([[12, 24, 52], [7, 1, 4], [12, 24, 52]]), ["a", "b", "c"], [256] * 3)
    assert table.codes.tolist() == [[-1] * 4, [12, 24, 52, 0], [7, 1, 4, 0], [12, 24, 52, 1]]
    assert table.codes.dtype == np.int64
    assert table.level_sizes == (256, 256, 256, 256)
    assert (table.id_length, table.length, table.n_items, table.collision) == (3, 4, 3, "append")
    assert table.items.tolist() == ["[PAD]", "a", "b", "c"]
    assert table.is_unique and table.has_collision_column


@pytest.mark.parametrize("seed", range(20))
def test_append_counts_in_item_order(seed):
    codes, sizes = catalogue(np.random.default_rng(seed))
    table = SemanticIDTable.from_codes(codes, names(len(codes)), sizes)
    seen = Counter()
    for row, full in zip(codes.tolist(), table.codes[1:].tolist(), strict=True):
        assert full == [*row, seen[tuple(row)]]
        seen[tuple(row)] += 1
    assert table.is_unique
    assert table.level_sizes == (*sizes, max(sizes[-1], max(seen.values())))


def test_ids_too_many_for_64_bits():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, size=(500, 12)) * (2**15 - 1)
    codes[250:] = codes[:250]
    table = SemanticIDTable.from_codes(codes, names(500), [2**15] * 12)
    assert table.is_unique
    assert table.report()["largest_group"] == max(Counter(map(tuple, codes.tolist())).values())
    np.testing.assert_array_equal(table.prefix_groups(12), np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1))


# ---------------------------------------------------------------------- reassign


def literal_reassign(codes, sizes, costs, movable=None):
    """Prefix by prefix: the nearest keeps the ID; then again and again the cheapest pair of item and free code."""
    codes = codes.copy()
    movable = np.ones(len(codes), bool) if movable is None else movable
    left = 0
    for prefix in np.unique(codes[:, :-1], axis=0):
        members = np.flatnonzero((codes[:, :-1] == prefix).all(1))
        taken = {codes[m, -1] for m in members}
        homeless = []
        for code in sorted(taken):
            group = [m for m in members if codes[m, -1] == code]
            if all(movable[m] for m in group):
                keeper = min(group, key=lambda m: (costs[m, code], m))
                group.remove(keeper)
            homeless += [m for m in group if movable[m]]
        while True:
            pairs = [(costs[m, c], m, c) for m in homeless for c in range(sizes[-1]) if c not in taken]
            pairs = [pair for pair in pairs if np.isfinite(pair[0])]
            if not pairs:
                break
            _, item, code = min(pairs)
            codes[item, -1] = code
            taken.add(code)
            homeless.remove(item)
        left += len(homeless)
    return codes, left


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("entries", [1 << 24, 16])
def test_reassign_is_the_literal_one(seed, entries, monkeypatch):
    monkeypatch.setattr(collisions, "COST_ENTRIES", entries)  # with 16, one prefix at a time
    rng = np.random.default_rng(seed)
    codes, sizes = catalogue(rng)
    if seed % 3 == 0:
        costs = rng.integers(0, 4, size=(len(codes), sizes[-1])).astype(np.float32)  # many ties
    else:
        costs = rng.random((len(codes), sizes[-1]), dtype=np.float32)
    if seed % 5 == 0:
        costs[rng.random(costs.shape) < 0.3] = np.inf
    expected, left = literal_reassign(codes, sizes, costs)
    table = SemanticIDTable.from_codes(codes, names(len(codes)), sizes, "reassign", level_costs=costs)
    np.testing.assert_array_equal(table.codes[1:, : len(sizes)], expected)
    assert table.n_unresolved == left and table.has_collision_column == (left > 0)
    # what it promises
    np.testing.assert_array_equal(table.codes[1:, : len(sizes) - 1], codes[:, :-1])
    assert table.is_unique
    assert table.n_reassigned == (expected != codes).any(1).sum()
    alone = np.array(
        [count == 1 for count in (Counter(map(tuple, codes.tolist()))[tuple(row)] for row in codes.tolist())]
    )
    np.testing.assert_array_equal(expected[alone], codes[alone])
    if not np.isinf(costs).any():
        _, prefix, count = np.unique(codes[:, :-1], axis=0, return_inverse=True, return_counts=True)
        room = count[prefix.reshape(-1)] <= sizes[-1]
        final = Counter(map(tuple, expected.tolist()))
        assert all(final[tuple(row)] == 1 for row in expected[room].tolist()), "a collision beside a free code"


def test_costs_as_function_and_as_matrix_and_of_a_quantizer(monkeypatch):
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((150, 6)), 2, axis=0) + 0.05 * rng.standard_normal((300, 6))
    quantizer = build_quantizer("rkmeans", codebook_size=[3, 4, 60])
    codes = quantizer.fit_transform(x)
    asked = []

    def costs(rows):
        asked.append(len(rows))
        return quantizer.last_level_costs(x[rows], codes[rows])

    matrix = quantizer.last_level_costs(x, codes)
    monkeypatch.setattr(collisions, "COST_ENTRIES", 60 * 40)
    table = SemanticIDTable.from_codes(codes, names(300), [3, 4, 60], "reassign", level_costs=costs)
    same = SemanticIDTable.from_codes(codes, names(300), [3, 4, 60], "reassign", level_costs=matrix)
    np.testing.assert_array_equal(table.codes, same.codes)
    assert table.is_unique and table.length == 3 and table.n_reassigned > 50
    assert len(asked) > 3 and sum(asked) < 300  # in parts, and only where items collide
    # nearest free code: nearer than codes drawn at random among the free ones would be
    moved = np.flatnonzero((table.codes[1:] != codes).any(1))
    assert matrix[moved, table.codes[1 + moved, -1]].mean() < 0.7 * matrix[moved].mean()


def test_without_costs_the_lowest_free_code_is_taken():
    table = SemanticIDTable.from_codes(np.array([[1, 2], [1, 2], [1, 0], [0, 2], [1, 2]]), names(5), [2, 4], "reassign")
    assert table.codes[1:].tolist() == [[1, 2], [1, 1], [1, 0], [0, 2], [1, 3]]
    assert (table.n_reassigned, table.n_unresolved) == (2, 0)


def test_more_items_than_codes_fall_back_to_an_extra_token():
    codes = np.array([[0, 1]] * 5 + [[1, 0]])
    table = SemanticIDTable.from_codes(codes, names(6), [2, 3], "reassign")
    assert table.length == 3 and table.is_unique and table.level_sizes == (2, 3, 3)
    report = table.report()
    assert (report["n_reassigned"], report["n_unresolved"], report["has_collision_column"]) == (2, 2, True)
    assert table.codes[1:].tolist() == [[0, 1, 0], [0, 0, 0], [0, 2, 0], [0, 1, 1], [0, 1, 2], [1, 0, 0]]


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (np.zeros((4, 2)), r"\[n_items, last codebook size\] = \(4, 3\)"),
        (lambda rows: np.zeros((1, 3)), r"must return \[rows, last codebook size\]"),
        (np.full((4, 3), np.nan), "NaN"),
    ],
)
def test_wrong_costs(costs, message):
    with pytest.raises(ValueError, match=message):
        SemanticIDTable.from_codes(np.zeros((4, 2), int), names(4), [2, 3], "reassign", level_costs=costs)


# ---------------------------------------------------------------------- none


def test_none_keeps_collisions():
    codes = np.array([[1, 2], [1, 2], [0, 2]])
    table = SemanticIDTable.from_codes(codes, names(3), [2, 3], "none")
    assert table.codes[1:].tolist() == codes.tolist() and table.level_sizes == (2, 3)
    assert not table.is_unique and not table.has_collision_column


# ---------------------------------------------------------------------- unseen items


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("collision", ["append", "reassign", "none"])
def test_adding_items_leaves_the_seen_ones_alone(seed, collision):
    rng = np.random.default_rng(seed)
    codes, sizes = catalogue(rng)
    n = len(codes)
    table = SemanticIDTable.from_codes(codes, names(n), sizes, collision)
    fresh = rng.integers(0, sizes, size=(int(rng.integers(0, 60)), len(sizes)))
    costs = rng.random((len(fresh), sizes[-1]), dtype=np.float32)
    larger = table.add_items(fresh, names(len(fresh), "new"), level_costs=costs)
    np.testing.assert_array_equal(larger.codes[: n + 1, : table.length], table.codes)
    assert larger.items.tolist() == ["[PAD]", *names(n), *names(len(fresh), "new")]
    assert all(after >= before for before, after in zip(table.level_sizes, larger.level_sizes, strict=False))
    assert (larger.codes[1:].max(0) < larger.level_sizes).all()
    assert larger.is_unique or collision == "none"
    if collision == "append":
        together = SemanticIDTable.from_codes(np.concatenate([codes, fresh]), larger.items[1:], sizes)
        np.testing.assert_array_equal(larger.codes, together.codes)
    if collision == "reassign":
        both = np.concatenate([table.codes[1:, : len(sizes)], fresh])
        all_costs = np.concatenate([np.zeros((n, sizes[-1]), np.float32), costs])
        expected, left = literal_reassign(both, sizes, all_costs, np.arange(len(both)) >= n)
        np.testing.assert_array_equal(larger.codes[1:, : len(sizes)], expected)
        assert larger.n_unresolved == table.n_unresolved + left


def test_vocabulary_of_the_extra_token_grows_when_it_must():
    table = SemanticIDTable.from_codes(np.zeros((2, 2), int), names(2), [2, 2])
    assert table.level_sizes == (2, 2, 2)
    larger = table.add_items(np.array([[0, 0], [1, 1], [0, 0]]), ["x", "y", "z"])
    assert larger.level_sizes == (2, 2, 4)
    assert larger.codes[3:].tolist() == [[0, 0, 2], [1, 1, 0], [0, 0, 3]]
    smaller_group = larger.add_items(np.array([[1, 1]]), ["w"])
    assert smaller_group.level_sizes == (2, 2, 4)


def test_adding_a_known_item():
    table = SemanticIDTable.from_codes(np.zeros((2, 2), int), names(2), [2, 2])
    with pytest.raises(ValueError, match="in the table already, such as i1"):
        table.add_items(np.ones((2, 2), int), ["x", "i1"])


# ---------------------------------------------------------------------- looking up


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("collision", ["append", "none"])
def test_prefix_groups(seed, collision):
    rng = np.random.default_rng(seed)
    codes, sizes = catalogue(rng)
    table = SemanticIDTable.from_codes(codes, names(len(codes)), sizes, collision)
    for depth in range(table.length + 1):
        groups = table.prefix_groups(depth)
        prefixes = [tuple(row[:depth]) for row in table.codes[1:].tolist()]
        order = {prefix: number for number, prefix in enumerate(sorted(set(prefixes)))}
        assert groups.tolist() == [order[prefix] for prefix in prefixes]
    with pytest.raises(ValueError, match="depth="):
        table.prefix_groups(table.length + 1)


def test_table_is_read_only():
    table = SemanticIDTable.from_codes(np.zeros((2, 2), int), names(2), [2, 2])
    with pytest.raises(ValueError, match="read-only"):
        table.codes[0] = 1


# ---------------------------------------------------------------------- saving


@pytest.mark.parametrize("collision", ["append", "reassign", "none"])
def test_state(collision):
    codes, sizes = catalogue(np.random.default_rng(3))
    table = SemanticIDTable.from_codes(codes, names(len(codes)), sizes, collision)
    file = io.BytesIO()
    torch.save(table.state_dict(), file)
    file.seek(0)
    loaded = SemanticIDTable.from_state_dict(torch.load(file, weights_only=True))
    np.testing.assert_array_equal(loaded.codes, table.codes)
    np.testing.assert_array_equal(loaded.items, table.items)
    assert loaded.report() == table.report() and loaded.level_sizes == table.level_sizes
    assert repr(loaded) == repr(table)


def test_file_there_and_back(tmp_path):
    codes, sizes = catalogue(np.random.default_rng(5))
    items = [f'ä "{number}"' for number in range(len(codes))]
    table = SemanticIDTable.from_codes(codes, items, sizes)
    path = tmp_path / "made" / "ids.json"
    table.to_file(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content == dict(zip(items, table.codes[1:].tolist(), strict=True))
    back = SemanticIDTable.from_file(path, items[::-1], codebook_sizes=table.level_sizes)
    np.testing.assert_array_equal(back.codes[1:][::-1], table.codes[1:])
    assert back.length == table.length and not back.has_collision_column  # nothing collides, nothing is added
    assert [file.name for file in path.parent.iterdir()] == ["ids.json"]


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "ids.json"
    table = SemanticIDTable.from_codes(np.array([[0], [1]]), names(2), [2])
    other = SemanticIDTable.from_codes(np.array([[1], [0]]), names(2), [2])
    table.to_file(path)
    table.to_file(path)  # the same content is no conflict
    with pytest.raises(ValueError, match="ids.json exists and differs"):
        other.to_file(path)
    path.with_name("not.json").write_bytes(b"\xff")
    for elsewhere in (path.with_name("not.json"), tmp_path):
        with pytest.raises(ValueError, match="semantic_id_file=.* exists and differs"):
            table.to_file(elsewhere)
    other.to_file(path, overwrite=True)
    assert json.loads(path.read_text()) == {"i0": [1, 0], "i1": [0, 0]}


def test_file_with_collisions(tmp_path):
    path = tmp_path / "ids.json"
    path.write_text(json.dumps({"b": [4, 1], "a": [4, 1], "c": [0, 2], "not asked for": [9, 9]}))
    appended = SemanticIDTable.from_file(path, ["a", "b", "c"])
    assert appended.codes[1:].tolist() == [[4, 1, 0], [4, 1, 1], [0, 2, 0]] and appended.level_sizes == (5, 3, 3)
    moved = SemanticIDTable.from_file(path, ["a", "b", "c"], "reassign")
    assert moved.codes[1:].tolist() == [[4, 1], [4, 0], [0, 2]] and moved.level_sizes == (5, 3)
    assert SemanticIDTable.from_file(path, ["a", "b", "c"], "none").length == 2
    fresh = SemanticIDTable.from_file(path, ["a", "c"]).add_items(np.array([[4, 1]]), ["d"])
    assert fresh.codes[1:].tolist() == [[4, 1, 0], [0, 2, 0], [4, 1, 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[[1, 2]]", "one object"),
        ('{"i0": [1]}', "no ID for 4 of 5 items, such as i1, i2, i3"),
        ('{"i0": [1, 2], "i1": [1], "i2": [1, 1], "i3": [1, 1], "i4": [1, 1]}', "item i1 has 1 codes, item i0 has 2"),
        ('{"i0": [1, -2], "i1": [1, 1], "i2": [1, 1], "i3": [1, 1], "i4": [1, 1]}', "item i0 .*whole numbers from 0"),
        ('{"i0": [1, 2.0], "i1": [1, 1], "i2": [1, 1], "i3": [1, 1], "i4": [1, 1]}', "item i0 .*whole numbers"),
        ('{"i0": [1, true], "i1": [1, 1], "i2": [1, 1], "i3": [1, 1], "i4": [1, 1]}', "item i0 .*whole numbers"),
        ('{"i0": "1,2", "i1": [1, 1], "i2": [1, 1], "i3": [1, 1], "i4": [1, 1]}', "item i0 needs a list of codes"),
        ('{"i0": [], "i1": [], "i2": [], "i3": [], "i4": []}', "item i0 needs a list of codes"),
    ],
)
def test_unusable_files(tmp_path, content, message):
    path = tmp_path / "ids.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"semantic_id_file=.*ids.json.*{message}"):
        SemanticIDTable.from_file(path, names(5))


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="semantic_id_file=.*none.json cannot be read: No such file"):
        SemanticIDTable.from_file(tmp_path / "none.json", names(1))
    with pytest.raises(ValueError, match="cannot be read"):
        SemanticIDTable.from_file(tmp_path, names(1))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not JSON"):
        SemanticIDTable.from_file(tmp_path / "binary.json", names(1))


# ---------------------------------------------------------------------- report


def test_report_by_hand():
    codes = np.array([[0, 1], [0, 1], [0, 1], [2, 0], [2, 3], [2, 3], [2, 2], [0, 0]])
    report = SemanticIDTable.from_codes(codes, names(8), [4, 4]).report()
    assert json.loads(json.dumps(report))  # plain types
    assert report["n_items"] == 8 and report["collision"] == "append"
    first, second = report["levels"]
    assert (first["size"], first["used"], first["usage"]) == (4, 2, 0.5)
    assert first["entropy"] == pytest.approx(1.0) and first["perplexity"] == pytest.approx(2.0)
    shares = np.array([2, 3, 1, 2]) / 8
    assert second["entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())
    assert second["used"] == 4
    assert report["distinct_prefixes"] == [2, 5]
    assert report["items_in_collisions"] == 5 and report["collision_groups"] == 2 and report["largest_group"] == 3
    assert report["group_sizes"] == {1: 3, 2: 1, 3: 1}


def test_one_item():
    for collision in COLLISIONS:
        table = SemanticIDTable.from_codes(np.array([[1, 0, 2]]), ["only"], [3, 3, 3], collision)
        report = table.report()
        assert report["largest_group"] == 1 and report["levels"][0]["perplexity"] == 1
        assert table.is_unique


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("codes", "items", "sizes", "message"),
    [
        (np.zeros((2, 2), int), names(3), [2, 2], "2 rows of codes, but 3 items"),
        (np.zeros((2, 2), int), ["a", "a"], [2, 2], "a appears more than once"),
        (np.zeros((2, 2), int), names(2), [2, 2, 2], r"\[n_items, 3\]"),
        (np.zeros(2, int), names(2), [2], r"\[n_items, 1\]"),
        (np.full((2, 2), 2), names(2), [3, 2], "codes must lie in"),
        (np.full((2, 2), -1), names(2), [3, 2], "codes must lie in"),
        (np.zeros((2, 2)), names(2), [2, 2], "whole numbers"),
    ],
)
def test_codes_that_do_not_fit(codes, items, sizes, message):
    with pytest.raises(ValueError, match=message):
        SemanticIDTable.from_codes(codes, items, sizes)


def test_unknown_collision():
    for make in (lambda: SemanticIDTable.from_codes(np.zeros((1, 1), int), ["a"], [2], "drop"),):
        with pytest.raises(ValueError, match="collision='drop'.*append, reassign, none"):
            make()
