"""The analysis commands as a user types them: a table on the screen, a JSON file, a page, and nothing overwritten."""

import json
import signal
from pathlib import Path

import pytest
from catalogue import settings_of

from recbole_tiger.analysis.cold_start import BASELINES
from recbole_tiger.cli import main
from recbole_tiger.quick_start import run_recbole_tiger
from recbole_tiger.training.generative import TIGERTrainer


@pytest.fixture()
def checkpoint(toy):
    return run_recbole_tiger("TIGER", "toy", None, {**toy, "collision": "append"})["files"]["checkpoint"]


def call(capsys, *arguments):
    """Status, and what was printed."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def result_of(folder, command):
    page = (Path(folder) / f"{command}.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "Plotly.newPlot" in page
    return json.loads((Path(folder) / f"{command}.json").read_text(encoding="utf-8"))


def test_invalid_ids(checkpoint, capsys):
    arguments = ("invalid-ids", f"--checkpoint={checkpoint}", "--k=20", "--users=40", "--output_dir=out")
    status, printed = call(capsys, *arguments)
    assert status == 0, printed
    result = result_of("out", "invalid-ids")
    assert "Recall@K, constrained" in printed and f"{result['invalid'][19]:.2%}" in printed
    assert result["users"] == 40 and len(result["invalid"]) == 20
    status, printed = call(capsys, *arguments)
    assert status == 2 and "exists already" in printed
    assert "loss_over=children" not in printed


def test_invalid_ids_of_a_run_that_never_saw_any(toy, capsys):
    settings = settings_of("TIGER", toy, collision="append", loss_over="children", epochs=1)
    checkpoint = run_recbole_tiger("TIGER", "toy", None, settings)["files"]["checkpoint"]
    status, printed = call(capsys, "invalid-ids", f"--checkpoint={checkpoint}", "--k=20", "--output_dir=out")
    assert status == 0 and "This run has loss_over=children" in printed


def test_diversity(checkpoint, capsys):
    arguments = ["diversity", f"--checkpoint={checkpoint}", "--k=5,10", "--levels=0,1", "--temperatures=1,8"]
    status, printed = call(capsys, *arguments, "--output_dir=out")
    assert status == 0, printed
    result = result_of("out", "diversity")
    rows = {row["row"]: row for row in result["rows"]}
    assert list(rows) == ["beam search", "T = 1", "T = 8", "T = 8, level 1 only"]
    assert list(result["offered"]) == ["beam search", "T = 1", "T = 8"]
    for row in rows.values():
        assert 0 <= row["entropy"]["5"] <= row["entropy"]["10"] <= 1.8  # six categories: ln 6 = 1.79
        assert row["recall"]["5"] <= row["recall"]["10"]
    assert "'Beauty'" in " ".join(result["notes"])
    call(capsys, *arguments, "--output_dir=again")
    assert result_of("again", "diversity")["rows"] == result["rows"]
    status, printed = call(capsys, *arguments[:2], "--levels=9")
    assert status == 2 and "levels=[9]" in printed
    status, printed = call(capsys, *arguments[:3], "--category=colour")
    assert status == 2 and "colour" in printed


def test_diversity_shows_the_beam_before_it_is_ranked_anew(toy, capsys):
    settings = settings_of("TIGER", toy, collision="append", item_loss_weight=1.0, epochs=1)
    plain = run_recbole_tiger("TIGER", "toy", None, settings)["files"]["checkpoint"]
    rescored = run_recbole_tiger("TIGER", "toy", None, {**settings, "rescore_weight": 50.0})["files"]["checkpoint"]
    rows = {}
    for name, checkpoint in (("plain", plain), ("rescored", rescored)):
        arguments = ("diversity", f"--checkpoint={checkpoint}", "--k=5", "--temperatures=1", f"--output_dir={name}")
        status, printed = call(capsys, *arguments)
        assert status == 0, printed
        rows[name] = {row.pop("row"): row for row in result_of(name, "diversity")["rows"]}
    assert list(rows["plain"]) == ["beam search", "T = 1"]
    assert list(rows["rescored"]) == ["beam search", "beam search, not rescored", "T = 1"]
    # Two runs of the same weights, since ranking comes after training.
    assert rows["rescored"]["beam search, not rescored"] == rows["plain"]["beam search"]
    assert rows["rescored"]["beam search"] != rows["plain"]["beam search"]
    assert rows["rescored"]["T = 1"] == rows["plain"]["T = 1"]


def test_cold_start_from_settings(toy, capsys, monkeypatch):
    settings = {**toy, "collision": "append", "max_steps": 60, "cold_share": "0.1", "seeds": "1,2", "k": "5,10"}
    settings.update(epsilons="0,0.5,1", output_dir="out", recipe="tiny", prefix_length="2,1", codebook_size="16")
    status, printed = call(
        capsys, "cold-start", "--dataset=toy", *(f"--{key}={value}" for key, value in settings.items())
    )
    assert status == 0, printed
    result = result_of("out", "cold-start")
    assert [run["seed"] for run in result["runs"]] == [1, 2] and "Where the paper is silent" in Path(
        "out/cold-start.html"
    ).read_text()
    for run in result["runs"]:
        assert 0 < run["users"]["unseen"] < run["users"]["all"]
        methods = ["TIGER, 2 codewords", "TIGER, 1 codeword", *BASELINES]
        assert list(run["recall"]) == result["methods"] == methods
        of_two, of_one = run["n_unseen_with_own_prefix"]  # a longer prefix is shared with fewer
        assert 0 <= of_one <= of_two <= run["n_unseen"]
        of = {tuple(point): n for n, point in enumerate(run["points"])}
        for method, recall in run["recall"].items():
            assert recall["unseen"][of[10, 0.0]] == 0, method  # none may be in a list
            assert recall["unseen"][of[10, 0.5]] <= recall["unseen"][of[10, 1.0]] + 1e-9, method
        assert run["recall"]["Semantic_KNN (last item)"]["unseen"][of[10, 1.0]] > 0
        assert run["recall"]["popularity"]["unseen"] == [0.0] * len(of)
    assert " ± " in printed
    arguments = [f"--{key}={value}" for key, value in {**settings, "output_dir": "stopped"}.items()]
    step, runs = TIGERTrainer._step, []

    def stop_in_the_second_run(self, *args):
        runs.append(self.run_dir)
        if len(set(runs)) == 2 and runs.count(self.run_dir) == 4:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(TIGERTrainer, "_step", stop_in_the_second_run)
    status, printed = call(capsys, "cold-start", "--dataset=toy", *arguments)
    assert status != 0 and "the same command with --output_dir=stopped resumes" in printed
    assert call(capsys, "cold-start", "--dataset=toy", *arguments)[0] == 0
    assert len(runs) == 2 * 6  # no step twice
    assert result_of("stopped", "cold-start")["runs"] == result["runs"]
    assert "exists already" in call(capsys, "cold-start", "--dataset=toy", *arguments)[1]

    settings.update(prefix_length="1", output_dir="one", seeds="1")
    call(capsys, "cold-start", "--dataset=toy", *(f"--{key}={value}" for key, value in settings.items()))
    alone, together = result_of("one", "cold-start")["runs"][0], result["runs"][0]
    assert (
        alone["recall"]["TIGER"] == together["recall"]["TIGER, 1 codeword"] != together["recall"]["TIGER, 2 codewords"]
    )
    status, printed = call(capsys, "cold-start", "--dataset=toy", "--prefix_length=9", "--data_path=data")
    assert status == 2 and "prefix_length=9" in printed  # before anything is trained
    status, printed = call(capsys, "report", "--runs=out")  # the runs without some items are no rows of a leaderboard
    assert status == 0 and "0 runs and 1 analyses" in printed
    seen = json.loads(next(Path("out/share-0.1-seed-1/run").glob("semantic_ids.json")).read_text())
    assert len(seen) == result["runs"][0]["n_seen"]


def test_recommend(checkpoint, capsys):
    status, printed = call(capsys, "recommend", f"--checkpoint={checkpoint}", "--history=i0_1, i0_2", "--k=3")
    assert status == 0 and len(printed.strip().splitlines()) == 5 and "line" in printed
    for arguments, words in (
        (["--history=i0_1"], "--checkpoint=FILE"),
        ([f"--checkpoint={checkpoint}"], "either --history"),
        ([f"--checkpoint={checkpoint}", "--history=i7_7"], "'i7_7' is not an item"),
        ([f"--checkpoint={checkpoint}", "--histories=h.csv"], "--output"),
        ([f"--checkpoint={checkpoint}", "--history=i0_1", "--colour=1"], "unknown key 'colour'"),
    ):
        status, printed = call(capsys, "recommend", *arguments)
        assert status == 2 and words in printed and "Traceback" not in printed


def test_latency(workplace, capsys):
    tiny = ("--d_model=16", "--d_ff=16", "--num_heads=2", "--num_encoder_layers=1", "--num_decoder_layers=1")
    lists = ("--n_items=50,80", "--beams=10", "--id_lengths=2", "--codebook_sizes=16", "--repeats=1", "--batch=2")
    status, printed = call(capsys, "latency", *lists, *tiny, "--threads=1", "--output_dir=out")
    assert status == 0, printed
    rows = result_of("out", "latency")["rows"]
    assert {(row["n_items"], row["name"]) for row in rows} == {
        (n, name) for n in (50, 80) for name in ("TIGER, 10 beams, 2 x 16", "SASRec, exact", "SASRec, ANN")
    }
    assert all(row["queries_per_second"] > 0 for row in rows if row["name"] != "SASRec, ANN")


def test_another_model_with_semantic_ids(toy, workplace, capsys):
    settings = settings_of("TIGERTree", toy, collision="append")
    checkpoint = run_recbole_tiger("TIGERTree", "toy", None, settings)["files"]["checkpoint"]
    (workplace / "new.item").write_text("item_id:token\ttitle:token\nn1\tAcme lotion number 0 line 0\n")
    arguments = ("recommend", f"--checkpoint={checkpoint}", "--k=48", "--beam_size=48", "--new_items=new.item")
    status, printed = call(capsys, *arguments, "--history=n1, i0_2")
    assert status == 0 and "(new)" in printed, printed
    status, printed = call(capsys, "diversity", f"--checkpoint={checkpoint}", "--k=5", "--output_dir=diversity")
    assert status == 0, printed
    status, printed = call(capsys, "cold-start", f"--checkpoint={checkpoint}", "--output_dir=cold", "--k=5,10")
    assert status == 0, printed
    assert "TIGERTree" in result_of("cold", "cold-start")["runs"][0]["recall"]
    status, printed = call(capsys, "invalid-ids", f"--checkpoint={checkpoint}")
    assert status == 2 and "no invalid IDs to count" in printed


def test_report(checkpoint, capsys):
    call(capsys, "invalid-ids", f"--checkpoint={checkpoint}", "--k=5", "--output_dir=saved/analysis/one")
    status, printed = call(capsys, "report")
    assert status == 0 and "1 runs and 1 analyses below saved" in printed, printed
    page = Path("saved/report.html").read_text()
    shown = json.loads(Path("saved/analysis/one/invalid-ids.json").read_text())
    assert "Leaderboard: toy" in page and "Invalid IDs: " in page and shown["about"] in page
    assert f"{shown['invalid'][4]:.2%}" in page and page.count("Plotly.newPlot") >= 2
    status, printed = call(capsys, "report")
    assert status == 2 and "exists already" in printed
    status, printed = call(capsys, "report", "--runs=nothing")
    assert status == 2 and "neither finished runs nor analyses" in printed
    Path("saved/analysis/one/invalid-ids.json").write_text("{")
    status, printed = call(capsys, "report", "--output=again.html")
    assert status == 2 and "is damaged" in printed and not Path("again.html").exists()


@pytest.mark.parametrize("command", ["report", "cold-start", "diversity", "invalid-ids", "latency", "recommend"])
def test_help(command, capsys):
    status, printed = call(capsys, command, "--help")
    assert status == 0 and printed.startswith("usage: ") and f" {command} [--key=value ...]" in printed.splitlines()[0]
