"""One sentence per item: what the columns say, cleanly, and a clear error where they say nothing."""

import random
import string

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_tiger.content import build_sentences, category_paths, item_titles, read_item_table

AMAZON = (
    "item_id:token\ttitle:token\tprice:float\tbrand:token\tcategories:token_seq\n"
    'B1\tRemington 2" Iron\t5.99\tRemington\tBeauty Hair_Care Styling_Tools\n'
    "B2\tCharcoal &amp; Sugar&#39;s Mask\t\t\tBeauty Skin_Care\n"
    "B3\tOil 4 oz.\t\tCoco   care\t\n"
    "B4\t\t12\tOPI\tBeauty\n"
)
MOVIES = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tAnimation Children's Comedy\n"
    "2\tGood, The Bad and The Ugly, The\t\tAction Western\n"
)


@pytest.fixture
def table(tmp_path):
    def read(text, **options):
        path = tmp_path / "data.item"
        path.write_bytes(text.encode(options.get("encoding", "utf-8")))
        return read_item_table(path, **options)

    return read


def sentences(frame, items, fields=None, template=None, **options):
    return build_sentences(frame, items, "item_id", fields, template, **options)


# ---------------------------------------------------------------------------------------------------- reading


def test_columns_types_and_text(table):
    frame = table(AMAZON)
    assert list(frame.columns) == ["item_id", "title", "price", "brand", "categories"]
    assert frame.attrs["types"] == {
        "item_id": "token",
        "title": "token",
        "price": "float",
        "brand": "token",
        "categories": "token_seq",
    }
    assert frame["price"].tolist() == ["5.99", "", "", "12"]
    assert frame.map(lambda value: isinstance(value, str)).all(axis=None)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('2" Iron', '2" Iron'),
        ('"New" Shampoo', '"New" Shampoo'),
        ('Shampoo "New"', 'Shampoo "New"'),
        ('"New"', "New"),
        ('"a ""b"" c"', 'a "b" c'),
        ('"a" and "b"', '"a" and "b"'),
        ('"', '"'),
        ('""', ""),
        ('"unbalanced', '"unbalanced'),
        ("NA", "NA"),
        ("null", "null"),
        ("007", "007"),
        ("#1 cream", "#1 cream"),
        ("back\\slash", "back\\slash"),
        ("line\u2028separator\x0b", "line\u2028separator\x0b"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_fields_are_read_as_they_stand(table, written, read, end):
    frame = table(f"item_id:token\ttitle:token\n1\tfirst\n2\t{written}".replace("\n", end or "\n") + end)
    assert frame["title"].tolist() == ["first", read]


def test_byte_order_mark_other_separator_and_encoding(table):
    frame = table("\ufeffitem_id:token|title:token\n1|é\tè\n", field_separator="|")
    assert frame.to_dict("records") == [{"item_id": "1", "title": "é\tè"}]
    assert table("item_id:token,t:token\n1,é\n", field_separator=",", encoding="latin-1")["t"].tolist() == ["é"]


def test_ids_are_those_of_the_interactions(table):
    frame = table('item_id:token\ttitle:token\n"a"\t"a"\n b \t b \n', id_field="item_id")
    assert frame.to_dict("records") == [{"item_id": '"a"', "title": "a"}, {"item_id": "b", "title": " b "}]
    assert len(frame.attrs["notes"]) == 1 and "1 cells of item_id had blanks" in frame.attrs["notes"][0]
    with pytest.raises(ValueError, match="no column sku, its columns are item_id, title"):
        table("item_id:token\ttitle:token\na\tb\n", id_field="sku")


plain_text = st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), max_size=20)


@given(
    st.lists(
        st.tuples(plain_text, plain_text).filter(lambda row: not any(f[:1] == '"' == f[-1:] for f in row)),
        min_size=1,
        max_size=8,
    )
)
def test_any_text_without_separators_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("items") / "data.item"
    lines = [f"{number}\t{a}\t{b}\n" for number, (a, b) in enumerate(rows)]
    path.write_bytes(("item_id:token\ta:token\tb:token\n" + "".join(lines)).encode())
    frame = read_item_table(path)
    assert list(zip(frame["a"], frame["b"], strict=True)) == rows


