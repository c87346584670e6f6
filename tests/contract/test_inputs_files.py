"""Malformed files, each with what the message must say: one sentence, no traceback of a library, no silent success.

The right value of a file that can be read is that of a literal reader. Files are read as a user's are: by a dataset, an
encoder, a table of IDs, a checkpoint, `recommend`, a download.
"""

import io
import json
import math
import pickle
import re
import shutil
import struct
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from atomic_files import literal_interactions
from catalogue import SMALL, TINY, mini_settings, write_catalogue, write_inter
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.dataset import SequentialDataset
from working import working_in

from recbole_tiger import run_recbole_tiger
from recbole_tiger.commands.recommend import read_histories
from recbole_tiger.content.encoders.precomputed import read_embeddings
from recbole_tiger.data.dataset import PrefixDataset, order_interactions
from recbole_tiger.datasets import download
from recbole_tiger.datasets.check import check_dataset
from recbole_tiger.errors import CheckpointError, DamagedCheckpointError, RecboleTigerError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import load_data_and_model, prepare_data
from recbole_tiger.semantic_ids.files import read_codes
from recbole_tiger.tokenization import item_table
from recbole_tiger.training.checkpoint import load_checkpoint, save_checkpoint

INTER = "user_id:token\titem_id:token\ttimestamp:float\n"
ROWS = [(f"u{user}", f"i{(user + step) % 9}", 1_300_000_000 + step) for user in range(12) for step in range(5)]
LINES = ["\t".join(map(str, row)) for row in ROWS]
GOOD = INTER + "\n".join(LINES) + "\n"
ITEM = "item_id:token\ttitle:token\ttags:token_seq\tprice:float\n"
ITEMS = ITEM + "".join(f"i{k}\tthing {k}\ta b\t{k}.5\n" for k in range(9))


def edited(line, text):
    """The good `.inter` with another line (from 1)."""
    lines = GOOD.split("\n")
    lines[line - 1] = text
    return "\n".join(lines)


def says(error, path, words):
    """Whether a message is one sentence that names the file and says these words."""
    text = str(error)
    assert str(path) in text or path.name in text, text
    assert re.search(words, text), text
    assert "\n" not in text and "Traceback" not in text


# ----------------------------------------------------------------------------------------------------- atomic files

