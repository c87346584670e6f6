"""Every source in its true format, quirks included, to the exact atomic files that it must become."""

import gzip
import json

import pytest

from recbole_tiger.datasets.movielens import GENRES_100K, MovieLensSource
from recbole_tiger.datasets.pipeline import PrepareOptions, prepare
from recbole_tiger.datasets.record_reader import TextFormat
from recbole_tiger.datasets.releases import amazon_source, steam_source
from recbole_tiger.datasets.s3rec import S3RecSource
from recbole_tiger.datasets.table_source import InteractionColumns, ItemColumns, TableSource
from recbole_tiger.errors import PreparationError

QUIET = TextFormat(progress=False)


def prepared(source, folder, **options):
    """The `.inter` and `.item` files of a source without core, as lists of lines, and the summary."""
    summary = prepare(source, folder, "made", PrepareOptions(**{"user_core": 0, "item_core": 0, **options}))
    texts = []
    for suffix in ("inter", "item"):
        path = folder / "made" / f"made.{suffix}"
        content = path.read_bytes().decode("utf-8") if path.exists() else ""
        assert "\r" not in content and (not content or content.endswith("\n"))
        texts.append(content.split("\n")[:-1])
    return *texts, summary


def write_gzip(path, *members):
    path.write_bytes(b"".join(gzip.compress(member) for member in members))
    return path


def test_amazon_2014(tmp_path):
    # Reviews: two gzip members, strict JSON and a Python literal, CRLF, an empty line, one line in Latin-1.
    strict = json.dumps(
        {
            "reviewerID": "A2",
            "asin": "B000000001",
            "reviewerName": 'Anne "Annie" O\'Hara',
            "helpful": [0, 1],
            "reviewText": "Line one\nline two &amp; more",
            "overall": 5.0,
            "unixReviewTime": 1400000000,
            "reviewTime": "05 13, 2014",
        }
    )
    literal = (
        "{'reviewerID': 'A1', 'asin': 'B000000002', 'reviewText': \"it's \\\\ fine\", 'overall': 3.0, "
        "'unixReviewTime': 1300000000, 'helpful': [2, 3]}"
    )
    latin = (
        '{"reviewerID": "A1", "asin": "B000000001", "reviewerName": "Ren\xe9", "overall": 4.0, '
        '"unixReviewTime": 1400000000}'
    )
    reviews = write_gzip(
        tmp_path / "reviews_Made_5.json.gz",
        strict.encode() + b"\r\n\r\n" + literal.encode() + b"\r\n",
        latin.encode("latin-1") + b"\n",
    )
    # Metadata: Python literals; nested paths, entities and tags, missing fields, an item without review.
    metadata = write_gzip(
        tmp_path / "meta_Made.json.gz",
        b"{'asin': 'B000000009', 'title': 'Nobody\\'s lamp', 'categories': [['Home']]}\n"
        b"{'asin': 'B000000002', 'categories': [['Beauty', 'Nail Polish & More']], 'price': 12.5, "
        b"'salesRank': {'Beauty': 12}, 'imUrl': 'x.jpg', 'related': {'also_bought': ['B000000001']}}\n",
        b"{'asin': 'B000000001', 'title': '\"Shine\" &amp; Co\\tred <b>new</b>', 'brand': 'O\\'Pi', "
        b"'categories': [['Beauty', 'Makeup'], ['Beauty', 'Gift Sets']], 'description': 'caf\\xe9'}\n",
    )
    source = amazon_source("2014", [reviews], [metadata], encodings=("utf-8", "latin-1"), progress=False)
    inter, item, summary = prepared(source, tmp_path)
    assert inter == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "A1\tB000000002\t3\t1300000000",
        "A2\tB000000001\t5\t1400000000",
        "A1\tB000000001\t4\t1400000000",
    ]
    assert item == [
        "item_id:token\ttitle:token\tcategories:token_seq\tbrand:token\tprice:float",
        "B000000002\t\tBeauty Nail_Polish_&_More\t\t12.50",
        "B000000001\t“Shine” & Co red new\tBeauty Makeup Gift_Sets\tO'Pi\t",
    ]
    assert summary.notes == {"empty lines": 1, "lines in latin-1": 1}
    assert summary.filled == {"title": 0.5, "categories": 1.0, "brand": 0.5, "price": 0.5}
    assert summary.counts["interactions"] == 3 and summary.counts["users"] == summary.counts["items"] == 2


