"""The scripts as a user types them, the example of docs/own_data.md, and what RecBole makes of the files."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_tiger.cli import main
from recbole_tiger.datasets.pipeline import PrepareOptions, prepare
from recbole_tiger.datasets.record_reader import TextFormat
from recbole_tiger.datasets.table_source import InteractionColumns, ItemColumns, TableSource

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("amazon", "check", "download", "movielens", "s3rec", "steam", "synthetic", "table")

# The commands of docs/own_data.md; they stand there word for word.
EXAMPLE = """\
cat > orders.csv <<'END'
customer,sku,date
ann,lamp-1,2024-01-05
ann,bulb-7,2024-01-09
ann,desk-3,2024-02-11
bob,bulb-7,2024-01-07
bob,lamp-1,2024-03-01
bob,desk-3,2024-03-02
END
cat > products.csv <<'END'
sku,name,maker,path,price
lamp-1,"Desk lamp, warm",Lumo,Home > Lamps > Desk lamps,$20.00
bulb-7,LED bulb,Lumo,Home > Lamps > Bulbs,$3.50 - $5.00
desk-3,Oak desk,,Home > Furniture,"$1,199.00"
END
python dataset_prep/table.py --dataset=my-shop --user_core=3 --item_core=1 \\
    --interactions=orders.csv --user=customer --item=sku --time=date --time_format=%Y-%m-%d \\
    --items=products.csv --title=name --brand=maker --categories=path --category_separator=">" --price=price
