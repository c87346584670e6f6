"""Speed and memory of training, side by side with peers and with the floor that the machine's own matrix products set.

    python benchmarks/training.py --data_path=FOLDER [--dataset=amazon-beauty] [--codes=FILE.json] [--cornac=PYTHON]
                                  [--parts=hugging_face,cornac,block_causal,floor,data_path,prepare]
                                  [--threads=2] [--repeats=5] [--steps=8] [--batch=256] [--output=FILE.json]

All models have the paper's size. Every side trains on the same examples: all prefixes of the training sequences of some
users of the dataset, spread evenly over their lengths, `steps` batches in all; only `data_path` takes the whole
dataset. Ours is the loop of a run (`TIGERTrainer`). Peers: Hugging Face's T5 with our weights, padded to 81 tokens,
under RecBole's own augmentation, loader and trainer; cornac 3.0.1's TIGER, its own `_fit_seq2seq`, in the Python that
`--cornac` names (cornac needs numpy 2, RecBole's pinned versions numpy 1: give cornac, torch and transformers an
environment of their own). Before anything is timed, both sides' examples are asserted to be the same, and so are their
losses, step by step on the peer's batches without dropout, in double precision: in single, Adam turns gradients that
are nothing but rounding into whole steps, and after some of them two correct sides differ by more than the tolerance.
Then sides take turns (A/B/A/B) in single precision with dropout 0.1, and each figure is the median of the repeats.
`--parts=compile` puts `compile=True` beside the loop as it is: minutes of compiling first. `--sizes=small` and
`--interactions=10000` try the script out in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from common import (
    CornacWorker,
    Table,
    gemm_rate,
    hugging_face_t5,
    in_double,
    load,
    load_into_cornac,
    medians,
    peak_memory,
    t5_flops,
)

LEARNING_RATE = 1e-3
DROPOUT = 0.1
TOLERANCE = 1e-4  # between the losses of a step

# --------------------------------------------------------------------------- cornac's side, in its own environment


def cornac_worker() -> None:
    """Runs cornac's training on what the parent wrote; one command per line of standard input, one answer per line.

    `equal`: an epoch without dropout from the parent's weights; writes its batches and losses. `time`: an epoch with
    dropout; answers with the seconds from its first batch to the end of its last step.
    """
    import cornac.models.tiger.recom_tiger as module
    import cornac.models.tiger.tiger as network
    from cornac.utils import get_rng

    folder = Path(sys.argv[2])
    torch.set_num_threads(int(sys.argv[3]))
    given = torch.load(folder / "given.pt", weights_only=True)
    codes, items, users = (given[name].numpy() for name in ("codes", "items", "users"))
    sessions = {int(user): np.flatnonzero(users == user) for user in np.unique(users)}
    iterate, Model = module.session_seq_iter, network.TIGERSeq2Seq
    recorded, losses, seconds = [], [], [0.0]

    def timed_batches(*args, **options):
        started = time.perf_counter()
        yield from iterate(*args, **options)
        seconds[0] = time.perf_counter() - started

    def recorded_batches(*args, **options):
        for batch in iterate(*args, **options):
            recorded.append([torch.from_numpy(values) for values in batch])
            yield batch

    def same_weights(**options):
        model = Model(**options)
        load_into_cornac(model, given["weights"])
        in_double(model)
        forward = model.forward
        model.forward = lambda *args: losses.append(forward(*args)) or losses[-1]
        return model

    module.TIGER.total_items = len(codes)  # a property of a fitted recommender
    for line in sys.stdin:
        equal = line.strip() == "equal"
        peer = module.TIGER(
            n_epochs=1,
            batch_size=given["batch"],
            learning_rate=LEARNING_RATE,
            weight_decay=0.0,
            dropout=0.0 if equal else DROPOUT,
            rqvae_codebook_size=given["level_sizes"][0],
            rqvae_num_levels=codes.shape[1] - 1,
            device="cpu",
            verbose=False,
            **given["sizes"],
        )
        peer.rng, peer.device_ = get_rng(0), "cpu"
        peer.train_set = SimpleNamespace(uir_tuple=(users, items, None), sessions=sessions)
        peer._build_semantic_ids(codes[:, :-1])
        assert np.array_equal(peer.sid_table, codes)
        peer.level_sizes = given["level_sizes"]  # as ours: room for more collisions than there are
        network.TIGERSeq2Seq = same_weights if equal else Model
        module.session_seq_iter = recorded_batches if equal else timed_batches
        torch.manual_seed(0)
        peer._fit_seq2seq(torch, None)
        if equal:
            torch.save({"batches": recorded, "losses": [loss.item() for loss in losses]}, folder / "steps.pt")
        print(json.dumps(seconds[0]), flush=True)


if len(sys.argv) > 1 and sys.argv[1] == "--cornac-worker":
    cornac_worker()
    sys.exit()

# --------------------------------------------------------------------------- ours

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch.nn.functional as F  # noqa: E402
from recbole.data import data_preparation  # noqa: E402
from recbole.data.dataset import SequentialDataset  # noqa: E402
from recbole.model.abstract_recommender import SequentialRecommender  # noqa: E402
from recbole.trainer import Trainer  # noqa: E402
from recbole.utils import InputType  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pad_sequence  # noqa: E402

from recbole_tiger.data.batches import Batches, FieldNames, TrainingExamples, TrainingWindows  # noqa: E402
from recbole_tiger.data.dataset import UserSequences, order_interactions  # noqa: E402
from recbole_tiger.data.split import Split  # noqa: E402
from recbole_tiger.data.tokens import encoder_input  # noqa: E402
from recbole_tiger.experiment.configuration import build_config  # noqa: E402
from recbole_tiger.experiment.loading import PreparedData, make_trainer, prepare_data  # noqa: E402
from recbole_tiger.model.tiger import TIGER  # noqa: E402
from recbole_tiger.training.generative import TIGERTrainer  # noqa: E402

PARTS = ("hugging_face", "cornac", "block_causal", "floor", "data_path", "prepare")
SMALL = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
MAX_HISTORY = 20
GENERATOR = Path(__file__).resolve().parent.parent / "dataset_prep" / "synthetic.py"


def settings_of(options: argparse.Namespace, **more) -> dict:
    """A run with the paper's model; AdamW without weight decay, which is Adam, on all sides."""
    ids = {"semantic_id": "file", "semantic_id_file": options.codes} if options.codes else {"semantic_id": "random"}
    return {
        **ids,
        "id_length": 3,
        "codebook_size": 256,
        "recipe": "paper",
        "data_path": options.data_path,
        "MAX_ITEM_LIST_LENGTH": MAX_HISTORY,
        "device": "cpu",
        "learner": "adamw",
        "learning_rate": LEARNING_RATE,
        "weight_decay": 0.0,
        "lr_scheduler": "constant",
        "clip_grad_norm": {"max_norm": 1.0},
        "max_steps": 0,
        "dropout_rate": DROPOUT,
        "train_batch_size": options.batch,
        "show_progress": False,
        "state": "ERROR",
        **(SMALL if options.sizes == "small" else {}),
        **more,
    }