def test_amazon_2014_descriptions_and_first_path_on_request(tmp_path):
    reviews, metadata = tmp_path / "reviews.json", tmp_path / "meta.json"
    reviews.write_text('{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": 5}\n')
    metadata.write_text(
        "{'asin': 'B', 'title': 'T', 'description': 'Long <i>text</i>', 'categories': [['a'], ['b']]}\n"
    )
    source = amazon_source("2014", [reviews], [metadata], True, "first", progress=False)
    _, item, _ = prepared(source, tmp_path)
    assert item == [
        "item_id:token\ttitle:token\tcategories:token_seq\tdescription:token",
        "B\tT\ta\tLong text",
    ]


def test_amazon_2018(tmp_path):
    reviews = tmp_path / "Made_5.json"
    reviews.write_text(
        '{"overall": 5.0, "verified": true, "reviewTime": "09 1, 2016", "reviewerID": "A3", "asin": "B01", '
        '"style": {"Format:": " Hardcover"}, "reviewText": "ok", "unixReviewTime": 1472688000}\n'
        '{"overall": 2.0, "verified": false, "reviewerID": "A3", "asin": "B02", '
        '"unixReviewTime": 1472688000}\n'
    )
    metadata = tmp_path / "meta_Made.json"
    metadata.write_text(
        json.dumps(
            {
                "category": ["Home &amp; Kitchen", "Lamps", "</span></span></span>"],
                "title": "<span>Desk lamp</span>\n   var aPageStart",
                "brand": "\n    by\n    \n    Lumo",
                "price": "$5.99 - $12.00",
                "description": ["Warm", "<br>"],
                "rank": ["#1 in Lamps"],
                "asin": "B01",
            }
        )
        + "\n"
        + json.dumps({"category": [], "title": "Bulb", "brand": "", "price": ".a-box{color:#fff}", "asin": "B02"})
        + "\n"
        + json.dumps({"category": ["Again"], "title": "Bulb, again", "asin": "B02"})
        + "\n"
    )
    inter, item, summary = prepared(amazon_source("2018", [reviews], [metadata], progress=False), tmp_path)
    assert inter[1:] == ["A3\tB01\t5\t1472688000", "A3\tB02\t2\t1472688000"]
    assert item == [
        "item_id:token\ttitle:token\tcategories:token_seq\tbrand:token\tprice:float",
        "B01\tDesk lamp var aPageStart\tHome_&_Kitchen Lamps\tby Lumo\t5.99",
        "B02\tBulb\tUnknown\t\t",
    ]
    assert summary.notes == {
        "prices that are not a price, left empty": 1,
        "further metadata rows of an item, left out": 1,
    }
    assert summary.counts["ties (neighbours of equal time)"] == 1


REVIEWS_2023 = [
    {
        "rating": 5.0,
        "title": "Great",
        "asin": "B0X",
        "parent_asin": "B0P",
        "user_id": "AE",
        "timestamp": 1588687728923,
    },
    {
        "rating": 4.0,
        "title": "",
        "asin": "B0P",
        "parent_asin": "B0P",
        "user_id": "AF",
        "timestamp": 1588615855070,
    },
]
METADATA_2023 = [
    {
        "main_category": "All Beauty",
        "title": "Serum 'C'",
        "average_rating": 4.8,
        "features": [],
        "description": ["Fresh"],
        "price": None,
        "store": "Howard",
        "categories": [],
        "details": {"Brand": "Howard"},
        "parent_asin": "B0P",
    },
]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_amazon_2023(tmp_path, kind):
    files = []
    for name, records in (("reviews", REVIEWS_2023), ("meta", METADATA_2023)):
        path = tmp_path / f"{name}.{kind}"
        if kind == "parquet":
            parquet = pytest.importorskip("pyarrow.parquet")
            pyarrow = pytest.importorskip("pyarrow")
            parquet.write_table(
                pyarrow.Table.from_pylist([{**r, "details": str(r.get("details"))} for r in records]), path
            )
        else:
            content = "".join(json.dumps(record) + "\n" for record in records).encode()
            path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
        files.append(path)
    inter, item, summary = prepared(amazon_source("2023", [files[0]], [files[1]], progress=False), tmp_path)
    assert inter[1:] == ["AF\tB0P\t4\t1588615855070", "AE\tB0P\t5\t1588687728923"]
    # No item has a price or a category here: those columns are left out, and counted as empty.
    assert item == ["item_id:token\ttitle:token\tbrand:token", "B0P\tSerum 'C'\tHoward"]
    assert summary.filled["price"] == summary.filled["categories"] == 0


def test_amazon_without_metadata_and_with_an_unknown_version(tmp_path):
    reviews = tmp_path / "reviews.json"
    reviews.write_text('{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": 5}\n')
    inter, item, _ = prepared(amazon_source("2018", [reviews], progress=False), tmp_path)
    assert len(inter) == 2 and item == []
    with pytest.raises(PreparationError, match="version='2019'.*2014, 2018, 2023"):
        amazon_source("2019", [reviews])