def test_what_pandas_writes_is_read_back(tmp_path):
    titles = ['2" iron', '"all quoted"', 'here and "quotes"', "plain", '"start', "a, b"]
    path = tmp_path / "data.item"
    written = pd.DataFrame({"item_id:token": list("abcdef"), "title:token": titles})
    written.to_csv(path, sep="\t", index=False)
    assert read_item_table(path)["title"].tolist() == titles


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id:token\ttitle:token\n1\tx\ty\n", r"line 2: 3 cells instead of 2"),
        ("item_id:token\ttitle:token\n1\tx\nbroken\n", r"line 3: 1 cells instead of 2"),
        ('item_id:token\ttitle:token\n1\t"tab\tinside"\n', r"line 2: 3 cells .*quotes do not protect it"),
        ("item_id:token\ttitle:token\n1\tx\n\n2\ty\n", r"line 3 is empty"),
        ("item_id:token\tprice:float\n1\tnan\n", r"line 2, price:float: 'nan' .*leave the cell empty"),
        ("item_id\ttitle\n1\tx\n", r"line 1: 'item_id' is not a column"),
        ("item_id:token\ttitle:text\n", r"'title:text' is not a column"),
        ("item_id:token\ttitle:token\n", r"ends after line 1"),
        ("", r"is empty"),
        ("a:token\ta:token\n", r"two columns are called 'a'"),
        ("item_id:token,title:token\n1,x\n", r"'\\t' between the columns"),
    ],
)
def test_files_that_are_no_item_files(table, text, message):
    with pytest.raises(ValueError, match=message):
        table(text)


def test_missing_file_and_wrong_encoding(tmp_path, table):
    with pytest.raises(ValueError, match=r"no item file .*none\.item.*content_encoder=precomputed"):
        read_item_table(tmp_path / "none.item")
    (tmp_path / "x.item").write_bytes("item_id:token\ttitle:token\n1\té\n".encode("latin-1"))
    with pytest.raises(ValueError, match="line 2: .* is not utf-8.* text"):
        read_item_table(tmp_path / "x.item")
    with pytest.raises(ValueError, match="encoding='klingon'"):
        read_item_table(tmp_path / "x.item", encoding="klingon")


# -------------------------------------------------------------------------------------------------- sentences


def test_amazon_sentences(table):
    assert sentences(table(AMAZON), ["B1", "B2", "B3", "B4"]) == [
        'Title: Remington 2" Iron. Price: $5.99. Brand: Remington. Categories: Beauty > Hair Care > Styling Tools.',
        "Title: Charcoal & Sugar's Mask. Categories: Beauty > Skin Care.",
        "Title: Oil 4 oz. Brand: Coco care.",
        "Price: $12.00. Brand: OPI. Categories: Beauty.",
    ]


def test_movie_sentences_in_the_order_of_the_ids(table):
    assert sentences(table(MOVIES), ["2", "1"]) == [
        "Title: Good, The Bad and The Ugly, The. Genres: Action, Western.",
        "Title: Toy Story. Year: 1995. Genres: Animation, Children's, Comedy.",
    ]


def test_named_columns_in_the_order_named(table):
    frame = table("item_id:token\tmaker_name:token\ttags:token_seq\tyear:float\n1\tAcme\tred_ink blue\t1995.0\n")
    assert sentences(frame, ["1"], ["year", "tags", "maker_name"]) == [
        "Year: 1995. Tags: red ink, blue. Maker name: Acme."
    ]
    assert sentences(frame, ["1"], "tags") == ["Tags: red ink, blue."]
    assert sentences(frame, ["1"]) == ["Year: 1995."]


def test_price_is_money_only_in_a_float_column(table):
    assert sentences(table("item_id:token\tprice:token\n1\t5.9 EUR\n"), ["1"]) == ["Price: 5.9 EUR."]
    with pytest.raises(ValueError, match="line 2, price:float: 'free' is not a finite number"):
        sentences(table("item_id:token\tprice:float\n1\tfree\n"), ["1"])


def test_sets_of_names_as_in_recboles_amazon_files(table):
    frame = table("item_id:token\tcategories:token_seq\n1\t\"'Skin Care', \"\"Men's\"\", 'Beauty'\"\n2\t'Beauty'\n")
    assert sentences(frame, ["1", "2"]) == ["Categories: Skin Care, Men's, Beauty.", "Categories: Beauty."]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A &amp; B", "A & B"),
        ("12&amp;quot; ruler", '12" ruler'),
        ("caf&eacute; &#233; &#xE9;", "café é é"),
        ("AT&T and R&D; Q&A", "AT&T and R&D; Q&A"),
        ("Do&not touch", "Do&not touch"),
        ("a\x01b\x07 c\x85d", "a b c d"),
        ("soft\u00adhyphen\u200b \ufeffmark", "softhyphen mark"),
        ("  much \u00a0 white\u3000space ", "much white space"),
        ("line&#13;&#10;break", "line break"),
        ("50% <b>off</b>", "50% <b>off</b>"),
    ],
)
def test_text_is_cleaned(table, raw, clean):
    assert sentences(table(f"item_id:token\ttitle:token\n1\t{raw}\n"), ["1"]) == [f"Title: {clean}."]