@dataclass(frozen=True)
class Part:
    """The training sequences of some users.

    Attributes:
        sequences: of all users, but only those of some train.
        n_examples: prefixes with their next items.
    """

    sequences: UserSequences
    n_examples: int

    @classmethod
    def of(cls, whole: UserSequences, n_training: np.ndarray) -> Part:
        """The first ``n_training`` [n_users] items of each user."""
        sequences = replace(whole, split=Split(n_training=n_training, targets={}))
        return cls(sequences, int(np.maximum(n_training - 1, 0).sum()))

    @classmethod
    def draw(cls, whole: UserSequences, n_examples: int) -> Part:
        """As many users as it takes, evenly spread over the order of their lengths, so that lengths are those of all.

        What is too much is cut off the longest sequence; a dataset without enough examples is taken whole.
        """
        length = whole.split.n_training
        order = np.random.default_rng(0).permutation(np.flatnonzero(length >= 2))
        order = order[np.argsort(length[order], kind="stable")]
        for n_users in range(1, len(order) + 1):
            users = order[((np.arange(n_users) + 0.5) * len(order) / n_users).astype(int)]
            if (length[users] - 1).sum() >= n_examples:
                break
        kept = np.zeros_like(length)
        kept[users] = length[users]
        excess = (length[users] - 1).sum() - n_examples
        kept[users[-1]] -= min(max(excess, 0), kept[users[-1]] - 2)
        return cls.of(whole, kept)

    def of_one_window(self) -> Part:
        """Those whose sequence fits one window: of a longer one, later windows see less than prefixes do."""
        length = self.sequences.split.n_training
        return Part.of(self.sequences, np.where(length <= MAX_HISTORY + 1, length, 0))

    def examples(self, data: PreparedData, config) -> TrainingExamples:
        """Every prefix, for our trainer."""
        whole = TrainingExamples.from_dataset(data.train._dataset, config, "cpu")
        users = whole.rows.users()
        place = whole.rows.target - whole.rows.start[users]
        kept = place < torch.from_numpy(self.sequences.split.n_training)[users]
        return replace(whole, rows=whole.rows.of(kept))

    def windows(self, config) -> TrainingWindows:
        """Every user in as few passes as possible, for a block-causal encoder."""
        return TrainingWindows.from_sequences(self.sequences, config, "cpu")

    def rows(self, dataset) -> list[int]:
        """The rows of RecBole's augmented training set that are these examples: the first ones of each user."""
        users = dataset.inter_feat[dataset.uid_field].numpy()
        by_user = np.argsort(users, kind="stable")
        place = np.empty(len(users), dtype=np.int64)  # among the rows of its user
        starts = np.flatnonzero(np.r_[True, np.diff(users[by_user]) != 0])
        place[by_user] = np.arange(len(users)) - np.repeat(starts, np.diff(np.r_[starts, len(users)]))
        return np.flatnonzero(place < self.sequences.split.n_training[users] - 1).tolist()