MOVIELENS_ITEMS = [
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
    "1\tToy Story\t1995\tAnimation Children's Comedy",
    "2\tMisérables, Les\t1998\tDrama",
    "3\tunknown\t\tUnknown",
]
MOVIELENS_INTERACTIONS = [
    "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    "2\t1\t4.5\t881250949",
    "1\t3\t3.0\t891717742",
    "1\t2\t5.0\t891717742",
]


def test_movielens_100k(tmp_path):
    (tmp_path / "u.data").write_text("1\t3\t3\t891717742\n2\t1\t4.5\t881250949\n1\t2\t5\t891717742\n")
    flags = {1: ("Animation", "Children's", "Comedy"), 2: ("Drama",), 3: ("unknown",)}
    titles = {
        1: "Toy Story (1995)|01-Jan-1995||http://x",
        2: "Misérables, Les (1998)|01-Jan-1998||http://x",
        3: "unknown|||",
    }
    lines = [
        f"{number}|{title}|" + "|".join("1" if genre in flags[number] else "0" for genre in GENRES_100K)
        for number, title in titles.items()
    ]
    (tmp_path / "u.item").write_bytes("\n".join(lines).encode("latin-1"))
    inter, item, summary = prepared(MovieLensSource(tmp_path, progress=False), tmp_path)
    assert (inter, item) == (MOVIELENS_INTERACTIONS, MOVIELENS_ITEMS)
    assert summary.notes == {"lines in latin-1": 1}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_1m_and_10m(tmp_path, encoding):
    (tmp_path / "ratings.dat").write_text("1::3::3::891717742\r\n2::1::4.5::881250949\r\n1::2::5::891717742\r\n")
    movies = (
        "1::Toy Story (1995)::Animation|Children's|Comedy\n"
        "2::Misérables, Les (1998)::Drama\n"
        "3::unknown::(no genres listed)\n"
    )
    (tmp_path / "movies.dat").write_bytes(movies.encode(encoding))
    inter, item, _ = prepared(MovieLensSource(tmp_path, progress=False), tmp_path)
    assert (inter, item) == (MOVIELENS_INTERACTIONS, MOVIELENS_ITEMS)


def test_movielens_20m_and_32m(tmp_path):
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,3,3.0,891717742\n2,1,4.5,881250949\n1,2,5.0,891717742\n"
    )
    (tmp_path / "movies.csv").write_text(
        "movieId,title,genres\n1,Toy Story (1995),Animation|Children's|Comedy\n"
        '2,"Misérables, Les (1998)",Drama\n3,unknown,(no genres listed)\n',
        encoding="utf-8",
    )
    inter, item, _ = prepared(MovieLensSource(tmp_path, progress=False), tmp_path)
    assert (inter, item) == (MOVIELENS_INTERACTIONS, MOVIELENS_ITEMS)


def test_movielens_damage(tmp_path):
    with pytest.raises(PreparationError, match="none of the MovieLens layouts: u.data"):
        MovieLensSource(tmp_path)
    (tmp_path / "ratings.dat").write_text("1::1::3\n1::1::3::x\n1::1::3::5\n")
    (tmp_path / "movies.dat").write_text("1::Toy Story (1995)\n1::Toy Story: Part::Two (1995)::Drama\n")
    with pytest.raises(PreparationError, match="ratings.dat, line 1: wrong number of columns: 3 instead of 4"):
        prepared(MovieLensSource(tmp_path, progress=False), tmp_path)
    inter, item, summary = prepared(MovieLensSource(tmp_path, progress=False), tmp_path, bad_rows="skip")
    assert inter[1:] == ["1\t1\t3\t5"] and item[1:] == ["1\tToy Story: Part::Two\t1995\tDrama"]
    assert summary.skipped == {"wrong number of columns": 2, "timestamp is not a number": 1}


def test_steam(tmp_path):
    reviews = write_gzip(
        tmp_path / "steam_reviews.json.gz",
        b"{u'username': u'Chaos \\u2665', u'hours': 0.1, u'products': 41, u'product_id': u'725280', "
        b"u'page': 1, u'date': u'2017-12-17', u'text': u\"It's\\nfun\", u'early_access': False}\n"
        b'{"username": "bob", "product_id": 328100, "date": "2017-08-02", "text": "menu"}\n',
    )
    games = write_gzip(
        tmp_path / "steam_games.json.gz",
        b"{u'publisher': u'P', u'genres': [u'Action', u'Free to Play'], u'app_name': u'Lost Summoner', "
        b"u'title': u'Lost Summoner', u'developer': u'', u'price': u'Free to Play', u'id': u'725280'}\n"
        b"{u'genres': [u'RPG'], u'title': u'Only title', u'price': 4.99, u'id': u'328100', "
        b"u'developer': u'Dev'}\n"
        b"{u'price': 1.99}\n",
    )
    inter, item, summary = prepared(steam_source([reviews], [games], progress=False), tmp_path, bad_rows="skip")
    assert inter == [
        "user_id:token\titem_id:token\ttimestamp:float",
        "bob\t328100\t1501632000",
        "Chaos ♥\t725280\t1513468800",
    ]
    assert item == [
        "item_id:token\ttitle:token\tcategories:token_seq\tbrand:token\tprice:float",
        "725280\tLost Summoner\tAction Free_to_Play\tP\t0.00",
        "328100\tOnly title\tRPG\tDev\t4.99",
    ]
    assert summary.skipped == {"no id": 1}


