"""What is timed and how, without timing anything."""

import numpy as np
import pytest
import torch
from recbole.utils import get_model

from recbole_tiger.analysis import latency
from recbole_tiger.commands.latency import run
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.recommend import DatasetStub


@pytest.fixture()
def tiger(workplace):
    return build_config("TIGER", "ml-100k", None, {"recipe": "tiny", "d_model": 16, "num_heads": 2, "d_ff": 16})


def test_medians_of_interleaved_rounds():
    now, order, costs = [0.0], [], {"a": iter([9, 1, 5, 2]), "b": iter([50, 10, 30, 20])}

    def call(name):
        def once():
            order.append(name)
            now[0] += next(costs[name])

        return once

    medians = latency.interleaved_medians({name: call(name) for name in "ab"}, 3, clock=lambda: now[0])
    assert order == list("abababab")
    assert medians == {"a": 2, "b": 20}  # the first round, 9 and 50, does not count


def test_tiger_varies_one_thing_at_a_time(tiger):
    wanted = latency.LatencySettings((300,), beams=(10, 5), id_lengths=(2, 3), codebook_sizes=(16, 8), k=5)
    found = latency.tiger_contenders(tiger, 300, wanted)
    names = [c.name for c in found]
    assert names == [
        "TIGER, 10 beams, 2 x 16",
        "TIGER, 5 beams, 2 x 16",
        "TIGER, 10 beams, 3 x 16",
        "TIGER, 10 beams, 2 x 8",
    ]
    history, lengths = latency._histories(300, 4, tiger)
    assert history.shape == (4, tiger["MAX_ITEM_LIST_LENGTH"]) and int(history.max()) <= 300 and int(history.min()) >= 1
    for contender in found:
        items = contender.search(history, lengths)
        assert items.shape == (4, 5) and int(items.min()) > 0
    assert found[0].index_bytes == found[1].index_bytes < found[2].index_bytes


def test_the_exact_search_is_recboles_full_sort(workplace):
    config = build_config("SASRec", "ml-100k", None, {})
    torch.manual_seed(0)
    [exact] = latency.sasrec_contenders(config, 200, 150, None, 1)  # so many that padding would be among them
    torch.manual_seed(0)
    model = get_model("SASRec")(config, DatasetStub(config, 200)).eval()
    history, lengths = latency._histories(200, 6, config)
    scores = model.full_sort_predict({model.ITEM_SEQ: history, model.ITEM_SEQ_LEN: lengths})
    assert torch.equal(exact.search(history, lengths), 1 + scores[:, 1:].topk(150).indices)
    assert exact.index_bytes == 201 * 64 * 4
    assert exact.model_bytes + exact.index_bytes == 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("library", latency.ANN_LIBRARIES)
def test_the_index_finds_what_the_exact_search_finds(library):
    pytest.importorskip(library)
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    find, size = latency.build_ann(library, vectors, 10, 1)
    queries = vectors[:50]
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    found = find(queries)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]) > 9
    assert size > vectors.nbytes


def test_the_library(monkeypatch):
    present = {"hnswlib"}
    monkeypatch.setattr(latency.importlib.util, "find_spec", lambda name: name if name in present else None)
    assert latency.ann_library(None) == latency.ann_library("hnswlib") == "hnswlib"
    assert latency.ann_library("faiss") is None and "faiss not installed" in latency.missing_ann("faiss")
    present.clear()
    assert latency.ann_library(None) is None
    with pytest.raises(ConfigError, match="ann='annoy'"):
        latency.ann_library("annoy")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beams": (50, 5)}, "beams=5 is smaller than k=10"),
        ({"n_items": 5, "k": 10}, "n_items=5 is smaller than k=10"),
        ({"repeats": 0}, "repeats=0"),
        ({"id_lengths": "3;4"}, "id_lengths='3;4'"),
        ({"lerning_rate": 1}, "unknown key 'lerning_rate'"),
    ],
)
def test_bad_settings(workplace, settings, words):
    with pytest.raises(ValueError, match=words):
        run(settings)
