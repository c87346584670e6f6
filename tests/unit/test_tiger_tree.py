"""TIGERTree: the ragged softmax is the dense masked one, probabilities sum to 1, new items count by their codewords."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from catalogue import settings_of
from dense_softmax import dense_losses, node_rows
from gradients import assert_same_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_tiger import load_data_and_model, run_recbole_tiger
from recbole_tiger.data.batches import TrainingExamples, TrainingWindows
from recbole_tiger.decoding import beam_search, exact_scores
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import prepare_data, trainer_class
from recbole_tiger.model.tiger_tree import TIGERTree
from recbole_tiger.nn import ItemTree, RowAdamW, TreeConfig, TreeNetwork, TreeStepDecoder, WeightAverage
from recbole_tiger.nn.tree import item_softmax
from recbole_tiger.nn.tree.ragged import (
    ChildBlocks,
    block_sizes,
    pair_products,
    ranges,
    segment_log_sum_exp,
    silence_sparse_warning,
)
from recbole_tiger.semantic_ids import SemanticIDTable
from recbole_tiger.tokenization import TokenizedCatalogue
from recbole_tiger.training.sequential import SequentialTrainer

SMALL = TreeConfig(
    hidden_size=8, n_layers=2, n_heads=2, inner_size=12, max_length=6, head_size=10, dropout=0.0, item_dropout=0.0
)


def catalogue(seed, n_items=60, sizes=(5, 6, 4), spread=1.0):
    """A table of random codes with collisions; a small `spread` leaves codewords unused and makes long chains."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, max(1, int(size * spread)), n_items) for size in sizes], 1)
    return SemanticIDTable.from_codes(codes, [f"i{n}" for n in range(n_items)], sizes)


def vectors_of(table):
    """Content of each item, 7 numbers; the same for an item of a table to which items were added."""
    vectors = torch.from_numpy(np.random.default_rng(4).normal(size=(len(table.codes), 7)))
    vectors[0] = 0
    return vectors


def network_of(table, **changes):
    """A network in double precision whose tables are all random, those that start at zero too."""
    torch.manual_seed(0)
    vectors = vectors_of(table) if "content_nodes" in changes else None
    tree = ItemTree(table.codes, table.level_sizes)
    network = TreeNetwork(dataclasses.replace(SMALL, **changes), tree, vectors).double()
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5)
        if name.startswith("node_tables") or name == "item_table":
            parameter.data[0] = 0
    return network.eval()


def dense_losses_of(network, table, states, items, smoothing=0.0, known=None, histories=None, seen=None):
    """The oracle's losses for a network.

    `known`: the table that it was made with, whose prefixes alone have embeddings. `histories`: with head attention,
    the states that each row has seen, `[n, d]` each. `seen`: with `repeat_bias`, the items that each row has seen.
    """
    known = table if known is None else known
    codes = torch.tensor(table.codes)[items]
    hidden, codewords, x = [], [], states
    for level, size in enumerate(table.level_sizes):
        more = (0, 0, 0, size - known.level_sizes[level])
        codewords.append(F.pad(network.output_codewords[level], more))
        hidden.append(network.heads[level](x if histories is None else x + attended(network, x, histories)))
        x = x + F.pad(network.codewords[level], more)[codes[:, level]]
    nodes = network.node_tables if network.config.node_embeddings else {}
    repeat = None if seen is None else 20 * network.repeat_weight
    content = network.content.all_items() if network.node_vectors is not None else None
    over = network.config.loss_over
    return dense_losses(hidden, codewords, nodes, table, items, over, smoothing, known, seen, repeat, content)


def attended(network, x, histories):
    """What head attention adds to rows `[N, d]`, one row and head at a time."""
    module = network.head_attention
    rows = []
    for row, seen in zip(x, histories, strict=True):
        query = module.query(row).chunk(module.n_heads)
        key, value = module.key_value(seen).chunk(2, 1)
        pairs = zip(query, key.chunk(module.n_heads, 1), value.chunk(module.n_heads, 1), strict=True)
        rows.append(torch.cat([torch.softmax(k @ q / len(q) ** 0.5, 0) @ v for q, k, v in pairs]))
    return module.out(torch.stack(rows))


# ----------------------------------------------------------------------------------------------------- the ragged parts


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=20))
def test_ranges(pairs):
    start, count = (torch.tensor([pair[i] for pair in pairs], dtype=torch.long) for i in (0, 1))
    assert ranges(start, count).tolist() == [s + j for s, c in pairs for j in range(c)]


