"""Leaderboards as a user makes them: to the end, killed and resumed, with a failing model; the models of their rows."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from catalogue import write_catalogue
from together import forked

from recbole_tiger import cli, run_recbole_tiger
from recbole_tiger.commands import leaderboard
from recbole_tiger.errors import ConfigError, TrainingStopped
from recbole_tiger.evaluation.significance import load_ranks, user_values
from recbole_tiger.experiment import run
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import make_trainer, prepare_data
from recbole_tiger.leaderboard import run as leaderboard_runs
from recbole_tiger.leaderboard import table as leaderboard_table
from recbole_tiger.tokenization import item_content, scaler_of
from recbole_tiger.training import ranking
from recbole_tiger.training.sequential import SequentialTrainer

CONTENT = {"content_encoder": "tfidf_svd", "content_dim": 16}


@pytest.fixture()
def small(toy):
    """Settings of a quick table of models without Semantic IDs."""
    return {"dataset": "toy", "data_path": toy["data_path"], "hidden_size": 16, "epochs": 2, "train_batch_size": 512,
            "show_progress": False, "state": "WARNING"}  # fmt: skip


def results(workplace):
    """Test metrics by run folder."""
    found = sorted((workplace / "saved").rglob("result.json"))
    return {path.parent.name: json.loads(path.read_text())["test_result"] for path in found}


def test_one_command_makes_the_table_and_a_second_one_repeats_nothing(toy, workplace, monkeypatch, capsys):
    arguments = [f"--{key}={value}" for key, value in {**toy, "epochs": 1}.items()]
    arguments += ["--dataset=toy", "--seeds=1,2", "--model=TIGER,SASRec[hidden_size=16],Pop,Semantic_KNN"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert "6 to go" in printed.err and "[6/6]" in printed.err
    for words in (
        "TIGER",
        "SASRec[hidden_size=16]",
        "Pop",
        "Semantic_KNN",
        "±",
        "delta to TIGER",
        "p (Holm)",
        "tiny",
        "html",
    ):
        assert words in printed.out, words
    made = results(workplace)
    [folder] = (workplace / "saved").glob("leaderboard-toy-*")
    assert len(made) == 6 and all((folder / f"leaderboard.{kind}").is_file() for kind in "csv json md tex html".split())

    # Pop is the popularity row of every other run, and every run's ranks give its metrics.
    [pop] = [metrics for name, metrics in made.items() if name.startswith("Pop")]
    for path in folder.rglob("result.json"):
        result = json.loads(path.read_text())
        if result["model"] != "Pop":
            assert result["popularity"]["test"] == pop
        for phase, metrics in (("test", result["test_result"]), ("valid", result["best_valid_result"])):
            ranks = load_ranks(path.parent / "ranks.npz", phase)
            for name, value in metrics.items():
                assert user_values(ranks, name).mean(dtype=np.float64) == pytest.approx(value, abs=1e-6)

    def never(*args, **kwargs):
        raise AssertionError("a finished run was made again")

    monkeypatch.setattr(leaderboard_runs, "run_task", never)
    assert cli.main(arguments) == 0
    again = capsys.readouterr()
    assert again.out == printed.out and "6 of 6 runs are done" in again.err


def test_the_way_out_of_an_error_is_never_cut_off():
    long = "word " * 100 + "the way out"
    assert leaderboard_runs.sentence_of(ConfigError(long)) == long
    assert len(leaderboard_runs.sentence_of(RuntimeError(long))) == 300


def test_a_failing_model_is_alone(small, workplace, monkeypatch, capsys):
    original = run.run_config

    def run_config(config, **kwargs):
        if config["model"] == "GRU4Rec":
            raise RuntimeError("out of memory\non this card")
        return original(config, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(run, "run_config", run_config)
        text, status = leaderboard.make({**small, "model": "GRU4Rec,SASRec,FDSA", "seeds": 1})
    assert status == 1
    assert "GRU4Rec, seed 1 has no result: RuntimeError: out of memory on this card" in text
    assert "FDSA has no result: model=FDSA needs an item column" in text
    assert [name.split("-")[0] for name in results(workplace)] == ["SASRec"]
    # Next time it is tried again, and the reason is gone.
    text, status = leaderboard.make({**small, "model": "GRU4Rec,SASRec", "seeds": 1})
    assert status == 0 and "has no result" not in text and len(results(workplace)) == 2
    assert not list((workplace / "saved").rglob("failure.json"))
    with monkeypatch.context() as patch:
        patch.setattr(run, "run_config", run_config)
        with pytest.raises(ConfigError, match="no row has a result: GRU4Rec, seed 5: RuntimeError"):
            leaderboard.make({**small, "model": "GRU4Rec", "seeds": 5})


def test_killed_and_resumed_is_the_same_table(small, workplace, monkeypatch, capsys):
    command = {**small, "model": "SASRec,BERT4RecFixed", "seeds": 1}
    whole, _ = leaderboard.make({**command, "leaderboard_dir": str(workplace / "saved" / "whole")})
    expected = results(workplace)
    original = SequentialTrainer._fit_epoch

    def fit_epoch(self, epoch, *args):
        original(self, epoch, *args)
        if self.config["model"] == "BERT4RecFixed" and epoch == 0:
            raise KeyboardInterrupt

    (workplace / "saved" / "whole").rename(workplace / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(SequentialTrainer, "_fit_epoch", fit_epoch)
        with pytest.raises(KeyboardInterrupt):
            leaderboard.make(command)
    assert len(results(workplace)) == 1
    capsys.readouterr()
    resumed, _ = leaderboard.make(command)
    said = capsys.readouterr().err
    assert "1 of 2 runs are done" in said and "BERT4RecFixed, seed 1, from its last checkpoint" in said
    assert results(workplace) == expected
    part = resumed.split("model")[1]  # the table of metrics, which has no times in it
    assert part == whole.split("model")[1]


def test_a_damaged_checkpoint_does_not_block_its_row(small, workplace, monkeypatch, capsys):
    command = {**small, "model": "SASRec", "seeds": 1}
    expected = leaderboard.make({**command, "leaderboard_dir": "whole"})[0].split("model")[1]
    original = SequentialTrainer._fit_epoch

    def fit_epoch(self, epoch, *args):
        original(self, epoch, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SequentialTrainer, "_fit_epoch", fit_epoch)
        with pytest.raises(KeyboardInterrupt):
            leaderboard.make(command)
    [last] = (workplace / "saved").rglob("last.pth")
    half = last.read_bytes()[:-1000]
    last.write_bytes(half)
    capsys.readouterr()
    assert leaderboard.make(command)[0].split("model")[1] == expected
    first, anew, done = capsys.readouterr().err.splitlines()
    assert "0 of 1 runs are done" in first and re.fullmatch(r"\[1/1\] SASRec, seed 1: done in \d+ s", done)
    assert anew.startswith("SASRec, seed 1 starts again, its checkpoints are kept as *.damaged1.pth: the checkpoint '")
    assert last.with_name("last.damaged1.pth").read_bytes() == half and last.with_name("best.damaged1.pth").is_file()
    # One that another version wrote is not damaged: it stays, and the row says why it has no result.
    (last.parent / "result.json").unlink()
    state = {**torch.load(last, weights_only=True), "format_version": 99}
    torch.save(state, last)
    with pytest.raises(ConfigError, match="no row has a result: SASRec, seed 1: .* has format version 99"):
        leaderboard.make(command)
    assert torch.load(last, weights_only=True)["format_version"] == 99


def test_the_screen_has_a_line_for_each_run_and_the_log_has_the_rest(small, workplace, capsys):
    leaderboard.make({**small, "state": "INFO", "model": "SASRec,Pop", "seeds": 1})
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert not printed.out and "2 to go" in lines[0]
    assert [line.rpartition(": ")[0] for line in lines[1:]] == ["[1/2] SASRec, seed 1", "[2/2] Pop"]
    [result] = (workplace / "saved").glob("*/SASRec*/result.json")
    log = (workplace / json.loads(result.read_text())["files"]["log"]).read_text()
    assert "(item_embedding): Embedding" in log and "train_batch_size = 512" in log


def test_a_stop_signal_stops_the_leaderboard_not_the_row(small, workplace, monkeypatch):
    def stopped(self, epoch, *args):
        raise TrainingStopped("stopped by SIGTERM; continue with --resume=…")

    monkeypatch.setattr(SequentialTrainer, "_fit_epoch", stopped)
    with pytest.raises(TrainingStopped, match="during SASRec, seed 1; the same command resumes"):
        leaderboard.make({**small, "model": "SASRec,Pop", "seeds": 1})
    assert results(workplace) == {} and not list((workplace / "saved").rglob("failure.json"))


def test_protocol_switches_hold_for_all_rows(small, workplace):
    command = {**small, **CONTENT, "model": "SASRec,Pop,Semantic_KNN", "seeds": 1, "epochs": 1}
    leaderboard.make({**command, "leaderboard_dir": "free"})
    leaderboard.make({**command, "leaderboard_dir": "masked", "mask_seen_items": True})
    command["model"] = "Pop,Semantic_KNN"
    leaderboard.make({**command, "leaderboard_dir": "shuffled", "tie_order": "shuffle"})
    read = {place: {run.label: run.result for run in leaderboard_table.read_runs(workplace / place)}
            for place in ("free", "masked", "shuffled")}  # fmt: skip
    for label, free in read["free"].items():
        masked, shuffled = read["masked"][label], read["shuffled"].get(label, free)
        assert masked["data_checksum"] == free["data_checksum"]
        assert [r["train_loss"] for r in masked["history"]] == [r["train_loss"] for r in free["history"]]
        assert masked["test_result"]["recall@10"] >= free["test_result"]["recall@10"]  # no user repeats an item here
        assert shuffled["test_result"] == free["test_result"]  # no two times of a user are equal here
    assert read["masked"]["Pop"]["test_result"] != read["free"]["Pop"]["test_result"]


def test_a_temporal_split_holds_for_all_rows(toy, workplace, monkeypatch):
    """Every kind of model: the same users, the same masked items, the same training rows, and a table of their own."""
    write_catalogue(workplace / "data", "hours", clock=True)
    trained, excluded = {}, {}
    original_fit, original_seen = SequentialTrainer.fit, ranking.seen_items

    def fit(self, train_data, *args, **kwargs):
        trained[self.config["model"], self.config["encoder_mask"]] = (len(train_data._dataset), self)
        return original_fit(self, train_data, *args, **kwargs)

    def seen_items(dataset, users):
        found = original_seen(dataset, users)
        phase, split = dataset.phase, dataset.sequences.split
        places = split.targets[phase][users.cpu().numpy()]
        assert (found > 0).sum(1).tolist() == places.tolist()  # all that came before the target, of this phase
        excluded.setdefault((dataset.config["model"], phase), []).append(found)
        return found

    monkeypatch.setattr(SequentialTrainer, "fit", fit)
    monkeypatch.setattr(ranking, "seen_items", seen_items)
    settings = {**toy, "dataset": "hours", "split": "temporal", "mask_seen_items": True, "tie_order": "shuffle",
                "epochs": 1, "hidden_size": 16, "inner_size": 32, "n_layers": 1, "seeds": 1}  # fmt: skip
    rows = "TIGER,TIGER[encoder_mask=bidirectional],TIGERTree,P5,BERT4Rec,BERT4RecFixed,SASRec,Semantic_KNN,Pop"
    text, _ = leaderboard.make({**settings, "model": rows})
    assert "has no result" not in text and "global temporal split at 0.8 and 0.9 of all interactions" in text
    assert "Models learn from the" in text and "models see what other users did after them" not in text
    assert "before 2014-" in text

    runs = leaderboard_table.read_runs(workplace / "saved")
    [board] = leaderboard_table.make_leaderboards(runs)
    assert len(board.rows) == 9 and board.n_users == runs[0].result["split"]["test"]["users"]
    assert len({json.dumps(run.result["split"]) for run in runs}) == 1
    [pop] = [run.result["test_result"] for run in runs if run.label == "Pop"]
    assert all(run.result["popularity"]["test"] == pop for run in runs if run.label != "Pop")
    n_rows = {rows for rows, _ in trained.values()}
    assert len(trained) == 8 and len(n_rows) == 1
    assert {self.examples_seen for _, self in trained.values() if self.examples_seen} == n_rows
    tested = [batches[-1] for (_, phase), batches in excluded.items() if phase == "test"]
    assert len(tested) == 7 and all(torch.equal(other, tested[0]) for other in tested)

    leaderboard.make({**settings, "split": "leave_one_out", "model": "TIGER,Pop"})
    boards = leaderboard_table.make_leaderboards(leaderboard_table.read_runs(workplace / "saved"))
    assert sorted(len(board.rows) for board in boards) == [2, 9]
    with pytest.raises(ConfigError, match="split cannot be set for the row SASRec.split=temporal. alone"):
        leaderboard.make({**settings, "model": "TIGER,SASRec[split=temporal]"})


def test_models_without_cross_entropy_start_by_name(toy, workplace):
    """FPMC and TransRec (BPR), DIN (binary cross-entropy, and a score of one pair at a time), each with its sampler."""
    settings = {"dataset": "toy", "data_path": toy["data_path"], "epochs": 1, "show_progress": False,
                "state": "WARNING", "embedding_size": 8, "mlp_hidden_size": [8], "seeds": 1}  # fmt: skip
    text, _ = leaderboard.make({**settings, "model": "FPMC,TransRec,DIN"})
    assert "has no result" not in text
    runs = {run.label: run.result for run in leaderboard_table.read_runs(workplace / "saved")}
    assert {label: result["loss"] for label, result in runs.items()} == {"FPMC": "BPR", "TransRec": "BPR", "DIN": "BCE"}
    # DIN's lists are those of RecBole's own evaluation, which repeats every row for every item.
    config, data, model = loaded("DIN", {k: v for k, v in settings.items() if k != "seeds"})
    trainer = SequentialTrainer(config, model)
    batch = next(iter(data.test))
    batch = (batch[0][:7], None, batch[2][:7], batch[3][:7])
    trainer.item_tensor, trainer.tot_item_num = data.test._dataset.get_item_feature(), data.test._dataset.item_num
    with torch.no_grad():
        _, expected, _, _ = trainer._full_sort_batch_eval(batch)
        found = trainer._topk(batch[0], 10, None)
    assert torch.allclose(found.scores[:, 1:], expected[:, 1:], atol=1e-6)
    assert torch.equal(found.items, expected.topk(10).indices)


def test_runs_side_by_side_are_the_same_runs(small, workplace, monkeypatch, capsys):
    command = {**small, "model": "SASRec,GRU4Rec", "seeds": 1, "leaderboard_dir": "board"}
    leaderboard.make({**command, "model": "SASRec"})
    (alone,) = (workplace / "board").rglob("result.json")
    expected = json.loads(alone.read_text())
    alone.parent.rename(workplace / "alone")
    capsys.readouterr()
    original = SequentialTrainer._fit_epoch

    def fit_epoch(self, epoch, *args):
        if self.config["model"] == "GRU4Rec":
            raise RuntimeError("no such epoch")
        original(self, epoch, *args)

    monkeypatch.setattr(SequentialTrainer, "_fit_epoch", fit_epoch)
    with forked():
        text, status = leaderboard.make({**command, "jobs": 2})
    said = capsys.readouterr().err
    assert status == 1 and "GRU4Rec, seed 1 has no result: " in text and "RuntimeError: no such epoch" in text
    again = json.loads(alone.read_text())
    for key in ("test_result", "best_valid_result", "parameters"):
        assert again[key] == expected[key]
    assert {line[:5] for line in said.splitlines()[1:]} == {"[1/2]", "[2/2]"} and "SASRec, seed 1: done in" in said
    assert (alone.parent / "output.txt").is_file()


def test_ray_makes_the_same_runs(small, monkeypatch, workplace):
    """The small part of Ray that is used, in this process: tasks, their resources, and a worker that dies."""

    class RayError(Exception):
        pass

    asked = {}

    def remote(**resources):
        asked.update(resources)
        return lambda function: SimpleNamespace(remote=lambda task: (function, task))

    def get(pair):
        function, task = pair
        if task.label == "GRU4Rec":
            raise RayError("the worker died")
        return function(task)

    fake = SimpleNamespace(
        init=lambda **k: asked.update(k), remote=remote, get=get, shutdown=lambda: asked.update(over=True),
        wait=lambda pending, num_returns: (pending[:1], pending[1:]), exceptions=SimpleNamespace(RayError=RayError),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr("recbole_tiger.leaderboard.plan.Task.__hash__", lambda task: hash(task.folder))
    text, status = leaderboard.make(
        {**small, "model": "Pop,GRU4Rec", "seeds": 1, "ray": "auto", "cpus_per_run": 0.5, "gpus_per_run": 0.25}
    )
    assert status == 1
    assert asked["num_cpus"] == 0.5 and asked["num_gpus"] == 0.25 and asked["address"] == "auto" and asked["over"]
    assert "GRU4Rec, seed 1 has no result: RayError: the worker died" in text and len(results(workplace)) == 1


# ---------------------------------------------------------------------------------------------------------- the models


def loaded(model, settings, **more):
    """A model as built for a dataset, with its test loader."""
    config = build_config(model, "toy", None, {k: v for k, v in {**settings, **more}.items() if k != "dataset"})
    data = prepare_data(config)
    return config, data, make_trainer(config, data).model.eval()


@pytest.fixture()
def knn(small):
    return {**{key: value for key, value in small.items() if key != "hidden_size"}, **CONTENT}


def test_semantic_knn_is_the_sum_of_similarities(knn):
    """Against loops over users, last items and candidates."""
    config, data, model = loaded("Semantic_KNN", knn, knn_items=3, knn_decay=0.5)
    items = [str(item) for item in data.dataset.field2id_token["item_id"][1:]]
    embeddings = item_content(config, items).embeddings
    vectors = scaler_of(config).fit(embeddings).transform(embeddings)
    vectors = np.vstack([np.zeros(vectors.shape[1]), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)])
    batch = next(iter(data.test))[0][:20]
    scores = model.full_sort_predict(batch)
    for row in range(20):
        history = batch["item_id_list"][row][: batch["item_length"][row]].tolist()
        for item in range(1, len(vectors)):
            expected = sum(
                0.5**back * vectors[item] @ vectors[last] for back, last in enumerate(history[::-1][:3]) if last != item
            )
            assert scores[row, item].item() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(model.predict(batch), scores[torch.arange(20), batch["item_id"]])
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("key", "value"), [("knn_items", 0), ("knn_items", 1.5), ("knn_decay", 0), ("knn_decay", 2)])
def test_semantic_knn_names_impossible_settings(knn, key, value):
    with pytest.raises(ConfigError, match=f"{key}={value}"):
        loaded("Semantic_KNN", knn, **{key: value})


@pytest.fixture()
def bert(small):
    return {**small, "inner_size": 32, "n_layers": 1}


def test_fixed_bert4rec_keeps_the_whole_history_at_test_time(bert):
    _, _, model = loaded("BERT4RecFixed", bert, MAX_ITEM_LIST_LENGTH=6)
    mask = model.mask_token
    history = torch.tensor([[11, 12, 13, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    expected = [[11, 12, 13, mask, 0, 0, 0], [1, 2, 3, 4, 5, 6, mask]]
    assert model.append(history, torch.tensor([3, 6]), mask).tolist() == expected
    # The oldest item changes the scores, at any length; in RecBole's model it does not.
    changed = history.clone()
    changed[:, 0] = 20
    batch = {model.ITEM_SEQ: history, model.ITEM_SEQ_LEN: torch.tensor([3, 6])}
    with torch.no_grad():
        one, other = model.full_sort_predict(batch), model.full_sort_predict({**batch, model.ITEM_SEQ: changed})
        assert (one - other).abs().amax(dim=1).min() > 1e-6
        _, _, stock = loaded("BERT4Rec", bert, MAX_ITEM_LIST_LENGTH=6)
        one, other = stock.full_sort_predict(batch), stock.full_sort_predict({**batch, stock.ITEM_SEQ: changed})
        assert torch.equal(one, other)


def test_fixed_bert4rec_learns_every_training_item(bert, monkeypatch):
    """The masked items over an epoch are all items of all training prefixes, each user's last one among them."""
    config, data, model = loaded("BERT4RecFixed", bert, train_batch_size=4096, ft_ratio=0.0, mask_ratio=1.0)
    seen = []
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda logits, items: seen.append(items) or logits.sum())
    batch = next(iter(data.train))
    model.train()
    model.calculate_loss(batch)
    expected = [
        item
        for history, length, last in zip(
            batch["item_id_list"].tolist(), batch["item_length"].tolist(), batch["item_id"].tolist(), strict=True
        )
        for item in (*history[:length], last)
    ]
    assert seen[0].tolist() == expected


