"""TIGER's switches towards TIGERTree: off, it is the paper's; on, it is what a dense masked softmax says."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from catalogue import settings_of
from dense_softmax import dense_logits, dense_losses
from gradients import assert_same_gradients

from recbole_tiger import load_data_and_model, run_recbole_tiger
from recbole_tiger.data.batches import TrainingExamples, TrainingWindows
from recbole_tiger.data.tokens import encoder_input
from recbole_tiger.decoding import beam_search, exact_scores
from recbole_tiger.decoding.cold_start import with_unseen_items
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import prepare_data, trainer_class
from recbole_tiger.model.tiger import TIGER
from recbole_tiger.nn import ItemTree, Seq2Seq, T5Config, TreeSeq2Seq
from recbole_tiger.recommend import Recommender
from recbole_tiger.semantic_ids import SemanticIDTable
from recbole_tiger.tokenization import TokenizedCatalogue
from recbole_tiger.training.checkpoint import load_checkpoint, save_checkpoint

NEW_KEYS = (
    *("loss_over", "use_node_embeddings", "use_item_embeddings", "item_embedding_dropout"),
    *("repeat_bias", "item_loss_weight", "rescore_weight", "cross_position_bias"),
)
RESCORED = {"item_loss_weight": 0.7, "rescore_weight": 0.8}
ALL = {"loss_over": "children", "use_node_embeddings": True, "use_item_embeddings": True}
EVERYTHING = {**ALL, "repeat_bias": True, **RESCORED, "cross_position_bias": True}
STEPS = [
    {"loss_over": "children"},
    {"use_node_embeddings": True},
    {"use_item_embeddings": True},
    ALL,
    {**ALL, "likelihood": "level"},
    {"likelihood": "children", "use_node_embeddings": True},
    {"repeat_bias": True},
    RESCORED,
    {**RESCORED, "repeat_bias": True},
    {"cross_position_bias": True},
    EVERYTHING,
]


def made(toy, **more):
    """A TIGER on the toy catalogue with collision tokens, its config and its data."""
    config = build_config("TIGER", "toy", config_dict=settings_of("TIGER", toy, **{"collision": "append", **more}))
    data = prepare_data(config)
    torch.manual_seed(0)
    return config, data, TIGER(config, data.train._dataset)


def with_random_tables(model):
    """The same model with embeddings that say something, where it has any."""
    network = model.tree_network
    tables = [] if network is None else [*network.node_tables.values(), network.item_table]
    for number, table in enumerate(tables):
        if table is not None:
            torch.nn.init.normal_(table, std=0.5, generator=torch.Generator().manual_seed(number))
            table.data[0] = 0
    started = [getattr(network, name, None) for name in ("repeat_weight", "item_head")]
    if model.seq2seq.decoder.cross_bias is not None:
        started.append(model.seq2seq.decoder.cross_bias.weight)
    for parameter in started:
        if parameter is not None:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(9))
    return model


def prefixes_and_windows(config, data):
    sequences = data.dataset.sequences
    return (
        TrainingExamples.from_dataset(data.train._dataset, config, "cpu"),
        TrainingWindows.from_sequences(sequences, config, "cpu"),
    )


# ---------------------------------------------------------------------------------------------------- the paper's model


@pytest.mark.parametrize("encoder_mask", ["bidirectional", "block_causal"])
@pytest.mark.parametrize("likelihood", [None, "level", "children"])
def test_without_switches_parameters_and_losses_are_those_of_the_t5(toy, encoder_mask, likelihood):
    config, data, model = made(toy, encoder_mask=encoder_mask, likelihood=likelihood, label_smoothing=0.1)
    torch.manual_seed(0)
    t5 = Seq2Seq(model.seq2seq.config)
    assert list(model.state_dict()) == [f"seq2seq.{name}" for name in t5.state_dict()]
    assert all(torch.equal(model.state_dict()[f"seq2seq.{name}"], value) for name, value in t5.state_dict().items())
    assert isinstance(model.seq2seq, TreeSeq2Seq) == (likelihood == "children")
    assert set(model.other_parameter()) == {"semantic_ids"}

    # The loss, written out.
    model.train()
    examples, windows = prefixes_and_windows(config, data)
    batch = next(iter((examples if encoder_mask == "bidirectional" else windows).batches(16, (0,))))
    torch.manual_seed(1)
    ours = model.calculate_loss(batch)
    torch.manual_seed(1)
    memory, mask = model.encode(batch["user_id"], batch["item_id_list"])
    tokens, expected_mask = encoder_input(model.item_tokens, batch["item_id_list"], None)
    assert torch.equal(mask, expected_mask)
    if encoder_mask == "bidirectional":
        torch.manual_seed(1)
        assert torch.equal(memory, model.seq2seq.encode(tokens, mask))
        tokens = model.item_tokens[batch["item_id"]]
        hidden = model.seq2seq.decode(F.pad(tokens[:, :-1], (1, 0)), memory, mask)
    else:
        targets, context = (
            batch[name][:, : int((batch["context"] > 0).sum(1).max())] for name in ("targets", "context")
        )
        there = context > 0
        tokens = model.item_tokens[targets]
        visible = torch.arange(memory.shape[1]) < (context * model.vocabulary.length)[:, :, None]
        hidden = model.seq2seq.decode_many(F.pad(tokens[:, :, :-1], (1, 0)), memory, visible)[there]
        tokens = tokens[there]
    losses = []
    for level in range(model.vocabulary.length):
        block = model.vocabulary.level_slice(level)
        logits = F.linear(hidden[:, level] * model.seq2seq.config.d_model**-0.5, model.seq2seq.embedding.weight[block])
        losses.append(F.cross_entropy(logits, tokens[:, level] - block.start, label_smoothing=0.1))
    expected = torch.stack(losses).mean()
    if encoder_mask == "bidirectional":
        assert torch.equal(ours, expected)
    else:  # positions without a target are summed over as zeros, in another order
        assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_checkpoint_from_before_the_switches_is_read_as_it_was(toy):
    result = run_recbole_tiger("TIGER", "toy", config_dict=settings_of("TIGER", toy, likelihood="level"))
    state = load_checkpoint(result["files"]["checkpoint"])
    for key in NEW_KEYS:
        del state["config"][key]
    save_checkpoint("old.pth", {key: value for key, value in state.items() if not key.startswith("format")})
    config, model, *_, test = load_data_and_model("old.pth")
    again = trainer_class("TIGER")(config, model).evaluate(test, load_best_model=False)
    assert dict(again) == pytest.approx(result["test_result"], abs=1e-12)
    assert model.loss_over == model.likelihood == "level"
    Recommender.from_checkpoint("old.pth").recommend([["i0_3"]], 5)


def test_every_switch_starts_as_the_same_t5(toy):
    """Tables start at zero, after the T5's own weights were drawn: a step of an ablation changes one thing."""
    _, data, plain = made(toy)
    levels = [str(level) for level in range(1, plain.vocabulary.length)]
    for switches in (*STEPS, {"likelihood": "children"}):
        torch.manual_seed(0)
        config = build_config("TIGER", "toy", config_dict=settings_of("TIGER", toy, collision="append", **switches))
        state = TIGER(config, data.train._dataset).state_dict()
        assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())
        extra = {name: value for name, value in state.items() if name not in plain.state_dict()}
        assert not any(value.any() for value in extra.values())
        expected = [f"seq2seq.node_tables.{level}" for level in levels] if switches.get("use_node_embeddings") else []
        expected += ["seq2seq.item_table"] if switches.get("use_item_embeddings") else []
        expected += ["seq2seq.repeat_weight"] if switches.get("repeat_bias") else []
        expected += ["seq2seq.item_head"] if switches.get("item_loss_weight") else []
        expected += ["seq2seq.decoder.cross_bias.weight"] if switches.get("cross_position_bias") else []
        assert sorted(extra) == sorted(expected)


