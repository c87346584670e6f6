"""The `evaluate` command: stored runs under another mask and other beams, without training."""

import json

import pytest
import torch
from catalogue import settings_of

from recbole_tiger import cli, run_recbole_tiger
from recbole_tiger.commands import leaderboard
from recbole_tiger.evaluation.significance import load_ranks
from recbole_tiger.leaderboard import reevaluate


@pytest.fixture()
def trained(toy, workplace):
    """A leaderboard of four small rows; returns its folder."""
    command = {**toy, "dataset": "toy", "epochs": 2, "seeds": 1, "model": "TIGER,TIGERTree,SASRec[hidden_size=16],Pop"}
    leaderboard.make({**command, "leaderboard_dir": str(workplace / "board"), "show_progress": False})
    return workplace / "board"


def results(folder):
    found = [json.loads(path.read_text()) for path in sorted(folder.rglob("result.json"))]
    return {result["model"]: result for result in found}


def test_masked_once_more_is_as_if_masked_from_the_start(trained, toy, capsys):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert cli.main(["evaluate", f"--runs={trained}", "--mask_seen_items=True"]) == 0
    printed = capsys.readouterr()
    assert "seen items masked" in printed.out and "[4/4]" in printed.err and "] Pop: done in " in printed.err
    used = "training and model selection used mask_seen_items=False"
    assert f"All rows: reevaluated with mask_seen_items=True; {used}" in printed.out
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    folder = trained.with_name("board-mask_seen_items=True")
    masked, unmasked = results(folder), results(trained)
    assert masked.keys() == unmasked.keys() == {"TIGER", "TIGERTree", "SASRec", "Pop"}

    # The oracle: the same training under the mask, which changes nothing but evaluation. (With one validation there is
    # no choice of an epoch.)
    settings = settings_of("TIGER", toy, epochs=2, eval_step=2, seed=1)
    once = run_recbole_tiger("TIGER", "toy", config_dict={**settings, "mask_seen_items": True})
    plain = run_recbole_tiger("TIGER", "toy", config_dict={**settings, "run_dir": str(trained.parent / "one" / "run")})
    assert cli.main(["evaluate", f"--runs={trained.parent / 'one'}", "--mask_seen_items=True"]) == 0
    [found] = results(trained.parent / "one-mask_seen_items=True").values()
    for key in ("test_result", "best_valid_result", "popularity"):
        assert found[key] == once[key] != plain[key]
    assert found["best_valid_score"] == plain["best_valid_score"] and found["history"] == plain["history"]
    for one in masked.values():
        assert one["config"]["mask_seen_items"] and one["evaluated_again"]["from"] == {"mask_seen_items": False}
        assert one["popularity"]["test"] == masked["Pop"]["test_result"] if one["model"] != "Pop" else True
        assert one["test_result"] != unmasked[one["model"]]["test_result"]
    # Seen items never stand before the held-out one: no rank got worse.
    for path in trained.rglob("ranks.npz"):
        old, new = load_ranks(path), load_ranks(folder / path.relative_to(trained))
        both = (old.ranks >= 0) & (new.ranks >= 0)
        if "SASRec" in str(path) or "Pop" in str(path):  # every hit stays one where all items have a score
            assert (new.ranks[old.ranks >= 0] >= 0).all() and (new.ranks[both] <= old.ranks[both]).all()


def test_the_same_settings_give_the_same_metrics_and_a_second_command_does_nothing(trained, monkeypatch, capsys):
    command = ["evaluate", f"--runs={trained}", "--mask_seen_items=False", f"--output={trained.parent / 'same'}"]
    assert cli.main(command) == 0
    first = capsys.readouterr().out
    for model, result in results(trained.parent / "same").items():
        for key in ("test_result", "best_valid_result"):
            assert result[key] == pytest.approx(results(trained)[model][key], abs=1e-12)

    monkeypatch.setattr(reevaluate, "reevaluate", None)
    assert cli.main(command) == 0
    assert capsys.readouterr().out == first
    assert cli.main([*command[:2], "--mask_seen_items=True", command[3]]) == 2
    assert "holds results under other settings; name another folder" in capsys.readouterr().err


