"""Every source in its true format, quirks included, to the exact atomic files that it must become."""

import gzip
import json

import pytest

from recbole_tiger.preparation.amazon import amazon_source
from recbole_tiger.preparation.errors import PreparationError
from recbole_tiger.preparation.movielens import GENRES_100K, MovieLensSource
from recbole_tiger.preparation.pipeline import PrepareOptions, prepare
from recbole_tiger.preparation.rows import TextFormat
from recbole_tiger.preparation.s3rec import S3RecSource
from recbole_tiger.preparation.steam import steam_source
from recbole_tiger.preparation.tables import InteractionColumns, ItemColumns, TableSource

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
        "prices that are no price, left empty": 1,
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
    assert summary.skipped == {"wrong number of columns": 2, "timestamp is no number": 1}


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
    assert summary.skipped == {"a user without items": 1, "attributes are no list": 1}


def test_s3rec_mistakes(tmp_path):
    sequences = tmp_path / "Made.txt"
    sequences.write_text("1 1 7\n")
    (tmp_path / "map.json").write_text('{"1": "B01"}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(PreparationError, match="line 1: an item that the item map does not have: '7'"):
        prepared(S3RecSource(sequences, item_map=tmp_path / "map.json", item_text=QUIET), tmp_path)
    for name, message in (
        ("list.json", "not one JSON object"),
        ("broken.json", "is not JSON"),
        ("no.json", "cannot be read"),
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


def test_several_files_and_patterns_in_order(tmp_path):
    for name, user in (("part-1.csv", "b"), ("part-0.csv", "a"), ("extra.csv", "c")):
        (tmp_path / name).write_text(f"u,i\n{user},x\n")
    source = TableSource(
        [str(tmp_path / "part-*.csv"), tmp_path / "extra.csv"], InteractionColumns("u", "i", None), text=QUIET
    )
    inter, _, _ = prepared(source, tmp_path, order="source")
    assert inter[1:] == ["a\tx\t1", "b\tx\t1", "c\tx\t1"]
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
