"""From source to dataset: filters, missing metadata, unusable rows, and nothing half-written."""

import json
import os

import numpy as np
import pytest

from recbole_tiger.datasets import atomic_writer
from recbole_tiger.datasets.atomic_writer import data_checksum, dataset_folder, file_checksum
from recbole_tiger.datasets.pipeline import PrepareOptions, prepare
from recbole_tiger.datasets.record_reader import TextFormat
from recbole_tiger.datasets.table_source import InteractionColumns, ItemColumns, TableSource
from recbole_tiger.errors import PreparationError

QUIET = TextFormat(progress=False)


def shop(folder, orders, products=None, **columns):
    """A source over two small CSV files."""
    (folder / "orders.csv").write_text("u,i,t\n" + "".join(f"{u},{i},{t}\n" for u, i, t in orders), encoding="utf-8")
    if products is None:
        return TableSource([folder / "orders.csv"], InteractionColumns("u", "i", "t"), text=QUIET)
    (folder / "products.csv").write_text("i,title,brand\n" + "".join(",".join(row) + "\n" for row in products))
    return TableSource(
        [folder / "orders.csv"],
        InteractionColumns("u", "i", "t"),
        [folder / "products.csv"],
        ItemColumns(**{"item": "i", "title": "title", "brand": "brand", **columns}),
        text=QUIET,
        item_text=QUIET,
    )


def read(folder, suffix="inter"):
    return (folder / "made" / f"made.{suffix}").read_text(encoding="utf-8").split("\n")[1:-1]


NO_CORE = {"user_core": 0, "item_core": 0}
COMPLETE = [("a", "A", "x"), ("b", "B", "x"), ("c", "C", "x")]


def test_core_is_taken_after_duplicates_and_counted(tmp_path):
    orders = [
        ("u", "a", 1),
        ("u", "a", 2),
        ("u", "b", 3),
        ("v", "a", 1),
        ("v", "b", 2),
        ("w", "c", 1),
        ("w", "c", 2),
    ]
    source = shop(tmp_path, orders, COMPLETE)
    summary = prepare(source, tmp_path, "made", PrepareOptions(2, 2, duplicates="last"))
    assert read(tmp_path) == ["v\ta\t1", "u\ta\t2", "v\tb\t2", "u\tb\t3"]
    assert read(tmp_path, "item") == ["a\tA\tx", "b\tB\tx"]
    assert summary.counts == {
        "interactions read": 7,
        "duplicates (same user and item)": 2,
        "duplicates removed": 2,
        "removed by the core": 1,
        "items without metadata": 0,
        "ties (neighbours of equal time)": 0,
        "users": 2,
        "items": 2,
        "interactions": 4,
    }
    stored = json.loads((tmp_path / "made" / "made.summary.json").read_text())
    assert stored["summary"]["counts"] == summary.counts and stored["options"]["duplicates"] == "last"
    assert "removed by the core: 1" in str(summary)


def test_with_a_core_of_nothing_the_cause_is_named(tmp_path):
    with pytest.raises(PreparationError, match="Nothing is left of 1 interactions with user_core=5 and item_core=5"):
        prepare(shop(tmp_path, [("u", "a", 1)]), tmp_path, "made")


def test_items_without_metadata(tmp_path):
    orders = [("u", "a", 1), ("u", "b", 2), ("v", "b", 1), ("v", "c", 2), ("w", "a", 5), ("w", "b", 6)]
    products = [COMPLETE[0], ("b", "", "x")]
    source = shop(tmp_path, orders, products)
    with pytest.raises(
        PreparationError,
        match=r"1 of 3 items have no metadata, the first is 'c' \(.*orders.csv, line 5\).*missing_items=drop",
    ):
        prepare(source, tmp_path, "made", PrepareOptions(**NO_CORE))
    assert not (tmp_path / "made").exists()
    summary = prepare(source, tmp_path, "made", PrepareOptions(**NO_CORE, missing_items="keep"))
    assert read(tmp_path, "item") == ["a\tA\tx", "b\t\tx", "c\t\t"]
    assert summary.counts["items without metadata"] == 1
    # Dropped items take their interactions along, and the core is taken again: v keeps only one.
    summary = prepare(source, tmp_path, "made", PrepareOptions(2, 1, missing_items="drop", overwrite=True))
    assert read(tmp_path) == ["u\ta\t1", "u\tb\t2", "w\ta\t5", "w\tb\t6"]
    assert read(tmp_path, "item") == ["a\tA\tx", "b\t\tx"]
    assert summary.counts["removed with items without metadata"] == 1 and summary.counts["removed by the core"] == 1