@pytest.mark.parametrize("end", [".", "!", "?"])
def test_no_second_full_stop(table, end):
    assert sentences(table(f"item_id:token\ttitle:token\n1\tWhat{end}\n"), ["1"]) == [f"Title: What{end}"]


def test_every_combination_of_empty_columns_reads_cleanly(table):
    values = {"title": "Soap", "price": "3", "brand": "Acme", "categories": "Bath Hand_Soap"}
    parts = {
        "title": "Title: Soap.",
        "price": "Price: $3.00.",
        "brand": "Brand: Acme.",
        "categories": "Categories: Bath > Hand Soap.",
    }
    rows, wanted = [], []
    for chosen in range(1, 16):
        kept = [field for bit, field in enumerate(values) if chosen >> bit & 1]
        empty = {field: " " * (chosen % 2 and field != "price") for field in values}
        rows.append("\t".join([str(chosen), *({**empty, **{f: values[f] for f in kept}}.values())]))
        wanted.append(" ".join(parts[field] for field in kept))
    header = "item_id:token\ttitle:token\tprice:float\tbrand:token\tcategories:token_seq\n"
    frame = table(header + "\n".join(rows))
    assert sentences(frame, [str(n) for n in range(1, 16)]) == wanted


def test_order_is_that_of_the_ids_for_any_selection(table):
    rng = random.Random(0)
    words = ["".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(200)]
    frame = table("item_id:token\ttitle:token\n" + "".join(f"i{n}\t{w}\n" for n, w in enumerate(words)))
    chosen = rng.sample(range(200), 80)
    assert sentences(frame, [f"i{n}" for n in chosen]) == [f"Title: {words[n]}." for n in chosen]


# -------------------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize(
    ("template", "full", "no_brand", "no_title"),
    [
        ("{title} by {brand}", "Soap by Acme", "Soap", "by Acme"),
        ("Title: {title}. Brand: {brand}.", "Title: Soap. Brand: Acme.", "Title: Soap.", "Brand: Acme."),
        ("{title} ({brand}), {title}", "Soap (Acme), Soap", "Soap Soap", "(Acme)"),
        ("{brand} | {title}", "Acme | Soap", "Soap", "Acme"),
        ("{{{title}}} - {brand}", "{Soap} - Acme", "{Soap}", "Acme"),
        ("Buy {title}, {brand}, now!", "Buy Soap, Acme, now!", "Buy Soap", "Acme, now!"),
    ],
)
def test_templates_drop_what_is_empty(table, template, full, no_brand, no_title):
    frame = table("item_id:token\ttitle:token\tbrand:token\n1\tSoap\tAcme\n2\tSoap\t\n3\t\tAcme\n")
    assert sentences(frame, ["1", "2", "3"], template=template) == [full, no_brand, no_title]


def test_a_template_leaves_the_text_of_an_item_alone(table):
    frame = table("item_id:token\ttitle:token\tbrand:token\n1\t-273 °C >\t\n2\t\t/b/\n")
    assert sentences(frame, ["1", "2"], template="- {title} | {brand},") == ["-273 °C >", "/b/"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{title} {colour}",
            r"content_template=.*no column 'colour'; there are title, price, brand, categories",
        ),
        ("{title.__class__}", r"content_template=.*no column 'title.__class__'"),
        ("{title[0]}", r"content_template=.*no column"),
        ("{}", r"content_template=.*no column ''"),
        ("{title!r}", r"content_template=.*without a format"),
        ("{price:.2f}", r"content_template=.*without a format"),
        ("{title", r"content_template=.*cannot be read"),
        ("title}", r"content_template=.*cannot be read"),
        ("nice soap", r"content_template=.*names no column"),
        ("", r"content_template=.*names no column"),
        ("{brand}", r"content_template: 1 of 4 items have no text in brand \(such as B2\)"),
    ],
)
def test_templates_that_cannot_be_filled(table, template, message):
    with pytest.raises(ValueError, match=message):
        sentences(table(AMAZON), ["B1", "B2", "B3", "B4"], template=template)