# ------------------------------------------------------------------------------------------------------- the output


def catalogue(seed, n_items=40, sizes=(4, 5, 3)):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, n_items) for size in sizes], 1)
    return SemanticIDTable.from_codes(codes, [f"i{n}" for n in range(n_items)], sizes)


def network_of(table, *, nodes=True, tied=True, **switches):
    """A small network in double precision with random tables."""
    torch.manual_seed(0)
    starts = 1 + np.concatenate([[0], np.cumsum(table.level_sizes)])
    slices = [slice(int(a), int(b)) for a, b in itertools.pairwise(starts)]
    config = T5Config(
        int(starts[-1]), d_model=8, d_kv=4, d_ff=12, num_heads=2, num_encoder_layers=1, num_decoder_layers=2,
        tie_word_embeddings=tied,
    )  # fmt: skip
    network = TreeSeq2Seq(
        config,
        ItemTree(table.codes, table.level_sizes),
        slices,
        node_embeddings=nodes,
        item_embeddings=True,
        item_dropout=0.0,
        **switches,
    ).double()
    for parameter in (*network.node_tables.values(), network.item_table):
        torch.nn.init.normal_(parameter, std=0.5)
        parameter.data[0] = 0
    for parameter in (network.repeat_weight, network.item_head):
        if parameter is not None:
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def output_codewords(network):
    """Per level `[V, d_model]`, what T5 multiplies a state with."""
    weight = network.embedding.weight * 8**-0.5 if network.lm_head is None else network.lm_head.weight
    return [weight[block] for block in network.level_token_slices]