def test_s3rec_sequences_with_metadata(tmp_path):
    (tmp_path / "Made.txt").write_text("1 3 1 2\n2 2 3\n")
    (tmp_path / "items.csv").write_text('id,name,path\n1,One,a|b c\n2,Two,\n3,"Three, 3",a\n')
    columns = ItemColumns(item="id", title="name", categories="path")
    source = S3RecSource(tmp_path / "Made.txt", [tmp_path / "items.csv"], columns, item_text=QUIET)
    inter, item, _ = prepared(source, tmp_path, order="source")
    assert inter == [
        "user_id:token\titem_id:token\ttimestamp:float",
        "1\t3\t1",
        "1\t1\t2",
        "1\t2\t3",
        "2\t2\t1",
        "2\t3\t2",
    ]
    assert item == [
        "item_id:token\ttitle:token\tcategories:token_seq",
        "1\tOne\ta b_c",
        "2\tTwo\tUnknown",
        "3\tThree, 3\ta",
    ]


def test_s3rec_attributes_and_item_map(tmp_path):
    (tmp_path / "Made.txt").write_text("1 1 2\n\n2\n")
    (tmp_path / "map.json").write_text('{"id2item": {"1": "B01", "2": "B02"}, "item2id": {}}')
    (tmp_path / "attributes.json").write_text('{"B02": [5, 9], "B01": [], "B03": 4}')
    source = S3RecSource(
        tmp_path / "Made.txt",
        attributes=tmp_path / "attributes.json",
        item_map=tmp_path / "map.json",
        item_text=QUIET,
    )
    inter, item, summary = prepared(source, tmp_path, bad_rows="skip", order="source")
    assert inter[1:] == ["1\tB01\t1", "1\tB02\t2"]
    assert item == ["item_id:token\tattributes:token_seq", "B02\t5 9", "B01\tUnknown"]
    assert summary.skipped == {"a user without items": 1, "attributes are not a list": 1}


def test_s3rec_mistakes(tmp_path):
    sequences = tmp_path / "Made.txt"
    sequences.write_text("1 1 7\n")
    (tmp_path / "map.json").write_text('{"1": "B01"}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "twice.json").write_text('{"1": "A", "7": "B", "1": "C"}')
    (tmp_path / "merged.json").write_text('{"1": "B", "7": "B"}')
    with pytest.raises(PreparationError, match="line 1: an item that the item map does not have: '7'"):
        prepared(S3RecSource(sequences, item_map=tmp_path / "map.json", item_text=QUIET), tmp_path)
    for name, message in (
        ("list.json", "not one JSON object"),
        ("broken.json", "is not JSON"),
        ("no.json", "cannot be read"),
        ("twice.json", "twice.json: the item 1 appears twice; keep one of them"),
        ("merged.json", "maps two item numbers to 'B'"),
    ):
        with pytest.raises(PreparationError, match=message):
            prepared(S3RecSource(sequences, item_map=tmp_path / name, item_text=QUIET), tmp_path)
    with pytest.raises(PreparationError, match="not both"):
        S3RecSource(sequences, ["items.csv"], ItemColumns("id", "title"), attributes="x.json")


ORDERS = [
    ("u1", "p-1", "2024-03-01 10:00", "2"),
    ("u2", "p-2", "2024-02-01 09:30", "1"),
    ("u1", "p-2", "2024-03-02 00:00", "1"),
]
PRODUCTS = [("p-1", 'Desk lamp, "warm"', "Home > Lamps and light", "$20"), ("p-2", "Bulb", "Home", "3,50 €")]
EXPECTED_ORDERS = [
    "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    "u2\tp-2\t1\t1706779800",
    "u1\tp-1\t2\t1709287200",
    "u1\tp-2\t1\t1709337600",
]
EXPECTED_PRODUCTS = [
    "item_id:token\ttitle:token\tcategories:token_seq\tprice:float\tcolour:token",
    'p-1\tDesk lamp, "warm"\tHome Lamps_and_light\t20.00\tred',
    "p-2\tBulb\tHome\t3.50\tred",
]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "csv.gz"])
def test_any_table_by_its_columns(tmp_path, kind):
    import csv
    import io

    tables = {
        "orders": (("who", "what", "when", "pieces"), ORDERS),
        "products": (("sku", "name", "path", "cost", "colour"), [(*product, "red") for product in PRODUCTS]),
    }
    paths = {}
    for name, (header, rows) in tables.items():
        path = paths[name] = tmp_path / f"{name}.{kind}"
        if kind == "parquet":
            pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            records = [dict(zip(header, row, strict=True)) for row in rows]
            parquet.write_table(pyarrow.Table.from_pylist(records), path)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows))
        elif kind == "tsv":
            path.write_text("".join("\t".join(row) + "\n" for row in (header, *rows)), encoding="utf-8")
        else:
            text = io.StringIO()
            csv.writer(text).writerows([header, *rows])
            content = text.getvalue().encode("utf-8")
            path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    source = TableSource(
        [paths["orders"]],
        InteractionColumns("who", "what", "when", "pieces", time_format="%Y-%m-%d %H:%M"),
        [paths["products"]],
        ItemColumns("sku", title="name", categories="path", price="cost", text=("colour",), category_separator=">"),
        text=QUIET,
        item_text=QUIET,
    )
    inter, item, _ = prepared(source, tmp_path)
    assert (inter, item) == (EXPECTED_ORDERS, EXPECTED_PRODUCTS)


