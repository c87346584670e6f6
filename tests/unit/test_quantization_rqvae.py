"""RQ-VAE and VQ-VAE against slow, literal versions of the paper's formulas; stopping, resuming, restarting."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from recbole_tiger.quantization import VQVAE, build_quantizer
from recbole_tiger.quantization.kmeans import kmeans
from recbole_tiger.quantization.rqvae import RQVAE
from recbole_tiger.quantization.rqvae import training as training_module
from recbole_tiger.quantization.rqvae.parameters import RQVAENetwork
from recbole_tiger.quantization.rqvae.training import Training

SMALL = {"hidden_sizes": [40, 36], "latent_dim": 33, "batch_size": 64, "epochs": 6, "random_state": 3}


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(2)
    centers = 2 * rng.standard_normal((30, 34))
    return (centers[rng.integers(30, size=250)] + rng.standard_normal((250, 34))).astype(np.float32)


def training(model, x):
    """A training run before its first epoch."""
    model.codebook_sizes_, model.dim_, model.n_items_ = model._check_sizes(), x.shape[1], len(x)
    return Training(model, torch.from_numpy(x))


def literal_rqvae(network, x, beta):
    """Section 3.1.1, item by item: loss (mean over items) and codes."""
    losses, ids = [], []
    for item in x:
        z = network.encoder(item)
        residual, quantized, loss, codes = z, 0.0, 0.0, []
        for codebook in network.codebooks:
            distances = [torch.linalg.vector_norm(residual - codeword).item() for codeword in codebook]
            code = int(np.argmin(distances))
            e = codebook[code]
            loss = loss + torch.sum((residual.detach() - e) ** 2) + beta * torch.sum((residual - e.detach()) ** 2)
            residual, quantized = residual - e, quantized + e
            codes.append(code)
        straight_through = z + (quantized - z).detach()
        losses.append(torch.sum((item - network.decoder(straight_through)) ** 2) + loss)
        ids.append(codes)
    return torch.stack(losses).mean(), np.array(ids)


def literal_vqvae(network, x, beta):
    """The same with the latent in parts, each with its own codebook."""
    losses, ids = [], []
    for item in x:
        z = network.encoder(item)
        loss, codes, parts = 0.0, [], []
        for part, codebook in zip(z.tensor_split(len(network.codebooks)), network.codebooks, strict=True):
            code = int(torch.stack([torch.linalg.vector_norm(part - e) for e in codebook]).argmin())
            e = codebook[code]
            loss = loss + torch.sum((part.detach() - e) ** 2) + beta * torch.sum((part - e.detach()) ** 2)
            codes.append(code)
            parts.append(e)
        straight_through = z + (torch.cat(parts) - z).detach()
        losses.append(torch.sum((item - network.decoder(straight_through)) ** 2) + loss)
        ids.append(codes)
    return torch.stack(losses).mean(), np.array(ids)


@pytest.mark.parametrize(("cls", "literal"), [(RQVAE, literal_rqvae), (VQVAE, literal_vqvae)])
@pytest.mark.parametrize("beta", [0.25, 1.5])
def test_loss_gradients_and_codes_are_the_papers(x, cls, literal, beta):
    model = cls(id_length=4, codebook_size=[5, 12, 9, 16], beta=beta, codebook_update="gradient", **SMALL)
    run = training(model, x)
    run.initialise_codebooks()
    with torch.no_grad():  # make every term large enough to be seen
        for codebook in run.network.codebooks:
            codebook.mul_(3).add_(torch.randn(codebook.shape, generator=torch.Generator().manual_seed(1)))
    batch = torch.from_numpy(x[:70])
    expected, codes = literal(run.network, batch, beta)
    parameters = dict(run.network.named_parameters())
    gradients = torch.autograd.grad(expected, list(parameters.values()))

    found = run.backward(batch)
    torch.testing.assert_close(found.losses.sum(), expected, rtol=1e-5, atol=0)
    for (key, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item(), msg=key
        )
    for level, count in enumerate(found.counts):
        np.testing.assert_array_equal(count.numpy(), np.bincount(codes[:, level], minlength=len(count)))
    model.network_ = run.network.state_dict()
    np.testing.assert_array_equal(model.transform(x[:70]), codes)


def test_shape_is_the_papers():
    model = RQVAE()
    model.codebook_sizes_, model.dim_ = model._check_sizes(), 768
    network = RQVAENetwork(model, torch.Generator())
    layers = [tuple(layer.weight.shape) for layer in network.encoder if hasattr(layer, "weight")]
    assert layers == [(512, 768), (256, 512), (128, 256), (32, 128)]
    mirrored = [tuple(layer.weight.shape) for layer in network.decoder if hasattr(layer, "weight")]
    assert mirrored == [(128, 32), (256, 128), (512, 256), (768, 512)]
    assert [type(layer).__name__ for layer in network.encoder] == ["Linear", "ReLU"] * 3 + ["Linear"]
    assert [tuple(codebook.shape) for codebook in network.codebooks] == [(256, 32)] * 3


@pytest.mark.parametrize("cls", [RQVAE, VQVAE])
@pytest.mark.parametrize("init", ["all", "first_batch"])
def test_codebooks_start_at_kmeans_centroids_of_the_residuals(x, cls, init):
    model = cls(codebook_size=[6, 10, 12], codebook_init=init, **SMALL)
    run = training(model, x)
    generator_before = run.generator.get_state()
    run.initialise_codebooks()
    rows = np.arange(250)
    if init == "first_batch":
        run.generator.set_state(generator_before)
        rows = next(run._batches()).numpy()
        assert len(rows) == 63  # 250 items in 4 even steps
    residual = run.network.encoder(torch.from_numpy(x[rows])).detach().numpy()
    for codebook, part in zip(run.network.codebooks, run.slices, strict=True):
        centroids = codebook.detach().numpy()
        inputs = residual[:, part].copy()
        # scikit-learn's Lloyd, started there, agrees on the assignments and has nothing left to improve
        with_ours = KMeans(len(centroids), init=centroids, n_init=1, max_iter=1).fit(inputs)
        codes = np.square(inputs[:, None] - centroids).sum(2).argmin(1)
        ours = np.square(inputs - centroids[codes]).sum()
        assert with_ours.inertia_ >= 0.998 * ours
        assert (with_ours.labels_ == codes).mean() > 0.98
        # and from its own seeds it finds nothing much better
        assert ours <= 1.1 * KMeans(len(centroids), n_init=3, random_state=0).fit(inputs).inertia_
        residual[:, part] = inputs - centroids[codes]


def test_first_batch_too_small_for_kmeans(x):
    with pytest.raises(ValueError, match="batch_size=10 .*first batch of 10 items.*codebook_size=16"):
        RQVAE(codebook_size=16, codebook_init="first_batch", **SMALL | {"batch_size": 10}).fit(x)


def test_moving_averages_are_the_literal_ones(x):
    model = RQVAE(codebook_size=7, codebook_update="ema", **SMALL)
    run = training(model, x)
    run.initialise_codebooks()
    batch = torch.from_numpy(x[:100])
    codebooks = [codebook.detach().clone() for codebook in run.network.codebooks]
    state = [(count.clone(), total.clone()) for count, total in run.ema]
    residual = run.network.encoder(batch).detach()
    run.step(batch)
    for level, codebook in enumerate(codebooks):
        codes = torch.cdist(residual, codebook).argmin(1)
        old_count, old_total = state[level]
        for code in range(7):
            members = residual[codes == code]
            count = 0.95 * old_count[code] + 0.05 * len(members)
            total = 0.95 * old_total[code] + 0.05 * members.sum(0)
            torch.testing.assert_close(run.network.codebooks[level][code].detach(), total / count, rtol=1e-4, atol=1e-5)
        residual = residual - codebook[codes]
    assert not any(codebook.requires_grad for codebook in run.network.codebooks)


@pytest.mark.parametrize("update", ["gradient", "ema"])
@pytest.mark.parametrize("learner", ["adamw", "adam", "adagrad"])
def test_training_lowers_the_loss(x, update, learner):
    rate = 0.05 if learner == "adagrad" else 3e-3
    model = RQVAE(
        codebook_size=8, codebook_update=update, learner=learner, learning_rate=rate, **SMALL | {"epochs": 60}
    )
    model.fit(x)
    curve = model.history_["reconstruction"]
    assert len(curve) == 60 and set(model.history_) == {
        "reconstruction",
        "quantization",
        "usage_1",
        "usage_2",
        "usage_3",
    }
    assert np.mean(curve[-5:]) < 0.6 * curve[0]
    codes = model.transform(x)
    error = np.square(model.reconstruct(codes) - x).sum(1).mean()
    assert error == pytest.approx(np.mean(curve[-3:]), rel=0.15)
    assert error < np.square(x - x.mean(0)).sum(1).mean()


@pytest.mark.parametrize("stop_after", [1, 3, 5])
@pytest.mark.parametrize(
    "changes",
    [
        {"codebook_update": "gradient"},
        {"codebook_update": "ema"},
        {"learner": "adagrad", "learning_rate": 0.4, "codebook_init": "first_batch"},
        {"dead_code_restart": 2, "early_stop_patience": 1, "usage_target": 0.1},
    ],
)
def test_stopped_and_resumed_is_never_stopped(x, tmp_path, monkeypatch, stop_after, changes):
    monkeypatch.setattr(training_module, "EARLY_STOP_INTERVAL", 2)

    def make():
        return RQVAE(codebook_size=8, checkpoint_interval=1, **SMALL | {"epochs": 10} | changes)

    whole = make().fit(x)
    path = tmp_path / "new" / "rqvae.pt"
    run_epoch = Training.run_epoch

    def killed(self):
        if self.epoch == stop_after:
            raise KeyboardInterrupt
        run_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            make().fit(x, checkpoint=path)
    done = []
    monkeypatch.setattr(Training, "run_epoch", lambda self: (done.append(self.epoch), run_epoch(self)))
    resumed = make().fit(x, checkpoint=path)
    assert done[0] == stop_after  # it did go on from there
    assert resumed.history_ == whole.history_
    assert all(torch.equal(value, whole.network_[key]) for key, value in resumed.network_.items())
    # the file of a finished run gives the result at once
    done.clear()
    assert make().fit(x, checkpoint=path).history_ == whole.history_ and not done
    assert [file.name for file in path.parent.iterdir()] == ["rqvae.pt"]


def test_checkpoint_of_another_run_or_damaged(x, tmp_path):
    path = tmp_path / "rqvae.pt"
    RQVAE(codebook_size=8, **SMALL).fit(x, checkpoint=path)
    torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match="rqvae.pt belongs to other embeddings or other settings"):
        RQVAE(codebook_size=8, **SMALL | {"beta": 0.3}).fit(x, checkpoint=path)
    with pytest.raises(ValueError, match="rqvae.pt belongs to other"):
        RQVAE(codebook_size=8, **SMALL).fit(x + 1, checkpoint=path)
    with pytest.raises(ValueError, match="rqvae.pt belongs to other"):
        VQVAE(codebook_size=8, **SMALL).fit(x, checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="rqvae.pt is damaged.*delete it"):
        RQVAE(codebook_size=8, **SMALL).fit(x, checkpoint=path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="rqvae.pt is damaged"):
        RQVAE(codebook_size=8, **SMALL).fit(x, checkpoint=path)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_dead_codes_restart_on_residuals_of_items(x, update):
    model = RQVAE(codebook_size=8, codebook_update=update, **SMALL)
    run = training(model, x)
    run.initialise_codebooks()
    run.step(torch.from_numpy(x))
    before = [codebook.detach().clone() for codebook in run.network.codebooks]
    dead = [torch.zeros(8, dtype=torch.bool) for _ in range(3)]
    dead[1][[2, 5]] = True
    residual = run.network.encoder(torch.from_numpy(x)).detach()
    inputs = residual - before[0][torch.cdist(residual, before[0]).argmin(1)]
    run._restart(dead)
    after = [codebook.detach() for codebook in run.network.codebooks]
    assert torch.equal(after[0], before[0]) and torch.equal(after[2], before[2])
    assert torch.equal(after[1][~dead[1]], before[1][~dead[1]])
    # a distance by a matrix product has an error of its own near 0
    nearest = torch.cdist(after[1][dead[1]], inputs, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert nearest.values.max() < 1e-4 and nearest.indices[0] != nearest.indices[1]
    if update == "gradient":
        for state in ("exp_avg", "exp_avg_sq"):
            moment = run.optimizer.state[run.network.codebooks[1]][state]
            assert (moment[dead[1]] == 0).all() and (moment[~dead[1]] != 0).any()
    else:
        count, total = run.ema[1]
        torch.testing.assert_close(total[dead[1]] / count[dead[1], None], after[1][dead[1]])


def test_restart_brings_dead_codes_back(x):
    settings = SMALL | {"epochs": 40, "learning_rate": 1e-2}
    dead = RQVAE(codebook_size=32, dead_code_restart=0, **settings).fit(x).history_["usage_1"][-1]
    alive = RQVAE(codebook_size=32, dead_code_restart=1, **settings).fit(x).history_["usage_1"][-1]
    assert dead + 0.1 < alive and alive > 0.9


def test_early_stop_waits_for_usage_and_reconstruction(x, monkeypatch):
    monkeypatch.setattr(training_module, "EARLY_STOP_INTERVAL", 2)
    monkeypatch.setattr(training_module, "EARLY_STOP_GAIN", 0.2)
    settings = SMALL | {"epochs": 40}
    stopped = RQVAE(codebook_size=8, early_stop_patience=2, usage_target=0.1, **settings).fit(x).history_
    curve = np.array(stopped["reconstruction"]).reshape(-1, 2).mean(1)
    assert len(curve) < 20
    best, without_gain = np.inf, []
    for value in curve:
        gained = value < 0.8 * best
        best = value if gained else best
        without_gain.append(0 if gained else (without_gain[-1] + 1 if without_gain else 1))
    assert without_gain[-1] == 2 and max(without_gain[:-1]) < 2
    for never in ({"early_stop_patience": 0}, {"early_stop_patience": 2, "usage_target": 1.01}):
        assert len(RQVAE(codebook_size=8, **settings | never).fit(x).history_["usage_1"]) == 40


def test_levels_of_their_own_size_as_in_figure_4(x):
    model = RQVAE(codebook_size=[4, 16, 64], **SMALL)
    codes = model.fit_transform(x)
    assert (codes.max(0) < [4, 16, 64]).all() and model.network_["codebooks.2"].shape == (64, 33)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": "sgd"}, "learner='sgd'.*adagrad, adam, adamw"),
        ({"codebook_init": "zeros"}, "codebook_init='zeros'.*all, first_batch"),
        ({"codebook_update": "none"}, "codebook_update='none'.*gradient, ema"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"beta": -1}, "beta=-1"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"hidden_sizes": [8, 0]}, "hidden_sizes"),
        ({"latent_dim": 0}, "latent_dim=0"),
    ],
)
def test_impossible_arguments(x, changes, message):
    with pytest.raises(ValueError, match=message):
        RQVAE(codebook_size=8, **SMALL | changes).fit(x)


def test_vqvae_needs_a_dimension_per_part(x):
    with pytest.raises(ValueError, match="latent_dim=2 cannot be cut into id_length=3"):
        VQVAE(codebook_size=8, **SMALL | {"latent_dim": 2}).fit(x)
    assert [part.stop - part.start for part in VQVAE()._slices()] == [11, 11, 10]


def test_kmeans_initialisation_does_not_touch_the_callers_matrix(x):
    before = x.copy()
    build_quantizer("rqvae", codebook_size=8, **SMALL).fit(x)
    build_quantizer("rkmeans", codebook_size=8).fit(x)
    np.testing.assert_array_equal(x, before)
    kmeans(torch.from_numpy(x), 8, np.random.default_rng(0))
    np.testing.assert_array_equal(x, before)