@pytest.mark.parametrize("table", [catalogue(0), catalogue(1, n_items=1), catalogue(2, 70, (2, 30))], ids=[0, 1, 2])
@pytest.mark.parametrize("over", ["level", "children"])
@pytest.mark.parametrize("nodes", [False, True])
@pytest.mark.parametrize("tied, smoothing", [(True, 0.0), (True, 0.2), (False, 0.0)])
def test_loss_and_gradients_are_those_of_a_dense_masked_softmax(table, over, nodes, tied, smoothing):
    network = network_of(table, nodes=nodes, tied=tied)
    hidden = torch.randn(25, table.length, 8, dtype=torch.double, requires_grad=True)
    items = torch.randint(1, table.n_items + 1, (25,))

    def dense(smoothing):
        return dense_losses(
            hidden.unbind(1), output_codewords(network), network.node_tables, table, items, over, smoothing
        )

    ours, theirs = network.loss(hidden, items, over, smoothing), dense(smoothing).mean() / table.length
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-10)
    wanted = {
        "hidden": hidden,
        **{n: p for n, p in network.named_parameters() if "coder" not in n and n != "item_table"},
    }
    gradients = (torch.autograd.grad(x, list(wanted.values()), allow_unused=True) for x in (ours, theirs))
    for name, a, b in zip(wanted, *gradients, strict=True):
        a, b = (torch.zeros(1, dtype=torch.double) if g is None else g for g in (a, b))
        assert torch.allclose(a, b, atol=1e-10), name
        if table.n_items > 1 and not (name == "embedding.weight" and not tied):
            assert b.abs().max() > 0, name
    assert torch.allclose(network.log_likelihood(hidden, items, over), -dense(0.0))


