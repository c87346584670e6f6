"""Recommendations from a checkpoint alone."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from catalogue import TINY, write_catalogue
from working import working_in

import recbole_tiger
from recbole_tiger.commands.recommend import history_names, read_histories, run, write_recommendations
from recbole_tiger.errors import CheckpointError, ConfigError, NotFiniteError, UnknownItemError
from recbole_tiger.experiment.loading import load_data_and_model
from recbole_tiger.quick_start import run_recbole_tiger
from recbole_tiger.recommend import Recommender
from recbole_tiger.settings.parse import parse_command_line
from recbole_tiger.training.checkpoint import load_checkpoint, save_checkpoint
from recbole_tiger.training.resume import check_same_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with user tokens and a collision token, its loaded model and data, and the checkpoint far from its data."""
    place = tmp_path_factory.mktemp("trained")
    with working_in(place):
        write_catalogue(place / "data")
        settings = {**TINY, "data_path": str(place / "data"), "collision": "append", "user_buckets": 11, "epochs": 8}
        settings.update(learning_rate=0.01, max_steps=120, warmup_steps=10)
        result = run_recbole_tiger("TIGER", "toy", None, settings)
        loaded = load_data_and_model(result["files"]["checkpoint"])
        checkpoint = shutil.copy(result["files"]["checkpoint"], place / "alone.pth")
        shutil.rmtree(place / "data")
        shutil.rmtree(place / "saved")
    return checkpoint, loaded


@pytest.fixture()
def recommender(trained, workplace):
    return Recommender.from_checkpoint(trained[0])


