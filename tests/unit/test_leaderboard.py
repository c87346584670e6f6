"""Plans, stored runs and tables, without training anything."""

import csv
import json
import re

import numpy as np
import pytest
from catalogue import TINY, write_catalogue
from stored_runs import METRICS, store

from recbole_tiger.commands import leaderboard, train
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.leaderboard.cells import cost_table, marks, notes, quality_table, settings_table
from recbole_tiger.leaderboard.outputs import (
    as_records,
    format_latex,
    format_markdown,
    format_text,
    report,
    write_outputs,
)
from recbole_tiger.leaderboard.page import format_page
from recbole_tiger.leaderboard.plan import is_leaderboard, make_plan, parse_rows
from recbole_tiger.leaderboard.published import TABLE_1
from recbole_tiger.leaderboard.rows import read_rows
from recbole_tiger.leaderboard.run import failures_of
from recbole_tiger.leaderboard.table import make_leaderboards, read_runs

CONTENT = {"content_encoder": "tfidf_svd", "content_dim": 16}


@pytest.fixture()
def runs(tmp_path):
    """TIGER with two seeds, SASRec with two, Pop."""
    rng = np.random.default_rng(0)
    for model, share in (("TIGER", 0.3), ("SASRec", 0.5)):
        for seed in (1, 2):
            store(tmp_path, model, seed, np.where(rng.random(200) < share, rng.integers(0, 10, 200), -1))
    store(tmp_path, "Pop", None, np.where(rng.random(200) < 0.1, 9, -1), loss=None)
    return tmp_path


# ------------------------------------------------------------------------------------------------------------ the plan


