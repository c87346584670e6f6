"""Speed of TIGERTree beside RecBole's SASRec: an epoch, examples per second, evaluation, and catalogues of any size.

    python benchmarks/tree.py [--part=epoch,evaluation,scale] [--threads=2] [--repeats=5] [--sizes=12000,100000,1000000]
                              [--key=value of a run: --dataset, --data_path, --content_encoder, …]

`epoch` and `evaluation` work on a dataset, both models on the same split in the same run, each through its own
trainer's steps: RecBole's loader and Adam for SASRec (cross-entropy, its shipped sizes), ours for TIGERTree. `scale`
takes one optimizer step of each model on synthetic catalogues; histories are as long as those of an Amazon category,
and items skewed. Sides take turns (A/B/A/B), figures are medians.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from common import load, medians
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recbole_tiger.experiment.configuration import build_config  # noqa: E402
from recbole_tiger.experiment.loading import make_trainer, prepare_data  # noqa: E402
from recbole_tiger.nn import ItemTree, RowAdamW, TreeConfig, TreeNetwork  # noqa: E402
from recbole_tiger.nn.tree.module import ContentNodes  # noqa: E402
from recbole_tiger.semantic_ids import SemanticIDTable  # noqa: E402
from recbole_tiger.settings.parse import parse_command_line  # noqa: E402
from recbole_tiger.settings.validate import known_keys  # noqa: E402

USERS = 256  # histories per step of TIGERTree
LARGEST_DENSE = 200_000  # items up to which AdamW on all rows is tried


# ------------------------------------------------------------------------------------------------- on a dataset


def setting(model: str, settings: dict):
    known = known_keys(model)
    chosen = {key: value for key, value in settings.items() if key in known and key not in ("model", "dataset")}
    return build_config(model, settings.get("dataset", "ml-100k"), config_dict={"show_progress": False, **chosen})


def sasrec_steps(trainer, loader, n_steps: int) -> Callable[[], int]:
    """A side: so many of RecBole's training steps; returns the examples trained."""
    batches: Iterator = iter(())

    def side() -> int:
        nonlocal batches
        n_examples = 0
        for _ in range(n_steps):
            interaction = next(batches, None)
            if interaction is None:
                batches = iter(loader)
                interaction = next(batches)
            trainer.optimizer.zero_grad()
            loss = trainer.model.calculate_loss(interaction)
            loss.backward()
            trainer.optimizer.step()
            n_examples += len(interaction)
        return n_examples

    trainer.model.train()
    return side