@pytest.mark.parametrize("over", ["level", "children"])
@pytest.mark.parametrize("nodes, tied, smoothing, repeats", [
    (True, True, 0.0, True), (False, True, 0.2, True), (True, False, 0.2, True), (True, True, 0.0, False),
])  # fmt: skip
@pytest.mark.parametrize("table", [catalogue(4, n_items=14, sizes=(3, 2, 2)), catalogue(0)], ids=["few", "many"])
def test_what_was_seen_and_the_softmax_over_all_items_are_those_of_dense_matrices(
    table, over, nodes, tied, smoothing, repeats
):
    network = network_of(table, nodes=nodes, tied=tied, repeat_bias=repeats, item_head=True)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(25, table.length, 8, dtype=torch.double, generator=generator).requires_grad_()
    items = torch.randint(1, table.n_items + 1, (25,), generator=generator)
    history = torch.randint(0, table.n_items + 1, (25, 6), generator=generator)
    history[:12, 0] = items[:12]
    lists = [row[row > 0].tolist() for row in history]
    seen = network.tree.trie.exhausted(history) if repeats else None

    every = torch.arange(1, table.n_items + 1)
    codes = torch.tensor(table.codes[1:])
    of_items = sum(weight[codes[:, level]] for level, weight in enumerate(output_codewords(network)))
    of_items = of_items + network.item_table[1:] * 8**-0.5
    by_item = (hidden[:, 0] + hidden[:, 0] @ network.item_head) @ of_items.t()
    repeat = None
    if repeats:
        repeat = 20 * network.repeat_weight
        by_item = by_item + torch.tensor([[item in row for item in every.tolist()] for row in lists]) * repeat[-1]
    by_level = dense_losses(
        hidden.unbind(1), output_codewords(network), network.node_tables, table, items, over, smoothing,
        seen=lists if repeats else None, repeat=repeat,
    )  # fmt: skip
    theirs = (by_level.mean() + 0.4 * F.cross_entropy(by_item, items - 1)) / table.length
    ours = network.loss(hidden, items, over, smoothing, seen, 0.4)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-10)
    wanted = {"hidden": hidden, **{n: p for n, p in network.named_parameters() if "coder" not in n}}
    gradients = (
        torch.autograd.grad(x, list(wanted.values()), allow_unused=True, retain_graph=True) for x in (ours, theirs)
    )
    for name, a, b in zip(wanted, *gradients, strict=True):
        a, b = (torch.zeros(1, dtype=torch.double) if g is None else g for g in (a, b))
        assert torch.allclose(a, b, atol=1e-10), name
        assert b.abs().max() > 0 or (name == "embedding.weight" and not tied), name
    assert torch.allclose(network.item_logits(network.item_state(hidden[:, 0]), every.expand(25, -1), seen), by_item)


def likelihoods_of_all_items(model, batch, n_users):
    """`[n_users, n_items]` by teacher forcing, one row for each user and item."""
    every = torch.arange(1, model.n_items)
    rows = torch.arange(n_users).repeat_interleave(len(every))
    one = {name: batch[name][rows] for name in ("user_id", "item_id_list", "item_length")}
    with torch.no_grad():
        return model.predict({**one, "item_id": every.repeat(n_users)}).view(n_users, -1)


@pytest.mark.parametrize(
    "encoder_mask, switches", [*(("bidirectional", step) for step in STEPS), ("block_causal", EVERYTHING)], ids=str
)
def test_search_exact_scores_and_teacher_forcing_agree(toy, encoder_mask, switches):
    _, data, model = made(toy, encoder_mask=encoder_mask, user_buckets=5, **switches)
    with_random_tables(model).eval()
    batch = next(iter(data.test))[0]
    likelihoods = likelihoods_of_all_items(model, batch, 6)
    expected = switches.get("likelihood") or switches.get("loss_over", "level")
    assert model.likelihood == expected
    total = likelihoods.exp().sum(1)
    if not model.rescore_weight:
        assert torch.allclose(total, torch.ones(6), atol=1e-4) if expected == "children" else (total < 1).all()
    arguments = [batch[name][:6] for name in ("user_id", "item_id_list", "item_length")]
    seen = arguments[1][:, :3]
    for scoring in ("beam", "exact"):
        model.scoring = scoring
        found = model.recommend(*arguments, 48, beam_size=48)
        assert (found.items.sort(1).values == torch.arange(1, 49)).all()
        assert (likelihoods.gather(1, found.items - 1) - found.scores).abs().max() < 1e-4
        assert torch.equal(found.scores, found.scores.sort(1, descending=True).values)
        rest = model.recommend(*arguments, 48, beam_size=48, excluded=seen)
        assert not (rest.items[:, :, None] == seen[:, None, :])[:, :45].any()
    with torch.no_grad():
        if model.rescore_weight:
            rescored, model.rescore_weight = model.rescore_weight, 0.0
            logits = (likelihoods - likelihoods_of_all_items(model, batch, 6)) / rescored
            state = model.forward(batch[:6], batch["item_id"][:6])[:, 0]
            network = model.tree_network
            emptied = network.tree.trie.exhausted(arguments[1]) if model.repeat_bias else None
            every = torch.arange(1, 49).expand(6, -1)
            expected_logits = network.item_logits(network.item_state(state), every, emptied)
            assert torch.allclose(logits, expected_logits, atol=1e-4)
            likelihoods = likelihoods - rescored * logits
        decoders = [model.step_decoder(*arguments) for _ in range(3)]
        fixed = [beam_search(d, model.trie, beam_size=9, windows=w) for d, w in zip(decoders, ("ragged", "fixed"))]  # noqa: B905
        assert torch.equal(fixed[0].items, fixed[1].items)
        assert torch.allclose(
            exact_scores(decoders[2], model.trie, normalise=model.likelihood, max_rows=7)[:, 1:], likelihoods, atol=1e-4
        )