def test_times_from_parquet_and_lists_that_a_table_holds_as_text(tmp_path):
    import datetime

    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    moment = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
    parquet.write_table(pyarrow.table({"u": [7.0], "i": [3], "t": [moment]}), tmp_path / "a.parquet")
    (tmp_path / "i.csv").write_text("i,c\n3,\"['Home', 'Desk lamps']\"\n")
    source = TableSource(
        [tmp_path / "a.parquet"],
        InteractionColumns("u", "i", "t"),
        [tmp_path / "i.csv"],
        ItemColumns("i", categories="c"),
        text=QUIET,
        item_text=QUIET,
    )
    inter, item, _ = prepared(source, tmp_path)
    assert inter[1:] == ["7\t3\t1704067200"] and item[1:] == ["3\tHome Desk_lamps"]


def test_lists_as_numpy_writes_them_and_texts_in_brackets(tmp_path):
    """Python would join texts without a comma between them; what is no list is a text."""
    (tmp_path / "o.csv").write_text("u,i\nu,1\nu,2\nu,3\n")
    rows = ["1,[New] Lamps|LED", "2,\"['a' 'b', \"\"it's ' ' c\"\"]\"", "3,\"[\"\"it's ' ' c\"\", 'd', '']\""]
    source = TableSource(
        [tmp_path / "o.csv"],
        InteractionColumns("u", "i", None),
        [tmp_path / "i.csv"],
        ItemColumns("i", categories="c"),
        text=QUIET,
    )
    (tmp_path / "i.csv").write_text("i,c\n" + "\n".join(rows) + "\n")
    with pytest.raises(PreparationError, match=r"i.csv, line 3: a list without commas between its texts: '\[.+'"):
        prepared(source, tmp_path)
    _, item, _ = prepared(source, tmp_path, bad_rows="skip", missing_items="drop")
    assert item[1:] == ["1\t[New]_Lamps LED", "3\tit's_'_'_c d"]
    (tmp_path / "i.csv").write_text("i,c\n1,\"['a'\n 'b']\"\n2,x\n3,y\n")
    with pytest.raises(PreparationError, match=r"i.csv, line 2: a list without commas"):
        prepared(source, tmp_path, overwrite=True)


def test_several_files_and_patterns_in_order(tmp_path):
    for name, user in (("part-1.csv", "b"), ("part-0.csv", "a"), ("extra.csv", "c")):
        (tmp_path / name).write_text(f"u,i\n{user},x\n")
    source = TableSource(
        [str(tmp_path / "part-*.csv"), tmp_path / "extra.csv"], InteractionColumns("u", "i", None), text=QUIET
    )
    inter, _, _ = prepared(source, tmp_path, order="source")
    assert inter[1:] == ["a\tx\t1", "b\tx\t1", "c\tx\t1"]
    for twice in (["part-*.csv", "part-1.csv"], ["extra.csv", "../" + tmp_path.name + "/extra.csv"]):
        source = TableSource([str(tmp_path / name) for name in twice], InteractionColumns("u", "i", None), text=QUIET)
        with pytest.raises(PreparationError, match=r"(part-1|extra).csv is named more than once"):
            prepared(source, tmp_path, overwrite=True)
    with pytest.raises(PreparationError, match="none-.* is not a file"):
        prepared(
            TableSource([str(tmp_path / "none-*.csv")], InteractionColumns("u", "i", None)),
            tmp_path,
            overwrite=True,
        )