def history_lengths(examples: TrainingExamples) -> np.ndarray:
    """[n] items of each history."""
    return (examples.rows.target - examples.rows.begin()).numpy()


class Loop:
    """Our trainer on given examples: `epoch()` is one pass of a run's own loop."""

    def __init__(self, options: argparse.Namespace, data: PreparedData, part: Part | None = None, **more) -> None:
        self.config = build_config("TIGER", options.dataset, config_dict=settings_of(options, **more))
        self.trainer: TIGERTrainer = make_trainer(self.config, data)
        self.names = FieldNames.of(self.config)
        self.data, self.number = data, 0
        if part is not None:
            block_causal = self.config["encoder_mask"] == "block_causal"
            self.trainer._examples = part.windows(self.config) if block_causal else part.examples(data, self.config)

    def epoch(self) -> None:
        self.trainer._progress = (0, 0.0)  # steps and loss of an epoch that is continued; `fit` sets it so
        self.number += 1
        self.trainer._train_epoch(self.data.train, self.number)

    def batches(self) -> Batches:
        """Those of an epoch."""
        return self.trainer._examples.batches(self.config["train_batch_size"], seed=(0, 0))

    def losses_on(self, batches: Sequence[dict[str, torch.Tensor]]) -> list[float]:
        """The loss of every step on these batches, from here on in double precision."""
        self.trainer.model.double()
        found: list[float] = []
        loss, examples = self.trainer._loss_func, self.trainer._examples
        numbers = [torch.tensor(n) for n in range(len(batches))]
        sizes = [len(batch[self.names.user]) for batch in batches]
        replayed = Batches(lambda number: batches[int(number)], numbers, [()] * len(batches), sizes)
        self.trainer._loss_func = lambda batch: noted(loss(batch), found)
        self.trainer._examples = SimpleNamespace(batches=lambda *args, **options: replayed)
        self.epoch()
        self.trainer._loss_func, self.trainer._examples = loss, examples
        return found


def noted(loss: torch.Tensor, losses: list[float]) -> torch.Tensor:
    losses.append(loss.item())
    return loss


# --------------------------------------------------------------------------- what is asserted before anything is timed


def assert_equal_losses(ours: Sequence[float], theirs: Sequence[float], who: str, table: Table) -> None:
    assert len(ours) == len(theirs) > 0, f"{len(ours)} losses of ours, {len(theirs)} of {who}"
    difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert difference <= TOLERANCE, f"losses differ from those of {who} by {difference}: {ours} and {theirs}"
    measured = f"differs by {difference:.1e} at most over {len(ours)}"
    table.line(f"loss in double precision beside {who}", measured, f"<= {TOLERANCE:g}", True)


