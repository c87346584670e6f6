"""The strict reader: a literal reader of a few lines is the oracle; each malformed file has a message that says all."""

import math
import re

import numpy as np
import pytest
from atomic_files import literal_interactions
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recbole_tiger.datasets import atomic_reader, cells
from recbole_tiger.datasets.atomic_fields import Field, read_header
from recbole_tiger.datasets.atomic_reader import read_atomic, read_fields
from recbole_tiger.errors import AtomicFileError, PreparationError

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"


def read(path, content=None, **options):
    """Read `content` as an `.inter` file in which users, items and times matter."""
    if content is not None:
        path = path / "shop.inter"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_atomic(path, **{"ids": ("user_id", "item_id"), "time": "timestamp", "progress": False, **options})


def rows(table):
    return list(zip(*(table.columns[field.name].tolist() for field in table.fields), strict=True))


MALFORMED = {
    # name: (content, what the message must say after the path)
    "empty file": ("", r" is empty: write a line such as user_id:token"),
    "byte-order mark only": ("\ufeff", r" is empty: write a line such as"),
    "header only": (HEADER, r" ends after line 1, the header: add the rows"),
    "header without line end": (HEADER[:-1], r" ends after line 1, the header: add the rows"),
    "empty first line": ("\n" + HEADER + "u\ti\t1\n", r", line 1: '' is not a column .*: write name:type"),
    "no types": ("user_id\titem_id\ttimestamp\nu\ti\t1\n", r", line 1: 'user_id' is not a column .* token, token_seq,"),
    "no header": ("u\ti\t1\nv\ti\t2\n", r", line 1: 'u' is not a column of an atomic file: write name:type"),
    "unknown type": (HEADER.replace("float", "int") + "u\ti\t1\n", r", line 1: 'timestamp:int' is not a column"),
    "type in capitals": (
        HEADER.replace("float", "FLOAT") + "u\ti\t1\n",
        r", line 1: 'timestamp:FLOAT' is not a column",
    ),
    "two types": (HEADER.replace("float", "float:x") + "u\ti\t1\n", r", line 1: 'timestamp:float:x' is not a column"),
    "no name": (HEADER.replace("item_id", "") + "u\ti\t1\n", r", line 1: ':token' is not a column"),
    "type after a blank": (HEADER.replace(":float", ": float") + "u\ti\t1\n", r", line 1: 'timestamp: float' is not a"),
    "header ends with a tab": (HEADER[:-1] + "\t\nu\ti\t1\t\n", r", line 1: '' is not a column"),
    "commas": (
        HEADER.replace("\t", ",") + "u,i,1\n",
        r", line 1: 'user_id:token,item.*' is not a column .* '\\t' between",
    ),
    "quoted header": ('"user_id:token"\titem_id:token\nu\ti\n', r""", line 1: '"user_id:token"' is not a column"""),
    "duplicate column": (
        HEADER[:-1] + "\titem_id:token\nu\ti\t1\tj\n",
        r", line 1: two columns are called 'item_id': rename",
    ),
    "duplicate with other types": ("user_id:token\titem_id:token\tr:float\tr:token\nu\ti\t1\t1\n", r"are called 'r'"),
    "no user column": (
        HEADER.replace("user", "uid") + "u\ti\t1\n",
        r", line 1: there is no column user_id, .* uid_id, item_id",
    ),
    "no item column": (
        "user_id:token\tsku:token\nu\ti\n",
        r"no column item_id, .*: rename .* USER_ID_FIELD or ITEM_ID_FIELD",
    ),
    "ids as numbers": (
        HEADER.replace("m_id:token", "m_id:float") + "u\t1\t1\n",
        r", line 1: item_id:float is not text.*: declare it item_id:token",
    ),
    "ids as sequences": (HEADER.replace("r_id:token", "r_id:token_seq") + "u\ti\t1\n", r"declare it user_id:token"),
    "times as text": (
        HEADER.replace("float", "token") + "u\ti\t1\n",
        r"^timestamp:token in .*shop.inter, line 1, is not a number: declare it timestamp:float, or convert dates"
        r" with dataset_prep/table.py --time_format\.$",
    ),
    "times as a sequence": (HEADER.replace("float", "float_seq") + "u\ti\t1\n", r"^timestamp:float_seq in "),
    "a cell too few": (
        HEADER + "u\ti\t1\nu\ti\n",
        r", line 3: 2 cells instead of 3 in 'u\\ti': write user_id:token item_id",
    ),
    "a cell too many": (
        HEADER + "u\ti\t1\nv\ti\t2\t3\nu\tj\t4\n",
        r", line 3: 4 cells instead of 3 in 'v\\ti\\t2\\t3'",
    ),
    "too few, then too many": (HEADER + "u\ti\nv\ti\t2\t3\n", r", line 2: 2 cells instead of 3"),
    "too many, then too few": (HEADER + "v\ti\t2\t3\nu\ti\n", r", line 2: 4 cells instead of 3"),
    "two rows on one line": (HEADER + "u\ti\t1\tv\ti\t2\n", r", line 2: 6 cells instead of 3"),
    "a row on two lines": (HEADER + "u\ti\n\t1\n", r", line 2: 2 cells instead of 3"),
    "blanks for tabs": (
        HEADER + "u\ti\t1\nv j 2\n",
        r", line 3: 1 cells instead of 3 in 'v j 2': .* separated by '\\t'",
    ),
    "tab in quotes": (
        HEADER + 'u\t"a\tb"\t1\n',
        r", line 2: 4 cells instead of 3 .*quotes do not protect it",
    ),
    "line end in quotes": (HEADER + 'u\t"a\nb"\t1\n', r", line 2: 2 cells instead of 3"),
    "cut off": (HEADER + "u\ti\t1\nu\tj", r", line 3: 2 cells instead of 3"),
    "empty line inside": (HEADER + "u\ti\t1\n\nv\ti\t2\n", r", line 3 is empty: remove the line"),
    "empty line at the end": (HEADER + "u\ti\t1\n\n", r", line 3 is empty: remove the line"),
    "empty line after the header": (HEADER + "\nu\ti\t1\n", r", line 2 is empty"),
    "comment": ("# orders\n" + HEADER + "u\ti\t1\n", r", line 1: '# orders' is not a column"),
    "no user": (
        HEADER + "u\ti\t1\n\ti\t2\n",
        r", line 3, user_id:token: '' is not an id: fill it in, or remove the row",
    ),
    "no item": (HEADER + "u\t\t1\n", r", line 2, item_id:token: '' is not an id"),
    "padding as an id": (HEADER + "u\t[PAD]\t1\n", r", line 2, item_id:token: '\[PAD\]' is not an id: .* rename it"),
    "no time": (
        HEADER + "u\ti\t1\nu\tj\t\n",
        r", line 3, timestamp:float: '' is not a finite number: .* --time_format",
    ),
    "date": (
        HEADER + "u\ti\t2024-01-05\n",
        r", line 2, timestamp:float: '2024-01-05' is not a finite .*convert dates with",
    ),
    "word": (HEADER + "u\ti\t1\nu\tj\tnoon\n", r", line 3, timestamp:float: 'noon' is not"),
    "not a number": (HEADER + "u\ti\tnan\n", r", line 2, timestamp:float: 'nan' is not a finite"),
    "missing word": (HEADER + "u\ti\tNA\n", r", line 2, timestamp:float: 'NA' is not a finite"),
    "infinite": (HEADER + "u\ti\t-inf\n", r", line 2, timestamp:float: '-inf' is not a finite"),
    "too large": (HEADER + "u\ti\t1e400\n", r", line 2, timestamp:float: '1e400' is not a finite"),
    "decimal comma": (HEADER + "u\ti\t1,5\n", r", line 2, timestamp:float: '1,5' is not a finite"),
    "thousands": (HEADER + "u\ti\t1_000\n", r", line 2, timestamp:float: '1_000' is not a finite"),
    "hexadecimal": (HEADER + "u\ti\t0x10\n", r", line 2, timestamp:float: '0x10' is not a finite"),
    "truth values": (HEADER + "u\ti\tTrue\nu\ti\tTrue\n", r", line 2, timestamp:float: 'True' is not a finite"),
    "other digits": (HEADER + "u\ti\t\u0661\u0662\n", r", line 2, timestamp:float: '.*' is not a finite"),
    "quoted number": (HEADER + 'u\ti\t"1"\n', r""", line 2, timestamp:float: '"1"' is not a finite"""),
    "a blank for an id": (HEADER + "u\t \t1\n", r", line 2, item_id:token: ' ' is not an id: fill it in"),
    "padding and a blank": (
        HEADER + "u\t[PAD] \t1\n",
        r", line 2, item_id:token: '\[PAD\] ' is not an id: .* rename it",
    ),
    "words in a sequence of numbers": (
        HEADER[:-1] + "\tv:float_seq\nu\ti\t1\t1 2\nu\tj\t1\t1 two\n",
        r", line 3, v:float_seq: '1 two' is not a sequence of finite numbers separated by ' ': correct it",
    ),
    "infinity in a sequence": (
        HEADER[:-1] + "\tv:float_seq\nu\ti\t1\t1 inf\n",
        r", line 2, v:float_seq: '1 inf' is not",
    ),
    "rating in words": (
        "user_id:token\titem_id:token\trating:float\nu\ti\tgood\n",
        r", line 2, rating:float: 'good' .* leave the cell empty",
    ),
    "rating that is not a number": (
        "user_id:token\titem_id:token\trating:float\nu\ti\t\nu\tj\tnan\n",
        r", line 3, rating:float: 'nan'",
    ),
    "bad UTF-8": (
        HEADER.encode() + b"u\ti\t1\nu\tR\xe9n\xe9\t2\n",
        r", line 3: b'\\xe9n\\xe9\\t2.*' is not utf-8.* text: save the file as UTF-8",
    ),
    "bad UTF-8 in the header": (b"user_id\xff:token\n", r", line 1: b'\\xff.*' is not utf-8"),
    "half a character at the end": (HEADER.encode() + b"u\ti\t1\xc3", r", line 2: b'\\xc3' is not utf-8"),
    "UTF-16": (HEADER.encode("utf-16"), r", line 1: b'\\xff.*' is not utf-8"),
    "gzip": (b"\x1f\x8b\x08\x00rest", r", line 1: b'\\x8b.*' is not utf-8"),
    "old Mac line ends": (
        (HEADER + "u\ti\t1\n").replace("\n", "\r"),
        r", line 1: '\\r' in '.*' is not allowed: end lines with",
    ),
    "carriage return in a cell": (
        HEADER + "u\ti\t1\nu\ra\ti\t2\n",
        r", line 3: '\\r' in 'u\\ra\\ti\\t2' is not allowed",
    ),
    "NUL byte": (HEADER + "u\ti\t1\nu\ti\0\t2\n", r", line 3: '\\x00' in '.*' is not allowed: save the file as text"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_an_error_that_says_where_and_what_to_do(tmp_path, name):
    content, message = MALFORMED[name]
    with pytest.raises(AtomicFileError) as caught:
        read(tmp_path, content)
    text = str(caught.value)
    before, path, after = text.partition(str(tmp_path / "shop.inter"))
    assert path and re.search(message, text if message.startswith("^") else after), text
    assert ": " in after and text.endswith(".") and "\n" not in text  # one sentence; the way out stands after a colon


def test_at_least_forty_malformed_files_and_the_error_is_a_value_error():
    assert (
        len(MALFORMED) >= 40
        and issubclass(AtomicFileError, PreparationError)
        and issubclass(AtomicFileError, ValueError)
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"separator": "::"}, r"field_separator='::' must be one ASCII character"),
        ({"separator": "¦"}, r"field_separator='¦' must be one ASCII character"),
        ({"separator": "\n"}, r"field_separator='\\n' must be"),
        ({"separator": ""}, r"field_separator='' must be"),
        ({"encoding": "klingon"}, r"encoding='klingon' is unknown to Python: use utf-8"),
        ({"encoding": "ascii"}, r"line 2: .* is not ascii text"),
    ],
)
def test_settings_that_cannot_work(tmp_path, options, message):
    with pytest.raises(AtomicFileError, match=message):
        read(tmp_path, HEADER + "é\ti\t1\n", **options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(AtomicFileError, match=r"none.inter does not exist: check dataset and data_path"):
        read(tmp_path / "none.inter")


def test_ids_are_kept_exactly(tmp_path):
    ids = [
        "NA",
        "None",
        "null",
        "nan",
        "1",
        "01",
        "1.0",
        "1e3",
        '"',
        '"a"',
        '"a',
        "a  b",
        "#",
        "\\N",
        "True",
        "ü",
        "Ü",
        "u\u0308",
        "\ufeffx",
        "a\u2028b",
        "a\x0bb",
        "a\x85b",
        "a\xa0b",
        "-",
        "a,b;c|d",
        "'",
        "👍",
        "x" * 10_000,
    ]
    content = HEADER + "".join(
        f"{user}\t{item}\t{k}\n" for k, (user, item) in enumerate(zip(ids, ids[::-1], strict=True))
    )
    expected = list(zip(ids, ids[::-1], map(float, range(len(ids))), strict=True))
    for variant in (content, "\ufeff" + content, content.replace("\n", "\r\n"), content[:-1]):
        assert rows(read(tmp_path, variant)) == expected
    assert rows(read(tmp_path, content.replace("\t", "~"), separator="~")) == expected
    for encoding in ("U8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"):
        assert rows(read(tmp_path, ("\ufeff" + content).encode(encoding), encoding=encoding)) == expected
    plain = HEADER + "Ren\xe9\ti\t1\n"
    assert rows(read(tmp_path, plain.encode("latin-1"), encoding="latin-1")) == [("Ren\xe9", "i", 1.0)]


def test_blanks_at_the_ends_of_an_id_are_removed_and_counted(tmp_path):
    table = read(tmp_path, HEADER + "bob\ti\t1\nbob \ti\t2\n\xa0bob\t j\t3\na b\ti\t4\n")
    assert [row[:2] for row in rows(table)] == [("bob", "i"), ("bob", "i"), ("bob", "j"), ("a b", "i")]
    users, items = table.notes
    assert "2 cells of user_id had blanks" in users and "(the first is 'bob ' in line 3)" in users
    assert "1 cells of item_id had blanks" in items and "' j' in line 4" in items
    assert not read(tmp_path, HEADER + "bob\ti\t1\n").notes
    title = "item_id:token\ttitle:token\nb\t a \n"  # other texts are not names of anything
    assert rows(read(tmp_path, title, ids=("item_id",), time=None)) == [("b", " a ")]


def test_columns_that_are_not_kept_are_checked_all_the_same(tmp_path):
    header = "user_id:token\titem_id:token\trating:float\tvector:float_seq\ttimestamp:float\n"
    table = read(tmp_path, header + "u\ti\t1\t1,2\t3\n", keep={"item_id"}, seq_separator=",")
    assert list(table.columns) == ["item_id"] and len(table) == 1
    for line in ("u\ti\tx\t1\t3", "u\ti\t1\t1;2\t3", "u\ti\t1\t1\tx", " \ti\t1\t1\t3"):
        with pytest.raises(AtomicFileError, match="line 2, "):
            read(tmp_path, f"{header}{line}\n", keep={"item_id"}, seq_separator=",")
    texts = read(tmp_path, "item_id:token\tprice:float\na\t 1.50\nb\t\n", ids=("item_id",), time=None, as_text=True)
    assert rows(texts) == [("a", " 1.50"), ("b", "")]
    assert [field.name for field in read_fields(tmp_path / "shop.inter")] == ["item_id", "price"]


def test_ids_as_codes_in_the_order_of_their_first_appearance(tmp_path):
    content = HEADER + "b\ty\t1\n a\ty\t2\nb \tx\t3\na\ty\t4\n"
    table = read(tmp_path, content, coded=True)
    assert list(table.columns) == ["timestamp"] and len(table.notes) == 1 and "2 cells of user_id" in table.notes[0]
    assert table.ids["user_id"].names == ["b", "a"] and table.ids["user_id"].codes.tolist() == [0, 1, 0, 1]
    assert table.ids["item_id"].names == ["y", "x"] and table.ids["item_id"].codes.tolist() == [0, 0, 1, 0]
    assert read(tmp_path, content).columns["user_id"].tolist() == ["b", "a", "b", "a"]
    assert not read(tmp_path, content, coded=True, keep={"timestamp"}).ids


names = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\t\n\r\0"), min_size=1, max_size=70)
blocks_of_ids = st.lists(
    st.lists(names | st.sampled_from(["1", "10", "12345678", "123456789"]), min_size=1, max_size=6), max_size=4
)


@given(blocks_of_ids, st.sampled_from([1, 100, 1 << 29]))
@settings(max_examples=500, deadline=None)
def test_codes_of_ids_of_any_length_are_those_of_a_dictionary(blocks, pending):
    column, literal = cells.IdColumn(no_ids=("", "[PAD]")), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "PENDING_BYTES", pending)
        for block in blocks:
            text = "".join(f"a\t{name}\n" for name in block).encode()
            column.add(cells.Block.of(text, b"\t", 2), 1, text)
        found = column.ids() if blocks else None
    everything = [name for block in blocks for name in block]
    expected = [literal.setdefault(name.strip(), len(literal)) for name in everything]
    if found:
        assert found.codes.tolist() == expected and found.names == list(literal) and found.codes.dtype == np.int32
    blanks = [row for row, name in enumerate(everything) if name != name.strip()]
    assert column.blanks == ((len(blanks), everything[blanks[0]], blanks[0]) if blanks else None)
    bad = [row for row, name in enumerate(everything) if name.strip() in ("", "[PAD]")]
    assert column.bad == ((everything[bad[0]], bad[0]) if bad else None)


