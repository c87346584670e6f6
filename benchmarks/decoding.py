"""Speed and memory of decoding, side by side with peers and with the floor that the machine's own matrix products set.

    python benchmarks/decoding.py --interactions=FILE.inter --codes=FILE.json [--part=peers,cornac,trie,scale,beauty]
                                  [--cornac=PYTHON] [--threads=2] [--repeats=5]

The model has the paper's size and random weights; the time does not depend on their values. Histories are those of a
RecBole `.inter` file (`user_id item_id timestamp`), semantic IDs the first three codes per item of a JSON file
`{item_id: [codes]}` plus the collision token. Catalogues of other sizes are synthetic, skewed like the real one.
Peers: Hugging Face's `generate` with a prefix callback; cornac 3.0.1's TIGER, from the Python that `--cornac` names
(cornac needs numpy 2, RecBole's pinned versions numpy 1: give cornac, torch and transformers an environment of their
own). Sides take turns (A/B/A/B), each figure is the median of the repeats, outputs are asserted equal before anything
is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import (
    CornacWorker,
    Side,
    Table,
    gemm_rate,
    hugging_face_t5,
    load_into_cornac,
    medians,
    peak_memory,
    t5_flops,
)

MAX_HISTORY = 20
USER_TOKENS = 2000
ROWS = 1600  # decoder rows at a time: intermediate results that fit the processor's caches


# --------------------------------------------------------------------------- cornac's side, in its own environment


def cornac_worker() -> None:
    """Runs cornac's TIGER on what the parent wrote; one command per line of standard input, one answer per line."""
    from cornac.models.tiger.recom_tiger import TIGER
    from cornac.models.tiger.tiger import TIGERSeq2Seq

    folder = Path(sys.argv[2])
    torch.set_num_threads(int(sys.argv[3]))
    data = np.load(folder / "catalogue.npz")
    codes, histories = data["codes"], np.split(data["items"], data["ends"][:-1])
    TIGER.total_items = len(codes)  # a property of a fitted recommender
    peer = TIGER(n_beams=20, seed=0)
    peer._build_semantic_ids(codes[:, :-1])
    assert np.array_equal(peer.sid_table, codes)
    peer.model = TIGERSeq2Seq(peer.level_sizes)
    load_into_cornac(peer.model, torch.load(folder / "weights.pt", weights_only=True))
    peer.model.eval()
    peer.pad_idx = len(codes)
    peer.enc_token_table = np.zeros((len(codes) + 1, codes.shape[1]), dtype="int64")
    peer.enc_token_table[:-1] = codes + peer.model.offsets.numpy()
    peer.device_ = "cpu"
    for line in sys.stdin:
        scoring, first, last = line.split()
        peer.scoring = scoring
        started = time.perf_counter()
        scores = [peer.score(0, history.tolist()) for history in histories[int(first) : int(last)]]
        seconds = time.perf_counter() - started
        np.save(folder / "scores.npy", np.stack(scores))
        print(json.dumps(seconds), flush=True)


if len(sys.argv) > 1 and sys.argv[1] == "--cornac-worker":
    cornac_worker()
    sys.exit()

# --------------------------------------------------------------------------- ours

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recbole_tiger.decoding import BeamResult, PrefixTrie, beam_search, exact_topk, free_beam_search  # noqa: E402
from recbole_tiger.decoding import beam_search as search_function  # noqa: E402
from recbole_tiger.nn import Seq2Seq, Seq2SeqStepDecoder, T5Config  # noqa: E402

search_module = sys.modules[search_function.__module__]


@dataclass(frozen=True)
class Case:
    """A catalogue, a model over its tokens, and histories sorted by length."""

    codes: np.ndarray  # [n_items, 4]
    trie: PrefixTrie
    model: Seq2Seq
    slices: list[slice]
    histories: list[np.ndarray]
    ids: torch.Tensor  # [B, T] tokens, 0 is padding
    lengths: torch.Tensor  # [B] tokens

    @property
    def mask(self) -> torch.Tensor:
        return self.ids > 0


def with_collision_token(codes: np.ndarray) -> np.ndarray:
    """`[n, L]` to `[n, L + 1]`: how many earlier items have the same codes."""
    order = np.lexsort(codes.T[::-1])
    ordered = codes[order]
    new = np.append(True, (ordered[1:] != ordered[:-1]).any(1))
    starts = np.flatnonzero(new)
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))
    return np.concatenate([codes, rank[:, None]], 1)