def test_unconstrained_ids_are_those_of_a_dense_softmax(toy):
    _, data, model = made(toy, **ALL)
    with_random_tables(model).eval()
    network, table = model.tree_network, model.prepared_ids.table
    batch = next(iter(data.test))[0]
    arguments = [batch[name][:3] for name in ("user_id", "item_id_list", "item_length")]
    ids = torch.tensor(list(itertools.product(*(range(size) for size in table.level_sizes))))
    with torch.no_grad():
        memory, mask = model.encode(*arguments[:2])
        tokens = ids + torch.tensor(model.vocabulary.offsets)
        scores = []
        for user in range(3):
            rows = torch.full((len(ids),), user)
            hidden = network.decode(F.pad(tokens[:, :-1], (1, 0)), memory[rows], mask[rows])
            total = 0.0
            for level in range(table.length):
                weight = network.embedding.weight[model.levels[level]] * network.config.d_model**-0.5
                logits, _ = dense_logits(
                    hidden[:, level], weight, network.node_tables, level, ids[:, :level].tolist(), table, table
                )
                total = total + F.log_softmax(logits, -1).gather(1, ids[:, level, None]).squeeze(1)
            scores.append(total)
        scores = torch.stack(scores)
    found = model.generate_ids(*arguments, 30, beam_size=len(ids))
    best = scores.topk(30, dim=1)
    assert torch.allclose(found.scores, best.values, atol=1e-4)
    index = (found.codes * torch.tensor([table.level_sizes[1] * table.level_sizes[2], table.level_sizes[2], 1])).sum(2)
    assert torch.allclose(scores.gather(1, index), found.scores, atol=1e-4)
    assert not found.valid.all() and found.valid.any()


# -------------------------------------------------------------------------------------------------------- the input


def test_adafactor_takes_steps_of_some_size_from_zero(toy):
    """Relative to a size of zero they would be 1e-3 of the rate: a table would hardly move in a thousand steps."""
    config, data, model = made(toy, learner="adafactor", learning_rate=0.01, weight_decay=0.0, **EVERYTHING)
    trainer = trainer_class("TIGER")(config, model)
    started = {name: value.detach().clone() for name, value in model.named_parameters()}
    grouped = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(started)
    examples, _ = prefixes_and_windows(config, data)
    model.calculate_loss(next(iter(examples.batches(64, (0,))))).backward()
    trainer.optimizer.step()
    zeros = {name for name, value in started.items() if not value.any()}
    parts = ("node_tables.1", "node_tables.2", "item_table", "repeat_weight", "item_head", "decoder.cross_bias.weight")
    assert zeros == {f"seq2seq.{part}" for part in parts}
    for name, value in model.named_parameters():
        size = (value - started[name]).square().mean().sqrt().item()
        if name in zeros:
            assert 0.2e-3 < size < 1.01e-3, name  # 0.01 times 0.1; less where rows have no gradient
        else:
            assert 0 < size < 1.01e-2 * max(started[name].square().mean().sqrt().item(), 1e-3), name


