"""The command line as a user types it, from another folder, in a process of its own (oracle 7)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from catalogue import TINY, write_catalogue

ROOT = Path(__file__).resolve().parents[2]


def call(folder, *arguments, script=ROOT / "run_recbole_tiger.py"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *([str(script)] if script else []), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def flags(**settings):
    return [f"--{key}={value}" for key, value in settings.items()]


@pytest.fixture()
def place(tmp_path):
    write_catalogue(tmp_path / "elsewhere" / "data")
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def test_a_run_prints_the_table_and_says_where_things_lie(place):
    done = call(place, "--model=TIGER", "--dataset=toy", "--data_path=../elsewhere/data", *flags(**TINY))
    assert done.returncode == 0, done.stderr[-2000:]
    for words in ("TIGER (tiny)", "popularity", "recall@5", "ndcg@10", "valid", "test", "Semantic IDs of 48 items",
                  "perplexity", "seconds", "best.pth", "semantic_ids.json", "not masked"):  # fmt: skip
        assert words in done.stdout, words
    assert sorted(p.name for p in place.iterdir()) == ["log", "log_tensorboard", "saved"]
    again = call(place, "--model=TIGER", "--dataset=toy", "--data_path=../elsewhere/data", *flags(**TINY))
    assert "semantic IDs (from cache)" in again.stdout
    table = [line for line in done.stdout.splitlines() if line.startswith(("TIGER (tiny)", "popularity"))]
    assert table == [line for line in again.stdout.splitlines() if line.startswith(("TIGER (tiny)", "popularity"))]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model=TIGRE"], "model='TIGRE'"),
        (["--dataset=nowhere"], "dataset='nowhere'"),
        (["--lerning_rate=1"], "unknown key 'lerning_rate'"),
        (["learning_rate=1"], "write --key=value"),
        (["--beam_size=3"], "beam_size=3"),
    ],
)
def test_mistakes_end_in_one_sentence_and_status_2(place, arguments, words):
    done = call(place, *arguments)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


def test_help(place):
    done = call(place, "--help")
    assert done.returncode == 0 and "--model NAME" in done.stdout and "cold-start" in done.stdout


def test_recboles_own_door(place):
    """RecBole's run_recbole, load_data_and_model and full_sort_topk after `import recbole_tiger`."""
    program = f"""
import recbole_tiger
from recbole.quick_start import run_recbole, load_data_and_model
from recbole.utils.case_study import full_sort_scores, full_sort_topk
import os, torch
settings = {dict(TINY)!r}
result = run_recbole(model="TIGER", dataset="toy", config_dict={{**settings, "data_path": "../elsewhere/data"}})
assert set(result["test_result"]) == {{"recall@5", "recall@10", "ndcg@5", "ndcg@10"}}, result
import glob
[file] = glob.glob("saved/TIGER-toy-*/best.pth")
config, model, dataset, train_data, valid_data, test_data = load_data_and_model(file)
users = dataset.token2id("user_id", ["u0", "u1", "u2"])
scores, items = full_sort_topk(users, model, test_data, k=10, device=config["device"])
assert items.shape == (3, 10) and (items > 0).all() and (scores <= 0).all(), (scores, items)
beam = model.beam_size
assert beam < 48
more = full_sort_topk(users, model, test_data, k=48, device=config["device"])  # every item of the catalogue
assert torch.equal(more[1].sort(1)[0], torch.arange(1, 49).expand(3, 48)) and more[0].isfinite().all()
assert (more[0][:, :10] >= scores - 1e-5).all() and model.beam_size == beam
everything = full_sort_scores(users, model, test_data, device=config["device"])
assert torch.allclose(everything.gather(1, more[1]), more[0], atol=1e-5) and (everything[:, 0] == -torch.inf).all()
assert (model.beam_size, model.scoring) == (beam, "beam")
model.scoring = "exact"
exact = full_sort_topk(users, model, test_data, k=48, device=config["device"])
assert torch.allclose(exact[0], more[0], atol=1e-5) and torch.equal(exact[1][:, :10], more[1][:, :10])
try:
    full_sort_topk(users, model, test_data, k=49)
except ValueError as error:
    assert "k=49 must be from 1 to the 48 items" in str(error)
assert config["data_path"] == os.path.abspath("../elsewhere/data/toy")

# A model of RecBole's own: torch would refuse the pickled Config of its checkpoint.
own = {{"data_path": "../elsewhere/data", "load_col": {{"inter": ["user_id", "item_id", "timestamp"]}}, "epochs": 1,
       "hidden_size": 16, "inner_size": 16, "train_neg_sample_args": None, "state": "WARNING", "lerning_rate": 3,
       "eval_args": {{"split": {{"LS": "valid_and_test"}}, "order": "TO", "mode": "full"}}}}
stock = run_recbole(model="SASRec", dataset="toy", config_dict=own)
[file] = glob.glob("saved/SASRec-*.pth")
assert load_data_and_model(file)[1].__class__.__name__ == "SASRec"
os.utime(file)  # no longer as it was written
for read in (load_data_and_model, recbole_tiger.load_data_and_model):
    try:
        read(file)
    except ValueError as error:
        assert "is not a checkpoint of recbole_tiger but of stock RecBole" in str(error), error
    else:
        raise AssertionError("opened a pickle that another program may have written")
print("own entry point:", result["test_result"])
"""
    done = call(place, "-c", program, script=None)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "own entry point:" in done.stdout
    says = "nothing reads the key 'lerning_rate' (value 3) for model SASRec; did you mean learning_rate"
    assert done.stderr.count(says) >= 1 and done.stderr.count("nothing reads the key") == done.stderr.count(says)
