"""Item content beside Semantic IDs: with a zero map nothing changes, and new items count by their codes and text."""

import dataclasses

import numpy as np
import pytest
import torch
from catalogue import settings_of
from recbole.data.interaction import Interaction

from recbole_tiger import load_data_and_model, run_recbole_tiger
from recbole_tiger.content import ItemVectors
from recbole_tiger.decoding.cold_start import UnseenItems, with_unseen_items
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import make_trainer, prepare_data, trainer_class
from recbole_tiger.recommend import Recommender
from recbole_tiger.training.checkpoint import load_checkpoint

SWITCHES = {
    "TIGERTree": {"semantic_id": "hierarchical_kmeans"},
    "TIGER": {
        "loss_over": "children", "use_node_embeddings": True, "use_item_embeddings": True, "item_loss_weight": 1.0,
        "rescore_weight": 1.0, "encoder_mask": "block_causal",
    },
}  # fmt: skip


def made(toy, model, **more):
    config = build_config(model, "toy", config_dict=settings_of(model, toy, **{**SWITCHES[model], **more}))
    data = prepare_data(config)
    return config, data, make_trainer(config, data)


def randomised(model):
    """A model with tables and a map that are not near zero, rows of padding apart."""
    network = model.tree_network
    torch.manual_seed(1)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    for table in (*network.node_tables.values(), network.item_table):
        table.data[0] = 0
    return model.eval()


def arguments_of(data):
    batch = next(iter(data.test))[0]
    return [batch[name][:6] for name in ("user_id", "item_id_list", "item_length")]


def test_vectors_are_standardised_halves_and_new_ones_have_the_catalogues_scale():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(3, 5, (40, 6))
    embeddings[:, 2] = 0.7  # does not vary
    vectors = ItemVectors.fit(embeddings)
    deviation = embeddings.std(0)
    deviation[2] = 1
    expected = (embeddings - embeddings.mean(0)) / deviation
    assert vectors.rows.dtype == torch.float16 and not vectors.rows[0].any()
    assert np.allclose(vectors.rows[1:], expected, atol=2e-3) and not vectors.rows[:, 2].any()
    new = rng.normal(0, 1, (3, 6))
    more = ItemVectors.from_state_dict(vectors.state_dict()).with_new(new)
    assert torch.equal(more.rows[:41], vectors.rows)
    assert np.allclose(more.rows[41:], (new - embeddings.mean(0)) / deviation, atol=4e-3)
    assert torch.isfinite(vectors.with_new(new * 1e9).rows).all()


@pytest.mark.parametrize("nodes", [False, "map"])
@pytest.mark.parametrize("model", SWITCHES)
def test_with_a_zero_map_training_and_lists_are_those_without_content(toy, model, nodes):
    losses, found = [], []
    for use_content in (False, True):
        config, data, trainer = made(toy, model, use_content=use_content, use_content_nodes=use_content and nodes)
        if use_content:
            torch.nn.init.zeros_(trainer.model.tree_network.content.weight).requires_grad_(False)
        torch.manual_seed(3)
        losses.append(trainer._train_epoch(data.train, 0))
        trainer.model.eval()
        result = trainer.model.recommend(*arguments_of(data), 10)
        found.append((result.items.tolist(), result.scores.tolist()))
    assert losses[0] == losses[1] and found[0] == found[1]


@pytest.mark.parametrize("model", SWITCHES)
def test_the_map_of_the_vector_is_a_part_of_the_items_embedding_everywhere(toy, model):
    _, data, trainer = made(toy, model, use_content=True, use_content_nodes=False)
    network = randomised(trainer.model).tree_network
    items = torch.arange(0, 49)
    mapped = network.content.vectors.float() @ network.content.weight.t()
    assert len(mapped) == 49 and mapped[1:].std() > 0.1 and not mapped[0].any()
    with_text = network.whole_item_embedding(items)
    beside = network.beside_codewords(items)
    assert torch.allclose(beside, network.item_table + mapped, atol=1e-6)
    scores = trainer.model.recommend(*arguments_of(data), 10).scores
    network.item_table.data += mapped  # an oracle that has no map
    torch.nn.init.zeros_(network.content.weight)
    assert torch.allclose(network.whole_item_embedding(items), with_text, atol=1e-5)
    assert torch.allclose(trainer.model.recommend(*arguments_of(data), 10).scores, scores, atol=1e-4)