MALFORMED_INTER = {
    "dates as text in a column of tokens": (
        "\n".join(["user_id:token\titem_id:token\ttimestamp:token", "u\ti\t2024-01-05", "u\tj\t2024-01-04", ""]),
        r"^timestamp:token in .*, line 1, is not a number: declare it timestamp:float, .*--time_format",
    ),
    "dates in a column of numbers": (edited(2, "u0\ti0\t2024-01-05"), r"line 2, timestamp:float: '2024-01-05' is not"),
    "an empty time": (edited(4, "u0\ti2\t"), r"line 4, timestamp:float: '' is not a finite number"),
    "a missing time": (edited(4, "u0\ti2"), r"line 4: 2 cells instead of 3"),
    "NaN for a time": (edited(61, "u11\ti2\tNaN"), r"line 61, timestamp:float: 'NaN' is not a finite number"),
    "NA for a time": (edited(3, "u0\ti1\tNA"), r"line 3, timestamp:float: 'NA' is not"),
    "infinity for a time": (edited(3, "u0\ti1\tinf"), r"line 3, timestamp:float: 'inf' is not"),
    "a time beyond all numbers": (edited(3, "u0\ti1\t1e999"), r"line 3, timestamp:float: '1e999' is not"),
    "a time with a comma": (edited(3, "u0\ti1\t1,5"), r"line 3, timestamp:float: '1,5' is not"),
    "a blank for a time": (edited(3, "u0\ti1\t "), r"line 3, timestamp:float: ' ' is not"),
    "the last row cut off": (GOOD[: GOOD.rindex("\t")], r"line 61: 2 cells instead of 3 in 'u11"),
    "an empty user": (edited(9, "\ti1\t5"), r"line 9, user_id:token: '' is not an id: fill it in, or remove the row"),
    "an empty item": (edited(9, "u1\t\t5"), r"line 9, item_id:token: '' is not an id"),
    "a blank for a user": (edited(9, "  \ti1\t5"), r"line 9, user_id:token: '  ' is not an id"),
    "the padding as an item": (
        edited(9, "u1\t[PAD]\t5"),
        r"line 9, item_id:token: '\[PAD\]' is not an id: R",
    ),
    "a row with more cells": (
        edited(5, "u0\ti3\t1\t2"),
        r"line 5: 4 cells instead of 3 in .*write user_id:token",
    ),
    "a tab in quotes": (
        edited(5, 'u0\t"i\t3"\t1'),
        r"line 5: 4 cells instead of 3 .*quotes do not protect",
    ),
    "a line end in quotes": (edited(5, 'u0\t"i\n3"\t1'), r"line 5: 2 cells instead of 3"),
    "an empty line": (edited(5, ""), r"line 5 is empty: remove the line"),
    "an empty line at the end": (GOOD + "\n", r"line 62 is empty"),
    "a header without types": ("user_id\titem_id\ttimestamp\n" + LINES[0] + "\n", r"line 1: 'user_id' is not a column"),
    "a header with commas": (
        INTER.replace("\t", ",") + "u,i,1\n",
        r"line 1: 'user_id:token,item_id:token.*' is not a column .*'\\t' between the columns",
    ),
    "no header": ("\n".join(LINES), r"line 1: 'u0' is not a column of an atomic file: write name:type"),
    "an unknown type": (GOOD.replace(":float", ":int"), r"line 1: 'timestamp:int' is not a column .*float_seq"),
    "a blank line first": ("\n" + GOOD, r"line 1: '' is not a column"),
    "an empty file": ("", r"is empty: write a line such as user_id:token item_id:token timestamp:float"),
    "a header only": (INTER, r"ends after line 1, the header: add the rows"),
    "a column twice": (GOOD.replace("timestamp:float", "item_id:token"), r"line 1: two columns are called 'item_id'"),
    "another name of the users": (
        GOOD.replace("user_id", "uid"),
        r"there is no column user_id, .*USER_ID_FIELD",
    ),
    "another name of the items": (
        GOOD.replace("item_id", "sku"),
        r"no column item_id, its columns are user_id, sku",
    ),
    "items as numbers": (
        INTER.replace("m_id:token", "m_id:float") + "u\t1\t1\n",
        r"item_id:float is not text, as ids are: declare it item_id:token",
    ),
    "users as sequences": (GOOD.replace("r_id:token", "r_id:token_seq"), r"user_id:token_seq is not text"),
    "bytes that are not UTF-8": (
        edited(3, "u0\tRené\t1").encode("latin-1"),
        r"line 3: b'\\xe9.*' is not utf-8.* text: save",
    ),
    "UTF-16": (GOOD.encode("utf-16"), r"line 1: b'\\xff.*' is not utf-8"),
    "a NUL byte": (edited(3, "u0\ti\0\t1"), r"line 3: '\\x00' in .* is not allowed: save the file as text"),
    "old line ends": (GOOD.replace("\n", "\r"), r"'\\r' in .* is not allowed: end lines with"),
    "a Parquet file": (b"PAR1\x15\x04\x15\x90", r"is not utf-8|is not a column"),
    "a zip": (b"PK\x03\x04\x14\x00\x00\x00", r"line 1: '\\x00' in|is not a column"),
    "a rating in words": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\ti\tgood\t1\n",
        r"line 2, rating:float: 'good' is not a finite number: correct it, or leave the cell empty",
    ),
    "words in a vector": (
        "user_id:token\titem_id:token\tv:float_seq\ttimestamp:float\nu\ti\t1 x\t1\n",
        r"line 2, v:float_seq: '1 x' is not a sequence of finite numbers",
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a dataset `mini`, and a `Config` of it."""
    root = tmp_path_factory.mktemp("inputs")
    with working_in(root):
        (root / "data" / "mini").mkdir(parents=True)
        (root / "data" / "mini" / "mini.inter").write_text(GOOD)
        yield root, build_config("TIGER", "mini", config_dict=mini_settings(root))


def write(place, content, suffix=".inter"):
    path = place[0] / "data" / "mini" / f"mini{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", MALFORMED_INTER)
def test_interactions(place, name):
    content, words = MALFORMED_INTER[name]
    path = write(place, content)
    with pytest.raises(RecboleTigerError) as run:
        PrefixDataset(place[1])
    says(run.value, path, words)
    with pytest.raises(RecboleTigerError) as check:
        check_dataset(place[0] / "data", "mini", progress=False)
    assert str(check.value) == str(run.value)  # a run and the check never disagree


MALFORMED_ITEM = {
    "a row with more cells": (ITEMS + "i9\ta\tb\t1\t2\n", r"line 11: 5 cells instead of 4"),
    "a row with fewer cells": (ITEMS + "i9\ta\tb\n", r"line 11: 3 cells instead of 4"),
    "a tab in quotes": (ITEMS + 'i9\t"a\tb"\tc\t1\n', r"line 11: 5 cells instead of 4 .*quotes do not protect"),
    "an empty line": (ITEMS + "\n", r"line 11 is empty"),
    "an empty id": (ITEMS + "\ta\tb\t1\n", r"line 11, item_id:token: '' is not an id"),
    "the padding": (ITEMS + "[PAD]\ta\tb\t1\n", r"line 11, item_id:token: '\[PAD\]' is not an id"),
    "a price in words": (ITEMS + "i9\ta\tb\tcheap\n", r"line 11, price:float: 'cheap' is not a finite number"),
    "NaN for a price": (ITEMS + "i9\ta\tb\tnan\n", r"line 11, price:float: 'nan' .*leave the cell empty"),
    "a header without types": ("item_id\ttitle\ni0\ta\n", r"line 1: 'item_id' is not a column"),
    "another name of the items": (ITEMS.replace("item_id", "asin"), r"no column item_id, its columns are asin, title"),
    "ids as numbers": ("item_id:float\ttitle:token\n1\ta\n", r"item_id:float is not text"),
    "a column twice": (ITEMS.replace("tags:token_seq", "title:token"), r"two columns are called 'title'"),
    "an empty file": ("", r"is empty"),
    "a header only": (ITEM, r"ends after line 1"),
    "bytes that are not UTF-8": ((ITEMS + "i9\té\tb\t1\n").encode("latin-1"), r"line 11: b'\\xe9.*' is not utf-8"),
    "a NUL byte": (ITEMS + "i9\ta\0\tb\t1\n", r"line 11: '\\x00' in"),
    "words in a vector": ("item_id:token\tv:float_seq\ni0\t1 x\n", r"line 2, v:float_seq: '1 x' is not a sequence"),
}


@pytest.mark.parametrize("name", MALFORMED_ITEM)
def test_items(place, name):
    content, words = MALFORMED_ITEM[name]
    write(place, GOOD)
    path = write(place, content, ".item")
    try:
        for read in (
            lambda: item_table(place[1]),
            lambda: SequentialDataset(with_features(place)),
            lambda: check_dataset(place[0] / "data", "mini", progress=False),
        ):
            with pytest.raises(RecboleTigerError) as caught:
                read()
            says(caught.value, path, words)
    finally:
        path.unlink()


def with_features(place):
    settings = {"data_path": str(place[0] / "data"), "load_col": None, "state": "WARNING"}
    return build_config("SASRec", "mini", config_dict=settings)


def loaded_rows(dataset):
    """User, item and time of every row of a dataset that is not yet built, in the order of the file."""
    feat = dataset.inter_feat
    users, items = (dataset.field2id_token[name][feat[name]] for name in ("user_id", "item_id"))
    return list(zip(users.tolist(), items.tolist(), dataset.times.tolist(), strict=True))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD, ROWS),
        ("\ufeff" + GOOD, ROWS),
        (GOOD.replace("\n", "\r\n"), ROWS),
        (GOOD[:-1], ROWS),
        (GOOD.replace("u3\t", '"u3\t'), [('"u3' if user == "u3" else user, *rest) for user, *rest in ROWS]),
        (GOOD.replace("u3\t", "NA\t"), [("NA" if user == "u3" else user, *rest) for user, *rest in ROWS]),
        (GOOD.replace("\ti3\t", "\tnull\t"), [(u, "null" if i == "i3" else i, t) for u, i, t in ROWS]),
        (GOOD.replace("u3\t", "<NA>\t").replace("u4\t", "None\t").replace("u5\t", "N/A\t"),
         [({"u3": "<NA>", "u4": "None", "u5": "N/A"}.get(u, u), *rest) for u, *rest in ROWS]),
        (GOOD.replace("u3\t", " u3 \t"), ROWS),
    ],
)  # fmt: skip
def test_what_the_file_says_is_what_is_loaded(place, content, expected):
    write(place, content)
    dataset = SequentialDataset(place[1])
    assert loaded_rows(dataset) == expected
    assert dataset.inter_feat["item_id"].min() == 1 and dataset.inter_feat["user_id"].min() == 1  # never padding


ids = st.sampled_from(["a", "b", "NA", '"q', "null", "x ", " y", "ü", "1", "01", "None"]) | st.text(
    "ab\u00a0 \"'", max_size=3
)
table = st.lists(st.tuples(ids, ids, st.integers(0, 9).map(str)), min_size=1, max_size=6)
pieces = st.sampled_from(
    [b"\t", b"\n", b"\r", b'"', b"\0", b" ", b"\xff", b"nan", b"inf", b":", b"1", b"\xef\xbb\xbf", b"[PAD]"]
)
damage = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), pieces), max_size=2)


@given(table, damage)
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_an_error_or_gives_its_very_rows(place, rows, changes):
    data = (INTER + "".join("\t".join(row) + "\n" for row in rows)).encode()
    for where, length, piece in changes:
        start = round(where * len(data))
        data = data[:start] + piece + data[start + length :]
    write(place, data)
    try:
        dataset = SequentialDataset(place[1])
    except RecboleTigerError as error:
        assert "mini.inter" in str(error) and "\n" not in str(error)
        return
    if dataset.time_field not in dataset.inter_feat:  # its name was damaged
        with pytest.raises(RecboleTigerError, match="TIME_FIELD='timestamp' is not loaded"):
            order_interactions(dataset)
        return
    assert loaded_rows(dataset) == literal_interactions(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("user_inter_num_interval", "item_inter_num_interval")
          for value in ("13", "abc", "[20,inf", "[9,3]", "[1;5]", "", "(,5)", "5,inf")),
        *(("val_interval", {"timestamp": value}) for value in ("13", "abc", "[20,inf", "[9,3]", 7)),
    ],
)  # fmt: skip
def test_intervals_that_filter_nothing(place, key, value):
    write(place, GOOD)
    with pytest.raises(RecboleTigerError, match=rf"{key}.* must be an interval such as \[[35],inf\)"):
        PrefixDataset(build_config("TIGER", "mini", config_dict=mini_settings(place[0], **{key: value})))


# ------------------------------------------------------------------------------------------------------- embeddings

NAMES = [f"i{k}" for k in range(5)]
VECTORS = np.arange(20, dtype=np.float32).reshape(5, 4)


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **{"item_id": np.array(NAMES), "embedding": VECTORS, **arrays})
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def claims(shape, descr="<f4"):
    """A `.npy` of four bytes whose header says more."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + b"\0\0\0\0"


def packed(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def parquet(**columns):
    buffer = io.BytesIO()
    pd.DataFrame(columns).to_parquet(buffer)
    return buffer.getvalue()


def with_value(value):
    changed = VECTORS.astype(np.float64)
    changed[3, 1] = value
    return changed


MALFORMED_EMBEDDINGS = {
    "an item too few": ("x.npz", npz(item_id=np.array(NAMES[:4]), embedding=VECTORS[:4]), r"lacks 1 of 5 items .*i4"),
    "ids without vectors": ("x.npz", npz(embedding=VECTORS[:4]), r"has 5 item ids for 4 embeddings"),
    "an item twice": ("x.npz", npz(item_id=np.array([*NAMES[:4], "i0"])), r"has 1 items more than once \(such as .*i0"),
    "an item twice, but for blanks": ("x.npz", npz(item_id=np.array([*NAMES[:4], "i0 "])), r"items more than once"),
    "NaN": ("x.npz", npz(embedding=with_value(np.nan)), r"NaN or infinite values for 1 of 5 items .*i3"),
    "infinity": ("x.npz", npz(embedding=with_value(np.inf)), r"NaN or infinite values for 1 of 5"),
    "too large for float32": ("x.npz", npz(embedding=with_value(1e300)), r"NaN or infinite values for 1 of 5"),
    "one axis": ("x.npz", npz(embedding=VECTORS[:, 0]), r"embeddings of shape \[5\]: there must be two axes"),
    "three axes": ("x.npz", npz(embedding=VECTORS[:, None]), r"embeddings of shape \[5, 1, 4\]"),
    "no dimension": ("x.npz", npz(embedding=VECTORS[:, :0]), r"embeddings of shape \[5, 0\]"),
    "words": ("x.npz", npz(embedding=VECTORS.astype(str)), r"embeddings of type <U\d+: they must be numbers"),
    "complex numbers": ("x.npz", npz(embedding=VECTORS.astype(complex)), r"embeddings of type complex128"),
    "truth values": ("x.npz", npz(embedding=VECTORS > 3), r"embeddings of type bool"),
    "objects": ("x.npz", npz(embedding=VECTORS.astype(object)), r"cannot be read .*must hold plain arrays"),
    "ids as objects": ("x.npz", npz(item_id=np.array(NAMES, dtype=object)), r"ids as np.array\(ids, dtype=str\)"),
    "ids as fractions": ("x.npz", npz(item_id=np.arange(5) + 0.5), r"item ids of type float64: they must be strings"),
    "ids in two axes": ("x.npz", npz(item_id=np.array([NAMES])), r"item ids of shape \[1, 5\]"),
    "ids in latin-1": ("x.npz", npz(item_id=np.array([b"\xe9"] * 5)), r"item ids that are not UTF-8"),
    "other arrays": ("x.npz", packed(vectors=npy(VECTORS)), r"must hold the arrays item_id and .*holds vectors"),
    "no array": ("x.npz", packed(), r"must hold the arrays item_id and embedding, but holds none"),
    "petabytes in an npz": (
        "x.npz",
        packed(item_id=npy(np.array(NAMES)), embedding=claims((5, 10**15))),
        r"embedding says \[5, 1000000000000000\] of float32, which is not what the file holds",
    ),
    "petabytes in an npy": ("x.npy", claims((5, 10**15)), r"cannot be read .*must hold plain arrays"),
    "more than can be counted": ("x.npy", claims((2**40, 2**40)), r"cannot be read"),
    "a negative shape": ("x.npz", packed(item_id=npy(np.array(NAMES)), embedding=claims((-5, 4))), r"cannot be read"),
    "a header that is none": ("x.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((((", r"cannot be read"),
    "an empty npy": ("x.npy", b"", r"cannot be read"),
    "an empty npz": ("x.npz", b"", r"cannot be read"),
    "half an npz": ("x.npz", npz()[:200], r"cannot be read, it may be damaged"),
    "a bit of an npz": ("x.npz", npz().replace(VECTORS.tobytes(), VECTORS[::-1].tobytes()), r"it may be damaged"),
    "a pickle": ("x.npy", pickle.dumps(VECTORS), r"cannot be read"),
    "objects in an npy": ("x.npy", npy(VECTORS.astype(object), allow_pickle=True), r"cannot be read"),
    "rows without ids, too few": ("x.npy", npy(VECTORS[:4]), r"has 4 rows, the item file 5"),
    "a text": ("x.npz", b"i0 1 2 3\n", r"cannot be read, it may be damaged"),
    "a torch file": ("x.pt", b"", r"x.pt' is not a .npz, .parquet or .npy file"),
    "no such file": ("", None, r"there is no such file"),
    "a Parquet file without ids": ("x.parquet", parquet(a=[1.0]), r"must have a column item_id, but has a"),
    "vectors of other lengths": (
        "x.parquet", parquet(item_id=NAMES[:2], embedding=[[1.0], [1.0, 2.0]]), r"not all of one length",
    ),
    "words in a Parquet file": ("x.parquet", parquet(item_id=NAMES, a=list("abcde")), r"neither a column embedding"),
    "half a Parquet file": ("x.parquet", parquet(item_id=NAMES, a=[1.0] * 5)[:-20], r"it may be damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED_EMBEDDINGS)
def test_embeddings(tmp_path, name):
    file, content, words = MALFORMED_EMBEDDINGS[name]
    path = tmp_path / (file or "none.npz")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_embeddings(path, NAMES, NAMES)
    says(caught.value, path, words)
    assert "content_file=" in str(caught.value)


# --------------------------------------------------------------------------------------------------- Semantic ID files

IDS = {name: [k, k] for k, name in enumerate(NAMES)}
MALFORMED_IDS = {
    "not JSON": ("{", r"is not JSON"),
    "an empty file": ("", r"is not JSON"),
    "a list": (json.dumps(list(IDS.values())), r"must hold one object"),
    "an item without ID": (json.dumps({**IDS, "i4": []}), r"item i4 needs a list of codes, got \[\]"),
    "an item missing": (json.dumps({k: v for k, v in IDS.items() if k != "i4"}), r"no ID for 1 of 5 items, such as i4"),
    "an item twice": ('{"i0": [1, 1], "i0": [2, 2]}', r"the item i0 appears twice"),
    "other lengths": (json.dumps({**IDS, "i3": [1]}), r"item i3 has 1 codes, item i0 has 2"),
    "a negative code": (json.dumps({**IDS, "i3": [1, -1]}), r"item i3 has \[1, -1\]; codes must be whole numbers"),
    "a fraction": (json.dumps({**IDS, "i3": [1, 1.5]}), r"item i3 has \[1, 1.5\]"),
    "a truth value": (json.dumps({**IDS, "i3": [1, True]}), r"item i3 has \[1, True\]"),
    "a word": (json.dumps({**IDS, "i3": [1, "2"]}), r"item i3 has \[1, '2'\]"),
    "NaN": (json.dumps({**IDS, "i3": [1, math.nan]}), r"item i3 has \[1, nan\]"),
    "nothing": (json.dumps({**IDS, "i3": None}), r"item i3 needs a list of codes, got None"),
    "a number": (json.dumps({**IDS, "i3": 12}), r"item i3 needs a list of codes, got 12"),
    "2 to the 63": (
        json.dumps({**IDS, "i3": [1, 2**63]}),
        r"i3 has \[1, 9223372036854775808\], so a level of more",
    ),
    "a billion codewords": (json.dumps({**IDS, "i3": [1, 10**9]}), r"a level of more than 1,048,576 codes for 5 items"),
    "a number of 10,000 digits": ('{"i0": [' + "9" * 10_000 + "]}", r"is not JSON|so a level of more"),
    "brackets without end": ("[" * 200_000, r"is not JSON"),
    "latin-1": (b'{"\xe9": [1]}', r"is not JSON"),
    "UTF-16": (json.dumps(IDS).encode("utf-16"), r"is not JSON"),
    "a folder": (None, r"cannot be read"),
}


@pytest.mark.parametrize("name", MALFORMED_IDS)
def test_id_files(tmp_path, name):
    content, words = MALFORMED_IDS[name]
    path = tmp_path / "ids.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as caught:
        read_codes(path, NAMES)
    says(caught.value, path, words)
    assert len(str(caught.value)) < 1000


# ------------------------------------------------------------------------------------------------- zips of downloads


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_header(data, field, value):
    """A zip with another number at a place of its first entry, in both of its headers."""
    central = data.index(b"PK\x01\x02")
    data = bytearray(data)
    for start, shift in ((0, {"flags": 6, "method": 8}[field]), (central, {"flags": 8, "method": 10}[field])):
        data[start + shift : start + shift + 2] = struct.pack("<H", value)
    return bytes(data)


WHOLE = zipped(**{"x.inter": GOOD, "x.item": ITEMS})
MALFORMED_ZIPS = {
    "a web page": (b"<!DOCTYPE html><html>log in</html>", r"not a zip file but a web page"),
    "nothing": (b"", r"not a zip file"),
    "a tar": (b"x.inter" + b"\0" * 600, r"not a zip file"),
    "half": (WHOLE[: len(WHOLE) // 2], r"not a zip file"),
    "no interactions": (zipped(**{"x.item": ITEMS}), r"holds no .inter file, only \['x.item'\]"),
    "an empty zip": (zipped(), r"holds no .inter file"),
    "a path outside": (zipped(**{"../x.inter": GOOD}), r"leads outside: '../x.inter'"),
    "an absolute path": (zipped(**{"/tmp/x.inter": GOOD}), r"leads outside"),
    "a drive": (zipped(**{"C:/x.inter": GOOD}), r"leads outside"),
    "no name": (zipped(**{".": "", "x.item": ITEMS}), r"holds no .inter file"),
    "two files of one name": (zipped(**{"a/x.inter": GOOD, "b/x.inter": GOOD}), r"several files of one name"),
    "other bytes": (WHOLE.replace(WHOLE[60:64], b"\xff\xff\xff\xff", 1), r"cannot be unpacked|Bad CRC"),
    "a password": (with_header(WHOLE, "flags", 1), r"cannot be unpacked \(.*encrypted"),
    "an unknown packing": (with_header(WHOLE, "method", 97), r"cannot be unpacked"),
}


@pytest.mark.parametrize("name", MALFORMED_ZIPS)
def test_zips(tmp_path, monkeypatch, name):
    content, words = MALFORMED_ZIPS[name]
    monkeypatch.setattr(download, "fetch", lambda url, target, *options: target.write_bytes(content))
    with pytest.raises(RecboleTigerError) as caught:
        download.ensure_dataset("made", tmp_path, "http://example.org/x.zip", progress=False)
    text = str(caught.value)
    assert re.search(words, text) and "http://example.org/x.zip" in text and "\n" not in text, text
    assert not (tmp_path / "made").exists()


# -------------------------------------------------------------------------------------------------------- histories

HISTORIES = {
    "more cells than the header": ("h.csv", "user_id,item_id\nu,i1\nu,i2,i3\n", r"line 3: 3 cells, but the header"),
    "one comma more": ("h.csv", "user_id,item_id,timestamp\nu,i1,1,\n", r"line 2: 4 cells, but the header names 3"),
    "fewer cells": ("h.tsv", "user_id\titem_id\nu\n", r"line 2: 1 cells, but the header names 2"),
    "an empty user": ("h.csv", "user_id,item_id\n,i1\n", r"line 2: 'user_id' is empty"),
    "an empty item": ("h.csv", "user_id,item_id\nu, \n", r"line 2: 'item_id' is empty"),
    "an empty time": ("h.csv", "user_id,item_id,timestamp\nu,i1,1\nu,i2,\n", r"line 3: 'timestamp' is not a"),
    "a date": ("h.csv", "user_id,item_id,timestamp\nu,i1,2024-01-05\n", r"line 2: 'timestamp' is not .*2024-01-05"),
    "infinity": ("h.csv", "user_id,item_id,timestamp\nu,i1,inf\n", r"line 2: 'timestamp' is not a finite"),
    "a column twice": ("h.csv", "user_id,item_id,item_id\nu,i1,i2\n", r"line 1: the column 'item_id' .* twice"),
    "no items": ("h.csv", "user_id,sku\nu,i1\n", r"has no column 'item_id'; its columns: user_id, sku"),
    "no rows": ("h.csv", "user_id,item_id\n", r"holds no interactions"),
    "an empty file": ("h.csv", "", r"has no column 'user_id'"),
    "a quote without end": ("h.csv", 'user_id,item_id\nu,"i1\n', r"line 2: unexpected end of data"),
    "latin-1": ("h.csv", "user_id,item_id\né,i1\n".encode("latin-1"), r"line \d: .*can't decode byte 0xe9"),
    "another format": ("h.json", "{}", r"must end in one of .csv, .tsv, .inter, .parquet"),
    "no Parquet file": ("h.parquet", "user_id,item_id\n", r"is not a Parquet file, or is damaged"),
    "an .inter without types": ("h.inter", "user_id\titem_id\nu\ti1\n", r"line 1: 'user_id' is not a column"),
    "an .inter with more cells": ("h.inter", "user_id:token\titem_id:token\nu\ti\tj\n", r"line 2: 3 cells instead"),
    "an .inter with dates": (
        "h.inter", INTER + "u\ti\t2024-01-05\n", r"line 2, timestamp:float: '2024-01-05' is not a finite number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HISTORIES)
def test_histories(place, tmp_path, name):
    file, content, words = HISTORIES[name]
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as caught:
        read_histories(path, place[1])
    says(caught.value, path, words)


def test_a_history_names_users_and_items_as_a_run_does(place, tmp_path):
    for name, text in (
        ("h.csv", "user_id,item_id\nbob , i1\nbob,i2 \n"),
        ("h.inter", INTER + "bob \t i1\t1\nbob\ti2 \t2\n"),
    ):
        (tmp_path / name).write_text(text)
        assert read_histories(tmp_path / name, place[1]) == {"bob": ["i1", "i2"]}


# ------------------------------------------------------------------------------------------------------ checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The runs of two models on one catalogue: checkpoints by model, the settings, and the root."""
    root = tmp_path_factory.mktemp("runs")
    with working_in(root):
        write_catalogue(root / "data", n_users=40)
        runs, given = {}, {"TIGER": TINY, "SASRec": {**SMALL, "show_progress": False, "state": "WARNING"}}
        del given["SASRec"]["pretrain_epochs"], given["SASRec"]["embedding_size"]
        for model, own in given.items():
            settings = {**own, "epochs": 1, "data_path": str(root / "data"), "run_dir": str(root / model)}
            run_recbole_tiger(model, "toy", None, settings)
            runs[model] = settings
        yield runs, root


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_flipped_bit_is_named_or_changes_nothing(checkpoints, tmp_path):
    data = (checkpoints[1] / "TIGER" / "best.pth").read_bytes()
    (tmp_path / "whole.pth").write_bytes(data)
    whole = str(load_checkpoint(tmp_path / "whole.pth"))
    found = 0
    for bit in np.random.default_rng(0).integers(0, 8 * len(data), 60).tolist():
        (tmp_path / "bit.pth").write_bytes(flipped(data, bit))
        try:
            assert str(load_checkpoint(tmp_path / "bit.pth")) == whole  # a byte between the parts of the file
        except DamagedCheckpointError as error:
            says(error, tmp_path / "bit.pth", "is damaged or was not written by recbole_tiger")
            found += 1
    assert found > 40


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


MALFORMED_CHECKPOINTS = {
    "an empty file": (b"", r"is damaged or was not written"),
    "a text": (b"weights", r"is damaged or was not written"),
    "a pickle": (pickle.dumps({"format": "recbole_tiger checkpoint"}), r"is damaged or was not written"),
    "a zip of other things": (WHOLE, r"is damaged or was not written"),
    "an npz": (npz(), r"is damaged or was not written"),
    "a list": (saved([1, 2]), r"is not a checkpoint of recbole_tiger"),
    "weights alone": (saved({"w": torch.ones(2)}), r"is not a checkpoint of recbole_tiger"),
    "of the future": (saved({"format": "recbole_tiger checkpoint", "format_version": 9}), r"has format version 9"),
    "of no version": (saved({"format": "recbole_tiger checkpoint"}), r"has format version None"),
    "with code in it": (
        saved({"format": "recbole_tiger checkpoint", "x": io.StringIO}),
        r"is damaged or was not written",
    ),
}


@pytest.mark.parametrize("name", MALFORMED_CHECKPOINTS)
def test_checkpoints(tmp_path, name):
    content, words = MALFORMED_CHECKPOINTS[name]
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    says(caught.value, path, words)


@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_checkpoints_that_are_cut_off(checkpoints, tmp_path, part):
    data = (checkpoints[1] / "SASRec" / "best.pth").read_bytes()
    path = tmp_path / "x.pth"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(DamagedCheckpointError) as caught:
        load_checkpoint(path)
    says(caught.value, path, "is damaged")


def more_items(lines):
    return [*lines, "new\ti0_0\t1500000000", "new\tadded\t1500000001", "new\ti0_1\t1500000002", ""]


CHANGED_DATA = {
    "rows in another order": (lambda lines: [lines[0], *lines[-2:0:-1], ""], r"the same items are in another order"),
    "an item more": (lambda lines: more_items(lines[:-1]), r"1 items are new and 0 are gone \(such as added\)"),
    "a row less": (lambda lines: [*lines[:-2], ""], r"the items are the same, their interactions are not"),
}


@pytest.mark.parametrize("name", CHANGED_DATA)
@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_changed_data_is_refused(checkpoints, monkeypatch, model, name):
    runs, root = checkpoints
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.argv", ["pytest"])
    change, words = CHANGED_DATA[name]
    path = root / "data" / "toy" / "toy.inter"
    before = path.read_text()
    items = path.with_suffix(".item").read_text()
    try:
        path.write_text("\n".join(change(before.split("\n"))))
        path.with_suffix(".item").write_text(items + "added\tAcme soap\tBeauty\tAcme\n")
        last = root / model / "last.pth"
        settings = {**runs[model], "epochs": 2, "resume": str(last)}
        with pytest.raises(RecboleTigerError) as caught:
            run_recbole_tiger(model, "toy", None, settings)
        says(caught.value, last, f"trained on other data than the current files: ({words})")
        with pytest.raises(RecboleTigerError) as caught:
            load_data_and_model(str(last))
        assert re.search("trained on", str(caught.value)) and re.search("last.pth|dataset='toy'", str(caught.value))
    finally:
        path.write_text(before)
        path.with_suffix(".item").write_text(items)


def test_a_checkpoint_of_an_older_version_still_opens(checkpoints, monkeypatch, tmp_path):
    monkeypatch.chdir(checkpoints[1])
    state = load_checkpoint(checkpoints[1] / "SASRec" / "best.pth")
    assert state["data"]["checksum"] and b"i0_1" in state["data"]["items"].numpy().tobytes()
    del state["data"]
    save_checkpoint(tmp_path / "old.pth", state)
    _, model, *_ = load_data_and_model(str(tmp_path / "old.pth"))
    assert model.state_dict().keys() == state["state_dict"].keys()


def test_the_same_data_with_a_byte_order_mark_is_the_same(checkpoints, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pytest"])
    shutil.copytree(checkpoints[1] / "data", tmp_path / "data")
    path = tmp_path / "data" / "toy" / "toy.inter"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    config = build_config("SASRec", "toy", config_dict={"data_path": str(tmp_path / "data"), "state": "WARNING"})
    assert prepare_data(config).checksum == load_checkpoint(checkpoints[1] / "SASRec" / "best.pth")["data"]["checksum"]


def test_a_quote_at_the_start_of_an_id_swallows_no_row(workplace):
    rows = [(f'"user {u}' if u % 2 else f"user {u}", f"i{(u + k) % 30}", k, 1) for u in range(60) for k in range(12)][
        :700
    ]
    write_inter(workplace, rows)
    config = build_config("TIGER", "mini", config_dict=mini_settings(workplace))
    sequences = prepare_data(config).dataset.sequences
    assert len(sequences.items) == 700 and np.count_nonzero(np.diff(sequences.start)) == 59


def test_there_are_enough_of_them():
    tables = (MALFORMED_INTER, MALFORMED_ITEM, MALFORMED_EMBEDDINGS, MALFORMED_IDS, MALFORMED_ZIPS, HISTORIES)
    assert sum(map(len, (*tables, MALFORMED_CHECKPOINTS))) >= 150