def test_columns_have_their_types_and_every_row_its_line(tmp_path):
    header = "rating:float\titem_id:token\ttags:token_seq\tuser_id:token\tvector:float_seq\ttimestamp:float\n"
    table = read(tmp_path, header + "\tb\t\tu\t1 2\t -1.5e3\n4.5\tb\tx y\tv\t\t2 \n")
    assert table.fields[2] == Field("tags", "token_seq") and len(table) == 2
    assert {name: column.dtype.kind for name, column in table.columns.items()} == {
        "rating": "f",
        "item_id": "O",
        "tags": "O",
        "user_id": "O",
        "vector": "O",
        "timestamp": "f",
    }
    assert math.isnan(table.columns["rating"][0]) and table.columns["timestamp"].tolist() == [-1500.0, 2.0]
    assert table.columns["tags"].tolist() == ["", "x y"] and table.columns["vector"].tolist() == ["1 2", ""]
    items = read(tmp_path, "item_id:token\nb\na\n", ids=("item_id",), time=None)
    assert rows(items) == [("b",), ("a",)]
    assert len(read(tmp_path, "user_id:token\titem_id:token\nu\ti\n")) == 1  # a time column may be missing


def test_headers_of_atomic_files(tmp_path):
    assert [str(field) for field in read_header("a:token\tb:float_seq", tmp_path)] == ["a:token", "b:float_seq"]
    for line in ("a", "a:text", ":token", "a:token\t"):
        with pytest.raises(PreparationError, match="line 1: .* is not a column of an atomic file"):
            read_header(line, tmp_path)


