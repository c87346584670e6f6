"""The command ``latency``: what a recommendation costs in time and memory (paper, section 5, "Inference cost").

Comes in: sizes of catalogues, beams, lengths of IDs and codebook sizes. Goes out: milliseconds per user and queries per
second of TIGER, beside SASRec with an exact inner product and with an approximate nearest neighbour index (ANN).

Nothing is trained, and no data is read: catalogues, histories and weights are random, of the shapes that a run would have.
Time does not depend on what the weights are; what the ANN index finds does, and with random item vectors, which have no
neighbourhoods, its recall is about the worst there can be.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from recbole.utils import get_model
from tabulate import tabulate
from tqdm import tqdm

from recbole_tiger.analysis.runs import new_folder, pop_number, pop_numbers, write_outputs
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.recommend import BareDataset
from recbole_tiger.report import pages
from recbole_tiger.report.figures import lines
from recbole_tiger.semantic_ids import SemanticIDTable
from recbole_tiger.tokenization import TokenizedCatalogue

USAGE = """Usage: python run_recbole_tiger.py latency [--n_items=12000,100000,1000000] [--beams=50,10,20] [--key=value ...]

Times TIGER beside SASRec with an exact inner product and with an ANN index, on catalogues made up for the purpose.

  --n_items=A,B,...          sizes of the catalogues (12000,100000,1000000)
  --beams=A,B,...            (50,10,20) the first of this and the next two is the base; the others vary one of them
  --id_lengths=A,B,...       learned codewords per item (3,4,6); the collision token comes on top
  --codebook_sizes=A,B,...   (256,64)
  --k=10, --batch=64         length of the lists; users at once for the queries per second
  --repeats=7                rounds; in each, all take their turn, and the median counts
  --threads=2                of torch and of the ANN index
  --ann=NAME                 faiss or hnswlib; by default the one that is installed (extra 'ann'), or neither
  --output_dir=FOLDER        a folder that does not exist yet, for latency.json and .html
  --any_key=value            any key of TIGER's tuned recipe: --d_model=..., --num_decoder_layers=..., --scoring=exact