@pytest.mark.parametrize("nodes", [False, "map"])
@pytest.mark.parametrize("model", SWITCHES)
def test_probabilities_of_all_items_still_sum_to_1_and_are_those_of_training(toy, model, nodes):
    more = {"use_content_nodes": nodes, "scoring": "exact", "rescore_weight": 0.0}
    config, data, trainer = made(toy, model, use_content=True, **more)
    found = randomised(trainer.model).recommend(*arguments_of(data), 48)
    assert torch.allclose(found.scores.exp().sum(1), torch.ones(6), atol=1e-4)
    batch = next(iter(data.test))[0][:6]
    for rank in (0, 20):
        batch.update(Interaction({"item_id": found.items[:, rank]}))
        assert torch.allclose(trainer.model.predict(batch), found.scores[:, rank], atol=1e-4)


def test_gradients_reach_the_map_from_input_and_output(toy):
    for item_loss_weight, rescore_weight in ((0.0, 0.0), (1.0, 1.0)):
        more = {"item_loss_weight": item_loss_weight, "rescore_weight": rescore_weight}
        _, data, trainer = made(toy, "TIGERTree", use_content=True, **more)
        before = trainer.model.network.content.weight.detach().clone()
        trainer._train_epoch(data.train, 0)
        assert (trainer.model.network.content.weight - before).abs().max() > 1e-4


@pytest.mark.parametrize("over", ["children", "level"])
def test_text_in_the_tree_trains_in_16_bits(toy, over):
    """As a T5 trains on CUDA, where bf16 is the default."""
    losses = []
    for enabled in (False, True):
        _, data, trainer = made(toy, "TIGER", use_content=True, use_content_nodes="map", loss_over=over)
        model = randomised(trainer.model)
        batch = next(iter(data.train))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model.calculate_loss(batch)
        loss.backward()
        assert model.tree_network.content.weight.grad.abs().max() > 0
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[1] != losses[0]


def test_nodes_may_start_at_the_mean_of_the_vectors_below_them(toy):
    _, data, trainer = made(toy, "TIGERTree", use_content=True, use_content_nodes=True)
    network = trainer.model.network
    table, vectors = trainer.model.trained_ids.table, network.content.vectors.float()
    started = 0
    for level, nodes in network.node_tables.items():
        depth = int(level) + 1
        for item in range(1, 49):
            below = (table.codes[1:, :depth] == table.codes[item, :depth]).all(1).nonzero()[0] + 1
            row = int(network.tree.node_rows[int(level)][network.tree.paths[item, int(level)]])
            expected = network.content.weight @ vectors[below].mean(0) if row else torch.zeros(len(nodes[0]))
            assert torch.allclose(nodes[row], expected, atol=1e-6)
            started += row > 0
    assert started


def test_a_checkpoint_holds_the_vectors_and_a_run_without_content_none(toy, workplace):
    runs = {}
    for use_content in (False, True):
        settings = settings_of("TIGERTree", toy, use_content=use_content, epochs=2)
        runs[use_content] = run_recbole_tiger("TIGERTree", "toy", config_dict=settings)
    state = load_checkpoint(runs[False]["files"]["checkpoint"])
    assert "vectors" not in state["other_parameter"]["semantic_ids"]
    path = runs[True]["files"]["checkpoint"]
    state = load_checkpoint(path)
    assert state["other_parameter"]["semantic_ids"]["vectors"]["rows"].dtype == torch.float16
    assert not any("vectors" in name for name in state["state_dict"])
    config, model, _, _, _, test = load_data_and_model(path)
    again = trainer_class("TIGERTree")(config, model).evaluate(test, load_best_model=False)
    assert dict(again) == pytest.approx(runs[True]["test_result"], abs=1e-12)


@pytest.mark.parametrize("model", SWITCHES)
def test_new_items_count_by_their_codes_and_text_alone(toy, model):
    _, data, trainer = made(toy, model, use_content=True, use_content_nodes="map")
    recommender = randomised(trainer.model)
    network, trained = recommender.tree_network, recommender.trained_ids
    known = trained.table
    before = recommender.recommend(*arguments_of(data), 10)
    codes = known.codes[[7, 7, 9], : known.id_length]
    rows = torch.cat([trained.content_rows, trained.content_rows[[7, 12, 9]]])
    table = with_unseen_items(known, codes, ["new0", "new1", "new2"])
    vectors = dataclasses.replace(trained.vectors, rows=rows)
    recommender._use_semantic_ids(dataclasses.replace(trained, table=table, vectors=vectors))
    beside = network.beside_codewords(torch.tensor([49, 50, 51]))
    expected = rows[49:].float() @ network.content.weight.t()
    assert torch.allclose(beside, expected, atol=1e-6) and not torch.allclose(beside[0], beside[1])
    # Whatever the embeddings of items are, the score of a new one does not depend on them.
    state = torch.randn(1, beside.shape[1])
    logits = network.item_logits(state, torch.tensor([[49, 50, 51, 7]]))
    network.item_table.data[1:] += 1
    changed = network.item_logits(state, torch.tensor([[49, 50, 51, 7]]))
    assert torch.equal(logits[:, :3], changed[:, :3]) and not torch.equal(logits[:, 3:], changed[:, 3:])
    network.item_table.data[1:] -= 1
    recommender.load_other_parameter(recommender.other_parameter())
    again = recommender.recommend(*arguments_of(data), 10)
    assert torch.equal(again.items, before.items) and torch.allclose(again.scores, before.scores, atol=1e-5)