@pytest.mark.parametrize("user_buckets", [0, 5])
def test_an_items_embedding_is_added_to_each_of_its_tokens(toy, user_buckets):
    _, _, model = made(toy, use_item_embeddings=True, user_buckets=user_buckets)
    with_random_tables(model).eval()
    network = model.tree_network
    history = torch.tensor([[5, 9, 5], [7, 0, 0]])
    users = model.user_tokens[torch.tensor([1, 2])] if user_buckets else None
    tokens, _ = encoder_input(model.item_tokens, history, users)
    embeds = network.embed_history(tokens, history)
    first = int(user_buckets > 0)
    for user, place in itertools.product(range(2), range(tokens.shape[1])):
        own = 0 if place < first else network.item_table[history[user, (place - first) // model.vocabulary.length]]
        assert torch.allclose(embeds[user, place], network.embedding.weight[tokens[user, place]] + own)
    whole, _ = model.encode(torch.tensor([1, 2]), history)
    network.item_table.data[9] += 1
    changed, _ = model.encode(torch.tensor([1, 2]), history)
    assert not torch.allclose(whole[0], changed[0]) and torch.equal(whole[1], changed[1])
    model.encode(None, torch.zeros((2, 0), dtype=torch.long))  # empty histories


def test_item_embeddings_are_dropped_per_occurrence_in_training(toy):
    _, _, model = made(toy, use_item_embeddings=True, item_embedding_dropout=0.3)
    network = with_random_tables(model).tree_network
    history = torch.full((200, 20), 7)
    tokens, _ = encoder_input(model.item_tokens, history, None)
    model.train()
    added = (network.embed_history(tokens, history) - network.embed(tokens)).view(200, 20, model.vocabulary.length, -1)
    there = torch.isclose(added, network.item_table[7], atol=1e-5).all(3)
    assert (there | (added.abs().amax(3) < 1e-5)).all()
    assert (there == there[:, :, :1]).all()  # all tokens of an occurrence, or none
    assert there[:, :, 0].float().mean().item() == pytest.approx(0.7, abs=0.03)
    agree = (there[:, 1:, 0] == there[:, :-1, 0]).float().mean().item()
    assert agree == pytest.approx(0.7**2 + 0.3**2, abs=0.04)  # each occurrence by itself
    model.eval()
    again = network.embed_history(tokens, history) - network.embed(tokens)
    assert torch.allclose(again, network.item_table[7].expand_as(again), atol=1e-5)


@pytest.mark.parametrize(
    "switches",
    [ALL, {"use_node_embeddings": True}, {"repeat_bias": True}, {"cross_position_bias": True}, EVERYTHING],
    ids=str,
)
def test_one_pass_has_the_gradients_of_prefix_by_prefix(toy, switches):
    more = {"encoder_mask": "block_causal", "dropout_rate": 0.0, "item_embedding_dropout": 0.0, "user_buckets": 5}
    config, data, model = made(toy, **more, **switches)
    with_random_tables(model)
    examples, windows = prefixes_and_windows(config, data)
    assert_same_gradients(model, examples, windows)


# ------------------------------------------------------------------------------------------------- runs and new items


def test_a_run_with_all_switches_resumes_and_its_checkpoint_loads(toy, monkeypatch):
    more = {**EVERYTHING, "epochs": 2, "dropout_rate": 0.1, "item_embedding_dropout": 0.5, "learner": "adafactor"}
    chosen = settings_of("TIGER", toy, **more)
    whole = run_recbole_tiger("TIGER", "toy", config_dict=chosen)
    original, files = trainer_class("TIGER")._fit_epoch, {}

    class Killed(Exception):
        pass

    def fit_epoch(self, number, *args):
        original(self, number, *args)
        files["last"] = self.last_model_file
        if number == 0:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer_class("TIGER"), "_fit_epoch", fit_epoch)
        run_recbole_tiger("TIGER", "toy", config_dict=chosen)
    resumed = run_recbole_tiger("TIGER", "toy", config_dict={**chosen, "resume": files["last"]})
    assert [r["train_loss"] for r in resumed["history"]] == [r["train_loss"] for r in whole["history"]]
    assert resumed["test_result"] == whole["test_result"]
    config, model, *_, test = load_data_and_model(whole["files"]["checkpoint"])
    again = trainer_class("TIGER")(config, model).evaluate(test, load_best_model=False)
    assert dict(again) == pytest.approx(whole["test_result"], abs=1e-12)
    assert model.seq2seq.item_table.any() and model.seq2seq.node_tables["1"].any()
    assert not model.seq2seq.item_table[0].any() and not model.seq2seq.node_tables["1"][0].any()


def test_new_items_have_no_embeddings_and_are_found_by_their_codewords(toy):
    config, data, model = made(toy, **ALL)
    with_random_tables(model).eval()
    trained, known = model.prepared_ids, model.prepared_ids.table
    batch = next(iter(data.test))[0]
    arguments = [batch[name][:4] for name in ("user_id", "item_id_list", "item_length")]
    before = model.recommend(*arguments, 10)
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 20) for size in known.level_sizes[:-1]], 1)
    codes[:4] = known.codes[1:5, : known.id_length]  # on the ID of an item of the catalogue, or beside it
    bigger = with_unseen_items(known, codes, [f"new{n}" for n in range(20)])
    model._use_semantic_ids(TokenizedCatalogue(table=bigger))
    network = model.tree_network

    items = torch.arange(1, 69)
    with torch.no_grad():
        memory, mask = model.encode(*arguments[:2])
        likelihoods = []
        for user in range(4):
            rows = torch.full((68,), user)
            targets = F.pad(model.item_tokens[items][:, :-1], (1, 0))
            hidden = network.decode(targets, memory[rows], mask[rows])
            weight = network.embedding.weight * network.config.d_model**-0.5
            codewords = [weight[block] for block in model.levels]
            losses = dense_losses(
                hidden.unbind(1), codewords, network.node_tables, bigger, items, "children", known=known
            )
            likelihoods.append(-losses)
        likelihoods = torch.stack(likelihoods)
    for scoring in ("beam", "exact"):
        model.scoring = scoring
        found = model.recommend(*arguments, 68, beam_size=68)
        assert (found.items.sort(1).values == items).all()
        assert (likelihoods.gather(1, found.items - 1) - found.scores).abs().max() < 1e-4
    # In a history a new item is its codewords.
    history = torch.tensor([[3, 60]])
    tokens, _ = encoder_input(model.item_tokens, history, None)
    added = (network.embed_history(tokens, history) - network.embed(tokens)).view(2, known.length, -1)
    assert torch.allclose(added[0], network.item_table[3].expand_as(added[0]), atol=1e-6) and not added[1].any()
    # What a checkpoint then holds is still what the weights belong to.
    model.scoring = "beam"
    model.load_other_parameter(model.other_parameter())
    again = model.recommend(*arguments, 10)
    assert torch.equal(again.items, before.items) and torch.equal(again.scores, before.scores)
    model._use_semantic_ids(trained)