def assert_same_examples(ours: Loop, theirs: Iterable[dict[str, torch.Tensor]], who: str) -> None:
    """The same users, histories and next items, in whatever order."""

    def sorted_rows(batches) -> np.ndarray:
        rows = []
        for batch in batches:
            history = batch[ours.names.history]
            history = F.pad(history, (0, MAX_HISTORY - history.shape[1]))
            rows.append(torch.column_stack([batch[ours.names.user], history, batch[ours.names.item]]))
        rows = torch.cat(rows).numpy()
        return rows[np.lexsort(rows.T)]

    assert np.array_equal(sorted_rows(ours.batches()), sorted_rows(theirs)), f"{who} trains on other examples"


def assert_same_training(options, data: PreparedData, part: Part, table: Table, **more) -> None:
    """One pass over all positions has the loss of prefix by prefix, under the same encoder."""
    part = part.of_one_window()
    windows = Loop(options, data, part, dropout_rate=0.0, **more)
    windows.trainer.model.double()
    means = []
    for examples in (windows.trainer._examples, part.examples(data, windows.config)):
        batches = examples.batches(options.batch, seed=(0, 0))
        with torch.no_grad():
            losses = [
                windows.trainer.model.calculate_loss(batch).item() * n
                for batch, n in zip(batches, batches.n_targets, strict=True)
            ]
        assert sum(batches.n_targets) == part.n_examples
        means.append(sum(losses) / part.n_examples)
    assert_equal_losses(means[:1], means[1:], "a block-causal encoder prefix by prefix (mean of all)", table)


# --------------------------------------------------------------------------- Hugging Face under RecBole's own loop


class PaddedT5(SequentialRecommender):
    """Hugging Face's T5 with the weights of a TIGER, on inputs of one length: a user token and 20 items of 4 tokens."""

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset, ours: TIGER) -> None:
        super().__init__(config, dataset)
        self.vocabulary = ours.vocabulary
        self.register_buffer("item_tokens", ours.item_tokens)
        self.register_buffer("user_tokens", ours.user_tokens)
        self.t5 = hugging_face_t5(ours.seq2seq, config["dropout_rate"])

    def calculate_loss(self, interaction) -> torch.Tensor:
        users = self.user_tokens[interaction[self.USER_ID]]
        tokens, mask = encoder_input(self.item_tokens, interaction[self.ITEM_SEQ], users)
        assert tokens.shape[1] == 81, f"padded to {tokens.shape[1]} tokens, not to 81"
        targets = self.item_tokens[interaction[self.POS_ITEM_ID]]
        logits = self.t5(
            input_ids=tokens, attention_mask=mask.long(), decoder_input_ids=F.pad(targets[:, :-1], (1, 0))
        ).logits
        losses = []
        for level in range(self.vocabulary.length):
            block = self.vocabulary.level_slice(level)
            losses.append(F.cross_entropy(logits[:, level, block], targets[:, level] - block.start))
        return torch.stack(losses).mean()


class StockLoop:
    """RecBole's own augmentation, loader and trainer with the padded T5."""

    def __init__(self, options: argparse.Namespace, data: PreparedData, part: Part, ours: Loop) -> None:
        dataset = SequentialDataset(ours.config)
        order_interactions(dataset)  # ours, since RecBole's own sorts rounded times
        train, *_ = data_preparation(ours.config, dataset)
        rows = train._dataset.inter_feat[part.rows(train._dataset)]
        self.loader = type(train)(ours.config, train._dataset.copy(rows), None, shuffle=True)
        self.trainer = Trainer(ours.config, PaddedT5(ours.config, data.dataset, ours.trainer.model))

    def epoch(self) -> None:
        self.trainer._train_epoch(self.loader, 0)

    def recorded_epoch(self) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
        """The losses of an epoch in double precision and the batches that they are of."""
        in_double(self.trainer.model)
        losses, batches = [], []

        def loss(interaction):
            batches.append(dict(interaction.interaction))
            return noted(self.trainer.model.calculate_loss(interaction), losses)

        self.trainer._train_epoch(self.loader, 0, loss_func=loss)
        return losses, batches