# ----------------------------------------------------------------------------------------------------- errors


def test_missing_column_names_key_column_and_columns(table):
    with pytest.raises(ValueError, match=r"content_fields: .*'colour'; it has title, price, brand, categories"):
        sentences(table(AMAZON), ["B1"], ["title", "colour"])


def test_no_known_text_column(table):
    with pytest.raises(ValueError, match=r"content_fields: .*name some of colour, weight"):
        sentences(table("item_id:token\tcolour:token\tweight:float\n1\tred\t2\n"), ["1"])
    with pytest.raises(ValueError, match=r"content_fields.*no column except the ids"):
        sentences(table("item_id:token\n1\n"), ["1"])


def test_wholly_empty_column(table):
    frame = table("item_id:token\ttitle:token\tbrand:token\n1\tx\t\n2\ty\t &#13; \n3\tz\tAcme\n")
    with pytest.raises(ValueError, match=r"content_fields: column 'brand' .* empty for all 2 items"):
        sentences(frame, ["1", "2"])
    assert len(sentences(frame, ["1", "2", "3"])) == 3
    assert len(sentences(frame, ["1", "2"], ["title"])) == 2


def test_items_without_text_are_counted_with_examples(table):
    rows = "".join(f"e{n}\t\n" for n in range(5))
    frame = table(f"item_id:token\ttitle:token\n1\tx\n{rows}")
    with pytest.raises(ValueError, match=r"content_fields: 5 of 6 items .*such as e0, e1, e2\)"):
        sentences(frame, ["1", *(f"e{n}" for n in range(5))])
    assert sentences(frame, ["1"]) == ["Title: x."]  # items that nobody asks for may be empty


def test_items_missing_or_twice_are_counted_with_examples(table):
    frame = table("item_id:token\ttitle:token\n1\tx\n2\ty\n2\tz\n")
    with pytest.raises(ValueError, match=r"4 of 5 items are not in the item file \(such as a, b, c\)"):
        sentences(frame, ["1", "a", "b", "c", "d"])
    with pytest.raises(ValueError, match=r"1 items have more than one line .*such as 2"):
        sentences(frame, ["1", "2"])
    assert sentences(frame, ["1"]) == ["Title: x."]
    with pytest.raises(ValueError, match=r"ITEM_ID_FIELD: .*'asin'"):
        build_sentences(frame, ["1"], "asin", None, None)


def test_fields_that_cannot_be_meant(table):
    with pytest.raises(ValueError, match="content_fields is empty"):
        sentences(table(AMAZON), ["B1"], [])
    with pytest.raises(ValueError, match="content_fields names a column twice"):
        sentences(table(AMAZON), ["B1"], ["title", "title"])


# -------------------------------------------------------------------------------------- titles and categories


def test_titles_fall_back_to_the_id(table):
    frame = table(AMAZON)
    assert item_titles(frame, ["B4", "B2"], "item_id") == ["B4", "Charcoal & Sugar's Mask"]
    assert item_titles(table(MOVIES), ["1"], "item_id") == ["Toy Story"]
    assert item_titles(table("item_id:token\tx:token\n1\ty\n"), ["1"], "item_id") == ["1"]


def test_category_paths_keep_their_order_and_lists_go_from_general_to_particular(table):
    assert category_paths(table(AMAZON), ["B3", "B1"], "item_id", "categories") == [
        [],
        ["Beauty", "Hair Care", "Styling Tools"],
    ]
    genres = "item_id:token\tclass:token_seq\n1\tWar Drama\n2\tDrama\n3\tComedy Drama\n4\tComedy\n"
    assert category_paths(table(genres), ["1", "2", "3", "4"], "item_id", "class") == [
        ["Drama", "War"],
        ["Drama"],
        ["Drama", "Comedy"],
        ["Comedy"],
    ]
    names = "item_id:token\tcategories:token_seq\n1\t'Hair Care', 'Beauty'\n2\t'Beauty'\n"
    assert category_paths(table(names), ["1", "2"], "item_id", "categories") == [
        ["Beauty", "Hair Care"],
        ["Beauty"],
    ]
    one = table("item_id:token\tkind:token\n1\tNail &amp; Skin\n2\t\n")
    assert category_paths(one, ["1", "2"], "item_id", "kind") == [["Nail & Skin"], []]
    with pytest.raises(ValueError, match="no column 'kind'"):
        category_paths(table(AMAZON), ["B1"], "item_id", "kind")