def test_required_fields_make_an_item_without_them_one_without_metadata(tmp_path):
    orders = [("u", "a", 1), ("u", "b", 2)]
    source = shop(tmp_path, orders, [("a", "A", "x"), ("b", "", "x")])
    options = {**NO_CORE, "required_fields": ("title",)}
    with pytest.raises(PreparationError, match="no metadata or no title, the first is 'b'"):
        prepare(source, tmp_path, "made", PrepareOptions(**options))
    prepare(source, tmp_path, "made", PrepareOptions(**options, missing_items="drop"))
    assert read(tmp_path, "item") == ["a\tA\tx"] and read(tmp_path) == ["u\ta\t1"]
    with pytest.raises(PreparationError, match="required_fields names colour, but the item columns are title, brand"):
        prepare(source, tmp_path, "other", PrepareOptions(required_fields=("colour",)))


def test_random_cores_with_missing_items_end_in_a_core(tmp_path):
    from recbole_tiger.datasets.interactions import k_core

    random = np.random.default_rng(3)
    orders = [(f"u{u}", f"i{i}", t) for t, (u, i) in enumerate(random.integers(0, 14, (160, 2)).tolist())]
    products = [(f"i{i}", f"title {i}", "x") for i in range(14) if i % 3]
    prepare(shop(tmp_path, orders, products), tmp_path, "made", PrepareOptions(4, 4, missing_items="drop"))
    rows = [line.split("\t") for line in read(tmp_path)]
    assert rows and not any(int(item[1:]) % 3 == 0 for _, item, _ in rows)
    users, items = (np.unique([row[k] for row in rows], return_inverse=True)[1] for k in (0, 1))
    assert k_core(users, items, 4, 4).all()
    # It is the core of the interactions with described items, taken at once.
    described = np.array([int(i[1:]) % 3 != 0 for _, i, _ in orders])
    all_users = np.unique([u for u, _, _ in orders], return_inverse=True)[1][described]
    all_items = np.unique([i for _, i, _ in orders], return_inverse=True)[1][described]
    assert k_core(all_users, all_items, 4, 4).sum() == len(rows)


@pytest.mark.parametrize(
    "row, message",
    [
        (("u", "a", "noon"), "line 3: t is not a number: 'noon'"),
        (("u", "a\tb", 3), "line 3: an id with a tab"),
        (("", "a", 3), "line 3: empty id"),
        (("u", "NA", 3), "line 3: an id that RecBole reads as missing: 'NA'"),
        (("u", "a,b", 3), "line 3: wrong number of columns: 4 instead of 3"),
    ],
)
def test_unusable_rows_are_an_error_or_counted_never_silent(tmp_path, row, message):
    source = shop(tmp_path, [("u", "a", 1), row, ("u", "b", 2)])
    with pytest.raises(PreparationError, match=message):
        prepare(source, tmp_path, "made", PrepareOptions(**NO_CORE))
    summary = prepare(source, tmp_path, "made", PrepareOptions(**NO_CORE, bad_rows="skip"))
    assert read(tmp_path) == ["u\ta\t1", "u\tb\t2"]
    assert sum(summary.skipped.values()) == 1 and "line 3" in summary.examples[0]
    assert summary.counts["interactions read"] - summary.counts["interactions"] in (0, 1)
    assert "skipped" in str(summary)


def test_a_named_column_without_any_value_is_an_error(tmp_path):
    source = shop(tmp_path, [("u", "a", 1)], [("a", "A", "")])
    with pytest.raises(PreparationError, match="No item has a value for brand"):
        prepare(source, tmp_path, "made", PrepareOptions(**NO_CORE))


def test_fractional_times_and_ids_with_blanks(tmp_path):
    prepare(shop(tmp_path, [("u 1", "a", 1.5), ("ü", "a", 0.25)]), tmp_path, "made", PrepareOptions(**NO_CORE))
    assert read(tmp_path) == ["ü\ta\t0.25", "u 1\ta\t1.5"]