def part_padded(options, data: PreparedData, part: Part, table: Table, parts: Sequence[str]) -> None:
    """The padded peer beside our prefixes, and beside one pass for all positions of a user; equal targets per step."""
    equal = Loop(options, data, part, dropout_rate=0.0)
    losses, batches = StockLoop(options, data, part, equal).recorded_epoch()
    assert_same_examples(equal, batches, "RecBole's loader")
    assert_equal_losses(equal.losses_on(batches), losses, "Hugging Face's T5 under RecBole's trainer (steps)", table)
    ours = Loop(options, data, part)
    sides = {"padded": StockLoop(options, data, part, ours).epoch, "prefixes": ours.epoch}
    if "block_causal" in parts:
        per_window = part.n_examples / len(part.windows(ours.config))
        per_step = max(1, round(options.batch / per_window))
        more = {"encoder_mask": "block_causal", "train_batch_size": per_step}
        assert_same_training(options, data, part, table, **more)
        windows = Loop(options, data, part, **more)
        assert sum(windows.batches().n_targets) == part.n_examples
        sides["windows"] = windows.epoch
    seconds = medians(sides, options.repeats)
    if "hugging_face" in parts:
        what = "Hugging Face's T5 padded to 81 tokens, RecBole's loader and trainer: examples/s"
        table.ratio(what, seconds["padded"], seconds["prefixes"], 3)
    if "block_causal" in parts:
        what = f"block-causal ({per_step} windows of {per_window:.1f} targets per step) against padded: targets/s"
        table.ratio(what, seconds["padded"], seconds["windows"], 8)
        table.ratio("  against our own prefixes, which are not padded", seconds["prefixes"], seconds["windows"])
    show_rates(table, seconds, part)


def show_rates(table: Table, seconds: dict[str, float], part: Part) -> None:
    for name, value in seconds.items():
        table.line(f"  {name}", f"{part.n_examples / value:.1f} examples/s")


# --------------------------------------------------------------------------- cornac


def part_cornac(options, data: PreparedData, part: Part, table: Table) -> None:
    """cornac's loop on the same sequences: no user token, an output layer of its own, no clipping."""
    alike = {"user_buckets": 0, "tie_word_embeddings": False, "clip_grad_norm": None}
    equal = Loop(options, data, part, dropout_rate=0.0, **alike)
    seq2seq, ids, sequences = equal.trainer.model.seq2seq, data.dataset.semantic_ids.table, part.sequences
    c = seq2seq.config
    with torch.no_grad():
        seq2seq.lm_head.weight.mul_(c.d_model**-0.5)  # it is initialised for states that are scaled so
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = {
            "codes": torch.from_numpy(ids.codes[1:].astype(np.int64)),
            "items": torch.from_numpy(sequences.training_items() - 1),
            "users": torch.from_numpy(np.repeat(np.arange(len(sequences.start) - 1), sequences.split.n_training)),
            "weights": seq2seq.to_hf_state_dict(),
            "batch": options.batch,
            "level_sizes": list(ids.level_sizes),
            "sizes": {
                "d_model": c.d_model,
                "d_ff": c.d_ff,
                "num_heads": c.num_heads,
                "d_kv": c.d_kv,
                "num_enc_layers": c.num_encoder_layers,
                "num_dec_layers": c.num_decoder_layers,
                "max_len": MAX_HISTORY,
            },
        }
        torch.save(given, folder / "given.pt")
        peer = CornacWorker(__file__, options.cornac, folder, options.threads)
        peer.run("equal")
        steps = torch.load(folder / "steps.pt", weights_only=True)
        batches = [cornac_batch(*batch, len(given["codes"]), equal.names) for batch in steps["batches"]]
        assert_same_examples(equal, batches, "cornac")
        # cornac adds the losses of the levels, ours is their mean: Adam's steps are the same with an epsilon as small.
        for group in equal.trainer.optimizer.param_groups:
            group["eps"] /= len(ids.level_sizes)
        losses = [loss / len(ids.level_sizes) for loss in steps["losses"]]
        assert_equal_losses(equal.losses_on(batches), losses, "cornac 3.0.1 (steps)", table)
        ours = Loop(options, data, part, **alike)
        seconds = medians({"cornac": lambda: peer.run("time"), "ours": ours.epoch}, options.repeats)
        peer.close()
    table.ratio("cornac 3.0.1's training loop, same model size: examples/s", seconds["cornac"], seconds["ours"], 2.5)
    show_rates(table, seconds, part)


def cornac_batch(users, histories, targets, pad: int, names: FieldNames) -> dict[str, torch.Tensor]:
    """One of cornac's batches, padded at the front and counted from 0, as ours."""
    items = [history[history != pad] + 1 for history in histories]
    return {
        names.user: users,
        names.history: pad_sequence(items, batch_first=True),
        names.length: torch.tensor([len(history) for history in items]),
        names.item: targets + 1,
    }