def new_items(workplace, *rows):
    file = workplace / "new.item"
    lines = ["item_id:token\ttitle:token\tcategories:token_seq\tbrand:token", *("\t".join(row) for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return file


def like(item):
    """The text of an item of the catalogue, as a row under another id."""
    cycle, step = (int(part) for part in item[1:].split("_"))
    kind, maker = ["lotion", "soap", "perfume"][step % 3], ["Acme", "Bolt", "Crest", "Dune"][step % 4]
    return f"{maker} {kind} number {step} line {cycle}", f"Beauty Care_{cycle} {kind.title()}", maker


def test_the_same_lists_as_the_evaluation(trained, recommender):
    config, model, dataset, _, _, test = trained[1]
    feat = test._dataset.inter_feat
    columns = [feat[name] for name in ("user_id", "item_id_list", "item_length")]
    expected = model.eval().recommend(*(column.to(config["device"]) for column in columns), 10)
    items, users = dataset.field2id_token["item_id"], dataset.field2id_token["user_id"]
    histories = [
        [str(items[i]) for i in row[:n]] for row, n in zip(columns[1].tolist(), columns[2].tolist(), strict=True)
    ]
    found = recommender.recommend(histories, 10, users=[str(users[u]) for u in columns[0]])
    assert [[r.item for r in row] for row in found] == [
        [str(items[i]) for i in row if i] for row in expected.items.tolist()
    ]
    scores = np.array([r.score for row in found for r in row])
    assert scores == pytest.approx(expected.scores[expected.items > 0].cpu().numpy(), abs=1e-5)
    # A user's token matters, so leaving it out would have been seen.
    unknown = recommender.recommend(histories, 10)
    assert [[r.item for r in row] for row in unknown] != [[r.item for r in row] for row in found]


def test_what_a_recommendation_says(recommender):
    [found] = recommender.recommend([["i0_3", "i0_4"]], 5)
    assert len(found) == 5 and [r.score for r in found] == sorted((r.score for r in found), reverse=True)
    table = recommender.prepared.table
    for r in found:
        assert r.title == like(r.item)[0] and not r.new
        assert table.codes[table.items.tolist().index(r.item)].tolist() == list(r.codes)


def test_long_histories_count_from_the_end(recommender):
    long = [f"i1_{n % 24}" for n in range(60)]
    limit = recommender.config["MAX_ITEM_LIST_LENGTH"]
    assert recommender.recommend([long]) == recommender.recommend([long[-limit:]])


def test_titles_and_ids_are_the_same_items(recommender):
    title = like("i0_3")[0]
    assert recommender.recommend([["i0_3", "i0_4"]]) == recommender.recommend([[title.upper(), " i0_4 "]])


def test_seen_items_are_left_out(recommender):
    history = ["i0_3", "i0_4"]
    [everything] = recommender.recommend([history], 48)
    [again] = recommender.recommend([history], 46, exclude_seen=True)
    assert [r.item for r in again] == [r.item for r in everything if r.item not in history]


def test_sampling_is_seeded(recommender):
    draws = [recommender.recommend([["i0_3"]], 5, 3.0, sample=True, seed=seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_more_than_the_beam_and_the_whole_catalogue(recommender):
    [found] = recommender.recommend([["i0_3"]], 48)
    assert sorted(r.item for r in found) == sorted(recommender.items[1:])


# ---------------------------------------------------------------------------------------------------- new items


def test_a_new_item_is_found_through_its_prefix(recommender, workplace):
    [before] = recommender.recommend([["i0_3", "i0_4"]], 10)
    twin = before[0]
    assert recommender.add_items(new_items(workplace, ("n1", *like(twin.item)))) == 1
    [found] = recommender.recommend([["i0_3", "i0_4"]], 10)
    assert [r.item for r in found] == [twin.item, "n1", *(r.item for r in before[1:9])]
    assert found[1].new and found[1].codes == twin.codes[:2] and found[1].title == twin.title
    [without] = recommender.recommend([["i0_3", "i0_4"]], 10, epsilon=0.0)
    assert without == before
    assert recommender.recommend([["n1"]], 3)  # and a history may hold it
    assert "n1" not in {r.item for r in recommender.recommend([["n1", "i0_3", "i0_4"]], 10, exclude_seen=True)[0]}


def test_new_items_come_in_several_times(recommender, workplace):
    first = recommender.recommend([["i0_3", "i0_4"]], 1)[0][0].item
    recommender.add_items(new_items(workplace, ("n1", *like(first))))
    recommender.add_items(new_items(workplace, ("n2", *like(first))))
    assert [r.item for r in recommender.recommend([["i0_3", "i0_4"]], 3)[0]][1:] == ["n1", "n2"]
    with pytest.raises(ValueError, match="known already, such as n2"):
        recommender.add_items(workplace / "new.item")


def test_new_items_that_were_seen_leave_room_for_others_of_their_prefix(recommender, workplace):
    first = recommender.recommend([["i0_3", "i0_4"]], 1)[0][0].item
    recommender.add_items(new_items(workplace, *((f"n{i}", *like(first)) for i in range(5))))
    history = ["n0", "n1", "n2", "i0_3", "i0_4"]
    everything = [r.item for r in recommender.recommend([history], 40)[0]]
    wanted = [item for item in everything if item not in history]
    for k in (3, 4, 10):
        assert [r.item for r in recommender.recommend([history], k, exclude_seen=True)[0]] == wanted[:k]


def test_a_new_item_without_text(recommender, workplace):
    with pytest.raises(ValueError, match="n1.*no text"):
        recommender.add_items(new_items(workplace, ("n1", "", "", "")))


# ---------------------------------------------------------------------------------------------------- bad input


def test_unknown_items_are_named_and_skipped_only_on_request(recommender, caplog):
    with pytest.raises(UnknownItemError, match="history 2: 'i9_9' is not an item"):
        recommender.recommend([["i0_3"], ["i0_4", "i9_9"]])
    with pytest.raises(UnknownItemError, match="did you mean 'Acme lotion number 0 line 0'"):
        recommender.recommend([["Acme lotion number 0 lime 0"]])
    found = recommender.recommend([["i0_4", "i9_9"]], unknown="skip")
    assert found == recommender.recommend([["i0_4"]])
    assert "i9_9" in caplog.text
    with pytest.raises(ValueError, match="history 1 is empty without its unknown items"):
        recommender.recommend([["i9_9"]], unknown="skip")


def test_two_items_of_one_title(recommender):
    recommender.titles[1] = recommender.titles[2] = "Twin"
    recommender._index()
    with pytest.raises(UnknownItemError, match="the title of 2 items"):
        recommender.find("twin")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(histories=[[]]), "history 1 is empty"),
        (dict(histories=["i0_1"]), "list of lists"),
        (dict(k=49), "k=49"),
        (dict(k=0), "k=0"),
        (dict(epsilon=1.5), "epsilon=1.5"),
        (dict(unknown="ignore"), "unknown='ignore'"),
        (dict(beam_size=3), "beam_size=3"),
        (dict(temperature=0.0), "temperature"),
        (dict(users=["u1", "u2"]), "2 users"),
    ],
)
def test_arguments_that_cannot_work(recommender, arguments, words):
    with pytest.raises(ValueError, match=words):
        recommender.recommend(**{"histories": [["i0_1"]], **arguments})


def test_other_checkpoints(trained, workplace):
    state = load_checkpoint(trained[0])
    state["config"]["model"] = "SASRec"
    save_checkpoint("other.pth", {k: v for k, v in state.items() if not k.startswith("format")})
    with pytest.raises(CheckpointError, match="checkpoint of SASRec"):
        Recommender.from_checkpoint("other.pth")
    state = load_checkpoint(trained[0])
    state["config"]["d_model"] = 64
    save_checkpoint("wide.pth", {k: v for k, v in state.items() if not k.startswith("format")})
    with pytest.raises(CheckpointError, match="does not fit this version"):
        Recommender.from_checkpoint("wide.pth")
    state = load_checkpoint(trained[0])
    next(weight for weight in state["state_dict"].values() if weight.is_floating_point()).fill_(torch.nan)
    save_checkpoint("nan.pth", {k: v for k, v in state.items() if not k.startswith("format")})
    with pytest.raises(NotFiniteError, match="checkpoint 'nan.pth': weights are not finite"):
        Recommender.from_checkpoint("nan.pth")
    torch.save({**load_checkpoint(trained[0]), "format_version": 99}, "newer.pth")
    with pytest.raises(CheckpointError, match="format version 99"):
        Recommender.from_checkpoint("newer.pth")


# ----------------------------------------------------------------------------------------- names and files


def test_commas_in_titles(recommender):
    recommender.titles[1:4] = ["Soap, blue", "Soap", "blue"]
    recommender._index()
    assert recommender.split("Soap, blue, i0_1,soap , nothing, i0_2,") == [
        "Soap, blue",
        "i0_1",
        "soap",
        "nothing",
        "i0_2",
    ]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1_2", ["1_2"]),
        ("007, 1_2,50", ["007", "1_2", "50"]),
        ("'1_2', '007'", ["1_2", "007"]),
        ("'1_2', 007, \"Soap, blue\"", ["1_2", "007", "50"]),
        ("(500), '90s", ["i0_1", "i0_2"]),
        (["1_2", "Soap, blue"], ["1_2", "50"]),
    ],
)
def test_a_history_is_text(recommender, text, items):
    recommender.items[1:6] = ["1_2", "007", "50", "i0_1", "i0_2"]
    recommender.titles[3:6] = ["Soap, blue", "(500)", "'90s"]
    recommender._index()
    if isinstance(text, str):
        [text] = parse_command_line([f"--history={text}"]).values()
    names = history_names(text, recommender)
    assert [recommender.items[recommender.find(name)] for name in names] == items