def test_the_recommend_command_takes_new_items(toy, workplace):
    more = {**ALL, "epochs": 3, "learning_rate": 0.01, "user_buckets": 3, "encoder_mask": "block_causal"}
    more["content_cooccurrence"] = 0.0  # the same text then is the same prefix
    result = run_recbole_tiger("TIGER", "toy", config_dict=settings_of("TIGER", toy, **more))
    recommender = Recommender.from_checkpoint(result["files"]["checkpoint"])
    [before] = recommender.recommend([["i0_3", "i0_4"]], 10)
    twin = before[0]
    row = next(line for line in (workplace / "data/toy/toy.item").read_text().splitlines() if twin.item in line)
    head = "item_id:token\ttitle:token\tcategories:token_seq\tbrand:token"
    (workplace / "new.item").write_text(head + "\n" + row.replace(twin.item, "n1") + "\n")
    assert recommender.add_items("new.item") == 1
    [found] = recommender.recommend([["i0_3", "i0_4"]], 10)
    assert twin.item in {r.item for r in found} and "n1" in {r.item for r in found[:3]}
    assert recommender.recommend([["n1"]], 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss_over": "all"},
        {"likelihood": "all"},
        {"use_node_embeddings": "yes"},
        {"use_item_embeddings": 2},
        {"item_embedding_dropout": 1.0},
        {"item_embedding_dropout": "often"},
        {"label_smoothing": 1.0},
        {"repeat_bias": "often"},
        {"cross_position_bias": "often"},
        {"item_loss_weight": -1},
        {"rescore_weight": 0.5},
        {"rescore_weight": 0.5, "item_loss_weight": 1, "collision": "none"},
    ],
    ids=str,
)
def test_impossible_settings_are_named(toy, wrong):
    key, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{key}={value!r}"):
        build_config("TIGER", "toy", config_dict=settings_of("TIGER", toy, **wrong))