def test_an_existing_dataset_is_kept_unless_told_otherwise(tmp_path, monkeypatch):
    first, second = [("u", "a", 1)], [("v", "a", 2)]
    prepare(shop(tmp_path, first), tmp_path, "made", PrepareOptions(**NO_CORE))
    (tmp_path / "made" / "embeddings.npz").write_bytes(b"precious")
    with pytest.raises(PreparationError, match="made.inter exists: choose another dataset name"):
        prepare(shop(tmp_path, second), tmp_path, "made", PrepareOptions(**NO_CORE))
    assert read(tmp_path) == ["u\ta\t1"]
    replaced = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (replaced.append(target.name), replace(source, target)))
    prepare(shop(tmp_path, second, COMPLETE), tmp_path, "made", PrepareOptions(**NO_CORE, overwrite=True))
    assert read(tmp_path) == ["v\ta\t2"] and read(tmp_path, "item") == ["a\tA\tx"]
    assert replaced[-1] == "made.inter" and len(replaced) == 3  # what names the dataset comes last
    assert (tmp_path / "made" / "embeddings.npz").read_bytes() == b"precious"


def test_no_file_is_replaced_unasked_whoever_wrote_it(tmp_path):
    source, options = shop(tmp_path, [("u", "a", 1)], COMPLETE), PrepareOptions(**NO_CORE)
    mine = tmp_path / "made" / "made.item"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(PreparationError, match="made.item exists: choose another dataset name"):
        prepare(source, tmp_path, "made", options)
    assert mine.read_text() == "mine" and os.listdir(mine.parent) == ["made.item"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PreparationError, match="file is not a folder: choose another dataset name"):
        prepare(source, tmp_path, "file", PrepareOptions(**NO_CORE, overwrite=True))
    # Without metadata only the interactions are written, and the summary says what stays.
    summary = prepare(shop(tmp_path, [("u", "a", 1)]), tmp_path, "made", options)
    assert mine.read_text() == "mine" and "the .item file that was there stays" in str(summary)
    # Of two processes that began while there was nothing, the second must not replace what the first has written.
    with pytest.raises(PreparationError, match="twice.inter exists"), dataset_folder(tmp_path, "twice") as second:
        with dataset_folder(tmp_path, "twice") as first:
            (first / "twice.inter").write_text("first")
        (second / "twice.inter").write_text("second")
    assert (tmp_path / "twice" / "twice.inter").read_text() == "first"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error), dataset_folder(tmp_path, "made") as folder:
        (folder / "made.inter").write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a\\b"])
def test_dataset_names_are_names_of_one_folder(tmp_path, name):
    with pytest.raises(PreparationError, match="must be the name of one folder"):
        prepare(shop(tmp_path, [("u", "a", 1)]), tmp_path, name)


@pytest.mark.parametrize(
    "options",
    [
        {"user_core": -1},
        {"duplicates": "x"},
        {"ties": "x"},
        {"order": "x"},
        {"missing_items": "x"},
        {"bad_rows": "x"},
    ],
)
def test_impossible_options_are_named_before_any_work(options):
    key = next(iter(options))
    with pytest.raises(PreparationError, match=f"{key}="):
        PrepareOptions(**options)


def test_the_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    orders = [(f"u{u}", f"i{i}", t) for u, i, t in random.integers(0, 9, (200, 3)).tolist()]
    products = [(f"i{i}", f"title {i}", "x") for i in range(9)]
    sums = []
    for name, rows in (("one", 1 << 17), ("two", 7)):  # also when written in blocks of another size
        monkeypatch.setattr(atomic_writer, "ROWS_AT_ONCE", rows)
        (tmp_path / name).mkdir()
        options = PrepareOptions(2, 2, ties="shuffle", seed=5)
        prepare(shop(tmp_path, orders, products), tmp_path / name, "made", options)
        sums.append(data_checksum(tmp_path / name, "made"))
    assert sums[0] == sums[1]
    (tmp_path / "two" / "made" / "made.item").write_text("other")
    assert data_checksum(tmp_path / "two", "made") != sums[0]


def test_checksum_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_checksum(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