def part_epoch(settings: dict, repeats: int) -> None:
    """Seconds of an epoch, and examples per second beside SASRec's."""
    tree_config, peer_config = setting("TIGERTree", settings), setting("SASRec", settings)
    tree_data, peer_data = prepare_data(tree_config), prepare_data(peer_config)
    tree, peer = make_trainer(tree_config, tree_data), make_trainer(peer_config, peer_data)
    n_examples = len(peer_data.train._dataset)
    epochs = iter(range(10**6))
    per_turn = max(1, len(peer_data.train) // 16)
    trained = {"TIGERTree": 0, "SASRec": 0}
    steps = sasrec_steps(peer, peer_data.train, per_turn)

    def epoch() -> None:
        tree._progress = (0, 0.0)  # steps and loss of an epoch that is continued; `fit` sets it so
        tree._train_epoch(tree_data.train, next(epochs))

    def peer_turn() -> None:
        trained["SASRec"] = steps()

    seconds = medians({"TIGERTree": epoch, "SASRec": peer_turn}, repeats)
    trained["TIGERTree"] = int(tree._examples.n_targets.sum())
    assert trained["TIGERTree"] == n_examples, "both models train on every item but the first of every user"
    rates = {name: trained[name] / seconds[name] for name in trained}
    rows = [
        [name, f"{n_examples / rates[name]:.1f}", f"{rates[name]:,.0f}", f"{rates[name] / rates['SASRec']:.1f}x"]
        for name in trained
    ]
    headers = [f"{n_examples:,} examples", "seconds per epoch", "examples per second", "of SASRec's"]
    print(tabulate(rows, headers, disable_numparse=True), "\n")


def part_evaluation(settings: dict, repeats: int) -> None:
    """Seconds to rank the catalogue for all validation users."""
    sides, n_users = {}, 0
    for model in ("TIGERTree", "SASRec"):
        config = setting(model, settings)
        data = prepare_data(config)
        trainer = make_trainer(config, data)
        trainer.eval_collector.data_collect(data.train)
        if model == "TIGERTree":  # a trained model's beams differ from an untrained one's
            trainer._train_epoch(data.train, 0)
        n_users = len(data.valid._dataset)
        sides[f"{model}{', beam ' + str(config['beam_size']) if model == 'TIGERTree' else ''}"] = (
            lambda trainer=trainer, data=data: trainer.evaluate(data.valid, load_best_model=False)
        )
    seconds = medians(sides, repeats)
    rows = [[name, f"{value:.1f}", f"{n_users / value:,.0f}"] for name, value in seconds.items()]
    print(tabulate(rows, [f"{n_users:,} users", "seconds", "users per second"], disable_numparse=True), "\n")


# ------------------------------------------------------------------------------------------ catalogues of any size


def synthetic_table(n_items: int) -> SemanticIDTable:
    """Three codewords of 256 and a collision token per item; codewords skewed as those of real catalogues are."""
    rng = np.random.default_rng(0)
    codes = np.stack([(256 * rng.random(n_items) ** 1.5).astype(np.int64) for _ in range(3)], 1)
    return SemanticIDTable.from_codes(codes, [str(item) for item in range(n_items)], (256, 256, 256))


def synthetic_batch(n_items: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories `[256, 21]` whose last item is a target, 7 items on average, and their lengths."""
    lengths = np.clip(2 + rng.geometric(0.2, USERS), 3, 21)
    items = 1 + (n_items * rng.random((USERS, 21)) ** 2).astype(np.int64)
    items[np.arange(21) >= lengths[:, None]] = 0
    return torch.from_numpy(items), torch.from_numpy(lengths)


def tree_step(n_items: int, table: SemanticIDTable, touched: bool, text: ContentNodes | None) -> Callable[[], int]:
    """A side: one step of TIGERTree, with `text` in items (False) and nodes ("map") or without any."""
    vectors = None if text is None else torch.randn(n_items + 1, 384, dtype=torch.float16)
    sizes = TreeConfig(sparse_gradients=touched, content_nodes=text or False)
    network = TreeNetwork(sizes, ItemTree(table.codes, table.level_sizes), vectors).train()
    if touched:
        optimizer = RowAdamW(network.parameters(), lr=1e-3, weight_decay=0.05, fused=True, max_norm=1.0)
    else:
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    rng = np.random.default_rng(1)

    def step() -> int:
        items, lengths = synthetic_batch(n_items, rng)
        states, packed = network.states(items[:, :-1], lengths - 1)
        loss = network.loss(states, items[packed.user, packed.column + 1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not touched:
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return len(states)

    return step


def sasrec_step(n_items: int) -> Callable[[], int]:
    """A side: one step of RecBole's SASRec on 256 prefixes, with its shipped sizes."""
    from recbole.model.sequential_recommender.sasrec import SASRec

    config = build_config("SASRec", "ml-100k", config_dict={"show_progress": False})
    model = SASRec(config, SimpleNamespace(num=lambda field: n_items + 1)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    rng = np.random.default_rng(1)

    def step() -> int:
        items, lengths = synthetic_batch(n_items, rng)
        lengths = lengths - 1
        batch = {
            model.ITEM_SEQ: torch.where(torch.arange(20) < lengths[:, None], items[:, :20], 0),
            model.ITEM_SEQ_LEN: lengths,
            model.POS_ITEM_ID: items.gather(1, lengths[:, None]).squeeze(1),
        }
        loss = model.calculate_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return len(items)

    return step


def part_scale(sizes: list[int], repeats: int) -> None:
    """Milliseconds of an optimizer step from small to large catalogues."""
    rows = []
    for n_items in sizes:
        table = synthetic_table(n_items)
        sides = {"TIGERTree, touched rows": tree_step(n_items, table, True, None)}
        sides["TIGERTree, touched rows, text in items"] = tree_step(n_items, table, True, False)
        sides["TIGERTree, touched rows, text in items and tree"] = tree_step(n_items, table, True, "map")
        if n_items <= LARGEST_DENSE:
            sides["TIGERTree, all rows"] = tree_step(n_items, table, False, None)
        sides["SASRec"] = sasrec_step(n_items)
        examples = {name: side() for name, side in sides.items()}
        seconds = medians(sides, repeats)
        for name, value in seconds.items():
            per_example = 1e6 * value / examples[name]
            rows.append([f"{n_items:,}", name, f"{1e3 * value:.0f}", examples[name], f"{per_example:.0f}"])
    headers = ["items", "model", "ms per step", "examples per step", "microseconds per example"]
    print(tabulate(rows, headers, disable_numparse=True), "\n")


def main(arguments: list[str]) -> None:
    settings = parse_command_line(arguments)
    parts = str(settings.pop("part", "epoch,evaluation,scale")).split(",")
    repeats = int(settings.pop("repeats", 5))
    torch.set_num_threads(int(settings.pop("threads", 2)))
    sizes = settings.pop("sizes", (12_000, 100_000, 1_000_000))
    sizes = [int(size) for size in (sizes if isinstance(sizes, (tuple, list)) else [sizes])]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {load()}\n")
    if "epoch" in parts:
        part_epoch(settings, repeats)
    if "evaluation" in parts:
        part_evaluation(settings, repeats)
    if "scale" in parts:
        part_scale(sizes, repeats)


if __name__ == "__main__":
    main(sys.argv[1:])
