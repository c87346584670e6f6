"""The report on Semantic IDs: each number against a literal computation, then the tables and the page."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from recbole_tiger.analysis import id_categories, id_metrics
from recbole_tiger.analysis.id_report import IDSet, id_report
from recbole_tiger.report.semantic_ids import format_report, semantic_ids_page


def measured(sets, **given):
    """The report as its stored file has it."""
    return asdict(id_report(sets, **given))


def catalogue(n=120, seed=0, sizes=(4, 5, 6)):
    """Codes, embeddings, category paths and titles in which the first code is the top category, mostly."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, n) for size in sizes], axis=1)
    centres = rng.normal(size=(sizes[0], 8)) * 5
    embeddings = (centres[codes[:, 0]] + rng.normal(size=(n, 8))).astype(np.float32)
    tops = np.where(rng.random(n) < 0.9, codes[:, 0], rng.integers(0, sizes[0], n))
    paths = [["All", f"top {top}", f"leaf {top}{code}"] for top, code in zip(tops, codes[:, 1], strict=True)]
    paths[3] = ["All", "top 0"]
    paths[5] = []
    titles = [f"item {number}" for number in range(n)]
    return codes, embeddings, paths, titles


@pytest.fixture(scope="module")
def full():
    codes, embeddings, paths, titles = catalogue()
    shuffled = np.random.default_rng(9).permutation(codes)
    sets = {
        "good": IDSet(codes, (4, 5, 8)),
        "shuffled": IDSet(shuffled),
        "short": IDSet(codes[:, :2]),
    }
    return sets, embeddings, paths, titles, measured(sets, embeddings=embeddings, categories=paths, titles=titles)


def prefixes(codes, depth):
    return [tuple(row[:depth]) for row in codes.tolist()]


# ---------------------------------------------------------------------------------------------------- numbers


def test_usage_entropy_and_perplexity_by_hand():
    codes = np.array([[0, 7], [0, 7], [1, 7], [3, 7]])
    first, second = id_metrics.level_usage(codes, [8, 8])
    assert asdict(first) == {
        "level": 1,
        "codebook_size": 8,
        "used": 3,
        "usage": 3 / 8,
        "entropy": 1.5,
        "perplexity": 2**1.5,
    }
    assert (second.used, second.entropy, second.perplexity) == (1, 0.0, 1.0)
    assert str(second.entropy) == "0.0"


@pytest.mark.parametrize("seed", range(5))
def test_collisions_and_prefixes_by_counting(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 200))
    codes = rng.integers(0, [3, 200, 4], (n, 3))
    report = measured({"x": IDSet(codes)})["sets"]["x"]
    for depth in (1, 2, 3):
        counted = Counter(prefixes(codes, depth))
        assert report["prefixes"][depth - 1] == {
            "depth": depth,
            "count": len(counted),
            "largest": max(counted.values()),
        }
    assert report["collisions"] == {
        "distinct": len(counted),
        "colliding_items": sum(size for size in counted.values() if size > 1),
        "largest_group": max(counted.values()),
        "histogram": [list(pair) for pair in sorted(Counter(counted.values()).items())],
    }


@pytest.mark.parametrize("kind", ["leaf", "top"])
def test_purity_and_mutual_information(full, kind):
    sets, _, paths, _, report = full
    for name in ("good", "shuffled", "short"):
        codes = sets[name].codes
        label = {"leaf": lambda path: path[-1] if path else None, "top": lambda path: path[1] if path[1:] else None}
        known = [(i, label[kind](path)) for i, path in enumerate(paths) if label[kind](path)]
        for depth in range(1, codes.shape[1] + 1):
            groups = defaultdict(Counter)
            for i, value in known:
                groups[tuple(codes[i, :depth])][value] += 1
            pure = sum(max(counter.values()) for counter in groups.values()) / len(known)
            numbers = {prefix: number for number, prefix in enumerate(groups)}
            nmi = normalized_mutual_info_score(
                [value for _, value in known], [numbers[tuple(codes[i, :depth])] for i, _ in known]
            )
            at = report["sets"][name]["categories"][kind][depth - 1]
            assert at["purity"] == pytest.approx(pure) and at["nmi"] == pytest.approx(nmi)


