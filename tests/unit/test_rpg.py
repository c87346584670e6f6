"""RPG against its formulas written out, and its searches against the sum of log-probabilities of every item."""

import copy

import pytest
import torch
import torch.nn.functional as F
from catalogue import settings_of, write_catalogue

from recbole_tiger import Recommender, run_recbole_tiger
from recbole_tiger.decoding import (
    DECODERS,
    IDGraph,
    ParallelStepDecoder,
    PrefixTrie,
    StepFunction,
    beam_search,
    exact_scores,
    exact_topk,
    graph_search,
)
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import load_data_and_model, make_trainer, prepare_data, trainer_class

SIZES = (5, 4, 6)


def decoder_and_trie(n_items=40, n_users=7, seed=0):
    """Random logits of three levels, and a catalogue on which some items share an ID."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (n_items,), generator=generator) for size in SIZES], 1)
    codes[-1] = codes[3]
    logits = [torch.randn(n_users, size, generator=generator) for size in SIZES]
    similarities = [(lambda x: x @ x.t())(F.normalize(torch.randn(size, 3, generator=generator))) for size in SIZES]
    offset = torch.tensor([0, 5, 9])
    trie = PrefixTrie.from_codes(codes.numpy(), SIZES)
    of_leaf = codes[trie.first_item(torch.arange(trie.n_nodes[-1])) - 1] + offset
    graphs = {}

    def graph(n):
        return graphs.setdefault(n, IDGraph.of(similarities, of_leaf, n))

    codewords = F.pad(codes + offset, (0, 0, 1, 0))
    return ParallelStepDecoder(logits, codewords, graph), trie, codes, similarities


def assert_same(found, expected):
    assert torch.equal(found.items, expected.items)
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)
    for row in range(len(expected.ids)):  # one may rank more IDs than the other
        n = min(int((each.id_counts[row] > 0).sum()) for each in (found, expected))
        for name in ("ids", "id_counts"):
            assert torch.equal(getattr(found, name)[row, :n], getattr(expected, name)[row, :n])


@pytest.mark.parametrize("temperature", [1.0, [0.5, 2.0, 1.5]])
def test_an_items_score_is_the_sum_of_its_codewords_log_probabilities(temperature):
    decoder, trie, codes, _ = decoder_and_trie()
    found = exact_scores(decoder, trie, temperature=temperature)
    divided = temperature if isinstance(temperature, list) else [temperature] * 3
    assert found.shape == (7, 41) and (found[:, 0] == -torch.inf).all()
    for user in range(7):
        for item, row in enumerate(codes.tolist()):
            levels = zip(decoder.logits, row, divided, strict=True)
            expected = sum(torch.log_softmax(logits[user] / t, 0)[code] for logits, code, t in levels)
            assert found[user, item + 1] == pytest.approx(float(expected), abs=1e-5)
    # The walk over the trie, which knows nothing of parallel levels, says the same.
    walked = StepFunction(lambda prefix: decoder.logits[prefix.shape[2]][:, None].expand(-1, prefix.shape[1], -1), 7)
    assert torch.allclose(found, exact_scores(walked, trie, temperature=temperature), atol=1e-5)


@pytest.mark.parametrize("excluded", [None, torch.randint(0, 41, (7, 9), generator=torch.Generator().manual_seed(1))])
def test_a_graph_of_all_ids_and_a_beam_of_all_ids_are_exact_scoring(excluded):
    decoder, trie, _, _ = decoder_and_trie()
    expected = exact_topk(decoder, trie, k=12, excluded=excluded)
    assert expected.id_counts.max() > 1
    assert_same(DECODERS["exact"](decoder, trie, k=12, beam_size=12, excluded=excluded), expected)
    for beam_size, neighbours, steps in ((12, 60, 1), (12, 60, 2), (60, 1, 1)):
        options = {"beam_size": beam_size, "neighbours": neighbours, "steps": steps}
        assert_same(graph_search(decoder, trie, k=12, excluded=excluded, **options), expected)
    found = beam_search(decoder, trie, k=12, beam_size=60, excluded=excluded)
    assert torch.equal(found.items, expected.items) and torch.allclose(found.scores, expected.scores, atol=1e-5)


def test_a_walk_over_a_sparse_graph_finds_most_of_the_best_with_their_scores():
    decoder, trie, _, _ = decoder_and_trie(n_items=100, n_users=40, seed=3)
    every, best = exact_scores(decoder, trie), exact_topk(decoder, trie, k=10).items
    recall = {}
    for steps in (1, 3):
        found = graph_search(decoder, trie, k=10, beam_size=10, neighbours=8, steps=steps)
        there = found.items > 0
        assert torch.allclose(found.scores[there], every.gather(1, found.items)[there], atol=1e-5)
        assert all(len(set(row[row > 0].tolist())) == int((row > 0).sum()) for row in found.items)
        recall[steps] = float((best[:, :, None] == found.items[:, None]).any(2).float().mean())
    assert recall[1] < recall[3] and recall[3] > 0.7, recall


def test_no_batch_changes_what_a_walk_finds():
    decoder, trie, _, _ = decoder_and_trie()
    options = {"k": 5, "beam_size": 6, "neighbours": 4, "steps": 2}
    alone = copy.copy(decoder)
    alone.logits = [logits[2:3] for logits in decoder.logits]
    whole, part = graph_search(decoder, trie, **options), graph_search(alone, trie, **options)
    assert torch.equal(whole.items[2:3], part.items) and torch.equal(whole.scores[2:3], part.scores)


def test_neighbours_are_those_of_the_largest_mean_similarity():
    decoder, _, _, similarities = decoder_and_trie()
    graph = decoder.graph(6)
    codes = (graph.codewords - torch.tensor([0, 5, 9])).tolist()
    for row, found in zip(codes, graph.neighbours.tolist(), strict=True):
        means = [sum(float(s[a, b]) for s, a, b in zip(similarities, row, other, strict=True)) / 3 for other in codes]
        assert found[0] == codes.index(row) and sorted(means)[-6:] == pytest.approx([means[i] for i in found][::-1])


@pytest.mark.parametrize(
    ("options", "says"),
    [({"neighbours": 0}, "at least 1"), ({"normalise": "children"}, "no prefixes"), ({"k": 9}, "k is 9")],
)
def test_impossible_arguments_of_a_walk(options, says):
    decoder, trie, _, _ = decoder_and_trie()
    with pytest.raises(ValueError, match=says):
        graph_search(decoder, trie, **{"k": 3, "beam_size": 4, **options})
    with pytest.raises(ValueError, match="needs a decoder whose levels do not depend"):
        graph_search(ParallelStepDecoder(decoder.logits, decoder.codewords), trie, k=3, beam_size=4)


# --------------------------------------------------------------------------------------------------------- the model


def trainer_of(toy, **more):
    config = build_config("RPG", "toy", config_dict=settings_of("RPG", toy, **more))
    data = prepare_data(config)
    trainer = make_trainer(config, data)
    for parameter in trainer.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return trainer, data


@torch.no_grad()
def literal_log_probabilities(model, history):
    """Of the codewords of each level after a history (a list of items), from the formulas of the paper."""
    net, heads = model.network, model.network.config.n_heads
    x = torch.stack([net.codewords[model.codewords[item]].mean(0) for item in history]) + net.positions[: len(history)]
    for layer in net.layers:
        q, k, v = (part.chunk(heads, 1) for part in layer.attention.qkv(layer.attention_norm(x)).chunk(3, 1))
        hidden = torch.ones(len(x), len(x)).triu(1) * -1e9
        mixed = [torch.softmax(a @ b.t() / a.shape[1] ** 0.5 + hidden, 1) @ c for a, b, c in zip(q, k, v, strict=True)]
        x = x + layer.attention.out(torch.cat(mixed, 1))
        x = x + layer.down(F.gelu(layer.up(layer.mlp_norm(x))))
    state, tables = net.norm(x)[-1], net.codewords.split(net.config.level_sizes)
    projected = [state + F.silu(head(state)) for head in net.heads]
    cosines = [F.cosine_similarity(h, table) for h, table in zip(projected, tables, strict=True)]
    return [torch.log_softmax(each / net.config.tau, 0) for each in cosines]


@torch.no_grad()
def test_losses_and_scores_are_those_of_the_formulas(toy):
    trainer, data = trainer_of(toy, n_layers=2, n_heads=2, tau=0.5)
    model, sizes = trainer.model.eval(), trainer.model.network.config.level_sizes
    assert len(sizes) == 2  # collision=none: no token tells items of one ID apart
    windows = next(iter(trainer._make_examples(data.train._dataset).batches(5, seed=(1, 2))))
    losses = []
    for row, length in enumerate(windows["item_length"].tolist()):
        for item, seen in zip(windows["targets"][row].tolist(), windows["context"][row].tolist(), strict=True):
            if not seen:
                continue
            history = windows["item_id_list"][row][:seen].tolist()
            assert seen <= length
            found = literal_log_probabilities(model, history)
            codes = model.trained_ids.table.codes[item]
            losses.append(-sum(each[code] for each, code in zip(found, codes, strict=True)) / 2)
    assert float(model.calculate_loss(windows)) == pytest.approx(float(sum(losses) / len(losses)), rel=1e-5)

    batch, *_ = next(iter(data.test))
    found = model.recommend(None, batch["item_id_list"], batch["item_length"], 48)
    for row in range(0, len(batch), 20):
        history = batch["item_id_list"][row][: batch["item_length"][row]].tolist()
        levels = literal_log_probabilities(model, history)
        for item, score in zip(found.items[row].tolist(), found.scores[row].tolist(), strict=True):
            codes = model.trained_ids.table.codes[item]
            assert score == pytest.approx(float(sum(p[c] for p, c in zip(levels, codes, strict=True))), rel=1e-4)
    batch["item_id"] = found.items[:, 0]
    assert torch.allclose(model.predict(batch), found.scores[:, 0], atol=1e-5)


def test_what_comes_later_changes_no_earlier_state(toy):
    trainer, _ = trainer_of(toy)
    model = trainer.model.eval()
    history = torch.tensor([[3, 5, 7, 9]])
    before, _ = model.network.states(history, torch.tensor([4]), model.codewords)
    history[0, 3] = 1
    after, _ = model.network.states(history, torch.tensor([4]), model.codewords)
    assert torch.allclose(before[:3], after[:3]) and not torch.allclose(before[3], after[3])


def test_the_graph_is_that_of_the_weights(toy):
    trainer, _ = trainer_of(toy, scoring="graph", graph_neighbours=4)
    model = trainer.model.eval()
    before = model._graph_of(4)
    assert model._graph_of(4) is before and model._graph_of(5).neighbours.shape[1] == 5
    model.train()
    torch.nn.init.normal_(model.network.codewords)
    after = model.eval()._graph_of(4)
    assert not torch.equal(before.neighbours, after.neighbours)


def test_a_run_learns_and_its_checkpoint_is_searched_in_each_way(toy):
    more = {"epochs": 25, "learning_rate": 0.01, "warmup_steps": 0, "dropout_prob": 0.1, "attn_dropout_prob": 0.0}
    chosen = settings_of("RPG", toy, **more, semantic_id="pq", id_length=6, codebook_size=12)
    result = run_recbole_tiger("RPG", "toy", config_dict=chosen)
    assert result["test_result"]["recall@10"] > 0.6, result["test_result"]  # chance is .2
    checkpoint = result["files"]["checkpoint"]
    found = {}
    for scoring, own in (("exact", {}), ("graph", {"graph_neighbours": 48}), ("beam", {"beam_size": 48})):
        config, model, _, _, _, test = load_data_and_model(checkpoint, {"scoring": scoring, **own})
        found[scoring] = dict(trainer_class("RPG")(config, model).evaluate(test, load_best_model=False))
    assert found["exact"] == pytest.approx(result["test_result"], abs=1e-12)
    assert found["graph"] == pytest.approx(found["exact"], abs=1e-12)
    assert found["beam"] == pytest.approx(found["exact"], abs=1e-12)


def test_a_new_item_is_scored_by_its_own_codewords(toy, workplace):
    chosen = settings_of("RPG", toy, id_length=6, semantic_id="pq")
    recommender = Recommender.from_checkpoint(
        run_recbole_tiger("RPG", "toy", config_dict=chosen)["files"]["checkpoint"]
    )
    folder = write_catalogue(workplace / "more")
    head, *rows = (folder / "toy.item").read_text(encoding="utf-8").splitlines()
    new = rows[5].replace("i0_5\t", "fresh\t").replace("Acme", "Crest").replace("number 5", "number 11")
    (workplace / "new.item").write_text(f"{head}\n{new}\n", encoding="utf-8")
    recommender.add_items(workplace / "new.item")
    [found] = recommender.recommend([["i0_3", "i0_4"]], k=49)
    [fresh] = [each for each in found if each.item == "fresh"]
    history = torch.tensor([[recommender.find("i0_3"), recommender.find("i0_4")]])
    levels = literal_log_probabilities(recommender.model, history[0].tolist())
    expected = sum(float(each[code]) for each, code in zip(levels, fresh.codes, strict=True))
    assert fresh.new and fresh.score == pytest.approx(expected, rel=1e-4)
