"""The report of a sweep on synthetic records: what wins, what is shown, and what is left out."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from recbole_tiger.hpo import figures, report
from recbole_tiger.hpo.options import Options
from recbole_tiger.hpo.report import findings_of
from recbole_tiger.hpo.space_files import space_from_dict
from recbole_tiger.hpo.sweep import Sweep, Trial
from recbole_tiger.hpo.trainable import reason_of, reason_of_death
from recbole_tiger.hpo.tune import evaluate_winner, write_best, write_report

SPACE = {"space": {"id_length": {"choice": [2, 3]}, "codebook_size": {"choice": [16, 64, [4, 16]]}}}


def trial(number, scores, status="finished", reason=None, costs=(1.0, 2.0), **settings):
    history = [
        {"epoch": epoch, "train_loss": 1.0, "valid": {"ndcg@10": score, "recall@10": 2 * score}}
        for epoch, score in enumerate(scores, 1)
    ]
    costs = {"parameters": 1000 * costs[0], "decode_ms_per_user": costs[1], "usage": 0.5} if scores else {}
    return Trial(number, settings, settings, status, reason, history, costs, 1, ["n"])


@pytest.fixture()
def sweep(tmp_path):
    trials = [
        trial(0, [0.1, 0.12345678, 0.12345678, 0.11], id_length=2, codebook_size=16),
        trial(1, [0.2, 0.12345679], id_length=3, codebook_size=16, status="stopped", costs=(3.0, 4.0)),
        trial(2, [], id_length=3, codebook_size=64, status="failed", reason="<b>out of memory</b> | now"),
        trial(3, [0.05], id_length=2, codebook_size=[4, 16], costs=(0.5, 1.0)),
        trial(4, [0.9], id_length=2, codebook_size=64, status="running"),
    ]
    sweep = Sweep(
        tmp_path / "sweep", "TIGER", "toy", space_from_dict(SPACE), {"epochs": 4}, {}, "ndcg@10", True, 4, Options(),
        None, 5, {entry.number: entry for entry in trials},
    )  # fmt: skip
    sweep.trials_folder.mkdir(parents=True)
    return sweep


TESTED = {"number": 1, "test_result": {"ndcg@10": 0.0777}, "popularity": {"ndcg@10": 0.01}, "checkpoint": "x/best.pth"}


def test_the_best_epoch_counts_unrounded_and_the_first_of_equals(sweep):
    assert sweep.best(sweep.trials[0])[0] == 2
    assert sweep.best(sweep.trials[2]) is None
    assert sweep.winner().number == 1
    sweep.trials[1].history[0]["valid"]["ndcg@10"] = 0.12345677  # then its second epoch wins by a hair
    assert sweep.winner().number == 1
    sweep.trials[1].history[1]["valid"]["ndcg@10"] = 0.12345678  # a tie goes to the earlier trial
    assert sweep.winner().number == 0
    sweep.bigger = False
    assert sweep.best(sweep.trials[0])[0] == 1
    assert sweep.winner().number == 3


def test_what_is_not_a_number_never_wins(sweep):
    sweep.trials = {
        0: trial(0, [math.nan, math.nan], id_length=2, codebook_size=16),
        1: trial(1, [math.nan, 0.1], id_length=3, codebook_size=16),
    }
    assert sweep.winner().number == 1 and sweep.best(sweep.trials[1])[0] == 2 and sweep.best(sweep.trials[0]) is None
    assert [row["trial"] for row in findings_of(sweep, None).rows] == [1, 0]


def test_rows_are_the_trials_that_are_over_the_best_first(sweep):
    rows = findings_of(sweep, None).rows
    assert [row["trial"] for row in rows] == [1, 0, 3, 2]
    assert rows[0]["status"] == "stopped early" and rows[0]["best epoch"] == 1 and rows[0]["epochs"] == 2
    assert rows[1]["ndcg@10"] == 0.12345678 and rows[1]["recall@10"] == 2 * 0.12345678
    assert rows[3]["ndcg@10"] is None and rows[3]["reason"].startswith("<b>")


def test_files(sweep):
    files = write_report(findings_of(sweep, TESTED), sweep.folder)
    with open(files["report.csv"], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["1", "0", "3", "2"]
    assert float(rows[1]["ndcg@10"]) == 0.12345678 and rows[2]["codebook_size"] == "[4, 16]"
    markdown = Path(files["report.md"]).read_text(encoding="utf-8")
    assert "|" in markdown and "stopped early" in markdown and "&lt;/b&gt; \\| now" in markdown
    page = Path(files["report.html"]).read_text(encoding="utf-8")
    for title in (
        "The winner",
        "id_length and codebook_size",
        "Learning curves",
        "All settings at once",
        "Quality and cost",
    ):
        assert title in page, title
    assert "<b>out of memory" not in page and "&lt;b&gt;out of memory" in page
    assert "<script src" not in page and "<link" not in page  # opens without a network


def test_the_terminal_shows_the_winner_the_test_and_why_a_trial_failed(sweep):
    shown = report.text(findings_of(sweep, TESTED), {"report.html": "here"})
    for words in (
        "2 finished, 1 stopped early, 1 failed",
        "use --scheduler=none",
        "trial 2 failed: <b>out of memory",
        "Winner: trial 1",
        "0.0777",
    ):
        assert words in shown, words
    line = report.progress_line(sweep, 1, sweep.trials[1])
    assert "4 of 5 trials done, 1 running, 1 stopped early, 1 failed; best ndcg@10 0.2000, trial 1 (" in line
    assert "stopped early, best ndcg@10 0.2000 in epoch 1 of 2" in line


def test_without_a_winner_nothing_is_claimed(sweep):
    sweep.trials = {2: sweep.trials[2]}
    assert sweep.winner() is None and write_best(sweep) is None
    findings = findings_of(sweep, None)
    assert "--scheduler=none" not in findings.heading  # nothing was stopped early
    assert "the test set was not read" in report.text(findings, {})
    assert "All trials" in figures.html(findings)


def test_the_heat_map_shows_the_best_trial_of_a_cell(sweep):
    sweep.trials[5] = trial(5, [0.3], id_length=2, codebook_size=16)
    findings = findings_of(sweep, None)
    assert figures.map_axes(findings) == ("codebook_size", "id_length")
    plot = figures.heat_map(findings, "codebook_size", "id_length", "ndcg@10", good=True)
    [cells] = plot.data
    assert list(cells.y) == ["2", "3"] and set(cells.x) == {"16", "[4, 16]"}
    grid = {
        (y, x): value for y, line in zip(cells.y, cells.z, strict=True) for x, value in zip(cells.x, line, strict=True)
    }
    assert grid == {("2", "16"): 0.3, ("2", "[4, 16]"): 0.05, ("3", "16"): 0.2, ("3", "[4, 16]"): None}


def test_the_front_is_what_no_other_point_beats():
    rng = np.random.default_rng(0)
    for _ in range(200):
        points = [tuple(map(float, point)) for point in rng.integers(0, 6, size=(rng.integers(1, 12), 2))]
        expected = {
            i
            for i, (cost, quality) in enumerate(points)
            if not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points)
        }
        assert set(figures.pareto_front(points)) == expected


def test_best_yaml_holds_what_was_set(sweep):
    import yaml

    path = write_best(sweep)
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert settings == {
        "model": "TIGER", "dataset": "toy", "recipe": "tuned", "epochs": 4, "id_length": 3, "codebook_size": 16
    }  # fmt: skip
    assert json.dumps(settings)


def test_running_out_of_memory_is_named():
    import torch

    assert reason_of(MemoryError()).startswith("out of memory")
    assert reason_of(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")).startswith(
        "out of memory"
    )
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert reason_of(error.value).startswith("out of memory")
    assert reason_of(ValueError("beam_size=3 is small")) == "beam_size=3 is small"
    assert reason_of(KeyError("x")) == "KeyError: 'x'"
    assert reason_of_death("ray.exceptions.OutOfMemoryError: Task was killed").startswith("out of memory")
    assert "node" in reason_of_death("The actor died because its node has died.")
    assert "killed" in reason_of_death("The actor died unexpectedly before finishing this task.")


def test_the_test_set_is_not_read_again(sweep):
    (sweep.folder / "winner.json").write_text(json.dumps(TESTED))
    assert sweep.winner().number == 1 and evaluate_winner(sweep) == TESTED  # there is no checkpoint to test
    sweep.trials[6] = trial(6, [0.95], id_length=2, codebook_size=64)
    with pytest.raises(ValueError, match="checkpoint .*0006.*best.pth.* is missing"):  # another has won: it is tested
        evaluate_winner(sweep)
