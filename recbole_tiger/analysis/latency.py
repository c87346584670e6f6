"""What a recommendation costs in time and memory (paper, section 5, "Inference cost").

Input: sizes of catalogues, beams, lengths of IDs and codebook sizes. Output: time and memory of TIGER, beside SASRec
with an exact inner product and with an approximate nearest neighbour index (ANN).

Nothing is trained, and no data is read: catalogues, histories and weights are random, of the shapes of a run. Time does
not depend on the weights; what the ANN index finds does, and with random item vectors, which have no neighbourhoods,
its recall is about the worst there can be.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from recbole.utils import get_model
from tqdm import tqdm

from recbole_tiger.errors import ConfigError
from recbole_tiger.recommend import DatasetStub
from recbole_tiger.semantic_ids import SemanticIDTable
from recbole_tiger.tokenization import TokenizedCatalogue

ANN_LIBRARIES = ("faiss", "hnswlib")
#: HNSW: links per item, candidates while building, candidates while searching (k, if that is more).
HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 16, 100, 64

Search = Callable[[torch.Tensor, torch.Tensor], object]  # histories [B, H] and lengths [B] -> k items each


@dataclass(frozen=True)
class Contender:
    """One way to recommend, as a row of the table.

    Attributes:
        model_bytes: parameters, without those of items.
        index_bytes: what grows with the catalogue: item vectors, ANN index, or trie and tokens of the items.
    """

    name: str
    search: Search
    model_bytes: int
    index_bytes: int
    note: str = ""


@dataclass(frozen=True)
class LatencySettings:
    """What to time: lists of k items on catalogues of `n_items`, alone and for a batch of users.

    Attributes:
        beams, id_lengths, codebook_sizes: the first of each makes the base; the others vary one of them.
        repeats: rounds; in each, all take their turn, and the median counts.
        threads: of torch and of the ANN index.
        ann: library of the ANN index; None: the one that is installed.
    """

    n_items: Sequence[int] = (12_000, 100_000, 1_000_000)
    beams: Sequence[int] = (50, 10, 20)
    id_lengths: Sequence[int] = (3, 4, 6)
    codebook_sizes: Sequence[int] = (256, 64)
    k: int = 10
    batch: int = 64
    repeats: int = 7
    threads: int = 2
    ann: str | None = None

    def __post_init__(self) -> None:
        ann_library(self.ann)
        if min(self.beams) < self.k:
            raise ConfigError(
                f"beams={min(self.beams)} is smaller than k={self.k}: a list of that length cannot be filled"
            )
        if min(self.n_items) < self.k:
            raise ConfigError(f"n_items={min(self.n_items)} is smaller than k={self.k}")


@dataclass(frozen=True)
class Latency:
    """The rows, and what they were measured with (see `LatencySettings`); `history` items per user.

    Each row is one model on one catalogue: milliseconds of one user alone, "ms_one", and of one in a batch, "ms_batch";
    "queries_per_second" in batches; "model_mb" and "index_mb" in MiB; a note, which says why nothing was measured.
    """

    k: int
    batch: int
    repeats: int
    threads: int
    device: str
    history: int
    ann: str | None
    rows: list[dict]

    @property
    def about(self) -> str:
        """One line for the screen and the page."""
        return (
            f"k = {self.k}, histories of {self.history} items, {self.threads} thread{'s'[: self.threads - 1]} on "
            f"{self.device}, medians of {self.repeats} interleaved rounds, random weights"
        )


def latency(settings: LatencySettings, config, sasrec) -> Latency:
    """Time all models on all catalogues; `config` and `sasrec` are the settings of TIGER and SASRec."""
    library, rows, before = ann_library(settings.ann), [], torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        for n_items in settings.n_items:
            contenders = [
                *tiger_contenders(config, n_items, settings),
                *sasrec_contenders(sasrec, n_items, settings.k, library, settings.threads),
            ]
            rows += measure_all(contenders, n_items, config, settings.batch, settings.repeats)
            if library is None:
                note = f"not measured: {missing_ann(settings.ann)}"
                rows.append({"n_items": n_items, "name": "SASRec, ANN", "note": note})
    finally:
        torch.set_num_threads(before)
    given = {key: getattr(settings, key) for key in ("k", "batch", "repeats", "threads")}
    history = config["MAX_ITEM_LIST_LENGTH"]
    return Latency(**given, device=str(config["device"]), history=history, ann=library, rows=rows)


def tiger_contenders(config, n_items: int, settings: LatencySettings) -> list[Contender]:
    """TIGER at the base (the first of each list) and at every other value of one of the three."""
    beam, length, size = settings.beams[0], settings.id_lengths[0], settings.codebook_sizes[0]
    variants = [(other, length, size) for other in settings.beams]
    variants += [(beam, other, size) for other in settings.id_lengths[1:]]
    variants += [(beam, length, other) for other in settings.codebook_sizes[1:]]
    models: dict[tuple[int, int], Any] = {}
    names = cast(Sequence[str], range(n_items))  # nothing reads them: numbers take no memory
    contenders = []
    for beam, length, size in variants:
        if (length, size) not in models:
            codes = np.random.default_rng(n_items).integers(0, size, (n_items, length))
            table = SemanticIDTable.from_codes(codes, names, [size] * length)
            dataset = DatasetStub(config, n_items, TokenizedCatalogue(table))
            models[length, size] = get_model("TIGER")(config, dataset).to(config["device"]).eval()
        model = models[length, size]

        def search(history, lengths, model=model, beam=beam):
            return model.recommend(None, history, lengths, settings.k, beam_size=beam).items

        index_bytes = model.trie.nbytes + model.item_tokens.nbytes
        name = f"TIGER, {beam} beams, {length} x {size}"
        contenders.append(Contender(name, search, _parameter_bytes(model), index_bytes))
    return contenders


def sasrec_contenders(config, n_items: int, k: int, library: str | None, threads: int) -> list[Contender]:
    """SASRec with an exact inner product, and with an ANN index where a library for one is installed."""
    model = get_model("SASRec")(config, DatasetStub(config, n_items)).to(config["device"]).eval()
    vectors = model.item_embedding.weight.detach()[: n_items + 1]
    without_items = _parameter_bytes(model) - vectors.nbytes

    def query(history, lengths):
        with torch.no_grad():
            return model.forward(history, lengths)

    def exact(history, lengths):
        scores = query(history, lengths) @ vectors.T
        scores[:, 0] = -torch.inf
        return scores.topk(k, dim=1).indices

    contenders = [Contender("SASRec, exact", exact, without_items, vectors.nbytes)]
    if library is not None:
        find, size = build_ann(library, vectors[1:].cpu().numpy(), k, threads)

        def ann(history, lengths):
            return torch.from_numpy(find(query(history, lengths).cpu().numpy())) + 1

        history, lengths = _histories(n_items, 256, config)
        right = (ann(history, lengths)[:, :, None] == exact(history, lengths).cpu()[:, None, :]).any(2).double().mean()
        note = f"{library} HNSW, finds {float(right):.0%} of the exact top {k}"
        contenders.append(Contender("SASRec, ANN", ann, without_items, size, note))
    return contenders


def ann_library(wanted: str | None) -> str | None:
    """The ANN library to use: the one asked for (a `ConfigError` if unknown) or the first, if installed; else None."""
    if wanted is not None and wanted not in ANN_LIBRARIES:
        raise ConfigError(f"ann={wanted!r} is unknown; choose one of {', '.join(ANN_LIBRARIES)}")
    return next((n for n in ([wanted] if wanted else ANN_LIBRARIES) if importlib.util.find_spec(n) is not None), None)


def missing_ann(wanted: str | None) -> str:
    """The libraries that are not installed, and the way out."""
    return f"{wanted or ' and '.join(ANN_LIBRARIES)} not installed; pip install 'recbole-tiger[ann]'"


def build_ann(library: str, vectors: np.ndarray, k: int, threads: int) -> tuple[Callable, int]:
    """An HNSW index by inner product over [n, dim]: its search, [B, dim] -> [B, k] row numbers, and its bytes."""
    search = max(HNSW_SEARCH, k)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if library == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
        index = faiss.IndexHNSWFlat(vectors.shape[1], HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = HNSW_BUILD, search
        index.add(vectors)
        return lambda queries: index.search(np.ascontiguousarray(queries), k)[1], len(faiss.serialize_index(index))
    import hnswlib

    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(len(vectors), M=HNSW_LINKS, ef_construction=HNSW_BUILD, random_seed=0)
    index.set_num_threads(threads)
    index.add_items(vectors)
    index.set_ef(search)
    with tempfile.TemporaryDirectory() as folder:
        index.save_index(str(Path(folder) / "index"))
        size = os.path.getsize(Path(folder) / "index")
    return lambda queries: index.knn_query(queries, k=k)[0].astype(np.int64), size


def _parameter_bytes(model: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def _histories(n_items: int, n: int, config) -> tuple[torch.Tensor, torch.Tensor]:
    """Random full histories [n, H] and their lengths [n]."""
    size = config["MAX_ITEM_LIST_LENGTH"]
    history = torch.randint(1, n_items + 1, (n, size), generator=torch.Generator().manual_seed(n_items))
    return history.to(config["device"]), torch.full((n,), size, device=config["device"])


def measure_all(contenders: list[Contender], n_items: int, config, batch: int, repeats: int) -> list[dict]:
    """Rows of one catalogue size: all contenders alone and in batches, in turn."""
    users = {"one": _histories(n_items, 1, config), "many": _histories(n_items, batch, config)}

    def call(search: Search, size: str) -> None:
        search(*users[size])
        if str(config["device"]).startswith("cuda"):
            torch.cuda.synchronize()

    calls = {(c.name, size): partial(call, c.search, size) for c in contenders for size in users}
    seconds = interleaved_medians(calls, repeats)
    return [
        {
            "n_items": n_items,
            "name": c.name,
            "ms_one": 1000 * seconds[c.name, "one"],
            "ms_batch": 1000 * seconds[c.name, "many"] / batch,
            "queries_per_second": batch / seconds[c.name, "many"],
            "model_mb": c.model_bytes / 2**20,
            "index_mb": c.index_bytes / 2**20,
            "note": c.note,
        }
        for c in contenders
    ]


def interleaved_medians(calls: Mapping, repeats: int, clock: Callable[[], float] = perf_counter) -> dict:
    """Median seconds of each call over rounds in which all take their turn, after one round that does not count."""
    seconds: dict = {name: [] for name in calls}
    for number in tqdm(range(repeats + 1), desc="rounds", ncols=100, disable=None):
        for name, call in calls.items():
            started = clock()
            call()
            if number:
                seconds[name].append(clock() - started)
    return {name: median(values) for name, values in seconds.items()}