def real_catalogue(interactions: str, codes_file: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Codes of all items and the sequence of every user, as row numbers of the codes."""
    learned = {item: codes[:3] for item, codes in json.loads(Path(codes_file).read_text()).items()}
    number = {item: row for row, item in enumerate(sorted(learned))}
    rows: dict[str, list[tuple[float, int]]] = {}
    with open(interactions) as lines:
        header = [name.split(":")[0] for name in next(lines).rstrip("\n").split("\t")]
        user, item, moment = (header.index(name) for name in ("user_id", "item_id", "timestamp"))
        for line in lines:
            cells = line.rstrip("\n").split("\t")
            rows.setdefault(cells[user], []).append((float(cells[moment]), number[cells[item]]))
    codes = np.array([learned[item] for item in sorted(learned)])
    return with_collision_token(codes - codes.min(0)), [
        np.array([row for _, row in sorted(sequence, key=lambda pair: pair[0])]) for sequence in rows.values()
    ]


def synthetic_catalogue(n_items: int, seed: int = 0) -> np.ndarray:
    """Codes `[n_items, 4]` with the skew of learned ones: within every prefix few codewords hold most of the items.

    Codeword `floor(256 u**p)` for a uniform `u`, moved by a hash of the prefix so that every prefix has favourites of
    its own; the exponents give 12,101 items about Beauty's 4,414 two-code and 9,546 three-code prefixes.
    """
    rng = np.random.default_rng(seed)
    prefix = np.zeros(n_items, dtype=np.int64)
    columns = []
    for exponent in (1.2, 10.7, 4.3):
        favourite = (prefix * 2654435761 >> 7) % 256
        code = (np.floor(256 * rng.random(n_items) ** exponent).astype(np.int64) + favourite) % 256
        prefix = prefix * 256 + code + 1
        columns.append(code)
    return with_collision_token(np.stack(columns, 1))


def make_case(codes: np.ndarray, histories: list[np.ndarray], *, tied: bool = True, user_token: bool = True) -> Case:
    sizes = [256, 256, 256, int(codes[:, 3].max()) + 1]
    starts = np.cumsum([1, *sizes])
    slices = [slice(int(low), int(high)) for low, high in zip(starts[:-1], starts[1:], strict=True)]
    histories = sorted((history[-MAX_HISTORY:] for history in histories), key=len)
    shift = int(user_token)
    ids = np.zeros((len(histories), shift + 4 * max(map(len, histories))), dtype=np.int64)
    for user, history in enumerate(histories):
        if user_token:
            ids[user, 0] = starts[-1] + user % USER_TOKENS
        ids[user, shift : shift + 4 * len(history)] = (codes[history] + starts[:-1]).ravel()
    torch.manual_seed(0)
    vocabulary = int(starts[-1]) + (USER_TOKENS if user_token else 0)
    model = Seq2Seq(T5Config(vocabulary, tie_word_embeddings=tied)).eval()
    if not tied:
        with torch.no_grad():
            model.lm_head.weight.mul_(model.config.d_model**-0.5)
    ids = torch.from_numpy(ids)
    return Case(codes, PrefixTrie.from_codes(codes, sizes), model, slices, histories, ids, (ids > 0).sum(1))


def in_batches(case: Case, rows_per_user: int, search: Callable[[Seq2SeqStepDecoder], object]) -> list:
    """`search` on users of similar length at a time, about `ROWS` decoder rows each."""
    size = min(64, max(1, ROWS // rows_per_user))
    results = []
    with torch.inference_mode():
        for first in range(0, len(case.ids), size):
            users = slice(first, first + size)
            longest = int(case.lengths[users].max())
            ids, mask = case.ids[users, :longest], case.mask[users, :longest]
            decoder = Seq2SeqStepDecoder(case.model, case.model.encode(ids, mask), mask, case.slices)
            results.append(search(decoder))
    return results


def beam(case: Case, beam_size: int) -> BeamResult:
    parts = in_batches(case, beam_size, lambda decoder: beam_search(decoder, case.trie, beam_size=beam_size))
    return BeamResult(torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts]))


def exact(case: Case, k: int) -> BeamResult:
    parts = in_batches(case, 400, lambda decoder: exact_topk(decoder, case.trie, k=k, max_rows=ROWS))
    return BeamResult(torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts]))


def free(case: Case, beam_size: int) -> list:
    sizes = case.trie.level_sizes
    return in_batches(case, beam_size, lambda decoder: free_beam_search(decoder, sizes, case.trie, beam_size=beam_size))


def floor_flops(case: Case, beam_size: int) -> float:
    """Floating-point operations of the textbook search: real tokens only, cross keys and values once per user."""
    sizes = case.trie.level_sizes
    n_logits = sizes[0] + beam_size * sum(sizes[1:])
    return t5_flops(case.model.config, case.lengths.numpy(), 1 + (case.trie.depth - 1) * beam_size, n_logits)


# --------------------------------------------------------------------------- measuring


def resident_memory() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def assert_same(items: torch.Tensor, scores: torch.Tensor, found: BeamResult, tolerance: float = 1e-4) -> str:
    """Equal scores, and equal items except where two scores are closer than the tolerance."""
    difference = (scores - found.scores).abs().max().item()
    assert difference <= tolerance, f"scores differ by {difference}"
    near = torch.zeros_like(scores, dtype=torch.bool)
    close = (found.scores[:, :-1] - found.scores[:, 1:]) < 2 * tolerance
    near[:, :-1] |= close
    near[:, 1:] |= close
    assert torch.equal(items[~near], found.items[~near]), "the rankings differ"
    return f"same ranking, scores within {difference:.1e}"


# --------------------------------------------------------------------------- parts


def hugging_face(case: Case):
    """`search(beam_size, batch, comparable)` by Hugging Face's `generate`, on the same weights."""
    import transformers
    from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

    model = hugging_face_t5(case.model)
    children: dict[tuple[int, ...], set[int]] = {}
    for row in (case.codes + [s.start for s in case.slices]).tolist():
        for level, token in enumerate(row):
            children.setdefault(tuple(row[:level]), set()).add(token)
    allowed_after = {prefix: sorted(tokens) for prefix, tokens in children.items()}

    def allowed(_: int, sentence: torch.Tensor) -> list[int]:
        return allowed_after[tuple(sentence[1:].tolist())]

    class OverTheLevel(transformers.LogitsProcessor):
        """Log-probabilities over the codebook of the level instead of over all tokens, as ours are."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            level = case.slices[input_ids.shape[1] - 1]
            out = torch.full_like(scores, -torch.inf)
            out[:, level] = scores[:, level].log_softmax(-1)
            return out

    # As a loader brings them: in no order of length.
    order = torch.randperm(len(case.ids), generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def search(beam_size: int, batch: int, comparable: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        items, scores = [], []
        for users in order.split(batch):
            longest = int(case.lengths[users].max())
            constraint = (
                {"logits_processor": [OverTheLevel(), PrefixConstrainedLogitsProcessor(allowed, beam_size)]}
                if comparable
                else {"prefix_allowed_tokens_fn": allowed}
            )
            out = model.generate(
                input_ids=case.ids[users, :longest],
                attention_mask=case.mask[users, :longest].long(),
                num_beams=beam_size,
                num_return_sequences=beam_size,
                max_new_tokens=4,
                min_new_tokens=4,
                length_penalty=0.0,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                **constraint,
            )
            codes = out.sequences[:, 1:5] - torch.tensor([s.start for s in case.slices])
            items.append(case.trie.items[case.trie.find(codes)].long().view(-1, beam_size))
            scores.append(out.sequences_scores.view(-1, beam_size))
        back = order.argsort()
        return torch.cat(items)[back], torch.cat(scores)[back]

    return search, allowed


def part_peers(case: Case, table: Table, repeats: int) -> None:
    """Hugging Face; beam 50 / beam 10; the floor; constraint on and off."""
    search, _ = hugging_face(case)
    for beam_size, goal in ((10, 4), (50, 8)):
        print(f"beam {beam_size}:", assert_same(*search(beam_size, 64, comparable=True), beam(case, beam_size)))
        batches = {size: medians({"": lambda size=size: search(beam_size, size)}, 1)[""] for size in (32, 256)}
        best = min(batches, key=batches.get)
        seconds = medians({"peer": lambda: search(beam_size, best), "ours": lambda: beam(case, beam_size)}, repeats)
        what = f"Hugging Face generate + prefix callback (batch {best}), beam {beam_size}"
        table.ratio(what, seconds["peer"], seconds["ours"], goal, at_least=True)
    rates: list[float] = []
    sides: dict[str, Side] = {
        "rate": lambda: rates.append(gemm_rate()),
        "10": lambda: beam(case, 10),
        "50": lambda: beam(case, 50),
        "10 free": lambda: free(case, 10),
        "50 free": lambda: free(case, 50),
    }
    seconds = medians(sides, repeats)
    rate = float(np.median(rates))
    table.ratio("beam 50 / beam 10", seconds["50"], seconds["10"], 2.6, at_least=False)
    for beam_size in (10, 50):
        floor = floor_flops(case, beam_size) / rate
        what = f"whole search / FLOP floor at {rate / 1e9:.0f} GFLOP/s, beam {beam_size}"
        table.ratio(what, seconds[str(beam_size)], floor, 2.5, at_least=False)
    for beam_size in ("10", "50"):
        what = f"constraint on / off, {case.trie.n_items:,} items, beam {beam_size}"
        table.ratio(what, seconds[beam_size], seconds[f"{beam_size} free"], 1.05, at_least=False)


def part_cornac(codes: np.ndarray, histories: list[np.ndarray], table: Table, python: str, threads: int) -> None:
    """cornac's TIGER on the same weights: no user token, an output layer of its own."""
    case = make_case(codes, histories, tied=False, user_token=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = np.concatenate(case.histories)
        ends = np.cumsum([len(history) for history in case.histories])
        np.savez(folder / "catalogue.npz", codes=codes, items=items, ends=ends)
        torch.save(case.model.to_hf_state_dict(), folder / "weights.pt")
        peer = CornacWorker(__file__, python, folder, threads)
        for scoring, ours, k, n_users, goal, repeats in (("beam", beam, 20, 64, 20, 3), ("exact", exact, 20, 4, 6, 3)):
            # The same number of users from the middle of the lengths, and every k-th user for the comparison.
            middle = len(case.ids) // 2
            some = slice(middle - n_users // 2, middle + n_users // 2)
            part = Case(case.codes, case.trie, case.model, case.slices, [], case.ids[some], case.lengths[some])
            peer.run(f"{scoring} {some.start} {some.stop}")
            scores, rows = torch.from_numpy(np.load(folder / "scores.npy")).float().topk(k, dim=1)
            print(f"cornac {scoring}:", assert_same(rows + 1, scores, ours(part, k)))
            seconds = medians(
                {
                    "peer": lambda scoring=scoring, some=some: peer.run(f"{scoring} {some.start} {some.stop}"),
                    "ours": lambda ours=ours, part=part, k=k: ours(part, k),
                },
                repeats,
            )
            what = f"cornac 3.0.1, scoring={scoring}, {n_users} users"
            table.ratio(what, seconds["peer"], seconds["ours"], goal, at_least=True)
        peer.close()


def constraint_step(case: Case, n_users: int, beam_size: int) -> tuple[Side, list[torch.Tensor], list[torch.Tensor]]:
    """One pass over the constrained part of all levels, without the model, and the prefixes and scores it works on."""
    generator = torch.Generator().manual_seed(0)
    sizes = case.trie.level_sizes
    logits = [
        torch.randn(n_users, 1 if level == 0 else beam_size, size, generator=generator)
        for level, size in enumerate(sizes)
    ]
    options = search_module._Options(beam_size, False, False, None)

    def step() -> list:
        beams = search_module._root(n_users, torch.device("cpu"), False)
        out = []
        for level in range(case.trie.depth):
            if level == 0:
                children = search_module._RootChildren(case.trie, n_users)
            else:
                children = search_module._RaggedChildren(case.trie, level, beams)
            beams = search_module._expand(case.trie, level, beams, children, logits[level], options, None)
            out.append(beams)
        return out

    return step, logits, [beams.node for beams in step()]


def part_trie(case: Case, table: Table, repeats: int) -> None:
    """The constraint alone, against a Python callback per beam."""
    from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

    _, allowed = hugging_face(case)
    n_users, beam_size = 256, 10
    step, _, nodes = constraint_step(case, n_users, beam_size)
    vocabulary = case.model.config.vocab_size
    codes = case.trie.codes()
    calls = []
    for level in range(1, 4):
        first_item = case.trie.item_range(level - 1, nodes[level - 1])[0].flatten()
        prefixes = codes[first_item, :level] + torch.tensor([s.start for s in case.slices[:level]])
        sentences = torch.cat([torch.zeros(len(prefixes), 1, dtype=torch.long), prefixes], 1)
        calls.append((sentences, torch.randn(len(prefixes), vocabulary)))
    processor = PrefixConstrainedLogitsProcessor(allowed, beam_size)

    def callback() -> None:
        for sentences, scores in calls:
            processor(sentences, scores)

    seconds = medians({"callback": callback, "ours": step}, repeats)
    what = f"constraint steps of 3 levels at {n_users * beam_size:,} rows, callback per beam"
    table.ratio(what, seconds["callback"], seconds["ours"], 30, at_least=True)


def part_scale(histories: list[np.ndarray], table: Table, repeats: int) -> None:
    """10 thousand to 10 million items: step, evaluation, constraint on and off, the index itself."""
    rng = np.random.default_rng(1)
    cases = {}
    for n_items in (10_000, 1_000_000):
        codes = synthetic_catalogue(n_items)
        same_lengths = [rng.integers(0, n_items, len(history)) for history in histories]
        cases[n_items] = make_case(codes, same_lengths)
    small, large = cases.values()
    for beam_size in (10, 50):
        steps = medians({n: constraint_step(case, 256, beam_size)[0] for n, case in cases.items()}, 4 * repeats)
        what = f"10k -> 1M items, constraint steps at {256 * beam_size:,} rows"
        table.ratio(what, steps[1_000_000], steps[10_000], 1.5, at_least=False)
        sides: dict[str, Side] = {
            "small": lambda: beam(small, beam_size),
            "large": lambda: beam(large, beam_size),
            "free": lambda: free(large, beam_size),
        }
        seconds = medians(sides, repeats)
        what = f"10k -> 1M items, evaluation, beam {beam_size}"
        table.ratio(what, seconds["large"], seconds["small"], 1.2, at_least=False)
        what = f"constraint on / off, 1M items, beam {beam_size}"
        table.ratio(what, seconds["large"], seconds["free"], 1.15, at_least=False)
    for n_items, limit in ((1_000_000, 1.0), (10_000_000, 15.0)):
        codes = synthetic_catalogue(n_items)
        sizes = [256, 256, 256, int(codes[:, 3].max()) + 1]
        before = resident_memory()
        started = time.perf_counter()
        trie = PrefixTrie.from_codes(codes, sizes)
        seconds = time.perf_counter() - started
        kept = resident_memory() - before
        what = f"index of {n_items:,} items"
        table.line(f"{what}, build", f"{seconds:.2f} s", f"<= {limit:g} s", seconds <= limit)
        per_item = trie.nbytes / n_items
        table.line(f"{what}, bytes per item with item numbers", f"{per_item:.1f}", "<= 16", per_item <= 16)
        size = trie.nbytes / 2**20
        table.line(
            f"{what}, resident", f"{size:.0f} MiB ({kept:.0f} MiB more in the process)", "<= 200 MiB", size <= 200
        )
        del trie, codes


def part_beauty(codes: np.ndarray, sequences: list[np.ndarray], table: Table) -> None:
    """Every test user at beam 20, once."""
    case = make_case(codes, [sequence[:-1] for sequence in sequences])
    started = time.perf_counter()
    found = beam(case, 20)
    seconds = time.perf_counter() - started
    assert (found.items > 0).all()
    what = f"{len(sequences):,} test users at beam 20, peak memory of the process"
    memory = peak_memory()
    table.line(what, f"{memory:.0f} MiB, {seconds:.0f} s", "<= 2048 MiB", memory <= 2048)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", required=True, help="RecBole .inter file with user_id, item_id, timestamp")
    parser.add_argument("--codes", required=True, help="JSON {item_id: [codes]}; the first three codes are used")
    parser.add_argument("--part", default="peers,cornac,trie,scale,beauty")
    parser.add_argument("--cornac", help="a Python with cornac 3.0.1, torch and transformers; without it, no cornac")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--users", type=int, default=256)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    codes, sequences = real_catalogue(options.interactions, options.codes)
    parts = options.part.split(",")
    table = Table()
    if "beauty" in parts:  # first: the peak memory must be its own
        part_beauty(codes, sequences, table)
    chosen = np.random.default_rng(0).choice(len(sequences), options.users, replace=False)
    histories = [sequences[user][:-1] for user in chosen]
    case = make_case(codes, histories)
    print(
        f"{len(codes):,} items, nodes per level {case.trie.n_nodes}, {options.users} histories of "
        f"{case.lengths.float().mean():.1f} tokens on average, {options.threads} threads, torch {torch.__version__}"
    )
    if "peers" in parts:
        part_peers(case, table, options.repeats)
    if "cornac" in parts and options.cornac:
        part_cornac(codes, histories, table, options.cornac, options.threads)
    if "trie" in parts:
        part_trie(case, table, 4 * options.repeats)
    if "scale" in parts:
        part_scale(histories, table, options.repeats)
    print(table.verdict())
    return 0


if __name__ == "__main__":
    sys.exit(main())