def test_fixed_bert4rec_masks_as_often_as_asked(bert):
    _, _, model = loaded("BERT4RecFixed", bert, mask_ratio=0.3, ft_ratio=0.5, MAX_ITEM_LIST_LENGTH=20)
    torch.manual_seed(0)
    lengths = torch.full((20_000,), 15)
    masked = model.masked_positions(lengths, 21)
    assert not masked[:, 15:].any() and masked.any(dim=1).all()
    assert masked[:, :14].float().mean() == pytest.approx(0.15, abs=0.005)
    assert masked[:, 14].float().mean() == pytest.approx(0.65, abs=0.015)
    with pytest.raises(ConfigError, match="mask_ratio=2"):
        loaded("BERT4RecFixed", bert, mask_ratio=2)
    with pytest.raises(ConfigError, match="loss_type='BPR'"):
        loaded("BERT4RecFixed", bert, loss_type="BPR")


def test_fixed_bert4rec_learns_the_rule_of_the_catalogue(bert, workplace):
    write_catalogue(workplace / "more", "toy", n_users=200)
    settings = {k: v for k, v in bert.items() if k not in ("dataset", "epochs")}
    result = run_recbole_tiger(
        "BERT4RecFixed", "toy", None,
        {**settings, "data_path": str(workplace / "more"), "epochs": 12, "hidden_size": 32, "learning_rate": 0.01,
         "train_batch_size": 128},
        command_line={},
    )  # fmt: skip
    assert result["test_result"]["recall@5"] > 0.5 > 3 * result["popularity"]["test"]["recall@5"]