def blocks_of(nodes, first, count):
    """Blocks of all rows at `nodes`."""
    _, *sizes = block_sizes(nodes, count[nodes], torch.ones_like(nodes, dtype=torch.bool)).tolist()
    return ChildBlocks.of(nodes, first, count, tuple(sizes))


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_blocks_pair_every_row_with_every_child_both_ways(seed):
    rng = np.random.default_rng(seed)
    count = torch.from_numpy(rng.integers(1, 6, size=rng.integers(1, 12)))
    first = count.cumsum(0) - count + 7
    nodes = torch.from_numpy(np.sort(rng.integers(0, len(count), size=rng.integers(1, 15))))
    blocks = blocks_of(nodes, first, count)
    assert blocks.child.tolist() == [int(first[n]) + j for n in sorted(set(nodes.tolist())) for j in range(count[n])]
    by_row = [
        (row, int(blocks.child[blocks.column[m]]))
        for row in range(len(nodes))
        for m in range(blocks.row_start[row], blocks.row_start[row + 1])
    ]
    assert by_row == [(row, int(first[n]) + j) for row, n in enumerate(nodes.tolist()) for j in range(count[n])]
    by_child = [
        (int(blocks.child_row[m]), int(blocks.child[child]), int(blocks.child_pair[m]))
        for child in range(len(blocks.child))
        for m in range(blocks.child_start[child], blocks.child_start[child + 1])
    ]
    assert sorted(pair for *_, pair in by_child) == list(range(len(by_row)))
    assert all(by_row[pair] == (row, child) for row, child, pair in by_child)


def test_segment_log_sum_exp_and_its_gradient():
    values = torch.tensor([1000.0, 1001.0, -3.0, 0.5, 0.25, -1e4], dtype=torch.double, requires_grad=True)
    start = torch.tensor([0, 2, 3, 6])
    ours = segment_log_sum_exp(values, start)
    theirs = torch.stack([torch.logsumexp(values[a:b], 0) for a, b in ((0, 2), (2, 3), (3, 6))])
    assert torch.allclose(ours, theirs)
    weights = torch.tensor([1.0, -2.0, 3.0], dtype=torch.double)
    gradients = [torch.autograd.grad(x @ weights, values)[0] for x in (ours, theirs)]
    assert torch.allclose(*gradients)


def test_products_of_16_bits_never_reach_the_kernel_that_cuda_lacks(monkeypatch):
    silence_sparse_warning()
    blocks = blocks_of(torch.tensor([0, 0, 2]), torch.tensor([0, 2, 3]), torch.tensor([2, 1, 3]))
    rows, children = torch.randn(3, 8).bfloat16(), torch.randn(5, 8).bfloat16()
    original, kinds = torch.sparse.sampled_addmm, set()

    def sampled_addmm(pattern, left, right, **options):
        kinds.update((pattern.dtype, left.dtype, right.dtype))
        return original(pattern, left, right, **options)

    monkeypatch.setattr(torch.sparse, "sampled_addmm", sampled_addmm)
    found = []
    for kind in (torch.bfloat16, torch.float32):
        pair = [each.to(kind, copy=True).requires_grad_() for each in (rows, children)]
        products = pair_products(*pair, blocks)
        assert products.dtype == kind
        found.append([products, *torch.autograd.grad(products.float().square().sum(), pair)])
    assert kinds == {torch.float32}
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours.float(), exact, rtol=0.03, atol=0.1)


# -------------------------------------------------------------------------------------------------- the output, exactly

SWITCHES = [
    {},
    {"node_embeddings": False},
    {"tied": True},
    {"sparse_gradients": True},
    {"label_smoothing": 0.2},
    {"loss_over": "level"},
    {"loss_over": "level", "label_smoothing": 0.1},
    {"loss_over": "level", "node_embeddings": False},
    {"content_nodes": "map"},
    {"content_nodes": "map", "loss_over": "level"},
    {"content_nodes": "map", "node_embeddings": False},
    {"content_nodes": "map", "node_embeddings": False, "loss_over": "level"},
]
TABLES = [catalogue(0), catalogue(1, spread=0.5), catalogue(2, n_items=1), catalogue(3, n_items=90, sizes=(2, 40))]