def test_real_ids_stand_out_from_shuffled_ones(full):
    good, shuffled = (full[-1]["sets"][name] for name in ("good", "shuffled"))
    assert good["categories"]["top"][0]["purity"] > 0.85 and good["categories"]["top"][0]["nmi"] > 0.6
    for ids, factor in ((good, 2.0), (shuffled, 0.0)):
        at = ids["categories"]["top"][0]
        gain = at["purity"] - at["purity_shuffled"]
        assert gain > 0.4 if factor else abs(gain) < 0.12
    assert good["neighbors"][0]["kept"] > 0.95
    assert shuffled["neighbors"][0]["kept"] == pytest.approx(shuffled["neighbors"][0]["shuffled"], abs=0.06)


def test_neighbours_by_scikit_learn(full):
    sets, embeddings, _, _, report = full
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    nearest = NearestNeighbors(n_neighbors=11, metric="cosine", algorithm="brute").fit(unit).kneighbors(unit)[1]
    nearest = [[j for j in row if j != i][:10] for i, row in enumerate(nearest)]
    for name in ("good", "short"):
        codes = sets[name].codes
        for depth in range(1, codes.shape[1] + 1):
            ids = prefixes(codes, depth)
            same = [ids[i] == ids[j] for i, row in enumerate(nearest) for j in row]
            assert report["sets"][name]["neighbors"][depth - 1]["kept"] == pytest.approx(np.mean(same))


def test_expected_neighbours_of_shuffled_ids():
    """The closed form against many random dealings."""
    rng = np.random.default_rng(0)
    codes = np.repeat([[0], [1], [2]], [10, 5, 2], axis=0)
    nearest = id_metrics.nearest_neighbors(rng.normal(size=(17, 3)), 4, 100, rng)

    def kept(codes):
        return id_metrics.neighbors_kept(id_metrics.depth_groups(codes, [3]), nearest)[0]

    expected = kept(codes).shuffled
    dealt = [kept(rng.permutation(codes)).kept for _ in range(2000)]
    assert np.mean(dealt) == pytest.approx(expected, abs=0.01)
    assert expected == pytest.approx((10 * 9 + 5 * 4 + 2 * 1) / (17 * 16))


def test_neighbours_in_blocks_and_of_a_sample(monkeypatch):
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(50, 4))
    embeddings[7] = 0  # has no direction, must not become NaN
    whole = id_metrics.nearest_neighbors(embeddings, 5, 100, rng)
    monkeypatch.setattr(id_metrics, "_BLOCK_BYTES", 4 * 50 * 3)
    blocks = id_metrics.nearest_neighbors(embeddings, 5, 100, rng)
    assert np.array_equal(np.sort(blocks.neighbors), np.sort(whole.neighbors))
    some = id_metrics.nearest_neighbors(embeddings, 5, 20, rng)
    assert len(some.queries) == 20
    assert np.array_equal(np.sort(some.neighbors), np.sort(whole.neighbors[some.queries]))
    assert not (whole.neighbors == whole.queries[:, None]).any()


def test_reconstruction_error_is_the_variance_left():
    rng = np.random.default_rng(2)
    target = rng.normal(size=(40, 6)) + 3
    codes = rng.integers(0, 2, (40, 2))

    def reconstruct(given, depth):
        assert np.array_equal(given, codes[: len(given)]) or len(given) == 40
        return target if depth == 2 else np.repeat(target.mean(axis=0)[None], len(given), axis=0)

    ids = IDSet(codes, reconstruct=reconstruct, target=target)
    assert measured({"x": ids})["sets"]["x"]["reconstruction"] == pytest.approx([1, 1, 0])
    half = IDSet(codes, reconstruct=lambda given, depth: target + 1.0, target=target)
    wanted = 40 * 6 / ((target - target.mean(axis=0)) ** 2).sum()
    assert measured({"x": half})["sets"]["x"]["reconstruction"][1:] == pytest.approx([wanted, wanted])
    # Without a target of its own it is the embeddings; without meaning, or without variance, there is none.
    plain = IDSet(codes, reconstruct=lambda given, depth: target)
    assert measured({"x": plain}, embeddings=target)["sets"]["x"]["reconstruction"] == pytest.approx([1, 0, 0])
    for nothing in (
        IDSet(codes, target=target),
        IDSet(codes, reconstruct=lambda given, depth: None, target=target),
        IDSet(codes, reconstruct=lambda given, depth: target * 0, target=target * 0),
    ):
        assert measured({"x": nothing})["sets"]["x"]["reconstruction"] is None