"""

ANN_LIBRARIES = ("faiss", "hnswlib")
#: HNSW: links per item, candidates while building, candidates while searching (k, if that is more).
HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 16, 100, 64

Search = Callable[[torch.Tensor, torch.Tensor], object]  # histories [B, H] and lengths [B] -> k items each


@dataclass(frozen=True)
class Contender:
    """One way to recommend.

    Attributes:
        name: what it is called in the table.
        search: from histories to items.
        model_bytes: parameters, without those of items.
        index_bytes: what grows with the catalogue: item vectors, ANN index, or trie and tokens of the items.
        note: what else is to be said.
    """

    name: str
    search: Search
    model_bytes: int
    index_bytes: int
    note: str = ""


def run(settings: dict) -> str:
    """Measure, write, and return the table."""
    sizes = pop_numbers(settings, "n_items", (12_000, 100_000, 1_000_000), low=2, kind=int)
    lists = {
        key: pop_numbers(settings, key, default, low=low, kind=int, ordered=False)
        for key, default, low in (
            ("beams", (50, 10, 20), 1),
            ("id_lengths", (3, 4, 6), 1),
            ("codebook_sizes", (256, 64), 2),
        )
    }
    k, batch, repeats, threads = (
        pop_number(settings, key, default, low=1, kind=int)
        for key, default in (("k", 10), ("batch", 64), ("repeats", 7), ("threads", 2))
    )
    ann, output = settings.pop("ann", None), settings.pop("output_dir", None)
    if min(lists["beams"]) < k:
        raise ConfigError(f"beams={min(lists['beams'])} is smaller than k={k}: a list of that length cannot be filled")
    if min(sizes) < k:
        raise ConfigError(f"n_items={min(sizes)} is smaller than k={k}")
    library = ann_library(ann)
    config = build_config("TIGER", "ml-100k", None, {"recipe": "tuned", **settings})
    sasrec = build_config("SASRec", "ml-100k", None, {"MAX_ITEM_LIST_LENGTH": config["MAX_ITEM_LIST_LENGTH"]})
    folder = new_folder(output, "latency", config)

    rows, before = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for n_items in sizes:
            contenders = [
                *tiger_contenders(config, n_items, k, **lists),
                *sasrec_contenders(sasrec, n_items, k, library, threads),
            ]
            rows += measure_all(contenders, n_items, config, batch, repeats)
            if library is None:
                rows.append({"n_items": n_items, "name": "SASRec, ANN", "note": "not measured: " + missing_ann(ann)})
    finally:
        torch.set_num_threads(before)
    result = {
        "about": f"k = {k}, histories of {config['MAX_ITEM_LIST_LENGTH']} items, {threads} thread{'s'[: threads - 1]} on "
        f"{config['device']}, medians of {repeats} interleaved rounds, random weights",
        "k": k,
        "batch": batch,
        "repeats": repeats,
        "threads": threads,
        "device": str(config["device"]),
        "history": config["MAX_ITEM_LIST_LENGTH"],
        "ann": library,
        "rows": rows,
    }
    header, table = _table(result)
    places = write_outputs(folder, "latency", result, sections(result), title="Latency and memory")
    return f"{result['about']}\n{tabulate(table, headers=header, disable_numparse=True)}\n{places}"


# ------------------------------------------------------------------------------------------------------ contenders


def tiger_contenders(
    config, n_items: int, k: int, *, beams: list[int], id_lengths: list[int], codebook_sizes: list[int]
) -> list[Contender]:
    """TIGER at the base (the first of each list) and at every other value of one of the three."""
    settings = [(beam, id_lengths[0], codebook_sizes[0]) for beam in beams]
    settings += [(beams[0], length, codebook_sizes[0]) for length in id_lengths[1:]]
    settings += [(beams[0], id_lengths[0], size) for size in codebook_sizes[1:]]
    models: dict[tuple[int, int], torch.nn.Module] = {}
    contenders = []
    for beam, length, size in settings:
        if (length, size) not in models:
            codes = np.random.default_rng(n_items).integers(0, size, (n_items, length))
            table = SemanticIDTable.from_codes(codes, range(n_items), [size] * length)
            dataset = BareDataset(config, n_items, TokenizedCatalogue(table))
            models[length, size] = get_model("TIGER")(config, dataset).to(config["device"]).eval()
        model = models[length, size]

        def search(history, lengths, model=model, beam=beam):
            return model.recommend(None, history, lengths, k, beam_size=beam).items

        contenders.append(
            Contender(
                f"TIGER, {beam} beams, {length} x {size}",
                search,
                _parameter_bytes(model),
                model.trie.nbytes + model.item_tokens.nbytes,
            )
        )
    return contenders


def sasrec_contenders(config, n_items: int, k: int, library: str | None, threads: int) -> list[Contender]:
    """SASRec with an exact inner product, and with an ANN index where a library for one is installed."""
    model = get_model("SASRec")(config, BareDataset(config, n_items)).to(config["device"]).eval()
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
    """The ANN library to use: the one asked for, or the first that is installed; None for neither.

    Raises:
        ConfigError: for an unknown one.
    """
    if wanted is not None and wanted not in ANN_LIBRARIES:
        raise ConfigError(f"ann={wanted!r} is unknown; choose one of {', '.join(ANN_LIBRARIES)}")
    return next((n for n in ([wanted] if wanted else ANN_LIBRARIES) if importlib.util.find_spec(n) is not None), None)


def missing_ann(wanted: str | None) -> str:
    """What to do about a library that is not there."""
    return f"{wanted or ' and '.join(ANN_LIBRARIES)} not installed; pip install 'recbole-tiger[ann]'"


def build_ann(library: str, vectors: np.ndarray, k: int, threads: int) -> tuple[Callable, int]:
    """An HNSW index by inner product over [n, dim]; returns the search ([B, dim] -> [B, k] row numbers) and its bytes."""
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


# ------------------------------------------------------------------------------------------------------ measuring


def _histories(n_items: int, n: int, config) -> tuple[torch.Tensor, torch.Tensor]:
    """Random full histories [n, H] and their lengths [n]."""
    size = config["MAX_ITEM_LIST_LENGTH"]
    history = torch.randint(1, n_items + 1, (n, size), generator=torch.Generator().manual_seed(n_items))
    return history.to(config["device"]), torch.full((n,), size, device=config["device"])


def measure_all(contenders: list[Contender], n_items: int, config, batch: int, repeats: int) -> list[dict]:
    """Rows of one catalogue size: all contenders alone and in batches, in turn."""
    many, one = _histories(n_items, batch, config), _histories(n_items, 1, config)
    wait = torch.cuda.synchronize if str(config["device"]).startswith("cuda") else lambda: None

    def call(search: Search, users) -> Callable[[], None]:
        def once() -> None:
            search(*users)
            wait()

        return once

    calls = {(c.name, n): call(c.search, users) for c in contenders for n, users in (("one", one), ("many", many))}
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


# ---------------------------------------------------------------------------------------------------- what is shown


def _table(result: dict) -> tuple[list[str], list[list[str]]]:
    header = ["items", "model", "ms, alone", f"ms, of {result['batch']}", "queries/s", "model MB", "index MB", "note"]
    form = {"ms_one": ".2f", "ms_batch": ".3f", "queries_per_second": ",.0f", "model_mb": ".1f", "index_mb": ".1f"}
    rows = [
        [
            f"{row['n_items']:,}",
            row["name"],
            *[f"{row[key]:{style}}" if key in row else "-" for key, style in form.items()],
            row["note"],
        ]
        for row in result["rows"]
    ]
    return header, rows


def sections(result: dict) -> list[pages.Section]:
    """The page of a result."""
    sizes = list(dict.fromkeys(row["n_items"] for row in result["rows"]))
    names = list(dict.fromkeys(row["name"] for row in result["rows"] if "ms_one" in row))
    value = {(row["name"], row["n_items"]): row for row in result["rows"]}

    def chart(key: str, title: str) -> pages.Figure:
        series = {name: [value[name, size][key] for size in sizes] for name in names}
        drawn = lines([f"{size:,}" for size in sizes], series, x_title="items", y_title=title, log=True, height=380)
        drawn.update_xaxes(type="category")
        drawn.update_yaxes(dtick="D2")  # 1, 2 and 5 of each power of ten
        return pages.Figure(drawn, title=title)

    return [
        pages.Section(
            "Time",
            "TIGER's rows name its beams, and how many learned codewords of which codebook size an item has.",
            [
                chart("ms_one", "milliseconds, one user alone"),
                chart("queries_per_second", "queries per second, in batches"),
            ],
        ),
        pages.Section(
            "Memory and numbers",
            "The model's memory does not depend on the catalogue. The index does: item vectors, ANN index, or trie and tokens.",
            [chart("index_mb", "index, MB"), pages.Table(*_table(result))],
        ),
    ]