def test_column_mistakes():
    with pytest.raises(PreparationError, match="belong together"):
        TableSource(["a.csv"], InteractionColumns("u", "i", "t"), ["b.csv"])
    with pytest.raises(PreparationError, match="category_paths='deepest'"):
        ItemColumns("i", category_paths="deepest")
    for text in (("two words",), ("item_id",), ("title", "title"), ("a:b",)):
        with pytest.raises(PreparationError, match="cannot be written"):
            ItemColumns("i", text=text)


def amazon_2014_files(folder):
    (folder / "reviews.json").write_text(
        '{"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 5, "reviewText": "caf\\u00e9 \\"x\\""}\n'
        "{'reviewerID': 'Aé', 'asin': 'B1', 'overall': 4.0, 'unixReviewTime': 6, 'reviewText': \"it's\"}\n",
        encoding="utf-8",
    )
    (folder / "meta.json").write_text(
        "{'asin': 'B1', 'title': 'Caf\\xe9 \\'C\\'', 'categories': [['a', 'b'], ['c']]}\n"
    )
    return ["reviews.json", "meta.json"], lambda a, b, e: amazon_source("2014", [a], [b], encodings=e, progress=False)


def amazon_2018_files(folder):
    (folder / "reviews.json").write_text(
        '{"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 5, "style": {"Color:": " Red"}}\n'
        '{"reviewerID": "Aé", "asin": "B1", "overall": 4.0, "unixReviewTime": 6}\n',
        encoding="utf-8",
    )
    (folder / "meta.json").write_text(
        '{"asin": "B1", "title": "Café \\"C\\"", "price": "$5.99 - $12.00", "category": ["a", "b &amp; c"]}\n',
        encoding="utf-8",
    )
    return ["reviews.json", "meta.json"], lambda a, b, e: amazon_source("2018", [a], [b], encodings=e, progress=False)


def amazon_2023_files(folder):
    (folder / "reviews.jsonl").write_text(
        '{"user_id": "A1", "parent_asin": "B1", "rating": 5.0, "timestamp": 1588687728923, "title": "\\u2665"}\n'
        '{"user_id": "Aé", "parent_asin": "B1", "rating": 4.0, "timestamp": 1588687728924}\n',
        encoding="utf-8",
    )
    (folder / "meta.jsonl").write_text(
        '{"parent_asin": "B1", "title": "Café", "price": "from 14.99", "store": null, "categories": ["a", "b"]}\n',
        encoding="utf-8",
    )
    return ["reviews.jsonl", "meta.jsonl"], lambda a, b, e: amazon_source("2023", [a], [b], encodings=e, progress=False)


def steam_files(folder):
    (folder / "reviews.json").write_text(
        "{u'username': u'caf\\xe9', u'product_id': u'7', u'date': u'2017-12-17', u'text': u\"It's\"}\n"
        "{u'username': u'Ré', u'product_id': u'7', u'date': u'2017-12-18'}\n",
        encoding="utf-8",
    )
    (folder / "games.json").write_text(
        "{u'id': u'7', u'app_name': u'Café \\'7\\'', u'genres': [u'Free to Play'], u'price': u'Free'}\n",
        encoding="utf-8",
    )
    return ["reviews.json", "games.json"], lambda a, b, e: steam_source([a], [b], e, progress=False)


def table_files(folder):
    (folder / "orders.csv").write_text('u,i,t,r\nu1,"a,1",5,3\nué,"a,1",6,1\n', encoding="utf-8")
    (folder / "products.csv").write_text('i,name,cost\n"a,1","Café ""7""",$5.99 - $12.00\n', encoding="utf-8")

    def source(interactions, items, encodings):
        text = TextFormat(encodings, progress=False)
        columns = InteractionColumns("u", "i", "t", "r")
        return TableSource([interactions], columns, [items], ItemColumns("i", title="name", price="cost"), text, text)

    return ["orders.csv", "products.csv"], source


def s3rec_files(folder):
    (folder / "sequences.txt").write_text("1 1 2\n2 2\n")
    (folder / "items.tsv").write_text('item_id\tname\n1\tCafé\n2\t"7 inch"\n', encoding="utf-8")

    def source(sequences, items, encodings):
        text = TextFormat(encodings, progress=False)
        return S3RecSource(sequences, [items], ItemColumns("item_id", title="name"), item_text=text)

    return ["sequences.txt", "items.tsv"], source