python dataset_prep/check.py --dataset=my-shop
"""


def test_the_example_of_the_readme(tmp_path, monkeypatch, capsys):
    """All lines but the last in a shell, from a folder that is not the checkout; the last one in this process."""
    *script, last = EXAMPLE.rstrip("\n").split("\n")
    text = "\n".join(script).replace(
        "python dataset_prep/table.py", f'"{sys.executable}" "{ROOT}/dataset_prep/table.py"'
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-e", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "interactions: 6" in done.stdout
    monkeypatch.chdir(tmp_path)
    program, name, *arguments = shlex.split(last)
    assert (program, name) == ("python", "dataset_prep/check.py")
    assert main(["prepare", "check", *arguments]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "dataset" / "my-shop"
    assert (folder / "my-shop.inter").read_text().split("\n") == [
        "user_id:token\titem_id:token\ttimestamp:float",
        "ann\tlamp-1\t1704412800",
        "bob\tbulb-7\t1704585600",
        "ann\tbulb-7\t1704758400",
        "ann\tdesk-3\t1707609600",
        "bob\tlamp-1\t1709251200",
        "bob\tdesk-3\t1709337600",
        "",
    ]
    assert (folder / "my-shop.item").read_text().split("\n") == [
        "item_id:token\ttitle:token\tcategories:token_seq\tbrand:token\tprice:float",
        "lamp-1\tDesk lamp, warm\tHome Lamps Desk_lamps\tLumo\t20.00",
        "bulb-7\tLED bulb\tHome Lamps Bulbs\tLumo\t3.50",
        "desk-3\tOak desk\tHome Furniture\t\t1199.00",
        "",
    ]
    assert re.search(r"users +2\n", out) and re.search(r"with brand +66\.7%", out)


def test_the_example_stands_in_the_documentation():
    assert EXAMPLE in (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")


def run(command, capsys, *arguments):
    status = main(["prepare", command, *(f"--{argument}" for argument in arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_every_script_has_its_command_and_help(capsys):
    scripts = {path.stem for path in (ROOT / "dataset_prep").glob("*.py")}
    assert scripts == {*SOURCES, "semantic_ids"}
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    listed = capsys.readouterr().out
    assert all(re.search(rf"^ +{source}\b", listed, re.MULTILINE) for source in SOURCES)
    for command in SOURCES:
        source = (ROOT / "dataset_prep" / f"{command}.py").read_text(encoding="utf-8")
        assert f'sys.exit(main(["prepare", "{command}", *sys.argv[1:]]))' in source
        with pytest.raises(SystemExit) as stop:
            main(["prepare", command, "--help"])
        out = capsys.readouterr().out
        assert stop.value.code == 0 and f"recbole-tiger prepare {command}" in out and "--dataset" in out
        assert "(default: None)" not in out and "(default: ())" not in out
        with pytest.raises(SystemExit) as stop:  # a key that nobody knows is an error, not ignored
            main(["prepare", command, "--dataset=made", "--colour=red"])
        assert stop.value.code == 2
        capsys.readouterr()


@pytest.mark.parametrize(
    "words, message", [([], "SOURCE"), (["amazn"], "invalid choice: 'amazn'"), (["check"], "--dataset")]
)
def test_a_source_is_one_of_the_sources_and_names_a_dataset(capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        main(["prepare", *words])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_the_value_may_stand_in_a_word_of_its_own(tmp_path, capsys):
    words = "--n_users 3 --n_items 4 --n_interactions 15 --dataset made --data_path".split()
    assert main(["prepare", "synthetic", *words, str(tmp_path)]) == 0
    assert "made in " in capsys.readouterr().out


def test_synthetic_check_and_page(tmp_path, capsys):
    numbers = ("n_users=30", "n_items=40", "n_interactions=300", "branching=2,2")
    status, out, _ = run("synthetic", capsys, f"data_path={tmp_path}", "dataset=made", *numbers)
    assert status == 0 and "30 users, 40 items in 4 leaves (2, 2), 300 interactions" in out
    page = tmp_path / "check.html"
    status, out, _ = run("check", capsys, f"data_path={tmp_path}", "dataset=made", f"html={page}")
    assert status == 0 and re.search(r"interactions +300\n", out) and page.exists()
    status, out, err = run("synthetic", capsys, f"data_path={tmp_path}", "dataset=made", *numbers)
    assert status == 2 and out == "" and err.startswith("error: ") and "exists" in err and err.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        run("synthetic", capsys, f"data_path={tmp_path}", "dataset=b", *numbers[:3], "branching=2,x")
    assert stop.value.code == 2 and "--branching: '2,x' must be whole numbers" in capsys.readouterr().err


def test_amazon_movielens_steam_and_s3rec_from_the_command_line(tmp_path, capsys):
    (tmp_path / "r.json").write_text('{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": 5}\n')
    (tmp_path / "m.json").write_text("{'asin': 'B', 'title': 'T', 'categories': [['a', 'b']]}\n")
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,3,3.0,891717742\n")
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n3,Film (1999),Drama\n")
    (tmp_path / "s.json").write_text("{u'username': u'x', u'product_id': u'7', u'date': u'2017-12-17'}\n")
    (tmp_path / "g.json").write_text("{u'id': u'7', u'app_name': u'Game', u'genres': [u'RPG']}\n")
    (tmp_path / "q.txt").write_text("1 10 11\n")
    (tmp_path / "i.tsv").write_text("item_id\tt\n10\tTen\n11\tEleven\n")
    common = (f"data_path={tmp_path / 'out'}", "user_core=1", "item_core=1")
    for command, dataset, arguments, title in (
        (
            "amazon",
            "a",
            ("version=2014", f"reviews={tmp_path}/r.json", f"metadata={tmp_path}/m.json"),
            "B\tT\ta b",
        ),
        ("movielens", "m", (f"folder={tmp_path}",), "3\tFilm\t1999\tDrama"),
        ("steam", "s", (f"reviews={tmp_path}/s.json", f"games={tmp_path}/g.json"), "7\tGame\tRPG"),
        ("s3rec", "q", (f"sequences={tmp_path}/q.txt", f"items={tmp_path}/i.tsv", "title=t"), "11\tEleven"),
    ):
        status, out, err = run(command, capsys, *common, f"dataset={dataset}", *arguments)
        assert status == 0, err
        assert f"{dataset} in " in out and "items: " in out
        item = (tmp_path / "out" / dataset / f"{dataset}.item").read_text()
        assert item.split("\n")[-2] == title


def test_a_table_without_times_and_a_bad_row(tmp_path, capsys):
    (tmp_path / "o.tsv").write_text("b\ty\na\tx\nb\n")
    arguments = (
        f"interactions={tmp_path}/o.tsv",
        f"data_path={tmp_path}",
        "dataset=made",
        "user=0",
        "item=1",
        "time=none",
        "header=False",
        "separator=tab",
        "user_core=0",
        "item_core=0",
    )
    status, out, err = run("table", capsys, *arguments)
    assert (status, out) == (2, "") and "o.tsv, line 3: wrong number of columns" in err and "bad_rows=skip" in err
    status, out, _ = run("table", capsys, *arguments, "bad_rows=skip")
    assert status == 0 and "skipped, wrong number of columns: 1" in out


def test_download_tells_where_the_files_are_and_compares_with_table_2(tmp_path, capsys):
    # Already there: nothing is fetched; the counts of a made-up dataset cannot be the paper's.
    run(
        "synthetic",
        capsys,
        f"data_path={tmp_path}",
        "dataset=amazon-beauty",
        "n_users=60",
        "n_items=40",
        "n_interactions=900",
    )
    status, out, _ = run("download", capsys, f"data_path={tmp_path}", "dataset=amazon-beauty")
    assert status == 0 and "was already in" in out and "users: 60, paper 22,363: DIFFERENT" in out
    status, _, err = run("download", capsys, f"data_path={tmp_path}", "dataset=amazon-beuty")
    assert status == 2 and "similar: amazon-beauty" in err


def recbole_dataset(folder, monkeypatch, item_columns):
    """The dataset `made` as RecBole itself reads it, before and after the split."""
    monkeypatch.setattr(sys, "argv", ["pytest"])
    from recbole.config import Config
    from recbole.data import create_dataset

    settings = {
        "data_path": str(folder),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", *item_columns]},
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
        "save_dataset": False,
        "MAX_ITEM_LIST_LENGTH": 50,
        "show_progress": False,
    }
    return create_dataset(Config(model="SASRec", dataset="made", config_dict=settings))


TITLES = [
    '"Quoted" title',
    '7" tablet',
    "tab\there",
    "null",
    "Café &amp; <b>bar</b>",
    "line\u2028break",
    "",
    "plain",
]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_and_read_back_by_recbole_is_the_same(tmp_path, monkeypatch, seed):
    import json

    random = np.random.default_rng(seed)
    # Times a few seconds apart, in random order: RecBole compares them as float32, 128 seconds apart.
    n = 400
    times = 1_400_000_000 + random.permutation(n)
    orders = [
        {"u": f"user {u}", "i": f"Ü-{i}", "t": int(t)}
        for u, i, t in zip(random.integers(0, 12, n), random.integers(0, 15, n), times, strict=True)
    ]
    items = [
        {
            "i": f"Ü-{i}",
            "title": TITLES[i % len(TITLES)],
            "c": [["A b", f"C{i % 4}"]] if i % 5 else [],
            "p": f"${i}.50",
        }
        for i in range(15)
    ]
    for name, rows in (("orders", orders), ("items", items)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = TextFormat(progress=False)
    source = TableSource(
        [tmp_path / "orders.jsonl"],
        InteractionColumns("u", "i", "t"),
        [tmp_path / "items.jsonl"],
        ItemColumns("i", title="title", categories="c", price="p"),
        text=text,
        item_text=text,
    )
    prepare(source, tmp_path, "made", PrepareOptions(user_core=3, item_core=3))

    dataset = recbole_dataset(tmp_path, monkeypatch, ["title", "categories", "price"])
    users, names = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    table = dataset.inter_feat
    found = list(zip(users[table["user_id"]], names[table["item_id"]], table["timestamp"], strict=True))
    expected = [(row["u"], row["i"], row["t"]) for row in sorted(orders, key=lambda row: row["t"])]
    assert found == expected  # 12 users and 15 items with 400 interactions: the core keeps all

    titles, categories = dataset.field2id_token["title"], dataset.field2id_token["categories"]
    features = dataset.item_feat.set_index("item_id")
    for i, row in enumerate(items):
        feature = features.loc[dataset.field2token_id["item_id"][row["i"]]]
        title = {0: "“Quoted” title", 2: "tab here", 4: "Café & bar", 5: "line break", 6: "[PAD]"}
        assert titles[int(feature["title"])] == title.get(i % len(TITLES), row["title"])
        path = ["A_b", f"C{i % 4}"] if i % 5 else ["Unknown"]
        assert [categories[token] for token in feature["categories"]] == path
        assert feature["price"] == i + 0.5

    # After the split, RecBole's sequences are the true ones although its times cannot tell the rows apart.
    _, _, test = dataset.build()
    sequences = {}
    for user, item, _ in expected:
        sequences.setdefault(user, []).append(item)
    rows = test.inter_feat
    assert len(rows) == len(sequences)
    for user, item, history, length in zip(
        rows["user_id"].tolist(),
        rows["item_id"].tolist(),
        rows["item_id_list"].tolist(),
        rows["item_length"].tolist(),
        strict=True,
    ):
        sequence = sequences[users[user]]
        assert names[item] == sequence[-1]
        assert [names[code] for code in history[:length]] == sequence[-length - 1 : -1]
