"""Shares of invalid IDs: by hand, and of models that have learned much or nothing."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from recbole_tiger.analysis.invalid_ids import invalid_ids
from recbole_tiger.analysis.runs import TestUsers, TrainedRun, open_run
from recbole_tiger.commands.invalid_ids import run
from recbole_tiger.commands.shared import pop_run
from recbole_tiger.decoding import BeamResult, FreeBeamResult
from recbole_tiger.errors import CheckpointError
from recbole_tiger.model.generative import GenerativeRecommender
from recbole_tiger.quick_start import run_recbole_tiger


def test_by_hand():
    free = torch.tensor([[3, 0, 5, 0], [0, 7, 0, 2]])
    inside = torch.tensor([[3, 5, 6, 0], [7, 2, 4, 1]])

    def generate_ids(users, history, lengths, k, beam_size):
        return FreeBeamResult(torch.zeros(2, k, 2), torch.zeros(2, k), free[:, :k])

    def recommend(users, history, lengths, k, excluded, **options):
        asked.append((excluded, model.rescore_weight, model.scoring))
        return BeamResult(inside[:, :k], torch.zeros(2, k))

    asked, zero = [], torch.zeros(2, dtype=torch.long)
    model = SimpleNamespace(generate_ids=generate_ids, recommend=recommend, rescore_weight=2.0, scoring="exact")
    vars(model).update(beam_size=4, decode_batch_size=8, search_options={"of": "exact"})
    model.widened = partial(GenerativeRecommender.widened, model)
    users = TestUsers(zero, zero[:, None], zero, torch.tensor([5, 2]), excluded=torch.tensor([[3], [7]]))
    found = invalid_ids(TrainedRun({"eval_batch_size": 8}, model, None, users, ""), 4, 4)
    assert found.invalid == pytest.approx([1 / 2, 2 / 4, 3 / 6, 4 / 8])
    assert found.recall_free == pytest.approx([0, 0, 0.5, 1])
    assert found.recall_constrained == pytest.approx([0, 1, 1, 1])
    # The gain is that of the constraint alone: no mask, second ranking or exact scores, which one search cannot have.
    assert asked == [(None, 0.0, "beam")] and (model.rescore_weight, model.scoring) == (2.0, "exact")


def test_an_untrained_model_writes_many_and_a_trained_one_few(toy):
    settings = {**toy, "codebook_size": 24, "learning_rate": 0.01, "warmup_steps": 1}
    shares = {}
    for steps in (2, 400):
        more = {"max_steps": steps, "epochs": 20, "eval_step": 100, "num_heads": 2}
        result = run_recbole_tiger("TIGER", "toy", None, {**settings, **more})
        trained = open_run(None, result["files"]["checkpoint"])
        shares[steps] = invalid_ids(trained, 10, 20)
    assert shares[2].invalid[9] > 0.5  # 48 of 24 * 24 IDs exist
    assert shares[400].invalid[0] < 0.05 and shares[400].invalid[9] < shares[2].invalid[9] - 0.3
    gain = shares[2].recall_constrained[9] - shares[2].recall_free[9]
    assert gain > 0


def test_bad_settings(toy, workplace):
    result = run_recbole_tiger("TIGER", "toy", None, {**toy, "epochs": 1})
    checkpoint = result["files"]["checkpoint"]
    for more, words in (
        ({"search_beams": 5}, "search_beams=5 is smaller than k=50"),
        ({"k": 0}, "k=0"),
        ({"k": "many"}, "k='many'"),
        ({"d_model": 8}, "--d_model cannot be combined with --checkpoint"),
        ({"output_dir": "data"}, "output_dir='data' exists already"),
    ):
        with pytest.raises(ValueError, match=words):
            run({"checkpoint": checkpoint, **more})
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        run({"checkpoint": "nothing.pth"})
    with pytest.raises(ValueError, match="model='SASRec' has no Semantic IDs"):
        run({"model": "SASRec"})


def test_the_last_of_several_config_files_wins(toy, workplace):
    (workplace / "first.yaml").write_text("id_length: 2\nd_model: 48\nbeam_size: 30\n")
    (workplace / "last.yaml").write_text("d_model: 64\nbeam_size: 25\n")
    given = {"config_files": "first.yaml last.yaml", "dataset": "toy", "data_path": toy["data_path"], "beam_size": 20}
    config, checkpoint = pop_run(given)
    assert (config["id_length"], config["d_model"], config["beam_size"], checkpoint) == (2, 64, 20, None)