def movielens_files(names, contents):
    def write(folder):
        for name, content in zip(names, contents, strict=True):
            (folder / name).write_text(content, encoding="utf-8")
        return names, lambda ratings, _, __: MovieLensSource(ratings.parent, progress=False)

    return write


def flags(*genres):
    return "|".join("1" if genre in genres else "0" for genre in GENRES_100K)


TEXT_SOURCES = {
    "amazon 2014": amazon_2014_files,
    "amazon 2018": amazon_2018_files,
    "amazon 2023": amazon_2023_files,
    "steam": steam_files,
    "table": table_files,
    "s3rec": s3rec_files,
    "movielens 100k": movielens_files(
        ["u.data", "u.item"],
        ["1\t3\t3\t5\n2\t3\t4\t6\n", f"3|Misérables, Les (1998)|01-Jan-1998||x|{flags('Drama')}\n"],
    ),
    "movielens 1m": movielens_files(
        ["ratings.dat", "movies.dat"], ["1::3::3::5\n2::3::4::6\n", "3::Misérables, Les (1998)::Drama|War\n"]
    ),
    "movielens 32m": movielens_files(
        ["ratings.csv", "movies.csv"],
        [
            "userId,movieId,rating,timestamp\n1,3,3.0,5\n2,3,4.0,6\n",
            'movieId,title,genres\n3,"""Great Performances"" Café (1998)",Drama|War\n',
        ],
    ),
}
DRESSINGS = {
    "windows line ends": lambda text: text.replace(b"\n", b"\r\n"),
    "empty lines": lambda text: b"\n" + text.replace(b"\n", b"\n\n  \n"),
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text,
    "no line end at the end": lambda text: text.rstrip(b"\n"),
    "mixed encodings": lambda text: text.replace("é".encode(), "é".encode("latin-1"), 1),
    "gzip members": lambda text: b"".join(gzip.compress(line + b"\n") for line in text.split(b"\n")),
}
# MovieLens comes unpacked, under fixed names; its CSV files are UTF-8, and other bytes are damage.
UNDRESSED = [(k, "gzip members") for k in TEXT_SOURCES if "movielens" in k] + [("movielens 32m", "mixed encodings")]


@pytest.mark.parametrize("kind, dressing", [(k, d) for k in TEXT_SOURCES for d in DRESSINGS if (k, d) not in UNDRESSED])
def test_the_dress_of_a_text_file_changes_nothing(tmp_path, kind, dressing):
    """Every source that is text, in every form that text comes in, gives the files that the plain form gives."""
    encodings = ("utf-8", "latin-1")
    results = []
    for place, dress in (("plain", bytes), ("dressed", DRESSINGS[dressing])):
        (tmp_path / place).mkdir()
        names, make = TEXT_SOURCES[kind](tmp_path / place)
        paths = [tmp_path / place / name for name in names]
        for position, path in enumerate(paths):
            content = dress(path.read_bytes())
            assert place == "plain" or content != path.read_bytes() or dressing == "mixed encodings"
            if place == "dressed" and dressing == "gzip members":
                path.unlink()
                path = paths[position] = path.with_name(path.name + ".gz")
            path.write_bytes(content)
        inter, item, summary = prepared(make(*paths, encodings), tmp_path / place)
        results.append((inter, item))
        if place == "dressed" and dressing in ("empty lines", "mixed encodings"):
            assert sum(summary.notes.values()) > 0  # seen and counted, not only survived
    assert results[0] == results[1]
    assert len(results[0][0]) > 2 and any("é" in line for line in results[0][1])


