"""The check: plain loops over a small dataset are the oracle; each warning has a dataset that earns it."""

import re
from collections import Counter

import numpy as np
import pytest

from recbole_tiger.datasets import paper_counts
from recbole_tiger.datasets.check import check_dataset, core_counts, first_appearance, leak_check
from recbole_tiger.datasets.paper_counts import TABLE_2, DatasetCounts, against_table2, table2_text
from recbole_tiger.datasets.validation_text import report_text
from recbole_tiger.errors import PreparationError
from recbole_tiger.report.dataset_check import _time_labels, write_html


def write(folder, rows, items=None, header="user_id:token\titem_id:token\ttimestamp:float", name="made"):
    place = folder / name
    place.mkdir(exist_ok=True)
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    (place / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if items is not None:
        lines = ["item_id:token\ttitle:token\tcategories:token_seq", *("\t".join(row) for row in items)]
        (place / f"{name}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def check(folder, **options):
    return check_dataset(folder, "made", progress=False, **options)


def random_rows(seed, users=12, items=20, n=150):
    random = np.random.default_rng(seed)
    times = 1_500_000_000 + random.integers(0, 400, n)
    return [
        (f"u{u}", f"x{i}y", t)
        for u, i, t in zip(random.integers(0, users, n), random.integers(0, items, n), times, strict=True)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_numbers_equal_plain_loops(tmp_path, seed):
    rows = random_rows(seed, users=(12, 60)[seed % 2], items=90)  # short sequences too, and items seen once
    report = check(write(tmp_path, rows))
    sequences = {}
    for user, item, time in sorted(rows, key=lambda row: row[2]):  # Python's sort is stable
        sequences.setdefault(user, []).append((item, time))
    lengths = sorted(len(sequence) for sequence in sequences.values())
    items = Counter(item for _, item, _ in rows)
    assert (report["users"], report["items"], report["interactions"]) == (
        len(sequences),
        len(items),
        len(rows),
    )
    assert report["density"] == pytest.approx(len(rows) / len(sequences) / len(items))
    assert report["user_lengths"] == {
        "least": lengths[0],
        "mean": pytest.approx(np.mean(lengths)),
        "median": np.median(lengths),
        "largest": lengths[-1],
    }
    assert report["item_counts"]["largest"] == max(items.values())
    neighbours = [pair for sequence in sequences.values() for pair in zip(sequence, sequence[1:])]  # noqa: B905
    assert report["ties"]["pairs"] == sum(a[1] == b[1] for a, b in neighbours)
    assert report["ties"]["share"] == pytest.approx(report["ties"]["pairs"] / len(neighbours))
    assert report["duplicates"] == len(rows) - len({row[:2] for row in rows})
    trained = {item for sequence in sequences.values() for item, _ in sequence[: max(len(sequence) - 2, 2)]}
    assert report["training"]["items_never_in_training"] == len(set(items) - trained) > 0
    targets = [sequence[-1][0] for sequence in sequences.values() if len(sequence) > 2]
    assert report["training"]["share_of_test_targets"] == pytest.approx(
        np.mean([target not in trained for target in targets])
    )
    for histogram, values in (
        ("interactions of a user", lengths),
        ("interactions of an item", items.values()),
    ):
        assert sum(report["histograms"][histogram]["counts"]) == len(values)
    assert sum(report["histograms"]["interactions over time"]["counts"]) == len(rows)
    # RecBole sorts by float32 times, stably; what is then out of true order is counted.
    misordered = 0
    for user in sequences:
        own = sorted((row for row in rows if row[0] == user), key=lambda row: np.float32(row[2]))
        misordered += sum(a[2] > b[2] for a, b in zip(own, own[1:]))  # noqa: B905
    assert report["ties"]["misordered"] == misordered > 0


def test_a_core_is_looked_at_as_a_run_would(tmp_path):
    rows = [("u", f"i{k}", k) for k in range(5)] + [("v", f"i{k}", k) for k in range(5)] + [("w", "i0", 1)]
    write(tmp_path, rows)
    assert check(tmp_path)["users"] == 3
    report = check(tmp_path, user_core=5, item_core=2)
    assert (report["users"], report["interactions"]) == (2, 10)
    counts = core_counts(tmp_path, "made", 5, 2, progress=False)
    assert counts == DatasetCounts(2, 5, 5.0, 5.0)
    for function in (
        lambda: check(tmp_path, user_core=9),
        lambda: core_counts(tmp_path, "made", 9, progress=False),
    ):
        with pytest.raises(PreparationError, match="[Nn]othing is left|is empty"):
            function()


SOUND_ITEMS = [(f"x{i}y", f"Title {i}", "a b") for i in range(20)]


def sound_rows():
    """Six users who meet ten items each in an order of their own, no ties, every item in training."""
    random = np.random.default_rng(1)
    rows = []
    for user in range(30):
        for position, item in enumerate(random.permutation(20)):
            rows.append((f"u{user}", f"x{item}y", position * 1000 + user))
    return rows


def test_a_sound_dataset_has_no_warning(tmp_path):
    report = check(write(tmp_path, sound_rows(), SOUND_ITEMS))
    assert report["warnings"] == []
    assert report["item_table"]["fields"] == {"title": 1.0, "categories": 1.0}
    assert "no warnings" in report_text(report)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows, items: (rows + [("short", "x1y", 5)], items), "1 users have fewer than 3 interactions"),
        (lambda rows, items: ([(u, i, t // 5000) for u, i, t in rows], items), "have the same time"),
        (lambda rows, items: (rows + [rows[0]], items), "1 interactions repeat an earlier pair"),
        (
            lambda rows, items: (rows + [("u1", "new", 10**9)], items + [("new", "New", "a")]),
            "1 items never occur",
        ),
        (lambda rows, items: (rows, items[1:]), "1 items have interactions but no row"),
        (lambda rows, items: (rows, items + [items[0]]), "1 rows of the .item file repeat an item"),
        (
            lambda rows, items: (rows, [(i, "", c) for i, _, c in items]),
            "Only 0.0% of the items have a title",
        ),
        (lambda rows, items: (rows, [(i, "Same", c) for i, _, c in items]), "19 items have the same text"),
        (lambda rows, items: (rows, items[1:] + [("x0y", "T", "")]), "1 rows .* empty token_seq cell"),
        (lambda rows, items: (rows, items[1:] + [("x0y", "T", "null")]), "1 rows .* empty token_seq cell"),
        (lambda rows, items: (rows, items[1:] + [("x0y", '"T', "a")]), "begins with a quote"),
        (
            lambda rows, items: (rows + [("NA", "x1y", 5)] * 3, items),
            "1 ids begin with a quote or are words such as NA",
        ),
        (
            lambda rows, items: (rows + [('"u"', "x1y", 5)] * 3, items),
            "1 ids begin with a quote",
        ),
        (lambda rows, items: (rows, None), "no .item file"),
    ],
)
def test_each_warning_has_its_cause(tmp_path, change, message):
    report = check(write(tmp_path, *change(sound_rows(), SOUND_ITEMS)))
    matching = [warning for warning in report["warnings"] if re.search(message, warning)]
    assert len(matching) == 1, report["warnings"]
    assert matching[0] in report_text(report)


def test_without_a_time_column(tmp_path):
    rows = [row[:2] for row in sound_rows()]
    report = check(write(tmp_path, rows, SOUND_ITEMS, header="user_id:token\titem_id:token"))
    assert report["ties"] is None and "interactions over time" not in report["histograms"]
    assert any("no time column" in warning for warning in report["warnings"])
    assert "ties" not in report_text(report)


def consecutive(n_users=40, length=8):
    """The P5 numbering of Appendix A: items are numbered as the sessions meet them."""
    users = np.repeat(np.arange(n_users), length)
    return users, np.arange(n_users * length)


def test_the_leak_of_appendix_a_is_found_and_a_random_numbering_is_not():
    users, items = consecutive()
    numbers = np.arange(len(items)) + 1
    names = [f"i{number}" for number in numbers]
    leak = leak_check(users, items, numbers, names, seed=0)
    assert leak["ids"]["share"] == leak["internal"]["share"] == 1.0
    # After a shuffle two different items have consecutive numbers with probability 1 / n.
    assert leak["ids"]["shuffled"] == pytest.approx(1 / len(items), abs=0.01)
    random = np.random.default_rng(0).permutation(numbers)
    leak = leak_check(users, items, random, [f"i{number}" for number in random], seed=0)
    assert leak["ids"]["share"] < 0.02
    assert leak_check(users, items, numbers, [f"B{n}X" for n in numbers], 0)["ids"] is None
    mixed = [f"{'ab'[n % 2]}{n}" for n in numbers]
    assert leak_check(users, items, numbers, mixed, 0)["ids"] is None


def test_the_shuffled_share_is_that_of_many_shuffles():
    random = np.random.default_rng(4)
    users, items = np.repeat(np.arange(300), 10), random.integers(0, 12, 3000)
    shuffled = leak_check(users, items, np.arange(12), [str(i) for i in range(12)], 0)["internal"]["shuffled"]
    different = (items[1:] != items[:-1])[users[1:] == users[:-1]].mean()
    assert shuffled == pytest.approx(different / 12, abs=0.03)


def test_first_appearance():
    assert first_appearance(np.array([4, 1, 4, 0, 1]))[[4, 1, 0]].tolist() == [1, 2, 3]


def test_internal_numbers_are_those_of_the_first_appearance_in_the_file(tmp_path):
    rows = [(f"u{user}", f"x{item}y", item) for user, item in zip(*consecutive(), strict=True)]
    report = check(write(tmp_path, rows))
    assert report["leak"]["internal"]["share"] == 1.0 and report["leak"]["ids"] is None
    assert any("internal item numbers follow the sequences" in warning for warning in report["warnings"])
    order = np.random.default_rng(0).permutation(len(rows))
    assert check(write(tmp_path, [rows[k] for k in order]))["leak"]["internal"]["share"] < 0.02


@pytest.mark.parametrize(
    "content, message",
    [
        ("user_id:token\titem_id:token\n1\t2\n1\n", r"made.inter, line 3: 1 cells instead of 2"),
        (
            "user_id:token\titem_id:token\ttimestamp:float\n1\t2\tx\n",
            r"line 2, timestamp:float: 'x' is not a finite number: correct it, or convert dates",
        ),
        ("user_id:token\titem_id:token\n1\t\n", "line 2, item_id:token: '' is not an id"),
        ("user_id:token\titem_id:token\n1\t[PAD]\n", r"line 2, item_id:token: '\[PAD\]' is not an id"),
        ("user:token\titem_id:token\n1\t2\n", "no column user_id, its columns are user, item_id"),
        ("user_id,item_id\n1,2\n", "line 1: .* is not a column of an atomic file"),
        ("", "made.inter is empty"),
        ("user_id:token\titem_id:token\n", "ends after line 1, the header"),
    ],
)
def test_what_is_no_atomic_file(tmp_path, content, message):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "made.inter").write_text(content)
    with pytest.raises(PreparationError, match=message):
        check(tmp_path)


def test_missing_dataset(tmp_path):
    with pytest.raises(PreparationError, match="made.inter does not exist: check dataset and data_path"):
        check(tmp_path)


def test_the_page_is_self_contained_and_escapes(tmp_path):
    report = check(write(tmp_path, sound_rows(), SOUND_ITEMS))
    report["warnings"] = ["<script>alert(1)</script>"]
    page = write_html(report, tmp_path / "pages" / "check.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in page and "<script>alert(1)" not in page
    assert "Interactions by position" in page and re.search(r"<td>users</td><td[^>]*>30</td>", page)
    for name in ("Interactions of a user", "Interactions of an item"):
        assert f"<h3>{name}</h3>" in page
    assert page.count("Plotly.newPlot(") >= 3
    for unit in (1, 1000):  # seconds and milliseconds
        rows = [(user, item, (1_400_000_000 + time) * unit) for user, item, time in sound_rows()]
        page = write_html(check(write(tmp_path, rows)), tmp_path / "clock.html").read_text(encoding="utf-8")
        assert "Interactions over time" in page and '"2014-05-13 16:53:20"' in page
    assert len(page) > 1_000_000  # plotly.js is inside
    assert not re.search(r"""<(script|link|img)[^>]*\b(src|href)=["']http""", page)


def test_bins_of_large_positions_have_different_labels():
    """Such as dates that are written as whole numbers; six digits of 20140101.25 and of 20140102 are the same."""
    assert len(set(_time_labels([20_140_101 + 0.75 * number for number in range(41)]))) == 40


def test_counts_of_the_papers_table_2(tmp_path, monkeypatch):
    assert TABLE_2["amazon-beauty"] == DatasetCounts(22_363, 12_101, 8.87, 6)
    assert (TABLE_2["amazon-sports-outdoors"].users, TABLE_2["amazon-toys-games"].items) == (
        35_598,
        11_924,
    )
    assert "ml-100k" not in TABLE_2
    assert against_table2("ml-100k", lambda: pytest.fail("counted for nothing")) is None
    comparison = against_table2("amazon-beauty", lambda: DatasetCounts(22_363, 12_100, 8.876, 6))
    assert comparison["different"] == ["items"]
    text = table2_text("amazon-beauty", comparison, "5-core")
    assert [line.rpartition(": ")[2] for line in text.split("\n")[1:5]] == [
        "the same",
        "DIFFERENT",
        "the same",
        "the same",
    ]
    assert text.startswith("amazon-beauty, 5-core, against") and "  users: 22,363, paper 22,363: the same\n" in text
    assert "  mean length: 8.88, paper 8.87: the same\n" in text and "NOT the paper's data" in text
    counts = DatasetCounts(22_363, 12_101, 8.876, 6)
    assert "NOT" not in table2_text("amazon-beauty", against_table2("amazon-beauty", lambda: counts))
    monkeypatch.setitem(paper_counts.TABLE_2, "made", DatasetCounts(30, 20, 20.0, 20))
    report = check(write(tmp_path, sound_rows(), SOUND_ITEMS))
    assert report["table2"]["different"] == []
    assert re.search("paper, Table 2 +30 users, 20 items: the same", report_text(report))
    monkeypatch.setitem(paper_counts.TABLE_2, "made", DatasetCounts(31, 20, 20.0, 20))
    assert any("use the 5-core" in warning for warning in check(tmp_path)["warnings"])
