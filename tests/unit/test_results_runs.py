"""The runs stored in results/: their metrics follow from their ranks, stand on the page, and name no machine."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RUNS = sorted(path.parent for path in ROOT.glob("results/*/*/*/result.json"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.parent.name}/{run.name}")
def test_a_stored_run_is_what_its_ranks_say_and_stands_on_the_page(run):
    text = (run / "result.json").read_text(encoding="utf-8")
    test, ranks = json.loads(text)["test_result"], np.load(run / "ranks.npz")["test_ranks"] + 1.0  # 0: not in the list
    for k in (5, 10):
        hit = (ranks > 0) & (ranks <= k)
        gains = np.where(hit, 1 / np.log2(np.where(hit, ranks, 1) + 1), 0)
        assert test[f"recall@{k}"] == pytest.approx(hit.mean(), abs=1e-12)
        assert test[f"ndcg@{k}"] == pytest.approx(gains.mean(), abs=1e-9)
    page = (run.parents[1].with_suffix(".md")).read_text(encoding="utf-8")
    assert json.loads((run / "run.json").read_text())["label"] in page
    assert not re.search(r'"\w+": "/', text)


@pytest.mark.parametrize("folder", sorted({run.parents[1] for run in RUNS}), ids=lambda folder: folder.name)
def test_the_tables_of_a_page_are_those_of_its_stored_runs(benchmark_script, folder):
    page, text = benchmark_script("stored_runs").page_with_tables(folder)
    assert page.read_text(encoding="utf-8") == text


def test_figures_are_drawn_from_the_runs(benchmark_script):
    script = benchmark_script("stored_runs")
    runs = dict(script.stored(ROOT / "results" / "amazon-beauty"))
    assert {run.name for run in RUNS if run.parent.name == "runs"} == set(runs)
    for name in ("curves", "quality_and_time"):  # a line of the legend for each row, whatever its seeds
        drawn = (ROOT / "results" / "amazon-beauty" / f"{name}.svg").read_text(encoding="utf-8")
        for label in {script.label_of(run) for run in RUNS}:
            assert drawn.count(f">{label}</text>") == 1, label
    passes, scores = script.curve(runs["TIGER-quick-2024"])
    assert passes == [5, 10] and [round(score, 4) for score in scores] == [0.0549, 0.0607]
    assert 0.8 < script.minutes_of_a_pass(runs["TIGER-quick-2024"]) < 1.0