BAD_FILES = {
    # What is wrong: (which file, its damage, the error's words, what is counted where it is skipped)
    "cut off": (0, lambda text: text[:-10], r"reviews.json.gz, line \d+: damaged gzip stream", "damaged gzip stream, "),
    "no text": (0, lambda text: text.replace(b"A2", b"\xff\xfe"), "line 2: not utf-8 text", "not utf-8 text"),
    "half a record": (
        0,
        lambda text: text.replace(b'"asin": "B2"', b'"as'),
        "line 2: neither JSON nor",
        "neither JSON",
    ),
    "a list": (0, lambda text: text.replace(b"{", b"[", 1).replace(b"}", b"]", 1), "line 1: ", "neither JSON"),
    "no user": (0, lambda text: text.replace(b'"reviewerID": "A2", ', b""), "line 2: no reviewerID", "no reviewerID"),
    "no time": (
        0,
        lambda text: text.replace(b"2002", b"null"),
        "line 2: unixReviewTime is not a number",
        "unixReviewTime",
    ),
    "time in words": (
        0,
        lambda text: text.replace(b"2002", b'"noon"'),
        "line 2: .* not a number: 'noon'",
        "unixReviewTime",
    ),
    "user with a tab": (0, lambda text: text.replace(b"A2", b"A\\t2"), "line 2: an id with a tab", "an id with a tab"),
    "item with a line break": (
        0,
        lambda text: text.replace(b"B2", b"B\\n2"),
        "line 2: an id with a tab",
        "an id with a",
    ),
    "item without metadata": (1, lambda text: text.replace(b"'B2'", b"'B3'"), "line 2.: leave them out", None),
    "metadata cut off": (1, lambda text: text[:-10], r"meta.json.gz, line \d+: damaged gzip stream", "damaged gzip"),
    "metadata without an id": (1, lambda text: text.replace(b"'asin': 'B9'", b"'x': 1"), "line 3: no asin", "no asin"),
    "metadata id with a tab": (
        1,
        lambda text: text.replace(b"B9", b"B\\t9"),
        "line 3: an id with a tab",
        "an id with a",
    ),
    "not gzip": (0, lambda text: gzip.decompress(text), "named .gz but holds", "never"),
    "a web page": (1, lambda text: b"<!DOCTYPE html><p>Log in", "named .gz but holds a web page", "never"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_damaged_source_is_an_error_with_its_line_or_is_counted(tmp_path, fault):
    which, damage, words, counted = BAD_FILES[fault]
    contents = [
        b"".join(
            b'{"reviewerID": "A%d", "asin": "B%d", "overall": 5.0, "unixReviewTime": %d}\n' % (n, n, 2000 + n)
            for n in (1, 2)
        ),
        b"".join(b"{'asin': 'B%d', 'title': 'Title %d'}\n" % (n, n) for n in (1, 2, 9)),
    ]
    whole = fault in ("cut off", "metadata cut off", "not gzip", "a web page")  # damage to the file, not to its text
    paths = [tmp_path / "reviews.json.gz", tmp_path / "meta.json.gz"]
    for position, (path, content) in enumerate(zip(paths, contents, strict=True)):
        if position != which:
            path.write_bytes(gzip.compress(content))
        else:
            assert whole or damage(content) != content
            path.write_bytes(damage(gzip.compress(content)) if whole else gzip.compress(damage(content)))
    source = amazon_source("2014", paths[:1], paths[1:], progress=False)
    with pytest.raises(PreparationError, match=words):
        prepared(source, tmp_path)
    assert not (tmp_path / "made").exists()
    if counted == "never":  # nothing of such a file can be used
        with pytest.raises(PreparationError, match=words):
            prepared(source, tmp_path, bad_rows="skip", missing_items="drop")
        return
    inter, item, summary = prepared(source, tmp_path, bad_rows="skip", missing_items="drop")
    assert len(inter) >= 2 and len(item) >= 2
    if counted is None:
        assert summary.counts["removed with items without metadata"] == 1 and len(inter) == 2
    else:
        assert [n for reason, n in summary.skipped.items() if reason.startswith(counted)] == [1], summary.skipped


def test_parquet_with_text_that_is_no_text(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    broken = pyarrow.array([b"a", b"\xff\xfe"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"u": broken, "i": ["x", "y"], "t": [1, 2]}), tmp_path / "a.parquet")
    source = TableSource([tmp_path / "a.parquet"], InteractionColumns("u", "i", "t"), text=QUIET)
    with pytest.raises(PreparationError, match="a.parquet, in the .* rows after row 0: not utf-8 text"):
        prepared(source, tmp_path)
    parquet.write_table(pyarrow.table({"u": ["a", "b"], "i": ["x", "y"], "t": ["1", "noon"]}), tmp_path / "a.parquet")
    with pytest.raises(PreparationError, match="a.parquet, line 2: t is not a number: 'noon'"):
        prepared(source, tmp_path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", b'{"u": 1}\n', "has no column u, i, t"),  # JSON lines under another name
        ("a.jsonl", b"u,i,t\n1,2,3\n", "line 1: neither JSON nor a Python literal"),
        ("a.csv", b"\x00\x01\x02\xff\xfe binary\n", "line 1: not utf-8 text"),
        ("a.tsv", b"u,i,t\n1,2,3\n", "has no column u, i, t; its columns are u,i,t"),
        ("a.xlsx", b"PK", "does not say what the file holds"),
        ("a.csv", b"", "no usable interaction"),
        ("a.csv", b"u,i,t\n", "no usable interaction"),
        ("a.csv.gz", b"", "no usable interaction"),
    ],
)
def test_a_table_that_is_not_what_its_name_says(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    source = TableSource([tmp_path / name], InteractionColumns("u", "i", "t"), text=QUIET)
    with pytest.raises(PreparationError, match=message):
        prepared(source, tmp_path)