@pytest.mark.parametrize("value", [12, 1.5, [50, "a"], (1, 2), True])
def test_a_history_of_numbers_is_refused(recommender, value):
    with pytest.raises(ValueError, match="history=.*was read as a number"):
        history_names(value, recommender)


def test_the_package_offers_it():
    assert recbole_tiger.Recommender is Recommender
    with pytest.raises(AttributeError, match="Recommenders"):
        recbole_tiger.Recommenders  # noqa: B018


def test_histories_from_files(recommender, workplace):
    rows = pd.DataFrame(
        {"user_id": ["b", "a", "b", "007"], "item_id": ["i0_2", "i0_5", "i0_1", "i1_1"], "timestamp": [9, 1, 3, 2]}
    )
    expected = {"a": ["i0_5"], "007": ["i1_1"], "b": ["i0_1", "i0_2"]}
    rows.to_csv("h.csv", index=False)
    rows.to_parquet("h.parquet", index=False)
    types = {"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}
    rows.rename(columns=types).to_csv("h.inter", sep="\t", index=False)
    for name in ("h.csv", "h.parquet", "h.inter"):
        assert read_histories(name, recommender.config) == expected
    rows.drop(columns="timestamp").to_csv("u.tsv", sep="\t", index=False)
    assert read_histories("u.tsv", recommender.config)["b"] == ["i0_2", "i0_1"]  # the order of the lines
    for name, words in (("none.csv", "is not a file"), ("x.txt", "must end in"), ("c.csv", "no column 'item_id'")):
        if name[0] != "n":
            (workplace / name).write_text("user_id\nu\n")
        with pytest.raises(ValueError, match=words):
            read_histories(name, recommender.config)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("h.csv", "user_id,item_id\nu1,i1\nu1,i2,i3\n", "line 3: 3 cells, but the header names 2"),
        ("h.csv", "user_id,item_id\nu1\n", "line 2: 1 cells"),
        ("h.csv", 'user_id,item_id\n"u\n1",i1\n,i2\n', "line 4: 'user_id' is empty"),
        ("h.csv", "user_id,item_id\nu1, \n", "line 2: 'item_id' is empty"),
        ("h.csv", 'user_id,item_id\nu1,"i1\nu2,i2\n', "line 2: unexpected end of data"),
        ("h.tsv", "user_id\titem_id\ttimestamp\nu1\ti1\t1\n\nu1\ti2\t\n", "line 4: 'timestamp' is not a finite number"),
        ("h.tsv", "user_id\titem_id\ttimestamp\nu1\ti1\tlate\n", "line 2: 'timestamp' is not a finite number"),
        (
            "h.inter",
            "user_id:token\titem_id:token\titem_id:token\nu1\ti1\ti2\n",
            "line 1: two columns are called 'item_id'",
        ),
        ("h.csv", "user_id,item_id\n", "holds no interactions"),
        ("h.csv", "", "no column 'user_id'"),
    ],
)
def test_lines_of_histories_that_do_not_fit(recommender, workplace, name, text, words):
    (workplace / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        read_histories(name, recommender.config)


def test_parquet_histories_that_do_not_fit(recommender, workplace):
    pd.DataFrame({"user_id": ["a", None], "item_id": [1, 2]}).to_parquet("h.parquet")
    with pytest.raises(ValueError, match="row 2: 'user_id' is empty"):
        read_histories("h.parquet", recommender.config)


def test_a_date_that_is_missing_is_no_time(recommender):
    days = pd.to_datetime(["2020-01-02", None, "2020-01-01"])
    table = pd.DataFrame({"user_id": ["a"] * 3, "item_id": ["i0_1", "i0_2", "i0_3"], "timestamp": days})
    with pytest.raises(ValueError, match="row 2: 'timestamp' is not a finite number"):
        recommender.recommend(table, 2)
    assert recommender.recommend(table[::2], 2) == recommender.recommend([["i0_3", "i0_1"]], 2, users=["a"])


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_many_users_to_a_file(trained, recommender, workplace, name):
    (workplace / "h.csv").write_text("user_id,item_id\nu1,i0_1\nu2,i0_7\nu1,i0_2\n")
    settings = {"checkpoint": str(trained[0]), "histories": "h.csv", "output": name, "k": 4}
    assert "8 recommendations for 2 users" in run(dict(settings))
    table = pd.read_csv(name) if name.endswith("csv") else pd.read_parquet(name)
    expected = recommender.recommend([["i0_1", "i0_2"], ["i0_7"]], 4, users=["u1", "u2"])
    assert table["item_id"].tolist() == [r.item for row in expected for r in row]
    assert table["rank"].tolist() == [1, 2, 3, 4] * 2 and table["user_id"].tolist() == ["u1"] * 4 + ["u2"] * 4
    with pytest.raises(ValueError, match="exists already"):
        run(settings)
    assert write_recommendations(workplace / "empty.csv", [], []) == 0


def test_a_table_gives_a_table(recommender):
    table = pd.DataFrame(
        {"user_id": ["b", "a", "b", "a"], "item_id:token": ["i0_4", "i1_2", "i0_3", "i1_3"], "timestamp": [2, 1, 1, 2]}
    )
    found = recommender.recommend(table, 3)
    lists = recommender.recommend([["i1_2", "i1_3"], ["i0_3", "i0_4"]], 3, users=["a", "b"])
    assert found == lists and found.users == ["a", "b"]
    frame = found.to_frame()
    assert frame.columns.tolist() == ["user_id", "rank", "item_id", "title", "score", "codewords", "new"]
    assert frame["user_id"].tolist() == ["a"] * 3 + ["b"] * 3 and frame["rank"].tolist() == [1, 2, 3] * 2
    assert frame["item_id"].tolist() == [r.item for row in lists for r in row]
    assert recommender.recommend([["i0_3"]], 2).to_frame()["user_id"].tolist() == [0, 0]
    for wrong, message in (
        (table.drop(columns="user_id"), "histories has no column 'user_id'; its columns: item_id, timestamp"),
        (table.assign(timestamp=[1, "x", 2, 3]), "histories, row 2: 'timestamp' is not a finite number"),
        (table.head(0), "histories holds no interactions"),
    ):
        with pytest.raises(ValueError, match=message):
            recommender.recommend(wrong)
    with pytest.raises(ValueError, match="a table names its users already"):
        recommender.recommend(table, users=["a", "b"])


def test_saved_with_its_new_items(trained, recommender, workplace):
    recommender.add_items(new_items(workplace, ("n1", *like("i0_5"))))
    recommender.add_items(new_items(workplace, ("n2", "A thing like no other", "Zoo", "Nobody")))
    recommender.save(workplace / "kept" / "own.pth")
    again = Recommender.from_checkpoint(workplace / "kept" / "own.pth")
    assert again.items == recommender.items and again.titles == recommender.titles
    assert again.new_items == recommender.new_items and [item.item for item in again.new_items] == ["n1", "n2"]
    histories = [["i0_3", "i0_4"], ["n1"], ["i1_7", "n2"]]
    assert again.recommend(histories, 20) == recommender.recommend(histories, 20)  # which goes on as before
    without = Recommender.from_checkpoint(trained[0])
    known = again.recommend([["i0_3", "i0_4"]], 20, epsilon=0.0)[0]
    assert known[:10] == without.recommend([["i0_3", "i0_4"]], 10)[0]
    with pytest.raises(CheckpointError, match="own.pth' exists already"):
        recommender.save(workplace / "kept" / "own.pth")
    with pytest.raises(ConfigError, match="own.pth' holds only weights"):
        check_same_run(recommender.config, "own.pth", load_checkpoint(workplace / "kept" / "own.pth"), None)


def test_the_command_says_how_many_items_came_and_under_which_prefixes(trained, recommender, workplace):
    rows = [(f"n{i}", *like(f"i0_{i}")) for i in range(12)]
    file = new_items(workplace, *rows)
    text = run({"checkpoint": str(trained[0]), "history": "i0_3", "new_items": str(file)})
    lines = text.partition("\n\n")[0].splitlines()
    recommender.add_items(file)
    prefixes = {item.codes for item in recommender.new_items}
    assert lines[0].startswith(f"12 new items were added under {len(prefixes)} prefixes; 0 have a prefix that no known")
    assert lines[3].split()[0] == "n0" and " ".join(map(str, recommender.new_items[0].codes)) in lines[3]
    assert len(lines) == 14 and lines[-1] == "… and 2 more"
    known = recommender.prepared.table.codes[1:, :2].tolist()
    assert all(item.sharing == known.count(list(item.codes)) >= 1 for item in recommender.new_items)
