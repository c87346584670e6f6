"""LETTER's tokenizer: balanced clusters against every assignment, its losses written out, codes that follow users."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from catalogue import settings_of

from recbole_tiger import register_tokenizer, run_recbole_tiger
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import prepare_data
from recbole_tiger.quantization import LETTER, quantizer_from_state_dict
from recbole_tiger.quantization.codebooks import quantize
from recbole_tiger.quantization.letter import (
    LETTERTraining,
    alignment_loss,
    assign_within,
    balanced_kmeans,
    bounds,
    diversity_loss,
)
from recbole_tiger.training.checkpoint import load_checkpoint

SMALL = {
    "id_length": 2,
    "codebook_size": 8,
    "hidden_sizes": [40],
    "latent_dim": 33,
    "batch_size": 80,
    "random_state": 1,
}


@pytest.fixture()
def x():
    rng = np.random.default_rng(2)
    centers = 2 * rng.standard_normal((12, 34))
    return (centers[rng.integers(12, size=160)] + rng.standard_normal((160, 34))).astype(np.float32)


@pytest.mark.parametrize(("least", "most"), [(0, 7), (1, 3), (2, 3), (2, 4)])
def test_the_assignment_is_the_best_of_all_within_the_bounds(least, most):
    rng = np.random.default_rng(least)
    for _ in range(5):
        distances = rng.random((7, 3))
        kept = [
            sum(distances[row, cluster] for row, cluster in enumerate(clusters))
            for clusters in itertools.product(range(3), repeat=7)
            if all(least <= clusters.count(cluster) <= most for cluster in range(3))
        ]
        found = assign_within(distances, least, most)
        assert all(least <= size <= most for size in np.bincount(found, minlength=3))
        assert distances[np.arange(7), found].sum() == pytest.approx(min(kept))
    with pytest.raises(ValueError, match="7 rows cannot be divided among 3 clusters of 3 to 4"):
        assign_within(distances, 3, 4)


def test_balanced_clusters_of_lopsided_rows():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(np.concatenate([rng.standard_normal((50, 4)), 9 + rng.standard_normal((6, 4))])).float()
    assert bounds(56, 4) == (7, 28)
    inertia = [balanced_kmeans(x, 4, np.random.default_rng(3), 7, 28, turns).inertia for turns in (1, 2, 10)]
    assert inertia[0] > inertia[1] >= inertia[2]
    found = balanced_kmeans(x, 4, np.random.default_rng(3), 7, 28)
    sizes = torch.bincount(found.codes, minlength=4)
    assert sizes.min() >= 7 and sizes.max() <= 28  # the six rows apart are no cluster of their own
    means = torch.stack([x[found.codes == cluster].mean(0) for cluster in range(4)])
    assert torch.allclose(means, found.centroids, atol=1e-5)


def test_losses_are_those_of_the_formulas():
    generator = torch.Generator().manual_seed(0)
    z, h = torch.randn(6, 3, generator=generator), torch.randn(6, 3, generator=generator)
    h[2] = 0  # an item of which nothing is known
    own = [i for i in range(6) if i != 2]
    literal = [-torch.log(torch.exp(z[i] @ h[i]) / sum(torch.exp(z[i] @ h[j]) for j in own)) for i in own]
    assert float(alignment_loss(z, h)) == pytest.approx(float(sum(literal) / 5), rel=1e-5)

    e, codes, positive = torch.randn(5, 3, generator=generator), [0, 0, 3, 4], [2, 1, 0, 3, 1]
    spread = [torch.exp(e[c] @ e[positive[c]]) / sum(torch.exp(e[c] @ e[j]) for j in range(5) if j != c) for c in codes]
    counts = torch.bincount(torch.tensor(codes), minlength=5)
    expected = sum(-torch.log(each) for each in spread) / 4
    assert float(diversity_loss(e, counts, torch.tensor([2, 1, 0, 0, 1]))) != pytest.approx(float(expected))
    positive_of = torch.tensor([2, 1, 0, 3, 1])  # code 3 has no other in its cluster: its item is left out
    expected = (2 * -torch.log(spread[0]) - torch.log(spread[3])) / 4
    assert float(diversity_loss(e, counts, positive_of)) == pytest.approx(float(expected), rel=1e-5)


def test_gradients_are_those_of_the_whole_loss(x):
    """By autograd, with the stop-gradients where the paper has them."""
    model = LETTER(**SMALL, alignment=0.5, diversity=0.3, clusters=3)
    model.codebook_sizes_, model.dim_ = model._check_sizes(), 34
    h = np.random.default_rng(1).standard_normal((160, 33)).astype(np.float32)
    run = LETTERTraining(model, torch.from_numpy(x), h)
    run.initialise_codebooks()
    run.cluster_codewords()
    rows = torch.arange(20, 70)
    state = run.generator.get_state()
    run.backward(run.x[rows], rows)
    found = {name: p.grad.clone() for name, p in run.network.named_parameters()}

    run.generator.set_state(state)
    net, batch = run.network, run.x[rows]
    net.zero_grad()
    z, residual, quantized, loss = net.encoder(batch), None, 0, 0
    residual = z
    for codebook, positive in zip(net.codebooks, run.positives(), strict=True):
        code = torch.cdist(residual, codebook).argmin(1)
        e = codebook[code]
        loss = loss + (residual.detach() - e).square().sum(1).mean()
        loss = loss + 0.25 * (residual - e.detach()).square().sum(1).mean()
        for c in code.tolist():
            if int(positive[c]) != c:
                others = torch.stack([codebook[c] @ codebook[j] for j in range(8) if j != c])
                loss = loss + 34 * 0.3 * (others.logsumexp(0) - codebook[c] @ codebook[positive[c]]) / 50
        quantized, residual = quantized + e, residual - e
    straight = z + (quantized - z).detach()
    loss = loss + (batch - net.decoder(straight)).square().sum(1).mean()
    loss = loss + 34 * 0.5 * F.cross_entropy(straight @ torch.from_numpy(h)[rows].t(), torch.arange(50))
    loss.backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=2e-4, atol=2e-4, msg=lambda text, n=name: n + text)


def test_the_first_codewords_are_centroids_of_balanced_clusters(x):
    model = LETTER(**{**SMALL, "batch_size": 160})
    model.codebook_sizes_, model.dim_ = model._check_sizes(), 34
    run = LETTERTraining(model, torch.from_numpy(x), None)
    run.initialise_codebooks()
    latent = run.network.encoder(run.x).detach()
    least, most = bounds(160, 8)
    codes = assign_within(torch.cdist(latent, run.network.codebooks[0].detach()).square().numpy(), least, most)
    means = torch.stack([latent[torch.from_numpy(codes == cluster)].mean(0) for cluster in range(8)])
    assert torch.allclose(means, run.network.codebooks[0].detach(), atol=0.05)
    norms = [codebook.square().sum(1) for codebook in run.network.codebooks]
    assert quantize(latent, list(run.network.codebooks), norms, run.slices)[0].shape == (160, 2)


def test_quantized_latents_name_their_collaborative_embeddings_the_more_these_count(x):
    """Users come in four groups, of which the content says little."""
    rng = np.random.default_rng(3)
    group = rng.integers(4, size=160)
    collaborative = np.eye(4)[group] + 0.05 * rng.standard_normal((160, 4))
    x = np.concatenate([0.3 * x, np.eye(4, dtype=np.float32)[group]], 1)
    share = {}
    for alignment in (0.0, 2.0):
        model = LETTER(**SMALL, epochs=60, alignment=alignment, learning_rate=3e-3, early_stop_patience=0)
        codes = model.fit(x, collaborative=collaborative).transform(x)
        tables = [model.network_[f"codebooks.{level}"] for level in range(2)]
        quantized = sum(table[torch.from_numpy(codes[:, level])] for level, table in enumerate(tables))
        aligned_to = torch.from_numpy(model._reduced(collaborative, 160))
        named = group[(quantized @ aligned_to.t()).argmax(1).numpy()]
        share[alignment] = float((named == group).mean())
    assert share[2.0] > share[0.0] + 0.5, share
    again = quantizer_from_state_dict(model.state_dict())
    assert (again.transform(x) == codes).all()


def test_a_stopped_training_ends_as_if_it_had_not_stopped(x, tmp_path, monkeypatch):
    h = np.random.default_rng(1).standard_normal((160, 40))
    options = {**SMALL, "epochs": 6, "checkpoint_interval": 2}
    whole = LETTER(**options).fit(x, collaborative=h).transform(x)
    path = tmp_path / "letter.pt"
    run_epoch = LETTERTraining.run_epoch

    def stops(self):
        if self.epoch == 4:
            raise KeyboardInterrupt
        run_epoch(self)

    monkeypatch.setattr(LETTERTraining, "run_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        LETTER(**options).fit(x, collaborative=h, checkpoint=path)
    monkeypatch.setattr(LETTERTraining, "run_epoch", run_epoch)
    with pytest.raises(ValueError, match="belongs to other embeddings"):
        LETTER(**options).fit(x, collaborative=h[::-1], checkpoint=path)
    assert (LETTER(**options).fit(x, collaborative=h, checkpoint=path).transform(x) == whole).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"alignment": -1}, "alignment=-1 must not"),
        ({"clusters": 0}, "clusters=0 must be"),
        ({"codebook_update": "ema"}, "codebook_update=ema does not use"),
    ],
)
def test_impossible_arguments(x, arguments, says):
    with pytest.raises(ValueError, match="no item has a collaborative embedding other than zero"):
        LETTER(**SMALL).fit(x, collaborative=np.zeros((160, 3)))
    with pytest.raises(ValueError, match=says):
        LETTER(**{**SMALL, **arguments}).fit(x)


def test_a_run_aligns_to_cooccurrence_or_to_a_file(toy, workplace):
    small = {"semantic_id": "letter", "letter_hidden_sizes": [32], "letter_epochs": 5, "letter_latent_dim": 8}
    chosen = settings_of("TIGER", toy, **small, letter_batch_size=48)
    tables = [run_recbole_tiger("TIGER", "toy", config_dict={**chosen, "letter_alignment": a}) for a in (0.0, 5.0)]
    codes = [load_checkpoint(run["files"]["checkpoint"])["other_parameter"]["semantic_ids"] for run in tables]
    assert not torch.equal(*(each["table"]["codes"] for each in codes))
    items = codes[0]["table"]["items"][1:]
    np.savez("model.npz", item_id=np.array(items), embedding=np.random.default_rng(0).standard_normal((48, 5)))
    filed = {**chosen, "letter_alignment": 5.0, "collaborative_file": "model.npz"}
    third = run_recbole_tiger("TIGER", "toy", config_dict=filed)
    own = load_checkpoint(third["files"]["checkpoint"])["other_parameter"]["semantic_ids"]["table"]["codes"]
    assert not torch.equal(own, codes[1]["table"]["codes"])
    np.savez("model.npz", item_id=np.array(items[1:]), embedding=np.zeros((47, 5)))
    with pytest.raises(ValueError, match=r"collaborative_file='model.npz' lacks 1 of 48 items"):
        run_recbole_tiger("TIGER", "toy", config_dict=filed)
    with pytest.raises(ConfigError, match="collaborative_file='model.npz' is only for semantic_id=letter"):
        run_recbole_tiger("TIGER", "toy", config_dict={**filed, "semantic_id": "rqvae"})


def test_a_tokenizer_that_derives_from_letter_is_aligned_too(toy, workplace, registries):
    given = []

    class Own(LETTER):
        def fit(self, x, *, collaborative=None, **more):
            given.append(collaborative)
            return super().fit(x, collaborative=collaborative, **more)

    register_tokenizer("own", Own)
    small = {"semantic_id": "own", "own_hidden_sizes": [32], "own_epochs": 1, "own_latent_dim": 8}
    prepare_data(build_config("TIGER", "toy", config_dict=settings_of("TIGER", toy, **small, content_cooccurrence=0.0)))
    assert len(given) == 1 and given[0].any()