# --------------------------------------------------------------------------- floor and data path


class NoOp(nn.Module):
    """A model that computes nothing; its one parameter is what the optimizer steps."""

    def __init__(self) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(1, 1))

    def calculate_loss(self, batch) -> torch.Tensor:
        return self.parameter.sum()


def part_floor(options, data: PreparedData, part: Part, table: Table, parts: Sequence[str]) -> None:
    """The step against its FLOP floor, and what the loop costs without a model."""
    ours = Loop(options, data, part)
    rates: list[float] = []
    sides = {"rate": lambda: rates.append(gemm_rate()), "step": ours.epoch}
    if "data_path" in parts:
        empty = Loop(options, data)
        empty.trainer = TIGERTrainer(empty.config, NoOp())
        sides["no-op"] = empty.epoch
    seconds = medians(sides, options.repeats)
    n_steps = part.n_examples / options.batch
    step = seconds["step"] / n_steps
    if "floor" in parts:
        depth, rate = ours.trainer.model.vocabulary.length, float(np.median(rates))
        tokens = bool(ours.config["user_buckets"]) + depth * history_lengths(ours.trainer._examples)
        n_logits = sum(ours.trainer.model.vocabulary.level_sizes)
        # A backward pass is two forward passes: the gradients of the inputs and of the weights.
        flops = 3 * t5_flops(ours.trainer.model.seq2seq.config, tokens, depth, n_logits) / n_steps
        what = f"step of {options.batch} against its FLOP floor ({flops / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s)"
        table.ratio(what, step, flops / rate, 1.6, at_least=False)
    if "data_path" in parts:
        n_all = len(empty.batches())
        share = seconds["no-op"] / n_all / step
        table.line(
            f"data path: the loop with a no-op model, all {n_all} steps of an epoch",
            f"{100 * share:6.2f}% of a step ({1e6 * seconds['no-op'] / n_all:.0f} microseconds)",
            "<= 3%",
            share <= 0.03,
        )


# --------------------------------------------------------------------------- preparing many interactions


def prepare_worker(options: argparse.Namespace) -> None:
    """From the atomic file to the first batch of an epoch, in a process of its own."""
    moments = {"begin": options.started, "imports": time.time()}
    config = build_config("TIGER", options.dataset, config_dict=settings_of(options))
    data = prepare_data(config)
    moments["reading, numbering, ordering, splitting"] = time.time()
    examples = TrainingExamples.from_dataset(data.train._dataset, config, config["device"])
    batch = next(iter(examples.batches(options.batch, seed=(config["seed"], 0))))
    moments["order of an epoch and its first batch"] = time.time()
    assert len(batch[FieldNames.of(config).item]) == min(options.batch, len(examples)) > 0
    stages = dict(zip(list(moments)[1:], np.diff(list(moments.values())), strict=True))
    print(json.dumps({"stages": stages, "MiB": peak_memory()}))