@pytest.mark.parametrize("table", TABLES, ids=["random", "sparse", "one item", "wide"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_loss_and_gradients_are_those_of_a_dense_masked_softmax(table, switches):
    network = network_of(table, **switches)
    states = torch.randn(25, 8, dtype=torch.double, requires_grad=True)
    items = torch.randint(1, table.n_items + 1, (25,))
    ours = network.loss(states, items)
    theirs = dense_losses_of(network, table, states, items, network.config.label_smoothing).mean()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-10)
    names, wanted = zip(*network.named_parameters(), strict=True)
    names, wanted = ("states", *names), (states, *wanted)
    of_ours, of_theirs = (torch.autograd.grad(x, wanted, allow_unused=True) for x in (ours, theirs))
    reached = []
    for name, a, b in zip(names, of_ours, of_theirs, strict=True):
        a, b = (torch.zeros(1, dtype=torch.double) if g is None else g.to_dense() for g in (a, b))
        assert torch.allclose(a, b, atol=1e-10), name
        if b.abs().max() > 0:
            reached.append(name)
    if table.n_items > 1:
        assert {"states", "codewords.0", "heads.1.up.weight"} <= set(reached)
        assert ("node_tables.1" in reached) == network.config.node_embeddings
    assert torch.allclose(network.log_likelihood(states, items), -dense_losses_of(network, table, states, items))


@pytest.mark.parametrize("table", TABLES, ids=["random", "sparse", "one item", "wide"])
@pytest.mark.parametrize("switches", [{}, {"content_nodes": "map"}], ids=str)
def test_probabilities_of_all_items_sum_to_1(table, switches):
    network = network_of(table, **switches)
    states = torch.randn(3, 8, dtype=torch.double)
    every = torch.arange(1, table.n_items + 1)
    likelihoods = network.log_likelihood(states.repeat_interleave(len(every), 0), every.repeat(3))
    assert torch.allclose(likelihoods.view(3, -1).exp().sum(1), torch.ones(3, dtype=torch.double))


@pytest.mark.parametrize("table", TABLES[:2], ids=["random", "sparse"])
@pytest.mark.parametrize(
    "switches",
    [{}, {"node_embeddings": False}, {"loss_over": "level"}, {"tied": True}, *SWITCHES[-4:]],
    ids=str,
)
def test_search_gives_the_likelihoods_of_training(table, switches):
    network = network_of(table, **switches).float()
    normalise = network.config.loss_over
    with torch.no_grad():
        states = torch.randn(4, 8)
        every = torch.arange(1, table.n_items + 1)
        expected = network.log_likelihood(states.repeat_interleave(len(every), 0), every.repeat(4)).view(4, -1)
        exact = exact_scores(TreeStepDecoder(network, states), network.tree.trie, normalise=normalise)[:, 1:]
        assert torch.allclose(exact, expected, atol=1e-4)
        for windows in ("ragged", "fixed"):
            found = beam_search(
                TreeStepDecoder(network, states),
                network.tree.trie,
                beam_size=table.n_items,
                normalise=normalise,
                windows=windows,
            )
            best = expected.sort(1, descending=True)
            assert torch.allclose(found.scores, best.values, atol=1e-4)
            assert (torch.gather(expected, 1, found.items - 1) - found.scores).abs().max() < 1e-4


def seen_by(network, seed=0):
    """Random histories, the states after some of their items, what is seen there, and each row's states one by one."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([3, 6, 1, 5, 2])
    history = torch.where(
        torch.arange(6) < lengths[:, None], torch.randint(1, len(network.tree.codes), (5, 6), generator=generator), 0
    )
    states, packed = network.states(history, lengths)
    rows = torch.randint(0, len(states), (12,), generator=generator)
    chosen, seen = network.at(rows, states, packed, history)
    firsts = packed.start[packed.user[rows]].tolist()
    return chosen, seen, [states[first : row + 1] for first, row in zip(firsts, rows.tolist(), strict=True)]


@pytest.mark.parametrize("switches", [{}, {"node_embeddings": False}, {"loss_over": "level"}], ids=str)
def test_head_attention_is_attention_to_each_item_seen(switches):
    table = catalogue(0)
    network = network_of(table, head_attention=True, n_heads=2, **switches)
    states, seen, histories = seen_by(network)
    assert len({len(history) for history in histories}) > 3
    items = torch.randint(1, table.n_items + 1, (len(states),))
    ours = network.loss(states, items, seen)
    theirs = dense_losses_of(network, table, states, items, histories=histories).mean()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-10)
    names, wanted = zip(*network.named_parameters(), strict=True)
    of_ours, of_theirs = (torch.autograd.grad(x, wanted, allow_unused=True, retain_graph=True) for x in (ours, theirs))
    for name, a, b in zip(names, of_ours, of_theirs, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, atol=1e-10)), name
        assert "head_attention" not in name or b.abs().max() > 0 or name.endswith("key_value.bias")
    assert ours.item() != pytest.approx(network_of(table, **switches).loss(states, items).item(), abs=1e-3)

    with torch.no_grad():  # the search, exact and by beams
        every = torch.arange(1, table.n_items + 1)
        rows = torch.arange(len(states)).repeat_interleave(len(every))
        whole = network.log_likelihood(states[rows], every.repeat(len(states)), seen.take(rows)).view(len(states), -1)
        if network.config.loss_over == "children":
            assert torch.allclose(whole.exp().sum(1), torch.ones(len(states), dtype=torch.double))
        normalise = network.config.loss_over
        exact = exact_scores(TreeStepDecoder(network, states, seen), network.tree.trie, normalise=normalise)
        assert torch.allclose(exact[:, 1:].double(), whole, atol=1e-4)
        for windows in ("ragged", "fixed"):
            decoder = TreeStepDecoder(network, states, seen)
            options = dict(beam_size=table.n_items, normalise=normalise, windows=windows)
            found = beam_search(decoder, network.tree.trie, **options)
            assert (whole.gather(1, found.items - 1) - found.scores).abs().max() < 1e-4


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"label_smoothing": 0.2},
        {"node_embeddings": False},
        {"loss_over": "level"},
        {"loss_over": "level", "node_embeddings": False},
        {"head_attention": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("table", [catalogue(4, n_items=14, sizes=(3, 2, 2)), catalogue(0)], ids=["few", "many"])
def test_repeat_bias_is_added_to_every_node_without_other_items(table, switches):
    network = network_of(table, repeat_bias=True, item_loss_weight=0.4, **switches)
    network.repeat_weight.data.mul_(0.1)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([6, 1, 6, 3, 6, 0, 6, 6])
    drawn = torch.randint(1, table.n_items + 1, (8, 6), generator=generator)
    drawn[0] = torch.arange(1, 7)
    drawn[2, 3:] = drawn[2, :3]  # an item twice is one item
    history = torch.where(torch.arange(6) < lengths[:, None], drawn, 0)
    items = torch.cat([drawn[:4, 0], torch.randint(1, table.n_items + 1, (4,), generator=generator)])
    states, seen = network.last(history, lengths)
    lists = [row[row > 0].tolist() for row in history]
    histories = None
    if network.head_attention is not None:
        whole, packed = network.states(history, lengths)
        ends = packed.start + lengths.clamp(min=1)
        histories = [whole[a:b] for a, b in zip(packed.start.tolist(), ends.tolist(), strict=True)]
    smoothing = network.config.label_smoothing
    by_item = states @ network.item_embedding(torch.arange(1, table.n_items + 1)).t()
    repeated = torch.tensor([[item in row for item in range(1, table.n_items + 1)] for row in lists])
    by_item = by_item + repeated * 20 * network.repeat_weight[table.length]
    theirs = dense_losses_of(network, table, states, items, smoothing, histories=histories, seen=lists).mean()
    theirs = theirs + 0.4 * F.cross_entropy(by_item, items - 1)
    ours = network.loss(states, items, seen)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-10)
    names, wanted = zip(*network.named_parameters(), strict=True)
    of_ours, of_theirs = (torch.autograd.grad(x, wanted, allow_unused=True, retain_graph=True) for x in (ours, theirs))
    for name, a, b in zip(names, of_ours, of_theirs, strict=True):
        a, b = (torch.zeros(1, dtype=torch.double) if g is None else g.to_dense() for g in (a, b))
        assert torch.allclose(a, b, atol=1e-10), name
    of_repeats = of_theirs[names.index("repeat_weight")]
    assert (of_repeats != 0)[-2:].all() and (table.n_items > 20 or (of_repeats != 0).sum() > 2)

    with torch.no_grad():  # the search, exact and by beams
        every = torch.arange(1, table.n_items + 1)
        assert torch.allclose(network.item_logits(states, every.expand(8, -1), seen.nodes), by_item)
        whole = torch.stack(
            [network.log_likelihood(states, torch.full((8,), item), seen) for item in every.tolist()], 1
        )
        if network.config.loss_over == "children":
            assert torch.allclose(whole.exp().sum(1), torch.ones(8, dtype=torch.double))
        normalise = network.config.loss_over
        exact = exact_scores(TreeStepDecoder(network, states, seen), network.tree.trie, normalise=normalise)
        assert torch.allclose(exact[:, 1:].double(), whole, atol=1e-4)
        for windows in ("ragged", "fixed"):
            for narrow in (table.n_items, 3):
                decoder = TreeStepDecoder(network, states, seen)
                options = dict(beam_size=narrow, normalise=normalise, windows=windows)
                found = beam_search(decoder, network.tree.trie, **options)
                assert (whole.gather(1, found.items - 1) - found.scores).abs().max() < 1e-4


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_item_cross_entropy_in_blocks_is_that_of_the_whole_matrix(rows, monkeypatch):
    monkeypatch.setitem(item_softmax._ROWS, "cpu", rows)
    generator = torch.Generator().manual_seed(0)
    states, embeddings, added = (
        torch.randn(size, generator=generator, dtype=torch.double).requires_grad_() for size in ((10, 4), (7, 4), ())
    )
    targets = torch.randint(0, 7, (10,), generator=generator)
    there = torch.rand(10, 7, generator=generator) < 0.3
    for pairs in (there.nonzero(as_tuple=True), None):
        ours = item_softmax.item_cross_entropy(states, embeddings, targets, pairs, added)
        logits = states @ embeddings.t() * 1.0
        theirs = F.cross_entropy(logits if pairs is None else logits + there * added, targets)
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
        wanted = (states, embeddings, added)[: 2 if pairs is None else 3]
        for a, b in zip(torch.autograd.grad(3 * ours, wanted), torch.autograd.grad(3 * theirs, wanted), strict=True):
            assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("switches", [{}, {"tied": True}, {"item_embeddings": False}], ids=str)
def test_item_loss_is_a_softmax_over_the_input_embeddings_of_all_items(switches):
    table = catalogue(0)
    network = network_of(table, item_loss_weight=0.7, item_dropout=0.5, **switches)
    plain = network_of(table, **switches)
    states, items = torch.randn(9, 8, dtype=torch.double), torch.randint(1, 61, (9,))
    every = network.item_embedding(torch.arange(1, 61))  # nothing is left out of it in training either
    network.train()
    expected = sum(-torch.log_softmax(every @ state, 0)[item - 1] for state, item in zip(states, items, strict=True))
    expected = plain.loss(states, items) + 0.7 * expected / len(items)
    ours = network.loss(states, items)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-10)
    ours.backward()
    assert (network.codewords[0].grad.abs().sum(1) > 0).all()
    assert network.item_table is None or (network.item_table.grad[1:].abs().sum(1) > 0).all()
    assert torch.equal(network.log_likelihood(states, items), plain.log_likelihood(states, items))


# ------------------------------------------------------------------------------------------------------------ the input


@pytest.mark.parametrize("switches", [{}, {"item_embeddings": False}, {"tied": True}], ids=str)
def test_states_see_what_came_before_and_nothing_else(switches):
    table = catalogue(0)
    network = network_of(table, **switches)
    lengths = torch.tensor([3, 6, 1, 5, 0])
    history = torch.where(torch.arange(6) < lengths[:, None], torch.randint(1, 61, (5, 6)), 0)
    states, packed = network.states(history, lengths)
    assert len(states) == 3 + 6 + 1 + 5 + 1  # an empty history is one padding item
    for user, length in enumerate(lengths.tolist()):
        for seen in range(1, length + 1):
            alone = network.last(history[user : user + 1, :seen], torch.tensor([seen]))[0]
            assert torch.allclose(states[packed.start[user] + seen - 1], alone[0])
    assert torch.allclose(network.last(history, lengths)[0][1], states[packed.start[1] + 5])
    # Order counts, and so do items with the same codewords where items have embeddings of their own.
    swapped = history[1:2, [1, 0, 2, 3, 4, 5]]
    assert not torch.allclose(network.last(swapped, lengths[1:2])[0], network.last(history[1:2], lengths[1:2])[0])


def test_item_embedding_is_codewords_and_item_and_is_dropped_per_occurrence():
    table = catalogue(0)
    network = network_of(table, item_dropout=0.3)
    items = torch.arange(1, 61)
    codewords = sum(network.codewords[level][torch.tensor(table.codes[1:, level])] for level in range(table.length))
    assert torch.allclose(network.item_embedding(items), codewords + network.item_table[1:])
    assert not network.item_embedding(torch.zeros(2, dtype=torch.long)).any()
    network.train()
    many = torch.full((4000,), 7)
    embedded = network.item_embedding(many)
    without = torch.isclose(embedded, codewords[6]).all(1)
    whole = torch.isclose(embedded, codewords[6] + network.item_table[7]).all(1)
    assert (without ^ whole).all() and without.double().mean() == pytest.approx(0.3, abs=0.03)


def test_tied_item_embedding_is_the_sum_over_its_path():
    table = catalogue(0)
    network = network_of(table, tied=True)
    assert network.item_table is None and network.output_codewords is network.codewords
    expected = sum(network.codewords[level][torch.tensor(table.codes[1:, level])] for level in range(table.length))
    for level in range(1, table.length):
        row_of = node_rows(table, level)
        numbers = [row_of.get(tuple(row), 0) for row in table.codes[1:, : level + 1].tolist()]
        expected = expected + network.node_tables[str(level)][numbers]
    assert torch.allclose(network.item_embedding(torch.arange(1, 61)), expected)


# ------------------------------------------------------------------------------------------------------------ new items


@pytest.mark.parametrize("switches", [{}, {"content_nodes": "map"}], ids=str)
def test_new_items_count_by_their_codewords_and_content_alone(switches):
    table = catalogue(0, n_items=40)
    rng = np.random.default_rng(5)
    new = np.stack([rng.integers(0, size, 30) for size in (5, 6, 4)], 1)
    new[:8] = table.codes[1, :3]  # one group of collisions outgrows the collision column
    bigger = table.add_items(new, [f"new{n}" for n in range(30)])
    assert bigger.level_sizes[-1] > table.level_sizes[-1]
    network = network_of(table, **switches)
    states = torch.randn(6, 8, dtype=torch.double)
    before = network.item_embedding(torch.arange(1, 41))
    network.use(bigger.codes, bigger.level_sizes, torch.cat([torch.arange(41), torch.zeros(30, dtype=torch.long)]))
    if switches:
        network.use_content(vectors_of(bigger))

    every = torch.arange(1, 71)
    rows = states.repeat_interleave(70, 0)
    likelihoods = network.log_likelihood(rows, every.repeat(6))
    assert torch.allclose(likelihoods, -dense_losses_of(network, bigger, rows, every.repeat(6), known=table))
    assert torch.allclose(likelihoods.view(6, -1).exp().sum(1), torch.ones(6, dtype=torch.double))
    with torch.no_grad():
        found = beam_search(TreeStepDecoder(network, states), network.tree.trie, beam_size=70, normalise="children")
    assert (found.items.sort(1).values == every).all()  # all of them, new ones too, are reached

    assert torch.allclose(network.item_embedding(torch.arange(1, 41)), before)
    for item in range(41, 71):
        there = [(level, code) for level, code in enumerate(bigger.codes[item]) if code < table.level_sizes[level]]
        expected = sum(network.codewords[level][code] for level, code in there)
        if switches:
            expected = expected + network.content(torch.tensor(item))
        assert torch.allclose(network.item_embedding(torch.tensor([item]))[0], expected)


# ------------------------------------------------------------------------------------------------- the model in RecBole


def made(toy, **more):
    config = build_config("TIGERTree", "toy", config_dict=settings_of("TIGERTree", toy, **more))
    data = prepare_data(config)
    torch.manual_seed(0)
    return config, data, TIGERTree(config, data.train._dataset)


@pytest.mark.parametrize(
    "more", [{}, {"item_loss_weight": 0, "rescore_weight": 0, "repeat_bias": False}, {"head_attention": True}], ids=str
)
def test_one_pass_has_the_gradients_of_prefix_by_prefix(toy, more):
    config, data, model = made(toy, hidden_dropout_prob=0.0, item_embedding_dropout=0.0, n_layers=2, **more)
    examples = TrainingExamples.from_dataset(data.train._dataset, config, "cpu")
    sequences = data.dataset.sequences
    windows = TrainingWindows.from_sequences(sequences, config, "cpu")
    assert_same_gradients(model, examples, windows)


def test_batches_are_plainly_random_and_whole(toy):
    config, data, model = made(toy)
    windows = trainer_class("TIGERTree")(config, model)._make_examples(data.train._dataset)
    batches = windows.batches(16, (0,))
    assert sorted(torch.cat(batches.rows).tolist()) == list(range(len(windows.n_targets)))
    spread = [np.ptp(windows.n_targets[rows.numpy()]) for rows in batches.rows[:-1]]
    assert np.mean(spread) >= np.ptp(windows.n_targets) - 1


@pytest.mark.parametrize("longest", [3, 50])
def test_history_length(toy, longest):
    config, data, model = made(toy, MAX_ITEM_LIST_LENGTH=longest)
    windows = trainer_class("TIGERTree")(config, model)._make_examples(data.train._dataset)
    [batch] = windows.batches(10**6, (0,))
    model.calculate_loss(batch).backward()
    reached = model.network.positions.grad.abs().sum(1) > 0
    in_training = int(batch["item_length"].max())
    assert len(reached) == longest and in_training == min(longest, 9)  # toy sequences of 12, less three
    assert reached[:in_training].all() and not reached[in_training:].any()
    model.eval()
    batch = next(iter(data.test))[0]
    assert int(batch["item_length"].max()) == min(longest, 11)
    found = model.recommend(None, batch["item_id_list"], batch["item_length"], 5)
    assert (found.items > 0).all()


RESCORED = {"item_loss_weight": 0.5, "rescore_weight": 0.8, "repeat_bias": False}


BARE = {"item_loss_weight": 0.0, "rescore_weight": 0.0, "repeat_bias": False}


@pytest.mark.parametrize("more", [{}, BARE, {**BARE, "head_attention": True}, RESCORED], ids=str)
def test_exact_scoring_is_a_beam_as_wide_as_the_catalogue(toy, more):
    config, data, model = made(toy, **more)
    model.eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for tables in model.network.node_tables.values():
        tables.data[0] = 0
    batch = next(iter(data.test))[0]
    arguments = (batch["user_id"], batch["item_id_list"], batch["item_length"], 48)
    seen = batch["item_id_list"][:, :3]
    wide = model.recommend(*arguments, excluded=seen, beam_size=48)
    model.scoring = "exact"
    exact = model.recommend(*arguments, excluded=seen)
    assert torch.allclose(wide.scores, exact.scores, atol=1e-4)
    assert ((wide.items == exact.items) | torch.isclose(wide.scores, exact.scores.roll(1, 1), atol=1e-4)).all()
    assert not (wide.items[:, :, None] == seen[:, None, :])[:, :40].any()
    # The model's own likelihood of one item, and the same users without their numbers.
    batch["item_id"] = exact.items[:, 0]
    assert torch.allclose(model.predict(batch), exact.scores[:, 0], atol=1e-4)
    assert torch.equal(model.recommend(None, *arguments[1:], excluded=seen).items, exact.items)


def test_what_the_beam_finds_is_ranked_by_likelihood_plus_weighted_item_logits(toy):
    _, data, model = made(toy, **RESCORED)
    _, _, plain = made(toy, **{**RESCORED, "rescore_weight": 0.0})
    model.eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for tables in (*model.network.node_tables.values(), model.network.item_table):
        tables.data[0] = 0
    plain.load_state_dict(model.state_dict())
    plain.eval()
    batch = next(iter(data.test))[0]
    arguments = (None, batch["item_id_list"], batch["item_length"])
    beam, best = plain.recommend(*arguments, 9, beam_size=9), model.recommend(*arguments, 4, beam_size=9)
    states, _ = model.forward(*arguments[1:])
    every = model.network.item_embedding(torch.arange(49))
    differs = 0
    for user, state in enumerate(states):
        score = {
            item: ll + 0.8 * float(state.detach() @ every[item].detach())
            for item, ll in zip(beam.items[user].tolist(), beam.scores[user].tolist(), strict=True)
        }
        order = sorted(score, key=score.get, reverse=True)[:4]
        assert best.items[user].tolist() == order
        assert best.scores[user].tolist() == pytest.approx([score[item] for item in order], abs=1e-4)
        differs += order != beam.items[user, :4].tolist()
    assert differs
    # What is drawn at random keeps its order.
    drawn = [
        one.recommend(*arguments, 4, sample=True, generator=torch.Generator().manual_seed(3)).items
        for one in (model, plain)
    ]
    assert torch.equal(*drawn)


def test_sampling_and_temperature(toy):
    _, data, model = made(toy)
    model.eval()
    batch = next(iter(data.test))[0]
    arguments = (None, batch["item_id_list"][:5], batch["item_length"][:5], 10)
    drawn = [
        model.recommend(*arguments, sample=True, temperature=1.5, generator=torch.Generator().manual_seed(seed)).items
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    flat = model.recommend(*arguments, temperature=1e6).scores
    assert flat.std() < model.recommend(*arguments, temperature=0.1).scores.std()


def test_items_added_to_a_trained_model(toy):
    result = run_recbole_tiger("TIGERTree", "toy", config_dict=settings_of("TIGERTree", toy))
    _, model, *_, test_data = load_data_and_model(result["files"]["checkpoint"])
    model.eval()
    table = model.prepared_ids.table
    batch = next(iter(test_data))[0]
    arguments = (None, batch["item_id_list"], batch["item_length"], 20)
    before = model.recommend(*arguments)
    bigger = table.add_items(table.codes[1:4, : table.id_length], ["new0", "new1", "new2"])
    model._use_semantic_ids(TokenizedCatalogue(table=bigger))
    after = model.recommend(*arguments[:3], 51, beam_size=51)
    assert (after.items.sort(1).values == torch.arange(1, 52)).all()
    model.recommend(None, torch.full((1, 1), table.n_items + 1), torch.ones(1, dtype=torch.long), 5)  # in a history
    # What a checkpoint then holds is still what the weights belong to.
    model.load_other_parameter(model.other_parameter())
    again = model.recommend(*arguments)
    assert torch.equal(again.items, before.items) and torch.equal(again.scores, before.scores)
    other = SemanticIDTable.from_codes(np.zeros((3, 2), dtype=np.int64), ["a", "b", "c"], (4, 4))
    with pytest.raises(ValueError, match="level sizes"):
        model._use_semantic_ids(TokenizedCatalogue(table=other))


# ----------------------------------------------------------------------------------------------------- averaged weights


def test_average_of_weights_by_its_formula():
    weight = torch.nn.Parameter(torch.tensor([9.0]))
    average = WeightAverage([weight], 0.8)
    values = [1.0, 4.0, -2.0]
    for value in values:
        weight.data = torch.tensor([value])
        average.update()
    expected = sum(0.2 * 0.8 ** (2 - s) * value for s, value in enumerate(values)) / (1 - 0.8**3)
    with average.shown(True):
        assert weight.item() == pytest.approx(expected)
        with average.shown(False):
            assert weight.item() == -2.0
        assert weight.item() == pytest.approx(expected)
    assert weight.item() == -2.0


@pytest.mark.parametrize("max_norm", [None, 0.1])
def test_row_adamw_is_adamw_where_every_row_has_a_gradient(max_norm):
    torch.manual_seed(0)
    start, other = torch.randn(6, 4, dtype=torch.double), torch.randn(4, 4, dtype=torch.double)
    tables, sides = [], []
    for sparse in (True, False):
        table, matrix = torch.nn.Parameter(start.clone()), torch.nn.Parameter(other.clone())
        options = dict(lr=0.05, weight_decay=0.1, fused=True)
        optimizer = RowAdamW([table, matrix], max_norm=max_norm, **options) if sparse else None
        tables.append((table, matrix))
        sides.append((sparse, optimizer or torch.optim.AdamW([table, matrix], **options)))
    for _ in range(5):
        rows, target = torch.cat([torch.randperm(6), torch.randint(6, (5,))]), torch.randn(11, 4, dtype=torch.double)
        for (table, matrix), (sparse, optimizer) in zip(tables, sides, strict=True):
            optimizer.zero_grad()
            ((F.embedding(rows, table, sparse=sparse) @ matrix - target) ** 2).sum().backward()
            if max_norm and not sparse:
                torch.nn.utils.clip_grad_norm_([table, matrix], max_norm)
            optimizer.step()
        for ours, theirs in zip(*tables, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)


def test_row_adamw_leaves_rows_without_gradient_alone_and_resumes():
    def steps(table, optimizer, numbers):
        for number in numbers:
            rows = torch.tensor([[0, 2], [2, 3], [0, 0], [3, 2]][number])
            optimizer.zero_grad()
            (F.embedding(rows, table, sparse=True) ** 2).sum().backward()
            optimizer.step()

    table = torch.nn.Parameter(torch.ones(5, 3))
    optimizer = RowAdamW([table], lr=0.1, weight_decay=0.5, fused=True)
    steps(table, optimizer, (0, 1))
    assert (table[[1, 4]] == 1).all() and (table[[0, 2, 3]] < 1).all()
    twin = torch.nn.Parameter(table.detach().clone())
    resumed = RowAdamW([twin], lr=0.1, weight_decay=0.5, fused=True)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(table, optimizer, (2, 3))
    steps(twin, resumed, (2, 3))
    assert torch.equal(table, twin)


def test_update_rows_trains_with_the_same_decay_and_clipping(toy):
    """Two steps on all windows, so that every row that is ever read has a gradient at both."""
    states, decays = {}, {}
    for rows in ("all", "touched"):
        more = {"ema_decay": 0.0, "weight_decay": 2.0, "learning_rate": 0.02, "train_batch_size": 10_000}
        more.update(clip_grad_norm={"max_norm": 0.3}, hidden_dropout_prob=0.0, item_embedding_dropout=0.0)
        config, data, model = made(toy, update_rows=rows, **more)
        trainer = trainer_class("TIGERTree")(config, model)
        for epoch in range(2):
            trainer._progress = (0, 0.0)
            trainer._train_epoch(data.train, epoch)
        states[rows] = model.state_dict()
        decays[rows] = [(group["weight_decay"], len(group["params"])) for group in trainer.optimizer.param_groups]
    assert decays["touched"] == decays["all"] and [decay for decay, _ in decays["all"]] == [2.0, 0.0]
    for name, value in states["all"].items():
        assert torch.allclose(states["touched"][name], value, atol=1e-5), name
    assert states["all"]["network.item_table"].any()


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "model, decay, more",
    [
        ("TIGER", 0.9, {"learner": "adafactor"}),
        ("TIGERTree", 0.9, {}),
        ("TIGERTree", 0.0, {}),
        ("TIGERTree", 0.0, {"update_rows": "touched"}),
    ],
)
def test_resumed_equals_uninterrupted_and_the_average_is_what_is_kept(toy, monkeypatch, model, decay, more):
    # torch wraps the step of a class of optimizers at its first instance; that of ours then calls the wrapped one.
    torch.optim.Adafactor([torch.nn.Parameter(torch.zeros(1))])
    chosen = settings_of(model, toy, epochs=3, ema_decay=decay, **more)
    whole = run_recbole_tiger(model, "toy", config_dict=chosen)
    files, original = {}, SequentialTrainer._fit_epoch

    def fit_epoch(self, number, *args):
        original(self, number, *args)
        files["last"] = self.last_model_file
        if number == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SequentialTrainer, "_fit_epoch", fit_epoch)
        with pytest.raises(Killed):
            run_recbole_tiger(model, "toy", config_dict=chosen)
    resumed = run_recbole_tiger(model, "toy", config_dict={**chosen, "resume": files["last"]})
    for key in ("train_loss", "valid"):
        assert [r[key] for r in resumed["history"]] == [r[key] for r in whole["history"]]
    assert resumed["test_result"] == whole["test_result"]
    one, other = (torch.load(r["files"]["last checkpoint"], weights_only=True) for r in (whole, resumed))
    for kept in ("state_dict", "trained_state_dict") if decay else ("state_dict",):
        assert all(torch.equal(one[kept][name], other[kept][name]) for name in one[kept])
    if decay:
        assert one["averaged_steps"] == one["global_step"]
        averaged, trained = one["state_dict"], one["trained_state_dict"]
        assert not any(torch.equal(averaged[name], trained[name]) for name in averaged if name.startswith("network."))
    # What is kept is what was measured, in validation as in test.
    config, loaded, *_, valid_data, test_data = load_data_and_model(whole["files"]["checkpoint"])
    trainer = trainer_class(model)(config, loaded)
    for data, result in ((valid_data, whole["best_valid_result"]), (test_data, whole["test_result"])):
        again = trainer.evaluate(data, load_best_model=False)
        assert dict(again) == pytest.approx(result, abs=1e-12)


def test_a_known_rule_is_learned(toy):
    more = {"epochs": 30, "learning_rate": 0.01, "hidden_dropout_prob": 0.0, "train_batch_size": 32, "eval_step": 30}
    chosen = settings_of("TIGERTree", toy, **{**more, "topk": [1, 5, 10], "ema_decay": 0.0})
    chosen["epochs"] = 30
    result = run_recbole_tiger("TIGERTree", "toy", config_dict=chosen)
    assert result["test_result"]["recall@1"] >= 0.95


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 18},
        {"n_layers": 0},
        {"head_size": 1.5},
        {"hidden_dropout_prob": 1.0},
        {"ema_decay": 1},
        {"item_embedding_dropout": "often"},
        {"loss_over": "all"},
        {"update_rows": "touched"},
        {"tie_embeddings": "yes"},
        {"head_attention": 2},
        {"item_loss_weight": -1},
        {"repeat_bias": "often"},
        {"content_cooccurrence": -1},
        {"rescore_weight": -1},
        {"rescore_weight": 0.5, "item_loss_weight": 0},
        {"rescore_weight": 0.5, "item_loss_weight": 1, "collision": "none"},
    ],
    ids=str,
)
def test_impossible_settings_are_named(toy, wrong):
    key = next(iter(wrong))
    with pytest.raises(ConfigError, match=key):
        build_config("TIGERTree", "toy", config_dict=settings_of("TIGERTree", toy, **wrong))