def test_reconstruction_in_blocks():
    rng = np.random.default_rng(3)
    target, codes = rng.normal(size=(25, 3)), np.arange(25)[:, None]
    given = (codes, lambda codes, depth: target[codes[:, 0]] + 0.5, target)
    assert id_metrics.reconstruction_errors(*given, block=4) == pytest.approx(id_metrics.reconstruction_errors(*given))


def test_figures_count_every_item(full):
    sets, _, paths, _, report = full
    ids = report["sets"]["good"]
    figure = ids["figure_4a"]
    assert figure["items"] == 119 and np.sum(figure["counts"]) == 119 and np.sum(figure["majority"]) == 119
    for word, counts in zip(figure["codewords"], figure["counts"], strict=True):
        for category, count in zip(figure["categories"], counts, strict=True):
            real = sum(
                path[1:2] == [category] and code == word
                for path, code in zip(paths, sets["good"].codes[:, 0], strict=True)
            )
            assert count == real
    assert sum(figure["majority_codewords"]) == figure["codewords_used"] == 4
    assert np.trace(figure["majority"]) / 119 == pytest.approx(ids["categories"]["top"][0]["purity"])
    assert [part["first"] for part in ids["figure_4b"]] == [
        code for code, _ in sorted(Counter(sets["good"].codes[:, 0].tolist()).items(), key=lambda c: (-c[1], c[0]))
    ]
    for part in ids["figure_4b"]:
        assert np.sum(part["counts"]) == part["items"] <= part["size"]
        assert all(" > " in name or name.startswith(("top", "(others)")) for name in part["categories"])


def test_many_codewords_and_categories_are_put_together_and_nothing_is_lost():
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 100, (3000, 2))
    paths = [[f"top {rng.integers(40)}"] for _ in range(3000)]
    figure = measured({"x": IDSet(codes)}, categories=paths)["sets"]["x"]["figure_4a"]
    assert len(figure["codewords"]) == id_categories.MAX_CODEWORDS + 1 and figure["codewords"][-1] is None
    assert len(figure["categories"]) == id_categories.MAX_CATEGORIES + 1 and figure["categories"][-1] == "(others)"
    assert np.shape(figure["counts"]) == (17, 11) and np.shape(figure["majority"]) == (11, 11)
    assert np.sum(figure["counts"]) == np.sum(figure["majority"]) == 3000
    assert sum(figure["majority_codewords"]) == figure["codewords_used"] == 100
    frequent = Counter(codes[:, 0].tolist()).most_common(16)
    assert {count for _, count in frequent} == {sum(counts) for counts in figure["counts"][:-1]}


def test_examples_share_their_prefix(full):
    sets, _, _, titles, report = full
    for name in ("good", "short"):
        codes = sets[name].codes
        for example in report["sets"][name]["examples"]:
            members = [i for i, p in enumerate(prefixes(codes, 2)) if list(p) == example["prefix"]]
            assert example["size"] == len(members)
            assert set(example["titles"]) <= {titles[member] for member in members}
            assert len(example["titles"]) == min(5, len(members)) == len(set(example["titles"]))
            siblings = Counter(p for p in prefixes(codes, 2) if p[0] == example["prefix"][0])
            assert example["size"] == max(siblings.values())


def test_same_seed_same_report(full):
    sets, embeddings, paths, titles, report = full
    given = {"embeddings": embeddings, "categories": paths, "titles": titles}
    assert measured(sets, **given) == report
    assert measured(sets, **given, random_state=1) != report


def test_category_levels(full):
    report = full[-1]
    assert report["category_levels"] == {
        "leaf": {"count": len({path[-1] for path in full[2] if path}), "items_without": 1},
        "top": {"count": 4, "items_without": 1, "level": 2},
    }


# -------------------------------------------------------------------------------------------- little to go by


def test_codes_alone_are_enough():
    report = id_report({"x": IDSet(np.array([[1, 2], [1, 2], [0, 0]]))})
    ids = report.sets["x"]
    assert ids.categories is ids.neighbors is ids.reconstruction is ids.figure_4a is None
    assert ids.examples == []
    assert "largest" in format_report(report)
    assert "Collisions" in semantic_ids_page(report)


