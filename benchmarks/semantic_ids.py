"""Speed and memory of the tokenizers and the ID table, side by side with peers.

    python benchmarks/semantic_ids.py [--part=rqvae,rkmeans,collisions,encode] [--threads=2] [--repeats=5]
                                      [--embeddings=FILE.npz] [--items=1000000]

Peers are used where they can be imported: scikit-learn's MiniBatchKMeans, cornac 3.0.1's RQ-VAE
(`pip install cornac==3.0.1`). Sides take turns (A/B/A/B), each figure is the median of the repeats, and outputs are
compared before anything is timed. Embeddings are random clusters unless a file with an `embedding` array is given.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import Side, load, peak_memory, take_turns
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recbole_tiger.quantization import Scaler, build_quantizer  # noqa: E402
from recbole_tiger.quantization.rqvae import RQVAE  # noqa: E402
from recbole_tiger.quantization.rqvae.training import Training  # noqa: E402
from recbole_tiger.semantic_ids import SemanticIDTable  # noqa: E402
from recbole_tiger.semantic_ids.collisions import ranks, reassign  # noqa: E402

STEPS = 12  # one epoch of the paper's Beauty: 12,101 items in batches of 1024


def embeddings(file: str | None, items: int, dim: int) -> np.ndarray:
    """Standardised embeddings `[items, dim]`: from a file, widened by random mixtures, or random clusters."""
    rng = np.random.default_rng(0)
    if file is None:
        centers = rng.standard_normal((600, dim))
        x = centers[rng.integers(600, size=items)] + 0.7 * rng.standard_normal((items, dim))
    else:
        x = np.load(file)["embedding"][:items].astype(np.float32)
        missing = dim - x.shape[1]
        if missing > 0:
            mixed = Scaler().fit_transform(x) @ rng.standard_normal((x.shape[1], missing)) / np.sqrt(x.shape[1])
            x = np.concatenate([Scaler().fit_transform(x), mixed + 0.3 * rng.standard_normal(mixed.shape)], 1)
    return Scaler().fit_transform(x)


def spread(values: list[float]) -> str:
    return f"{min(values):.3g} - {max(values):.3g}"


# ---------------------------------------------------------------------- RQ-VAE step


def step_flops(batch: int, dim: int, hidden: list[int], latent: int, sizes: list[int]) -> int:
    """Floating point operations of the matrix products of one step."""
    widths = [dim, *hidden, latent]
    weights = 2 * sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
    forward_and_backward = 3 * weights - dim * hidden[0]  # nobody needs the gradient of the input
    return 2 * batch * (forward_and_backward + latent * sum(sizes))


def benchmark_rqvae(x: np.ndarray, repeats: int) -> None:
    rows = torch.from_numpy(x)
    batches = rows[: STEPS * 1024 - STEPS * 1024 % STEPS].tensor_split(STEPS)
    model = RQVAE(codebook_update="gradient")
    model.codebook_sizes_, model.dim_, model.n_items_ = [256] * 3, x.shape[1], len(x)
    ours = Training(model, rows)
    ours.initialise_codebooks()
    flops = sum(step_flops(len(batch), x.shape[1], [512, 256, 128], 32, [256] * 3) for batch in batches) / STEPS

    sides: dict[str, Side] = {"ours": lambda: [ours.step(batch) for batch in batches]}
    try:
        from cornac.models.tiger.tiger import RQVAE as CornacRQVAE

        theirs = CornacRQVAE(x.shape[1])
        theirs.load_state_dict(
            {
                **{key: value for key, value in ours.network.state_dict().items() if not key.startswith("codebooks")},
                "codebooks": torch.stack([codebook.detach() for codebook in ours.network.codebooks]),
            }
        )
        model.network_ = ours.network.state_dict()
        agree = (theirs.encode(batches[0]).numpy() == model.transform(batches[0].numpy())).all(1).mean()
        assert agree > 0.999, f"with the same weights only {agree:.1%} of the codes agree"
        optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=1e-4)

        def their_steps() -> None:  # the loop body of cornac's `_fit_rqvae`
            used = torch.zeros(3, 256, dtype=torch.bool)
            total = 0.0
            for batch in batches:
                ids, _, reconstruction, quantization = theirs(batch)
                loss = reconstruction + quantization
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for level in range(3):
                    used[level, ids[:, level]] = True
                total += loss.item() * len(batch)

        sides["cornac 3.0.1"] = their_steps
    except ImportError as error:
        print(f"cornac is left out: {error}")

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    sides["2048^3 GEMM"] = lambda: a @ b
    seconds = take_turns(sides, repeats)
    rate = 2 * 2048**3 / np.median(seconds.pop("2048^3 GEMM"))
    floor = flops / rate
    table = []
    for name, values in seconds.items():
        steps = [value / STEPS for value in values]
        table.append([name, 1e3 * np.median(steps), spread([1e3 * s for s in steps]), np.median(steps) / floor])
    if len(table) == 2:
        table[1].append(table[1][1] / table[0][1])
    table.append([f"FLOP floor at {rate / 1e9:.0f} GFLOP/s", 1e3 * floor, "", 1.0])
    print(
        f"\nRQ-VAE training step, batch {len(batches[0])}, {x.shape[1]} dimensions ({flops / 1e9:.2f} GFLOP); {load()}"
    )
    print(tabulate(table, ["", "ms", "range", "x floor", "x ours"], floatfmt=".3g"))


# ---------------------------------------------------------------------- residual k-means


def benchmark_rkmeans(x: np.ndarray, repeats: int) -> None:
    from sklearn.cluster import MiniBatchKMeans

    inertia: dict[str, list[list[float]]] = {"ours": [], "MiniBatchKMeans": []}

    def ours() -> None:
        quantizer = build_quantizer("rkmeans", random_state=len(inertia["ours"])).fit(x)
        inertia["ours"].append(quantizer.history_["inertia"])

    def theirs() -> None:
        residual, curve = x.copy(), []
        for _ in range(3):
            found = MiniBatchKMeans(256, n_init=1, random_state=len(inertia["MiniBatchKMeans"])).fit(residual)
            residual -= found.cluster_centers_[found.labels_]
            curve.append(float(np.square(residual).sum()))
        inertia["MiniBatchKMeans"].append(curve)

    seconds = take_turns({"ours": ours, "MiniBatchKMeans": theirs}, repeats)
    total = float(np.square(x).sum())
    table = []
    for name, values in seconds.items():
        levels = np.median(inertia[name], axis=0) / total
        table.append([name, np.median(values), spread(values), *levels])
    print(f"\nResidual k-means, {x.shape[0]:,} x {x.shape[1]} to 3 x 256; inertia as share of the total; {load()}")
    print(tabulate(table, ["", "s", "range", "level 1", "level 2", "level 3"], floatfmt=".3g"))
    worst = np.max(inertia["ours"], axis=0) / np.min(inertia["MiniBatchKMeans"], axis=0)
    print("worst of ours / best of theirs, per level:", " ".join(f"{ratio:.3f}" for ratio in worst))


# ---------------------------------------------------------------------- collisions


def benchmark_collisions(items: int, repeats: int) -> None:
    rng = np.random.default_rng(0)
    names = [str(number) for number in range(items)]
    # skewed codes, as learned ones are: two fifths of the items collide
    codes = np.minimum(rng.exponential(40, size=(items, 3)).astype(np.int64), 255)

    def costs(rows: np.ndarray) -> np.ndarray:
        return np.random.default_rng(int(rows[0])).random((len(rows), 256), dtype=np.float32)

    tables = {
        c: SemanticIDTable.from_codes(codes, names, [256] * 3, c, level_costs=costs) for c in ("append", "reassign")
    }
    assert tables["append"].is_unique and tables["reassign"].is_unique
    report = tables["append"].report()
    everyone = np.ones(items, dtype=bool)
    seconds = take_turns(
        {
            "append, codes alone": lambda: np.column_stack([codes, ranks(codes, [256] * 3)]),
            "reassign, codes alone": lambda: reassign(codes, [256] * 3, costs, everyone),
            "append, whole table": lambda: SemanticIDTable.from_codes(codes, names, [256] * 3),
            "reassign, whole table": lambda: SemanticIDTable.from_codes(
                codes, names, [256] * 3, "reassign", level_costs=costs
            ),
            "report": tables["append"].report,
        },
        repeats,
    )
    print(
        f"\nCollisions of {items:,} items ({report['items_in_collisions']:,} of them collide, largest group "
        f"{report['largest_group']}, {tables['reassign'].n_reassigned:,} reassigned); {load()}"
    )
    print(tabulate([[k, np.median(v), spread(v)] for k, v in seconds.items()], ["", "s", "range"], floatfmt=".3g"))


# ---------------------------------------------------------------------- encoding


def benchmark_encode(x: np.ndarray, items: int) -> None:
    values = np.random.default_rng(1).standard_normal(items + x.shape[1] - 1).astype(np.float32)
    # a window that slides over one vector: as many different rows, without their memory
    rows = np.lib.stride_tricks.sliding_window_view(values, x.shape[1])
    settings = {"epochs": 1, "early_stop_patience": 0, "max_iterations": 2, "rotation_iterations": 1}
    table = []
    for name in ("rqvae", "rkmeans", "vqvae", "pq", "hierarchical_kmeans", "lsh", "random"):
        quantizer = build_quantizer(name, id_length=3, codebook_size=256, **settings).fit(x)
        before = peak_memory()
        started = time.perf_counter()
        codes = quantizer.transform(rows)
        seconds = time.perf_counter() - started
        grown = peak_memory() - before
        assert codes.shape == (items, 3)
        table.append([name, seconds, grown])
    print(f"\nEncoding {items:,} unseen items of {x.shape[1]} dimensions ({4 * rows.size / 2**30:.1f} GiB); {load()}")
    print(f"codes take {items * 24 / 2**20:.0f} MiB; growth of the peak memory beside the quantizers run before")
    print(tabulate(table, ["", "s", "peak grew by MiB"], floatfmt=".3g"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="rqvae,rkmeans,collisions,encode")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--embeddings", help="an .npz file with an array `embedding`")
    parser.add_argument("--items", type=int, default=1_000_000, help="catalogue of the last two parts")
    arguments = parser.parse_args()
    parts = arguments.part.split(",")
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.repeats} repeats, {load()}")
    x = embeddings(arguments.embeddings, 12101, 768)
    if "rqvae" in parts:
        benchmark_rqvae(x, arguments.repeats)
    if "rkmeans" in parts:
        benchmark_rkmeans(x, arguments.repeats)
    if "collisions" in parts:
        benchmark_collisions(arguments.items, arguments.repeats)
    if "encode" in parts:
        benchmark_encode(x, arguments.items)


if __name__ == "__main__":
    main()