@pytest.mark.parametrize("model", SWITCHES)
def test_unseen_items_with_the_same_codewords_are_ranked_by_their_text(toy, model):
    _, data, trainer = made(toy, model, use_content=True, decode_batch_size=4)  # of six users, so two parts
    recommender = randomised(trainer.model)
    trained = recommender.trained_ids
    known, rng = trained.table, np.random.default_rng(0)
    codes = known.codes[[3, 3, 3, 9, 20, 20], : known.id_length]
    table = with_unseen_items(known, codes, [f"new{n}" for n in range(6)])
    recommender._use_semantic_ids(trained.with_table(table, rng.normal(size=(6, 16))))
    unseen = UnseenItems(table, 48)
    found = recommender.recommend(*arguments_of(data), 54, beam_size=54, beside=unseen.beside(9, tells_apart=True))
    recommender.rescore_weight = 0.0
    predicted = recommender.recommend(*arguments_of(data), 54, beam_size=54)
    recommender.rescore_weight = 1.0
    listed = unseen.candidates(predicted, 9)
    users, history, lengths = arguments_of(data)
    decoder = recommender.step_decoder(users, history, lengths)
    decoder.begin()
    for user in range(6):
        of_user = {i: s for i, s in zip(listed.items[user].tolist(), listed.scores[user].tolist(), strict=True) if i}
        logits = decoder.item_logits(torch.tensor([list(of_user)] * 6))[user].tolist()
        score = {item: of_user[item] + logit for item, logit in zip(of_user, logits, strict=True)}
        ranked = dict(zip(found.items[user, :54].tolist(), found.scores[user, :54].tolist(), strict=True))
        assert ranked == pytest.approx(score, abs=1e-4) and len(score) == 54
        assert list(ranked.values()) == sorted(ranked.values(), reverse=True)
        assert len({ranked[item] for item in (49, 50, 51)}) == 3  # which have the same codewords


def test_a_new_item_comes_with_its_text_from_a_checkpoint_alone(toy, workplace):
    result = run_recbole_tiger("TIGERTree", "toy", config_dict=settings_of("TIGERTree", toy, use_content=True))
    recommender = Recommender.from_checkpoint(result["files"]["checkpoint"])
    items = (workplace / "data/toy/toy.item").read_text().splitlines()
    twin = items[5].split("\t")[0]
    rows = [items[0], items[5].replace(twin, "n1"), items[9].replace(items[9].split("\t")[0], "n2")]
    (workplace / "data/toy/toy.item").unlink()
    (workplace / "new.item").write_text("\n".join(rows[:2]) + "\n")
    (workplace / "more.item").write_text("\n".join([rows[0], rows[2]]) + "\n")
    assert recommender.add_items("new.item") == recommender.add_items("more.item") == 1
    vectors = recommender.model.network.content.vectors
    number = recommender.find(twin)
    assert (
        len(vectors) == 51 and torch.equal(vectors[49], vectors[number]) and not torch.equal(vectors[49], vectors[50])
    )
    [found] = recommender.recommend([["i0_3", "i0_4"]], 48)
    assert {r.item for r in found if r.new} and len({r.score for r in found}) == len(found)
    assert recommender.recommend([["n1", "n2"]], 3)


@pytest.mark.parametrize("semantic_id", ["random", "file"])
def test_ids_that_need_no_text_go_with_content_too(toy, workplace, semantic_id):
    items = [f"i{cycle}_{step}" for cycle in range(2) for step in range(24)]
    (workplace / "ids.json").write_text(str({item: [n % 8, n // 8] for n, item in enumerate(items)}).replace("'", '"'))
    more = {"semantic_id": semantic_id, "semantic_id_file": str(workplace / "ids.json"), "codebook_size": 8}
    config = build_config("TIGERTree", "toy", config_dict=settings_of("TIGERTree", toy, use_content=True, **more))
    prepared = prepare_data(config).dataset.semantic_ids
    assert prepared.content_rows.shape == (49, 16) and len(prepared.sentences) == 48


def test_a_start_of_nodes_that_are_not_there_is_refused(toy):
    settings = settings_of("TIGERTree", toy, use_content=True, use_content_nodes=True, use_node_embeddings=False)
    with pytest.raises(ConfigError, match="use_content_nodes=True with use_node_embeddings=False"):
        build_config("TIGERTree", "toy", config_dict=settings)