def test_rows_are_read_as_typed():
    rows = parse_rows("TIGER, SASRec[loss_type=BPR],TIGER[codebook_size=[4,8], beam_size=20]")
    assert [row.label for row in rows] == ["TIGER", "SASRec[loss_type=BPR]", "TIGER[codebook_size=[4,8],beam_size=20]"]
    assert rows[2].tag == {"codebook_size": [4, 8], "beam_size": 20} and rows[2].model == "TIGER"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SASRec[BPR]", "cannot read the row"),
        ("SASRec]", "cannot read the row"),
        ("A,A", "given twice"),
        (",", "no row"),
        ("SASRec[n_layers=1,n_layers=2]", "sets n_layers twice"),
    ],
)
def test_rows_that_cannot_be_read(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_rows(text)


def test_what_asks_for_a_leaderboard():
    assert is_leaderboard({"model": "TIGER,SASRec"}) and is_leaderboard({"model": "SASRec[loss_type=BPR]"})
    assert is_leaderboard({"model": "Pop"}) and is_leaderboard({"seeds": (1, 2)})
    assert not is_leaderboard({"model": "TIGER", "seed": 1}) and not is_leaderboard({})


@pytest.fixture()
def data(workplace):
    write_catalogue(workplace / "data")
    return {"data_path": str(workplace / "data")}


def keys(plan):
    return {(task.label, task.seed): task.folder.name for task in plan.tasks}


def test_a_run_is_named_by_all_that_it_depends_on(data, workplace):
    first = make_plan("SASRec,Pop,SASRec[hidden_size=32]", "toy", [1, 2], settings=data)
    assert [(t.label, t.seed) for t in first.tasks] == [
        ("SASRec", 1), ("SASRec", 2), ("Pop", None), ("SASRec[hidden_size=32]", 1), ("SASRec[hidden_size=32]", 2),
    ]  # fmt: skip
    assert len(set(keys(first).values())) == 5
    # Another set of rows and seeds, or other settings of the log, finds the same runs in the same folder.
    more = make_plan("GRU4Rec,SASRec", "toy", [2, 3], settings={**data, "state": "WARNING", "show_progress": False})
    assert more.folder == first.folder and keys(more)["SASRec", 2] == keys(first)["SASRec", 2]
    # A setting that metrics depend on makes other runs; a protocol setting or other data another folder as well.
    other = make_plan("SASRec,Pop", "toy", [1], settings={**data, "epochs": 3})
    assert other.folder == first.folder and keys(other)["SASRec", 1] != keys(first)["SASRec", 1]
    assert keys(other)["Pop", None] == keys(first)["Pop", None]
    masked = make_plan("SASRec,Pop", "toy", [1], settings={**data, "mask_seen_items": True})
    assert masked.folder != first.folder and keys(masked)["Pop", None] != keys(first)["Pop", None]
    with open(workplace / "data" / "toy" / "toy.inter", "a") as file:
        file.write("u0\ti0_0\t1500000000\n")
    assert make_plan("SASRec", "toy", [1], settings=data).folder != first.folder


def test_settings_go_to_the_rows_that_know_them(data, workplace):
    (workplace / "own.yaml").write_text(
        "epochs: 7\nbeam_size: 30\nTIGER:\n  beam_size: 40\n  learning_rate: 0.5\nSASRec[n_layers=1]:\n  n_heads: 1\n"
    )
    settings = {**TINY, **data, "learning_rate": 0.25, "recipe": "tiny"}
    plan = make_plan("TIGER,SASRec,SASRec[n_layers=1],Semantic_KNN", "toy", [1], ["own.yaml"], settings)
    tiger, sasrec, small, knn = (task.settings for task in plan.tasks)
    assert (tiger["beam_size"], tiger["epochs"], tiger["learning_rate"], tiger["recipe"]) == (20, 2, 0.25, "tiny")
    assert "beam_size" not in sasrec and "recipe" not in sasrec and "n_heads" not in sasrec
    assert (small["n_heads"], small["n_layers"], knn["epochs"]) == (1, 1, 1)
    assert plan.tasks[3].seed is None
    plan = make_plan(
        "TIGER,SASRec", "toy", [1], ["own.yaml"], {**data, "content_encoder": "tfidf_svd", "codebook_size": 8}
    )
    assert [task.settings.get("beam_size") for task in plan.tasks] == [40, None]


def test_a_row_with_text_has_a_block_of_its_own(data, workplace):
    (workplace / "own.yaml").write_text("SASRec+text:\n  hidden_size: 8\nGRU4Rec+text:\n  hidden_size: 4\n")
    plan = make_plan("SASRec,SASRec+text", "toy", [1], ["own.yaml"], {**data, **CONTENT})
    assert [task.settings.get("hidden_size") for task in plan.tasks] == [None, 8]


def test_a_file_names_no_other_model_than_the_rows(data, workplace, monkeypatch):
    """The file that a sweep leaves for its winner has a model, a dataset and perhaps a seed in it."""
    (workplace / "best.yaml").write_text("model: GRU4Rec\ndataset: elsewhere\nseed: 7\nhidden_size: 24\n")
    plan = make_plan("SASRec,Caser", "toy", [1], ["best.yaml"], data)
    for task in plan.tasks:
        config = build_config(task.model, task.dataset, None, task.settings)
        assert config["model"] == task.model == task.label and config["dataset"] == "toy"
    assert build_config("SASRec", "toy", None, plan.tasks[0].settings)["hidden_size"] == 24

    asked = []
    monkeypatch.setattr(
        "recbole_tiger.leaderboard.run.make_plan", lambda *args, **kwargs: asked.append(args[:3]) or 1 / 0
    )
    for typed in ({}, {"model": "SASRec,Pop", "seeds": (1, 2)}, {"dataset": "toy", "seed": 3}):
        with pytest.raises(ZeroDivisionError):
            leaderboard.make({**typed, "config_files": "best.yaml"})
    (workplace / "rows.yaml").write_text("model: [GRU4Rec, SASRec]\nseeds: 1,2\n")  # a table that only a file names
    with pytest.raises(ZeroDivisionError):
        train.run({"config_files": "rows.yaml"})
    assert asked == [
        ("GRU4Rec", "elsewhere", [7]), ("SASRec,Pop", "elsewhere", [1, 2]), ("GRU4Rec", "toy", [3]),
        (["GRU4Rec", "SASRec"], "ml-100k", [1, 2]),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="seed=1 and seeds=2 are both given"):
        leaderboard.make({"seed": 1, "seeds": 2})
    (workplace / "one.yaml").write_text("resume: saved/x/last.pth\n")
    with pytest.raises(ConfigError, match="resume='saved/x/last.pth' belongs to one run"):
        make_plan("SASRec", "toy", [1], ["one.yaml"], data)


def test_bpr_gets_a_sampler(data):
    for config in (
        build_config("SASRec", "toy", None, {**data, "loss_type": "BPR"}),
        build_config("SASRec", "toy", None, data),
    ):
        expected = "uniform" if config["loss_type"] == "BPR" else "none"
        assert config["train_neg_sample_args"]["distribution"] == expected


@pytest.mark.parametrize(
    ("model", "seeds", "more", "words"),
    [
        ("TIGRE,SASRec", [1], {}, "model='TIGRE'"),
        ("SASRec,GRU4Rec", [1], {"beam_size": 5}, "unknown key 'beam_size'"),
        ("SASRec[beam_size=5]", [1], {}, "unknown key 'beam_size'"),
        ("SASRec[mask_seen_items=True],SASRec", [1], {}, "all rows of a table share it"),
        ("SASRec[seed=3],SASRec", [1], {}, "all rows of a table share it"),
        ("SASRec", ["one"], {}, "seeds="),
        ("SASRec", [1, 2, 1], {}, "names a seed twice"),
        ("SASRec", [], {}, r"seeds=\[\] must be a list of at least one seed"),
        ("SASRec", 1, {}, "seeds=1 must be a list"),
        ("SASRec,SASRec[n_layers=2]", [1], {}, r"'SASRec' and 'SASRec\[n_layers=2\]' have the same settings"),
        ("SASRec", [1], {"resume": "x.pth"}, "resume='x.pth'"),
        ("SASRec", [1], {"recipe": "paper"}, "recipe='paper'"),
        ("SASRec", [1], {"eval_args": {"mode": "uni100"}}, "sampled evaluation"),
    ],
)
def test_mistakes_are_named_before_anything_runs(data, model, seeds, more, words):
    with pytest.raises(ConfigError, match=words):
        make_plan(model, "toy", seeds, settings={**data, **more})


def test_a_row_that_cannot_work_says_why_and_the_others_are_planned(data):
    plan = make_plan("FDSA,SASRec", "toy", [1], settings=data)
    assert [task.label for task in plan.tasks] == ["SASRec"]
    assert failures_of(plan)[0] == ("FDSA", plan.impossible["FDSA"]) and "item_feature" in plan.impossible["FDSA"]
    assert failures_of(plan)[1] == ("SASRec, seed 1", "it has not run")


def test_no_table_is_written_where_no_row_has_a_result(tmp_path):
    with pytest.raises(ConfigError, match="no row has a result: Caser: it broke"):
        report([], [("Caser", "it broke")], tmp_path / "none")
    assert not (tmp_path / "none").exists()


# ----------------------------------------------------------------------------------------------------------- the table


def test_means_deviations_gain_and_marks(runs):
    [board] = make_leaderboards(read_runs(runs))
    assert [row.label for row in board.rows] == ["SASRec", "TIGER", "Pop"] and board.reference == "TIGER"
    best, second, pop = board.rows
    values = [run.result["test_result"]["ndcg@10"] for run in best.runs]
    assert best.mean["ndcg@10"] == pytest.approx(sum(values) / 2)
    assert best.std["ndcg@10"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert pop.std is None and pop.seeds() == "none" and best.seeds() == "1,2"
    assert best.gain == pytest.approx(best.mean["ndcg@10"] / second.mean["ndcg@10"] - 1)
    assert pop.gain == pytest.approx(pop.mean["ndcg@10"] / best.mean["ndcg@10"] - 1)
    assert [marks(board, metric) for metric in METRICS] == [["*", "+", ""]] * 4
    assert second.comparison.difference is None and best.comparison.p_holm >= best.comparison.p
    assert best.comparison.difference == pytest.approx(best.mean["ndcg@10"] - second.mean["ndcg@10"], abs=1e-6)
    assert (board.n_resamples, board.n_users) == (10_000, 200)


def test_the_difference_is_between_seed_means_of_each_user(tmp_path):
    store(tmp_path, "TIGER", 1, [0, -1, -1, -1])
    store(tmp_path, "TIGER", 2, [0, 0, -1, -1])
    store(tmp_path, "SASRec", 1, [-1, -1, -1, 0])
    [board] = make_leaderboards(read_runs(tmp_path))
    found = {row.label: row for row in board.rows}["SASRec"].comparison
    from scipy import stats

    assert found.difference == pytest.approx(-0.125)
    assert found.p == pytest.approx(stats.ttest_rel([0, 0, 0, 1], [1, 0.5, 0, 0]).pvalue)


@pytest.mark.parametrize(
    "other",
    [
        {"checksum": "ffff0000"},
        {"config": {"mask_seen_items": True}},
        {"config": {"MAX_ITEM_LIST_LENGTH": 50}},
        {"dataset": "x"},
    ],
)
def test_other_data_or_protocol_never_shares_a_table(runs, other):
    store(runs, "GRU4Rec", 1, [0] * 200, **other)
    boards = make_leaderboards(read_runs(runs), [("Caser", "no")])
    assert sorted(len(board.rows) for board in boards) == [1, 3]
    assert sum(len(board.failures) for board in boards) == 1


def test_rows_of_one_name_are_told_apart_by_their_settings(tmp_path):
    for size in (32, 64):
        for seed in (1, 2):
            store(tmp_path, "SASRec", seed, [0, -1], config={"hidden_size": size})
    [board] = make_leaderboards(read_runs(tmp_path))
    assert sorted(row.label for row in board.rows) == ["SASRec[hidden_size=32]", "SASRec[hidden_size=64]"]
    assert [len(row.runs) for row in board.rows] == [2, 2]


def test_three_rows_of_one_name_have_three_labels(tmp_path):
    for a, b, weight in ((1, 1, 0), (1, 1, 1), (2, 2, 1)):  # a and b say the same, and come first
        store(tmp_path, "SASRec", 1, [0, -1], config={"hidden_size": a, "inner_size": b, "n_layers": weight})
    [board] = make_leaderboards(read_runs(tmp_path))
    labels = {f"SASRec[hidden_size={a},n_layers={weight}]" for a, weight in ((1, 0), (1, 1), (2, 1))}
    assert {row.label for row in board.rows} == labels


def test_rows_without_a_difference_are_told_apart_beside_one_that_differs(tmp_path):
    for label, size in (("one", 32), ("two", 32), ("three", 64)):  # of a leaderboard and of a single run, say
        folder = store(tmp_path, "SASRec", 1, [0, -1], label=label, config={"hidden_size": size})
        (folder / "run.json").write_text(json.dumps({"row": label}))
    [board] = make_leaderboards(read_runs(tmp_path))
    one, two = (row.label for row in board.rows if "hidden_size=32" in row.label)
    assert one != two and one.startswith("SASRec[hidden_size=32] (toy-") and len({row.label for row in board.rows}) == 3


def test_no_label_names_the_first_stage_of_a_run(tmp_path):
    for weight in (0.1, 0.2):
        config = {"weight_decay": weight, "pre_model_path": f"saved/{weight}/pretrained.pth"}
        store(tmp_path, "S3Rec", 1, [0, -1], config=config)
    [board] = make_leaderboards(read_runs(tmp_path))
    assert {row.label for row in board.rows} == {"S3Rec[weight_decay=0.1]", "S3Rec[weight_decay=0.2]"}
    assert "pretrained" not in str(settings_table(board).rows)


def test_what_a_row_lacks_is_no_number_and_costs_the_others_no_column(tmp_path):
    """Popularity, whose folder is read first, has no metrics of whole lists; no other row has one of its own."""
    config = {"valid_metric": "ItemCoverage@10"}
    pop = store(tmp_path, "Pop", None, [0, 1], config=config)
    result = json.loads((pop / "result.json").read_text())
    for model, coverage in (("SASRec", 0.25), ("TIGER", 0.5)):
        measured = {**result["test_result"], "itemcoverage@10": coverage}
        store(tmp_path, model, 1, [1, 0], config=config, test_result=measured)
    boards = make_leaderboards(read_runs(tmp_path))
    assert boards[0].metrics == (*METRICS, "itemcoverage@10")
    assert [row.label for row in boards[0].rows] == ["TIGER", "SASRec", "Pop"]
    assert [row.gain for row in boards[0].rows] == [1.0, -0.5, None]
    quality = quality_table(boards[0])
    assert [row[quality.header.index("itemcoverage@10")] for row in quality.rows] == ["0.5000", "0.2500", "-"]
    paths = write_outputs(boards, tmp_path / "out")
    assert "nan" not in format_text(boards[0]) and "NaN" not in open(paths["json"]).read()
    [record] = [record for record in as_records(boards) if record["model"] == "Pop"]
    assert record["itemcoverage@10"] is None and record["recall@10"] == 1.0


def test_marks_where_no_row_has_a_number(tmp_path):
    for model in ("A", "B"):
        store(tmp_path, model, 1, [0], test_result=dict.fromkeys(METRICS, float("nan")))
    assert marks(make_leaderboards(read_runs(tmp_path))[0], "ndcg@10") == ["", ""]


def test_metrics_of_ids_are_those_of_all_seeds(tmp_path):
    for seed, value in ((1, 0.2), (2, 0.4)):
        store(tmp_path, "TIGER", seed, [0, 1], id_level_test_result={"ndcg@10": value})
    [note] = [n for n in notes(make_leaderboards(read_runs(tmp_path))[0]) if "counted by Semantic IDs" in n]
    assert note.endswith(": ndcg@10 0.3000.")


def test_the_sentence_on_tests_fits_the_number_of_rows(tmp_path):
    for model, words in (("A", "for each user."), ("B", "for 1 comparison."), ("C", "for 2 comparisons.")):
        store(tmp_path, model, 1, [0, 1])
        [note] = [n for n in notes(make_leaderboards(read_runs(tmp_path))[0]) if n.startswith("Intervals")]
        assert note.endswith(words)


def test_records_of_several_tables_name_their_protocols(runs):
    """The records of all tables stand in one file: masked and unmasked rows of one name must not be mixed up."""
    store(runs, "SASRec", 1, [0] * 200, config={"mask_seen_items": True})
    store(runs, "SASRec", 1, [0] * 200, config={"user_inter_num_interval": "[5,inf)"})
    store(runs, "SASRec", 1, [0] * 200, checksum="ffff0000")
    boards = make_leaderboards(read_runs(runs))
    found = {record["protocol"] for record in as_records(boards)}
    assert len(found) == len(boards) == 4 and sum("seen items masked" in protocol for protocol in found) == 1
    assert any("user_inter_num_interval=[5,inf)" in each for each in found) and any("data=ffff0000" in e for e in found)
    groups = json.loads(re.search(r'id="groups">(.*?)</script>', format_page(boards))[1])
    assert {group["protocol"] for group in groups} == found


def test_equal_values_share_a_mark_and_one_row_has_none(tmp_path):
    store(tmp_path, "A", 1, [0, 1])
    assert marks(make_leaderboards(read_runs(tmp_path))[0], "ndcg@10") == [""]
    for model in ("B", "C"):
        store(tmp_path, model, 1, [0, 1])
    assert marks(make_leaderboards(read_runs(tmp_path))[0], "ndcg@10") == ["*", "*", "*"]


def test_runs_without_ranks_have_no_intervals(runs):
    for file in runs.glob("*Pop*/ranks.npz"):
        file.unlink()
    [board] = make_leaderboards(read_runs(runs))
    assert board.n_resamples == 0 and all(row.comparison is None for row in board.rows)
    text = format_text(board)
    assert "95% interval" not in text and "No intervals and tests: runs of Pop have no ranks.npz." in text


def test_runs_on_other_users_are_refused(runs):
    store(runs, "GRU4Rec", 1, [0] * 150)
    with pytest.raises(ValueError, match="other users"):
        make_leaderboards(read_runs(runs))


def test_damaged_and_missing_results_are_named(tmp_path):
    with pytest.raises(ValueError, match="no finished run"):
        read_runs(tmp_path)
    folder = store(tmp_path, "A", 1, [0])
    (folder / "result.json").write_text("{half")
    with pytest.raises(ValueError, match="result.json.*damaged"):
        read_runs(tmp_path)


# --------------------------------------------------------------------------------------------------------- the outputs


def test_outputs_hold_the_same_numbers(runs, tmp_path):
    boards = make_leaderboards(read_runs(runs), [("Caser, seed 1", "it broke")])
    paths = write_outputs(boards, tmp_path / "out")
    board = boards[0]
    with open(paths["csv"]) as file:
        records = list(csv.DictReader(file))
    stored = json.loads(open(paths["json"]).read())["tables"][0]
    assert [r["model"] for r in records] == [r["model"] for r in stored["rows"]] == ["SASRec", "TIGER", "Pop"]
    for record, row, own in zip(records, stored["rows"], board.rows, strict=True):
        for metric in METRICS:
            assert float(record[metric]) == row[metric] == own.mean[metric]
    assert stored["rows"][0]["results"][0]["commit"] == "0123456789abcdef"
    assert stored["failures"] == [{"model": "Caser, seed 1", "reason": "it broke"}]
    text = format_text(board)
    for words in ("leave-one-out", "not masked", "Caser, seed 1 has no result: it broke", "±", "01234567", "* best",
                  "models see what other users did after them", "data abcd1234", "200 test users"):  # fmt: skip
        assert words in text, words


def test_best_is_bold_and_second_underlined(runs):
    [board] = make_leaderboards(read_runs(runs))
    best, second = (f"{row.mean['ndcg@10']:.4f}" for row in board.rows[:2])
    assert f"**{best} ± " in format_markdown(board) and f"<u>{second} ± " in format_markdown(board)
    assert "**Best**, <u>second best</u>; gain" in format_markdown(board) and "* best, + second" in format_text(board)
    latex = format_latex(board)
    assert f"\\textbf{{{best} $\\pm$" in latex and f"\\underline{{{second} $\\pm$" in latex
    assert latex.count(r"\toprule") == latex.count(r"\midrule") == latex.count(r"\bottomrule") == 1
    widths = {line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")}
    assert widths == {7} and "%" not in latex.replace(r"\%", "").split("\n", 1)[1]


def test_names_of_any_characters_break_no_output(tmp_path):
    name, dataset = "=A|b<i>\\~^_{}", "<!--<script>"
    for model in (name, "-B"):
        store(tmp_path / "runs", model, 1, [0, 1], label=model, dataset=dataset.replace("/", ""))
    boards = make_leaderboards(read_runs(tmp_path / "runs"), [("C<", "no|<b>")])
    paths = write_outputs(boards, tmp_path / "out")
    with open(paths["csv"]) as file:
        assert {row["model"] for row in csv.DictReader(file)} == {f"'{name}", "'-B"}
    assert {row["model"] for row in json.loads(open(paths["json"]).read())["tables"][0]["rows"]} == {name, "-B"}
    markdown = open(paths["md"]).read()
    assert "<!--" not in markdown and "<i>" not in markdown and r"=A\|b&lt;i&gt;" in markdown
    assert r"C&lt; has no result: no\|&lt;b&gt;" in markdown
    latex = open(paths["tex"]).read()
    assert r"=A\textbar{}b\ensuremath{<}i\ensuremath{>}\textbackslash{}\textasciitilde{}\^{}\_\{\}" in latex


def test_a_leaking_row_is_named_so_wherever_it_stands(tmp_path):
    store(tmp_path, "P5", 1, [0, 1], recipe="scratch_leaking", config={"p5_item_numbers": "consecutive"})
    store(tmp_path, "P5", 1, [0, -1], recipe="scratch")
    [board] = make_leaderboards(read_runs(tmp_path))
    assert sorted(row.label for row in board.rows) == ["P5", "P5 (leaking)"]
    for text in (format_text(board), format_markdown(board)):
        assert text.count("P5 (leaking)") >= 4 and "word pieces leak the answer" in text
    assert "P5 (leaking)" in format_latex(board)
    other = store(tmp_path / "other", "P5", 1, [0, 1], recipe="scratch")
    assert "leaking" not in format_text(make_leaderboards(read_runs(other))[0])


def test_training_and_validation_have_times_of_their_own(runs):
    [board] = make_leaderboards(read_runs(runs))
    table = cost_table(board)
    times = [table.rows[0][table.header.index(name)] for name in ("training s", "validation s", "test s")]
    assert times == ["10.0", "2.0", "0.50"]


def test_rows_whose_time_was_over_are_named(tmp_path):
    for model, seconds, epochs in (("Cut", 100.0, 9), ("Quick", 99.0, 9), ("Ended", 120.0, 3)):
        config = {"max_seconds": 100, "epochs": epochs}
        store(tmp_path, model, 1, [0, 1], config=config, seconds={"training": seconds})
    found = [note for note in notes(make_leaderboards(read_runs(tmp_path))[0]) if "max_seconds" in note]
    assert found == ["Stopped by max_seconds, not by epochs or stopping_step: Cut."]


def test_a_dirty_tree_is_marked(tmp_path):
    store(tmp_path, "A", 1, [0, 1], dirty=True)
    text = format_text(make_leaderboards(read_runs(tmp_path))[0])
    assert "01234567+" in text and "there were uncommitted changes" in text


# ------------------------------------------------------------------------------------------------- published numbers

#: What the paper prints below its Table 1: TIGER's gain over the best baseline in percent, divided after rounding.
GAINS = {
    "amazon-sports-outdoors": (5.22, 12.55, 3.90, 10.29),
    "amazon-beauty": (17.31, 29.04, 0.15, 17.43),
    "amazon-toys-games": (12.53, 21.24, 1.71, 14.97),
}
#: Sums of its columns over the nine models.
SUMS = {
    "amazon-sports-outdoors": (0.1540, 0.1012, 0.2420, 0.1294),
    "amazon-beauty": (0.2555, 0.1644, 0.4050, 0.2122),
    "amazon-toys-games": (0.2425, 0.1619, 0.3735, 0.2038),
}


@pytest.mark.parametrize("dataset", TABLE_1)
def test_the_published_table_is_the_papers(dataset):
    rows = TABLE_1[dataset]
    assert [model for model, *_ in rows][-1] == "TIGER" and len(rows) == 9
    for column, (gain, total) in enumerate(zip(GAINS[dataset], SUMS[dataset], strict=True)):
        values = [values[column] for _, values, _ in rows]
        assert 100 * (values[-1] / max(values[:-1]) - 1) == pytest.approx(gain, abs=0.15)
        assert sum(values) == pytest.approx(total, abs=1e-9)


def test_published_numbers_stand_apart_and_only_when_asked_for(runs, tmp_path):
    """A table of their own in text, Markdown, LaTeX and on the page; not a byte of our own tables changes."""
    for run in runs.glob("*/result.json"):
        run.write_text(run.read_text().replace('"dataset": "toy"', '"dataset": "amazon-beauty"'))
    [own] = make_leaderboards(read_runs(runs))
    [both] = make_leaderboards(read_runs(runs), published=True)
    assert own.published is None and both.rows == own.rows
    for form in (format_text, format_markdown, format_latex):
        plain, more = form(own), form(both)
        assert more.startswith(plain.rstrip()) and "Published" not in plain
        added = more[len(plain.rstrip()) :]
        assert "Published, not measured here" in added and "seen items are masked in the source" in added
        for model, values, source in TABLE_1["amazon-beauty"]:
            [line] = [line for line in added.splitlines() if re.match(rf"\W*{model}\W+0", line)]
            assert [float(x) for x in re.findall(r"0\.\d{4}", line)] == list(values) and source in line
        for mark in (" *", " + ", "**", "<u>", "textbf", "underline", "%)", "gain", "95%"):
            assert mark not in added, mark
    assert format_latex(both).count(r"\toprule") == 2
    paths = {name: write_outputs([board], tmp_path / name) for name, board in (("own", own), ("both", both))}
    for kind in ("csv", "json"):
        assert open(paths["own"][kind]).read() == open(paths["both"][kind]).read()


def test_published_numbers_are_refused_where_there_are_none(data, runs):
    for wanted, words in ((True, "no numbers for dataset='toy', only for amazon-beauty"), ("yes", "published='yes'")):
        with pytest.raises(ConfigError, match=words):
            leaderboard.make({**data, "model": "Pop", "dataset": "toy", "published": wanted})
        with pytest.raises(ConfigError, match=words):
            leaderboard.run({"runs": str(runs), "published": wanted})
    assert is_leaderboard({"model": "TIGER", "published": True})
    assert [board.published for board in make_leaderboards(read_runs(runs), published=True)] == [None]


# ------------------------------------------------------------------------------------------------------------ the split


def test_a_temporal_table_says_what_it_is(runs, tmp_path):
    split = {"cutoffs": [1.0, 2.0], "dates": ["2014-01-01", "2014-03-01"], "training_interactions": 1234,
             "valid": {"users": 5, "new_items": 1}, "test": {"users": 6, "new_items": 7}}  # fmt: skip
    for target, history in (("last", "also within the period"), ("first", "what came before the period")):
        eval_args = {"split": {"temporal": {"cutoffs": [0.8, 0.9], "target": target}}, "order": "TO", "mode": "full"}
        store(runs, "SASRec", 1, [0, 1], config={"eval_args": eval_args}, split=split)
        [board] = [b for b in make_leaderboards(read_runs(runs)) if "temporal" in b.protocol["eval_args"]["split"]
                   and b.protocol["eval_args"]["split"]["temporal"]["target"] == target]  # fmt: skip
        text = format_text(board)
        assert f"global temporal split at 0.8 and 0.9 of all interactions, each user's {target} item" in text
        assert "1,234 interactions before 2014-01-01" in text and "before 2014-03-01 and tested" in text
        assert history in text and "7 of the test targets are items without a training interaction" in text
        assert "models see what other users did after them" not in text
    assert len(make_leaderboards(read_runs(runs))) == 3  # leave-one-out and the two targets never share a table


# ------------------------------------------------------------------------------------------------------- rows of a file


def test_rows_of_a_file_have_names_settings_and_seeds(data, workplace):
    (workplace / "rows.yaml").write_text(
        "dataset: toy\nseeds: [1, 2]\nsettings: {epochs: 3, hidden_size: 16}\nrows:\n"
        "  A small one:\n    model: SASRec[n_layers=1]\n    settings: {hidden_size: 8}\n    seeds: [5]\n"
        "  SASRec+text:\n    settings: {content_encoder: tfidf_svd}\n  Pop:\n"
    )
    table = read_rows("rows.yaml")
    plan = make_plan(table.rows, table.dataset, table.seeds, settings={**data, **table.settings, "epochs": 4})
    assert [(task.label, task.model, task.seed) for task in plan.tasks] == [
        ("A small one", "SASRec", 5), ("SASRec+text", "SASRec", 1), ("SASRec+text", "SASRec", 2), ("Pop", "Pop", None),
    ]  # fmt: skip
    small, text = plan.tasks[0].settings, plan.tasks[1].settings
    assert (small["n_layers"], small["hidden_size"], small["epochs"]) == (1, 8, 4) and "item_text" not in small
    assert (text["item_text"], text["content_encoder"], text["hidden_size"]) == ("add", "tfidf_svd", 16)
    typed = make_plan("SASRec[n_layers=1,hidden_size=8]", "toy", [5], settings={**data, "epochs": 4})
    assert typed.tasks[0].row == plan.tasks[0].row  # a name changes no run


def test_the_command_makes_the_rows_of_a_file(data, workplace):
    (workplace / "rows.yaml").write_text("dataset: toy\nrows:\n  The most popular:\n    model: Pop\n")
    text, status = leaderboard.run({**data, "rows": "rows.yaml"})
    assert status == 0 and "The most popular" in text
    assert "The most popular" in leaderboard.run({"runs": "saved"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows: {Pop: }", "needs a dataset"),
        ("dataset: toy\nrows: {Pop: 3}", "the row 'Pop' must be lines"),
        ("dataset: toy\nrow: {Pop: }", "has the key 'row'"),
        ("dataset: toy\nrows: {A: {model: SASRec, epochs: 3}}", "the row 'A' has the key 'epochs'"),
        ("dataset: toy\nrows: {A: {model: SASRec, seeds: x}}", "seeds='x' has the wrong type"),
        ("dataset: toy\nrows: {A: {model: SASRec, seeds: [1, 1]}}", "names a seed twice"),
        ("dataset: toy\nrows: {A: {model: SASRec, seeds: []}}", r"seeds=\[\] must be a list"),
        (
            "dataset: toy\nrows: {A: {model: SASRec}, B: {model: SASRec}}",
            "'A' and 'B' have the same settings",
        ),
        ("dataset: toy\nrows: {A b: }", "cannot read the row 'A b'"),
        ("dataset: toy\nrows: {A: {model: SASRec, settings: {hiden_size: 3}}}", "unknown key 'hiden_size'"),
    ],
)
def test_what_a_file_of_rows_cannot_say_is_named(data, workplace, text, words):
    (workplace / "rows.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        leaderboard.run({**data, "rows": "rows.yaml"})
    with pytest.raises(ConfigError, match="model='SASRec' and rows='rows.yaml' are both given"):
        leaderboard.run({**data, "rows": "rows.yaml", "model": "SASRec"})