def test_settings_of_one_kind_of_model_leave_the_others_alone(trained, capsys):
    assert cli.main(["evaluate", f"--runs={trained}", "--scoring=exact", "--topk=[1,5,10]"]) == 0
    found = results(trained.with_name("board-scoring=exact,topk=[1,5,10]"))
    assert found["TIGER"]["config"]["scoring"] == "exact"
    assert "scoring" not in found["SASRec"]["evaluated_again"]["changes"]
    assert all("recall@1" in result["test_result"] for result in found.values())
    again = ["evaluate", f"--runs={trained}", "--topk=1,5,10", f"--output={trained.parent / 'lists'}"]
    assert cli.main(again) == 0 and cli.main(again) == 0  # the second one knows its own results
    for path in (trained.parent / "lists").rglob("result.json"):
        files = json.loads(path.read_text())["files"]
        assert files["result"] == str(path) and files["ranks"] == str(path.with_name("ranks.npz"))


def test_what_cannot_be_evaluated_says_so(trained, toy, capsys):
    def error(*arguments):
        assert cli.main(["evaluate", *arguments]) == 2
        return capsys.readouterr().err

    assert "evaluate needs --runs=DIR" in error("--mask_seen_items=True")
    assert "evaluate needs a setting to change" in error(f"--runs={trained}")
    assert "learning_rate=0.1 is not a setting of evaluation" in error(f"--runs={trained}", "--learning_rate=0.1")
    inside = f"--output={trained / 'more'}"
    assert "is inside the folder of the runs" in error(f"--runs={trained}", "--mask_seen_items=True", inside)
    assert "mask_seen_items='maybe' must be True or False" in error(f"--runs={trained}", "--mask_seen_items=maybe")
    assert "no row has a result: " in error(f"--runs={trained}", "--metrics=GAUC")

    [tree] = trained.glob("TIGERTree*/best.pth")
    tree.unlink()
    [sasrec] = trained.glob("SASRec*/best.pth")
    state = torch.load(sasrec, weights_only=True)
    sasrec.write_bytes(sasrec.read_bytes()[:100])
    output = f"--output={trained.parent / 'rest'}"
    assert cli.main(["evaluate", f"--runs={trained}", "--mask_seen_items=True", output]) == 1
    text = capsys.readouterr().out
    assert "TIGERTree, seed 1 has no result" in text and "SASRec[hidden_size=16], seed 1 has no result" in text
    torch.save(state, sasrec)  # repaired, it is evaluated by the same command
    assert cli.main(["evaluate", f"--runs={trained}", "--mask_seen_items=True", output]) == 1
    assert "SASRec[hidden_size=16], seed 1 has no result" not in capsys.readouterr().out


def test_a_run_that_went_on_is_evaluated_anew_and_results_are_not_taken_for_runs(toy, workplace, capsys):
    settings = {**settings_of("SASRec", toy, seed=1), "run_dir": str(workplace / "runs" / "one")}
    run_recbole_tiger("SASRec", "toy", config_dict=settings)
    command = ["evaluate", f"--runs={workplace / 'runs'}", "--mask_seen_items=True"]
    assert cli.main(command) == 0
    folder = workplace / "runs-mask_seen_items=True"
    first = results(folder)["SASRec"]
    last = workplace / "runs" / "one" / "last.pth"
    run_recbole_tiger("SASRec", "toy", config_dict={**settings, "epochs": 12, "resume": str(last)})
    assert cli.main(command) == 0
    second = results(folder)["SASRec"]
    fresh = f"--output={workplace / 'fresh'}"
    assert cli.main([*command, fresh]) == 0
    assert second["test_result"] == results(workplace / "fresh")["SASRec"]["test_result"] != first["test_result"]
    # The folder above holds runs and results of evaluate: the latter are left out.
    capsys.readouterr()
    assert (
        cli.main(["evaluate", f"--runs={workplace}", "--mask_seen_items=True", f"--output={workplace.parent / 'all'}"])
        == 0
    )
    assert "[1/1]" in capsys.readouterr().err
    assert cli.main(["evaluate", f"--runs={folder}", "--topk=5"]) != 0
    assert "only results of evaluate" in capsys.readouterr().err


def test_metrics_of_whole_lists(toy, workplace, capsys):
    settings = {**settings_of("SASRec", toy, seed=1), "run_dir": str(workplace / "runs" / "one")}
    plain = run_recbole_tiger("SASRec", "toy", config_dict={**settings, "metrics": ["Recall", "NDCG", "ItemCoverage"]})
    assert cli.main(["evaluate", f"--runs={workplace / 'runs'}", "--topk=10"]) == 0
    [found] = results(workplace / "runs-topk=10").values()
    assert found["test_result"]["itemcoverage@10"] == plain["test_result"]["itemcoverage@10"] > 0
