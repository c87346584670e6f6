"""Sweeps: a trial by itself, then Ray as a user starts it, killed, continued, and on two nodes of which one is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from catalogue import TINY, write_catalogue

from recbole_tiger import run_recbole_tiger
from recbole_tiger.commands.tune import main
from recbole_tiger.hpo import ray_shim
from recbole_tiger.hpo.options import Options
from recbole_tiger.hpo.plan import plan
from recbole_tiger.hpo.resume import NO_CONTROLLER, PastTrial, replay
from recbole_tiger.hpo.space_files import space_from_dict
from recbole_tiger.hpo.sweep import Trial
from recbole_tiger.hpo.trainable import run_trial
from recbole_tiger.training.sequential import SequentialTrainer

ROOT = Path(__file__).resolve().parents[2]


class Killed(Exception):
    pass


def trial_settings(toy, **more):
    return {"model": "TIGER", "dataset": "toy", **toy, "epochs": 3, "cache_dir": str(Path("cache").absolute()), **more}


def best_score(record):
    return max(entry["valid"]["ndcg@10"] for entry in record["history"] if "valid" in entry)


def losses(record):
    return [(entry["epoch"], entry["train_loss"], entry.get("valid")) for entry in record["history"]]


# ---------------------------------------------------------------------------------------------------- one trial, no Ray


def test_a_trial_reports_its_epochs_and_costs(toy, workplace):
    records = []
    run_trial(trial_settings(toy), workplace / "a", records.append)
    assert [len(record["history"]) for record in records] == [2, 3]  # validated every second epoch, and at the end
    assert [record["finished"] for record in records] == [False, True]
    costs = records[-1]["costs"]
    assert costs["parameters"] > 0 and costs["epoch_seconds"] > 0 and costs["decode_ms_per_user"] > 0
    assert 0 < costs["usage"] <= 1
    stored = json.loads((workplace / "a" / "result.json").read_text())
    assert stored["best_valid_score"] == best_score(records[-1])
    # Histories of 3 to 10 items (the toy's sequences less the last two), two tokens each.
    assert 2 * 3 < costs["tokens_per_history"] < 2 * 11


def test_selection_never_sees_the_test_set(toy, workplace, monkeypatch):
    """Other test items change nothing of what a trial tells, and no other loader than validation's is evaluated."""
    looked_at = []
    evaluate = SequentialTrainer.evaluate
    monkeypatch.setattr(
        SequentialTrainer,
        "evaluate",
        lambda self, data, *args, **more: looked_at.append(data._dataset.phase) or evaluate(self, data, *args, **more),
    )
    records = {}
    for name in ("true", "false"):
        folder = write_catalogue(workplace / name, "toy")
        if name == "false":  # every user of the second half ends with another item; by then all items have a number
            path = folder / "toy.inter"
            lines = path.read_text().splitlines()
            ends = [
                i
                for i, line in enumerate(lines)
                if i + 1 == len(lines) or line.split("\t")[0] != lines[i + 1].split("\t")[0]
            ]
            for i in ends[len(ends) // 2 :]:
                user, item, stamp = lines[i].split("\t")
                lines[i] = f"{user}\ti{1 - int(item[1])}_{item.split('_')[1]}\t{stamp}"
            path.write_text("\n".join(lines) + "\n")
        reported = []
        settings = trial_settings(toy, data_path=str(workplace / name))
        run_trial(settings, workplace / f"trial-{name}", reported.append)
        records[name] = [losses(record) for record in reported]
        stored = json.loads((workplace / f"trial-{name}" / "result.json").read_text())
        assert stored["test_result"] is None and set(stored["popularity"]) == {"valid"}
    assert records["true"] == records["false"]
    assert set(looked_at) == {"valid"}
    # The items that were exchanged are the test items: testing does see them.
    one, other = (
        run_recbole_tiger("TIGER", "toy", config_dict=trial_settings(toy, data_path=str(workplace / name)))
        for name in ("true", "false")
    )
    assert one["best_valid_score"] == other["best_valid_score"] and one["test_result"] != other["test_result"]


def test_a_killed_trial_resumes_from_its_last_epoch(toy, workplace):
    whole, first, rest = [], [], []
    run_trial(trial_settings(toy, eval_step=1), workplace / "whole", whole.append)

    def die(record):
        first.append(record)
        if len(record["history"]) == 2:
            raise Killed

    with pytest.raises(Killed):
        run_trial(trial_settings(toy, eval_step=1), workplace / "killed", die)
    run_trial(trial_settings(toy, eval_step=1), workplace / "killed", rest.append)
    assert [len(record["history"]) for record in rest] == [3]  # only the third epoch was left
    assert losses(rest[-1]) == losses(whole[-1])
    again = []  # killed after its end, before anybody heard of it
    run_trial(trial_settings(toy, eval_step=1), workplace / "killed", again.append)
    assert [losses(record) for record in again] == [losses(whole[-1])] and again[0]["finished"]


def test_two_trials_with_equal_content_encode_once(toy, workplace):
    """Two processes at once ask for the same embeddings and Semantic IDs: one computes, the other waits and reads."""
    program = """
import json, sys, time
from pathlib import Path
from recbole_tiger.content.encoders.tfidf_svd import TfidfSVD
from recbole_tiger.hpo.trainable import run_trial
settings, folder, ready = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
encode = TfidfSVD.encode
def counted(*args, **more):
    with open("encoded", "a") as file:
        file.write("once\\n")
    time.sleep(1)
    return encode(*args, **more)
TfidfSVD.encode = counted
(ready / folder.name).touch()
while len(list(ready.iterdir())) < 2:
    time.sleep(0.02)
run_trial(settings, folder, lambda record: None)
"""
    (workplace / "ready").mkdir()
    processes = []
    for number, rate in enumerate((0.01, 0.001)):
        settings = json.dumps(trial_settings(toy, learning_rate=rate, epochs=1))
        arguments = [sys.executable, "-c", program, settings, str(workplace / f"{number}"), str(workplace / "ready")]
        processes.append(
            subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
        )
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors.decode()[-2000:]
    assert (workplace / "encoded").read_text() == "once\n"
    assert len(list((workplace / "cache").glob("*.npz"))) == 2  # embeddings and Semantic IDs


# ----------------------------------------------------------------------------------------------- before the first trial


@pytest.fixture()
def no_trial(monkeypatch):
    def forbidden(*args, **more):
        raise AssertionError("a trial started")

    monkeypatch.setattr(ray_shim, "run", forbidden)


def write_space(folder, **content):
    content = {"space": {"learning_rate": {"choice": [0.01, 0.001]}}, **content}
    (folder / "space.yaml").write_text(yaml.safe_dump(content))
    return "--space=space.yaml"


def flags(toy, **more):
    return [f"--{key}={value}" for key, value in {**toy, "dataset": "toy", **more}.items()]


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        ({"space": {"lerning_rate": {"choice": [1]}}}, {}, "unknown key 'lerning_rate'"),
        ({"space": {"learning_rate": {"uniform": [1, 1]}}}, {}, "is empty"),
        ({"space": {"beam_size": {"choice": [20, 3]}}}, {}, "offers beam_size=3, which cannot work: beam_size=3"),
        ({}, {"valid_metric": "NDCG@7"}, "valid_metric='NDCG@7' is not measured"),
        ({}, {"storage": "taken/sweeps"}, "storage='taken/sweeps'"),
        ({}, {"address": "127.0.0.1:1"}, "address='127.0.0.1:1': no Ray cluster answers"),
        ({}, {"address": "nonsense"}, "address='nonsense' must be 'auto' or host:port"),
        ({}, {"scheduler": "pbt"}, "scheduler=pbt cannot work here"),
        ({}, {"search": "grit"}, "search='grit'"),
        ({"space": {"learning_rate": {"uniform": [0, 1]}}}, {"search": "grid"}, "search=grid cannot list"),
        ({}, {"learning_rate": 0.1}, "learning_rate=0.1 is fixed on the command line, but varies"),
        ({}, {"gpu_id": 1}, "gpu_id='1' cannot be set in a sweep"),
        ({"model": "SASRec"}, {"model": "TIGER"}, "is for model=SASRec"),
        ({}, {"dataset": "nowhere"}, "dataset='nowhere'"),
        ({}, {"resume": True}, "resume: there is no sweep in"),
    ],
)
def test_mistakes_end_before_the_first_trial(toy, workplace, no_trial, capsys, content, more, words):
    (workplace / "taken").write_text("a file, where a folder should be")
    fixed = {key: value for key, value in toy.items() if key not in content.get("space", {})}
    assert main([write_space(workplace, **content), *flags(fixed, **more)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and words in errors and errors.count("\n") == 1


def test_a_sweep_is_continued_only_as_itself(toy, workplace, no_trial, capsys):
    space = write_space(workplace)
    options = flags({key: value for key, value in toy.items() if key != "learning_rate"})
    assert main([space, *options, "--address=127.0.0.1:1"]) == 2  # nothing has run: the same name is still free
    folder = workplace / "saved" / "tune" / "TIGER-toy-space"
    capsys.readouterr()
    record = {"number": 0, "status": "finished", "sample": {"learning_rate": 0.01}, "settings": {}, "history": []}
    (folder / "trials" / "0000.json").write_text(json.dumps(record))
    assert main([space, *options]) == 2
    assert "exists: continue it with --resume" in capsys.readouterr().err
    assert main([space, *options, "--resume", "--dropout_rate=0.3"]) == 2
    assert "was started with different settings (dropout_rate: None, now 0.3)" in capsys.readouterr().err


def test_optuna_is_asked_for_by_name(toy, workplace, no_trial, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([write_space(workplace), *flags(toy, search="optuna")]) == 2
    assert "search=optuna needs Optuna" in capsys.readouterr().err


# --------------------------------------------------------------------------------- schedulers and searchers, no cluster


def planned(toy, workplace, space, **options):
    settings = {key: value for key, value in toy.items() if key not in space["space"]}
    options = Options(**{"storage": str(workplace / "tune"), **options})
    return plan(space_from_dict(space, "space"), "TIGER", "toy", settings, options)


def searcher_of(sweep):
    ray_shim.import_ray()
    from recbole_tiger.hpo.callbacks import TrialSearcher  # imports Ray

    return TrialSearcher(sweep)


def ended(number, sample, scores, status="finished"):
    history = [{"epoch": epoch, "valid": {"ndcg@10": score}} for epoch, score in enumerate(scores, 1)]
    return Trial(number, sample, sample, status, None, history)


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_continued_scheduler_knows_the_past(toy, workplace, name):
    sweep = planned(toy, workplace, {"space": {"learning_rate": {"uniform": [0.001, 0.1]}}}, trials=6)
    for number, sample in enumerate(sweep.samples[:3]):
        sweep.trials[number] = ended(number, sample, [0.5, 0.6, 0.7])

    def verdict(past, score):
        ray_shim.import_ray()
        scheduler = ray_shim.make_scheduler(name, max_epochs=4, grace_period=1, reduction_factor=2)
        if past:
            replay(sweep, scheduler)
        trial = PastTrial("new")
        scheduler.on_trial_add(NO_CONTROLLER, trial)
        return scheduler.on_trial_result(NO_CONTROLLER, trial, {"epoch": 1, "score": score})

    assert verdict(True, 0.1) == "STOP" and verdict(True, 0.9) == "CONTINUE"
    assert verdict(False, 0.1) == "CONTINUE"  # without the past it is the first and only trial


def test_trials_that_have_ended_are_not_given_out_again(toy, workplace):
    sweep = planned(toy, workplace, {"space": {"learning_rate": {"choice": [0.1, 0.01, 0.001]}}}, search="grid")
    sweep.trials[1] = ended(1, sweep.samples[1], [0.5])
    searcher = searcher_of(sweep)
    given = [searcher.suggest(str(turn)) for turn in range(2)]
    assert [trial["number"] for trial in given] == [0, 2] and searcher.suggest("end") == "FINISHED"
    assert [json.loads(trial["settings"]) for trial in given] == [{"learning_rate": 0.1}, {"learning_rate": 0.001}]


def test_optuna_learns_from_the_trials_of_both_processes(toy, workplace):
    pytest.importorskip("optuna")
    space = {
        "space": {
            "learning_rate": {"loguniform": [0.0001, 0.1]},
            "d_model": {"choice": [16, 32]},
            "num_encoder_layers": {"randint": [1, 3], "when": {"d_model": 32}},
        },
        "first": [{"d_model": 16}],
    }
    sweep = planned(toy, workplace, space, search="optuna", trials=30)
    assert sweep.samples is None and sweep.n_trials == 30

    def play(searcher, trials):
        found = []
        for _ in range(trials):
            key = f"{len(sweep.trials)}"
            given = searcher.suggest(key)
            sample, number = json.loads(given["sample"]), given["number"]
            settings = json.loads(given["settings"])
            assert ("num_encoder_layers" in settings) == (settings["d_model"] == 32)
            score = sample["learning_rate"]  # the higher the better
            searcher.on_trial_result(key, {"score": score, "training_iteration": 1})
            searcher.on_trial_complete(
                key, {"score": score - 1, "training_iteration": 1}
            )  # its best counts, not its last
            assert number not in sweep.trials
            sweep.trials[number] = ended(number, sample, [score])
            found.append(settings)
        return found

    assert play(searcher_of(sweep), 15)[0]["d_model"] == 16  # what was to be tried first
    late = play(searcher_of(sweep), 15)
    assert sorted(sweep.trials) == list(range(30))
    assert sum(settings["learning_rate"] > 0.02 for settings in late) > 8  # at random about 3 of 15


# --------------------------------------------------------------------------------------------------------- with Ray


def records_in(folder):
    return {int(path.stem): json.loads(path.read_text()) for path in sorted((folder / "trials").glob("[0-9]*.json"))}


def wait_for(condition, seconds=400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)


def test_a_sweep_is_killed_continued_and_tested_once(tmp_path):
    """As a user types it: one good trial, one stopped early, one that fails alone; killed after the first has ended."""
    write_catalogue(tmp_path / "data")
    here = tmp_path / "here"
    here.mkdir()
    settings = {key: value for key, value in TINY.items() if key not in ("codebook_size", "epochs")}
    write_space(
        here,
        model="TIGER",
        space={"codebook_size": {"choice": [8, 64]}, "learning_rate": {"choice": [0.01, 1e-9]}},
        settings={**settings, "state": "INFO", "train_batch_size": 16, "lr_scheduler": "constant"},
        first=[
            {"codebook_size": 8, "learning_rate": 0.01},
            {"codebook_size": 8, "learning_rate": 1e-9},
            {"codebook_size": 64, "learning_rate": 0.01},  # more codewords than the 48 items
        ],
    )
    command = [sys.executable, str(ROOT / "hpo" / "run_tune.py"), "--space=space.yaml", "--dataset=toy", "--trials=3",
               "--data_path=../data", "--epochs=6", "--eval_step=1", "--grace_period=3", "--reduction_factor=2",
               "--cpus=1", "--max_failures=0"]  # fmt: skip
    folder = here / "saved" / "tune" / "TIGER-toy-space"
    first = subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: records_in(folder).get(0, {}).get("status") == "finished" or first.poll() is not None)
        assert first.poll() is None, first.communicate()
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    kept = records_in(folder)[0]
    assert not (folder / "winner.json").exists()

    done = subprocess.run([*command, "--resume"], cwd=here, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    records = records_in(folder)
    assert [records[n]["status"] for n in range(3)] == ["finished", "stopped", "failed"]
    assert records[0] == kept and kept["starts"] == 1  # not run again
    assert len(records[1]["history"]) == 3
    assert "codebook_size=64 is larger than the catalogue" in records[2]["reason"]
    for words in (
        "1 finished, 1 stopped early, 1 failed",
        "Winner: trial 0",
        "trial 2 failed: codebook_size=64",
        "report.html",
    ):
        assert words in done.stdout, words
    assert "3 of 3 trials done" in done.stderr and "Traceback" not in done.stderr
    assert sorted(p.name for p in here.iterdir()) == [
        "log",
        "log_tensorboard",
        "saved",
        "space.yaml",
    ]  # trials write elsewhere
    assert (folder / "trials" / "0000" / "best.pth").is_file() and not (
        folder / "trials" / "0001" / "best.pth"
    ).is_file()

    # One embedding file, and one table of Semantic IDs for the two trials that share it.
    assert len(list((here / "saved" / "cache").glob("*embeddings*.npz"))) == 1
    assert len(list((here / "saved" / "cache").glob("*rkmeans*.npz"))) == 1
    logs = [path.read_text() for path in (folder / "trials").glob("0*/log/**/*.log")]
    assert sum("Saved content embeddings" in log for log in logs) == 1

    # The winner's configuration gives the winner again, and its test metrics are those of the checkpoint.
    best = best_score(kept)
    again = subprocess.run(
        [sys.executable, str(ROOT / "run_recbole_tiger.py"), f"--config_files={folder / 'best.yaml'}"],
        cwd=here, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr[-2000:]
    [result] = (here / "saved").glob("TIGER-toy-*/result.json")
    stored = json.loads(result.read_text())
    winner = json.loads((folder / "winner.json").read_text())
    assert stored["best_valid_score"] == pytest.approx(best, abs=1e-9)
    assert winner["test_result"] == pytest.approx(stored["test_result"], abs=1e-9)
    assert set(winner["popularity"]) == set(stored["popularity"]["test"])


def test_a_lost_node_costs_no_finished_trial(tmp_path):
    """Two raylets on loopback; both run trials; the second is killed in the middle of one."""
    ray_shim.import_ray()
    from ray.cluster_utils import Cluster

    write_catalogue(tmp_path / "data")
    here = tmp_path / "here"
    here.mkdir()
    settings = {key: value for key, value in TINY.items() if key != "epochs"}
    write_space(
        here,
        space={"learning_rate": {"grid": [0.01, 0.005]}},
        settings={**settings, "eval_step": 1, "stopping_step": 99, "lr_scheduler": "constant"},
    )
    health = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={**node, "include_dashboard": False, "_system_config": health}
    )
    folder = here / "saved" / "tune" / "TIGER-toy-space"
    command = [sys.executable, str(ROOT / "hpo" / "run_tune.py"), "--space=space.yaml", "--dataset=toy",
               "--data_path=../data", f"--address={cluster.address}", "--epochs=40", "--scheduler=none"]  # fmt: skip
    running = None
    try:
        with open(here / "output", "w") as output:
            running = subprocess.Popen(command, cwd=here, stdout=output, stderr=subprocess.STDOUT, text=True)
        # The sweep joins any node of this machine, so that there is one only until it has.
        wait_for(lambda: records_in(folder) or running.poll() is not None)
        second = cluster.add_node(**node)

        def busy():
            records = records_in(folder).values()
            first = {name for record in records if record["number"] == 0 for name in record["nodes"]}
            there = [r for r in records if r["status"] == "running" and r["history"] and not first & set(r["nodes"])]
            return (there and [r for r in records if r["status"] == "finished"]) or running.poll() is not None

        wait_for(busy)
        before = {number: record for number, record in records_in(folder).items() if record["status"] == "finished"}
        nodes = {name for record in records_in(folder).values() for name in record["nodes"]}
        cluster.remove_node(second, allow_graceful=False)
        assert running.wait(timeout=400) == 0, (here / "output").read_text()[-3000:]
    finally:
        if running is not None and running.poll() is None:
            running.kill()
        cluster.shutdown()
    assert len(nodes) == 2 and before
    records = records_in(folder)
    assert [record["status"] for record in records.values()] == ["finished"] * 2
    for number, record in before.items():
        assert records[number] == record and record["starts"] == 1
    moved = [record for record in records.values() if record["starts"] > 1]
    assert moved and all(len(record["nodes"]) == 2 for record in moved)
    for record in records.values():  # one that moved resumes where it was
        assert [entry["epoch"] for entry in record["history"]] == list(range(1, 41))
    assert "2 of 2 trials over, 2 finished" in (here / "output").read_text()