@pytest.mark.parametrize(
    ("codes", "embeddings", "paths"),
    [
        (np.zeros((1, 1), int), np.ones((1, 2)), [["a"]]),
        (np.zeros((3, 1), int), np.zeros((3, 2)), [["a"], ["a"], ["a"]]),
        (np.arange(3)[:, None], np.ones((3, 2)), [[], [], []]),
        (np.zeros((4, 3), np.uint8), np.ones((4, 1)), [["a", "b"], ["a"], [], ["c"]]),
    ],
)
def test_tiny_and_constant_catalogues(codes, embeddings, paths):
    titles = ["t"] * len(codes)
    report = id_report({"x": IDSet(codes)}, embeddings=embeddings, categories=paths, titles=titles)
    assert "NaN" not in json.dumps(asdict(report))
    format_report(report)
    semantic_ids_page(report)


@pytest.mark.parametrize(
    ("sets", "others", "message"),
    [
        ({}, {}, "no ID sets"),
        ({"x": IDSet(np.zeros((2, 1), int))}, {"n_shuffles": 0}, "n_shuffles=0"),
        ({"x": IDSet(np.zeros((2, 2)))}, {}, r"ID set 'x': codes must be whole numbers .*float64 \[2, 2\]"),
        ({"x": IDSet(np.zeros(2, int))}, {}, r"whole numbers \[items, id_length\]"),
        ({"x": IDSet(np.array([[0], [-1]]))}, {}, "between 0 and"),
        ({"x": IDSet(np.array([[0], [4]]), [4])}, {}, r"between 0 and the codebook sizes \[4\]"),
        ({"x": IDSet(np.array([[0], [4]]), [4, 4])}, {}, "2 codebook sizes for 1 levels"),
        ({"x": IDSet(np.zeros((2, 1), int))}, {"embeddings": np.zeros((3, 2))}, r"have \[2, 3\] items"),
        ({"x": IDSet(np.zeros((2, 1), int)), "y": IDSet(np.zeros((3, 1), int))}, {}, r"have \[2, 3\] items"),
        ({"x": IDSet(np.zeros((2, 1), int), target=np.zeros((3, 2)))}, {}, r"target must be \[2, dim\]"),
    ],
)
def test_what_does_not_fit_together(sets, others, message):
    with pytest.raises(ValueError, match=message):
        id_report(sets, **others)


# ------------------------------------------------------------------------------------------- tables and pages


def test_text_holds_every_set_and_level(full):
    sets, embeddings, paths, titles, _ = full
    report = id_report(sets, embeddings=embeddings, categories=paths, titles=titles)
    text = format_report(report)
    for name, ids in report.sets.items():
        assert len(re.findall(rf"^{name} ", text, flags=re.MULTILINE)) == 2 + 2 * ids.id_length
    at = report.sets["good"].categories["leaf"][1]
    assert f"{at.purity:.3f} ({at.purity_shuffled:.3f})" in text
    assert "item 1" in text and max(map(len, text.split("\n"))) < 180


def test_json_comes_back(full):
    assert json.loads(json.dumps(full[-1])) == full[-1]


def test_page_shows_all_parts_and_needs_nothing_else(full):
    sets, embeddings, paths, _, _ = full
    titles = [f"<script>alert({n})</script>" for n in range(120)]
    paths = [[name.replace("top", "<b>top & co") for name in path] for path in paths]
    sets = {**sets, "<i>other</i>": IDSet(sets["good"].codes, reconstruct=lambda c, d: embeddings)}
    report = id_report(sets, embeddings=embeddings, categories=paths, titles=titles)
    text = semantic_ids_page(report, title="IDs of a test")
    body = text[text.index("<body>") :]
    headings = re.findall(r"<h2>(.*?)</h2>", body)
    assert headings == [
        "Overview",
        "How the codebooks are used",
        "Collisions",
        "Reconstruction",
        "Do prefixes follow the categories?",
        "Are neighbours kept together?",
        "Categories and first codewords (Figure 4a)",
        "Categories and second codewords (Figure 4b)",
        "Items that share a prefix",
    ]
    assert "alert(1)" in body and "<script>alert" not in body and "<b>top" not in body and "<i>other" not in body
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", text)
    assert body.count("Plotly.newPlot") == len(re.findall("<figure", body)) >= 18