def part_prepare(options: argparse.Namespace, table: Table) -> None:
    """Three processes, each from its start to the first batch; the system has the new file in memory."""
    n = options.interactions
    name = f"synthetic-{n}"
    with tempfile.TemporaryDirectory() as folder:
        place = [f"--data_path={folder}", f"--dataset={name}"]
        numbers = {"n_users": max(n // 10, 10), "n_items": max(n // 100, 50), "n_interactions": n}
        generate = [sys.executable, str(GENERATOR), *place, *(f"--{key}={value}" for key, value in numbers.items())]
        subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
        command = [sys.executable, __file__, *place, f"--batch={options.batch}", f"--threads={options.threads}"]
        found = []
        for _ in range(3):
            started = f"--started={time.time()}"
            done = subprocess.run([*command, started], check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    seconds = float(np.median([sum(one["stages"].values()) for one in found]))
    memory = max(one["MiB"] for one in found) * 2**20 / 1e9
    what = f"preparing {n:,} interactions for training, from the file to the first batch"
    table.line(what, f"{seconds:.1f} s, imports and all", "<= 30 s", seconds <= 30)
    for stage in found[0]["stages"]:
        table.line(f"  {stage}", f"{np.median([one['stages'][stage] for one in found]):.1f} s")
    table.line("  peak memory", f"{memory:.2f} GB", "<= 2 GB", memory <= 2)


# --------------------------------------------------------------------------- compile=True


def part_compile(options, data: PreparedData, part: Part, table: Table) -> None:
    """`compile=True`: the same losses, and what it does to the speed."""
    for more in ({}, {"encoder_mask": "block_causal", "train_batch_size": max(1, options.batch // 6)}):
        eager, compiled = (Loop(options, data, part, dropout_rate=0.0, compile=on, **more) for on in (False, True))
        batches = list(eager.batches())
        started = time.perf_counter()
        losses = compiled.losses_on(batches)
        name = eager.config["encoder_mask"]
        table.line(f"compiling, {name}", f"{time.perf_counter() - started:.0f} s for the first {len(batches)} steps")
        assert_equal_losses(eager.losses_on(batches), losses, f"compile=True, {name} (steps)", table)
        sides = {str(on): Loop(options, data, part, compile=on, **more).epoch for on in (False, True)}
        seconds = medians(sides, options.repeats)
        table.ratio(f"compile=False / compile=True, {name}", seconds["False"], seconds["True"])


# --------------------------------------------------------------------------- main


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", required=True, help="folder of datasets, as in RecBole")
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--codes", help="JSON {item_id: [codes]}; the first three are used; without it, random ones")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--cornac", help="a Python with cornac 3.0.1, torch and transformers; without it, no cornac")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="batches of an epoch of the examples that are drawn")
    parser.add_argument("--batch", type=int, default=256, help="examples per step")
    parser.add_argument("--sizes", choices=("paper", "small"), default="paper", help="small: to try the script out")
    parser.add_argument("--interactions", type=int, default=10_000_000, help="of the part `prepare`")
    parser.add_argument("--output", help="JSON file of all lines")
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)  # a process of the part `prepare`
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for key in ("data_path", "codes", "output"):
        if getattr(options, key):
            setattr(options, key, str(Path(getattr(options, key)).resolve()))
    if options.started:
        prepare_worker(options)
        return 0
    parts = options.parts.split(",")
    unknown = set(parts) - {*PARTS, "compile"}
    if unknown:
        parser.error(f"--parts: unknown {', '.join(sorted(unknown))}; choose of {', '.join((*PARTS, 'compile'))}")
    about = {key: getattr(options, key) for key in "dataset threads repeats steps batch sizes interactions".split()}
    about |= {"torch": torch.__version__, "transformers": version("transformers")}
    table = Table(options.output, about)
    print(", ".join(f"{key} {value}" for key, value in about.items()), load(), sep="; ", flush=True)
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole's trainers write logs where they run
        if options.codes:
            options.codes = three_codes(Path(options.codes), Path(folder))
        try:
            measure(options, parts, table)
        finally:
            os.chdir(here)
    print(f"\n{table.markdown()}\n\n{table.verdict()}; {load()}")
    return 0


def three_codes(path: Path, folder: Path) -> str:
    """A file of the first three codes of each item, counted from 0."""
    codes = {item: row[:3] for item, row in json.loads(path.read_text()).items()}
    least = np.array(list(codes.values())).min(0)
    shorter = folder / "codes.json"
    shorter.write_text(json.dumps({item: (np.array(row) - least).tolist() for item, row in codes.items()}))
    return str(shorter)


def measure(options: argparse.Namespace, parts: Sequence[str], table: Table) -> None:
    """All parts."""
    if "prepare" in parts:
        part_prepare(options, table)
    if set(parts) <= {"prepare"}:
        return
    config = build_config("TIGER", options.dataset, config_dict=settings_of(options))
    data = prepare_data(config)
    part = Part.draw(data.dataset.sequences, options.steps * options.batch)
    drawn = history_lengths(part.examples(data, config))
    everything = history_lengths(TrainingExamples.from_dataset(data.train._dataset, config, "cpu"))
    print(
        f"{options.dataset}: {len(drawn):,} of {len(everything):,} examples, histories of {drawn.mean():.2f} items on "
        f"average (of all {everything.mean():.2f})",
        flush=True,
    )
    if {"hugging_face", "block_causal"} & set(parts):
        part_padded(options, data, part, table, parts)
    if "cornac" in parts and not options.cornac:
        print("cornac is left out: --cornac names no Python that has it")
    elif "cornac" in parts:
        part_cornac(options, data, part, table)
    if {"floor", "data_path"} & set(parts):
        part_floor(options, data, part, table, parts)
    if "compile" in parts:
        part_compile(options, data, part, table)


if __name__ == "__main__":
    sys.exit(main())