BASE = (HEADER + 'u1\tNA\t10\nu 2\t"b"\t20.5\nü\ti3\t-3\nu1\ti3\t10\nu4\tnull\t1e3\n').encode()
PIECES = [
    b"\t",
    b"\n",
    b"\r",
    b"\r\n",
    b'"',
    b"\0",
    b" ",
    b"",
    b"\xc3",
    b"\xff",
    b"_",
    b"nan",
    b":token",
    b"1",
    b"e",
    b"\xef\xbb\xbf",
    b"[PAD]",
]
damage = st.lists(
    st.tuples(st.integers(0, len(BASE)), st.integers(0, 4), st.sampled_from(PIECES) | st.binary(max_size=3)),
    max_size=3,
)


@given(damage, st.sampled_from([3, 17, 1 << 18]), st.sampled_from([1, 64]))
@example([(0, 0, b"\xef\xbb\xbf")], 3, 64)
@example([(len(HEADER), 0, b"\xef\xbb\xbf")], 17, 64)
@example([(len(BASE) - 1, 1, b"")], 17, 1)
@settings(max_examples=1500, deadline=None)
def test_damage_is_an_error_or_gives_what_the_file_says_to_the_letter(tmp_path_factory, changes, block, longest_id):
    data = BASE
    for start, length, piece in changes:
        data = data[:start] + piece + data[start + length :]
    path = tmp_path_factory.getbasetemp() / "damaged.inter"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic_reader, "BLOCK_CHARACTERS", block)
        patch.setattr(cells, "LONGEST_ID", longest_id)
        try:
            table = read(path)
        except AtomicFileError as error:
            assert "damaged.inter" in str(error)
            return
    if "timestamp" not in table.columns:  # its name was damaged: a file without times
        assert literal_interactions(data) is None
        return
    found = [table.columns[name].tolist() for name in ("user_id", "item_id", "timestamp")]
    assert list(zip(*found, strict=True)) == literal_interactions(data)
    assert len(table) == data.removesuffix(b"\n").count(b"\n")  # never fewer rows than lines


plain = st.from_regex(r"\A[0-9]{0,17}(\.[0-9]{0,17})?\Z")
numbers = (
    st.text("0123456789.eE+-_ naifINFxX\u0661", max_size=7) | st.floats().map(repr) | st.integers().map(str) | plain
)


@given(st.lists(numbers, min_size=1, max_size=5))
@example(["0.1", "1.", ".5", "007", "999999999999999", "9007199254740993", "."])
@example(["0.3", "123456789012.345", "99999.9999999999"])
@settings(max_examples=1000, deadline=None)
def test_a_number_is_the_same_alone_and_among_others(tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "numbers.item"
    path.write_text("item_id:token\tprice:float\n" + "".join(f"i\t{text}\n" for text in texts), encoding="utf-8")
    expected = [atomic_reader._number(text) if text else math.nan for text in texts]
    if None in expected:
        with pytest.raises(AtomicFileError, match=f"line {expected.index(None) + 2}, price:float"):
            read_atomic(path, ("item_id",), progress=False)
    else:
        assert np.array_equal(
            read_atomic(path, ("item_id",), progress=False).columns["price"], expected, equal_nan=True
        )
