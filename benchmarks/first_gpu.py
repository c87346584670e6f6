"""Checks and measurements for the first minutes on a GPU, in parts with time limits.

    python benchmarks/first_gpu.py --output=FOLDER [--wheels=FOLDER] [--data=FOLDER] [--minutes=11.5]
                                   [--parts=a,b,c,d,e] [--device=cuda] [--tiny] [-- --key=value … for part e]

a: versions; every model is trained, evaluated and saved on toy data; synchronizations of a training step. b: the same
weights give the same losses on CPU and GPU in float32, and a checkpoint of one gives the same metrics on the other.
c: bfloat16 with every switch stays finite; a run that gets SIGTERM resumes. d: steps per second at the paper's sizes
(eager, as a CUDA graph, compiled), memory, users per second of the search, and the floor set by the matrix products.
e: TIGER at the paper's sizes for the remaining time; its best checkpoint is tested with and without previously
interacted items.

Each part is a process with a time limit (`LIMITS`, in seconds: 425 for a to d; e has the rest of `--minutes`), so a
hang or crash of one does not affect the others. `results.jsonl` gets one line per finding immediately, `log.txt` has
the output, `results.md` the table; they are small. Runs and checkpoints are in `FOLDER-work`. `--data` is a folder with
`amazon-beauty/` and its `all-MiniLM-L6-v2.npz`; without it d and e use ml-100k, which comes with RecBole. Missing
packages are installed from `--wheels`: `pip download --no-deps recbole==1.2.1 colorlog thop texttable plotly` on a
machine with a registry. Ray is not needed. `--device=cpu` and `--device=pretend` with `--tiny` try the script without a
GPU; their figures say nothing about one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import self_contained

REPOSITORY = Path(__file__).resolve().parent.parent
LIMITS = {"a": 125, "b": 70, "c": 80, "d": 150, "e": 0}
SCRIPT_GRACE = 8  # seconds that a part has to end after SIGTERM
TOLERANCE = 1e-4  # of losses in float32, relative
TOY = {
    "content_encoder": "tfidf_svd", "content_dim": 16, "semantic_id": "rkmeans", "id_length": 2, "codebook_size": 8,
    "beam_size": 20, "train_batch_size": 32, "item_feature": "categories", "epochs": 1,
}  # fmt: skip
SMALL_T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_encoder_layers": 1, "num_decoder_layers": 1,
}  # fmt: skip
SMALL = {"hidden_size": 16, "inner_size": 32, "embedding_size": 16, "n_layers": 1, "pretrain_epochs": 1}
EXACT = {"dropout_rate": 0.0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "item_embedding_dropout": 0.0}
OURS = {
    "TIGER": ("TIGER", {}),
    "TIGER windows": ("TIGER", {"encoder_mask": "block_causal", "user_buckets": 7, "ema_decay": 0.9}),
    "TIGER extended": ("TIGER", {"recipe": "extended"}),
    "TIGER extended, bidirectional": ("TIGER", {"recipe": "extended", "encoder_mask": "bidirectional"}),
    "TIGERTree": ("TIGERTree", {}),
    "TIGERTree, all switches": (
        "TIGERTree",
        {"head_attention": True, "tie_embeddings": True, "label_smoothing": 0.1, "loss_over": "level"},
    ),
    "P5": ("P5", {}),
}
BASELINES = ("SASRec", "BERT4Rec", "BERT4RecFixed", "GRU4Rec", "Caser", "HGN", "FDSA", "S3Rec")


class Part:
    """What a part of the script works with: its device, its folders, its time, and where its findings go."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.tiny, self.data = options.device, options.tiny, options.data
        self.name, self.seconds = options.part, options.seconds
        self.output, self.settings_of_e = options.output, options.rest
        self.started = time.monotonic()
        self.work = options.output.parent / f"{options.output.name}-work"
        self.work.mkdir(parents=True, exist_ok=True)
        os.chdir(self.work)
        sys.argv = sys.argv[:1]  # RecBole reads them
        sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
        import torch

        self.torch = torch
        if self.device == "pretend":
            import pretend_gpu

            pretend_gpu.install()
            self.pretend = pretend_gpu
        elif self.device == "cuda":
            torch.zeros(1, device="cuda")  # before RecBole narrows down which GPUs are seen

    def left(self) -> float:
        """Seconds until this part is stopped."""
        return self.seconds - (time.monotonic() - self.started)

    def find(self, what: str, **facts) -> None:
        """Write a finding down at once."""
        line = {"part": self.name, "what": what, **facts, "at": round(time.monotonic() - self.started, 1)}
        with open(self.output / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")
        print(json.dumps(line, default=str), flush=True)

    def attempt(self, what: str, work: Callable[[], dict]) -> None:
        """Write down what `work` finds, or how it failed; the next attempt comes all the same."""
        started = time.monotonic()
        try:
            facts = work()
        except Exception as error:  # whatever it is, it is a finding
            print(traceback.format_exc(), flush=True)
            facts = {"ok": False, "error": f"{type(error).__name__}: {str(error).strip()[:600]}"}
        self.find(what, **facts, seconds=round(time.monotonic() - started, 2))

    def settings(self, model: str, *changes: dict, on: str | None = None) -> dict:
        """Settings for a run on the toy catalogue that the model knows; on the CPU, or the device."""
        from recbole_tiger.settings.validate import keys_read

        gpu = {"gpu_id": "" if (on or self.device) == "cpu" else "0"}
        everything = {**TOY, **SMALL_T5, **SMALL, **self.folders(), **gpu}
        for each in changes:
            everything |= each
        read = keys_read(model, everything)
        return {key: value for key, value in everything.items() if key in read}

    def folders(self) -> dict:
        data = self.work / "data"
        if not (data / "toy").is_dir():
            from catalogue import write_catalogue

            write_catalogue(data, n_users=40 if self.tiny else 120)
        return {
            "data_path": str(data),
            "checkpoint_dir": str(self.work / "saved"),
            "cache_dir": str(self.work / "cache"),
            "show_progress": False,
            "state": "WARNING",
        }

    def large(self, model: str, **changes) -> tuple[str, dict]:
        """The dataset of parts d and e, and settings of a model at its shipped sizes."""
        own = {**self.folders(), "gpu_id": "" if self.device == "cpu" else "0", "semantic_id": "rkmeans"}
        if self.tiny:
            known = self.settings(model)
            return "toy", {**known, **own, **{k: v for k, v in changes.items() if k in known or k == "compile"}}
        if self.data is None:
            return "ml-100k", {**own, "content_encoder": "tfidf_svd", **changes}
        file = self.data / "amazon-beauty" / "all-MiniLM-L6-v2.npz"
        own |= {"data_path": str(self.data), "content_encoder": "precomputed", "content_file": str(file)}
        return "amazon-beauty", {**own, **changes}

    def trainer(self, model: str, dataset: str, settings: dict):
        """A trainer with its data, ready for a step."""
        from recbole_tiger.experiment.configuration import build_config
        from recbole_tiger.experiment.loading import make_trainer, prepare_data

        config = build_config(model, dataset, config_dict=settings, command_line={})
        data = prepare_data(config)
        trainer = make_trainer(config, data)
        trainer._prepare_examples(data.train)
        trainer.model.train()
        return trainer, data

    def synchronize(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def waits(self, work: Callable[[], object]) -> dict:
        """What the host and the device wait for each other at while `work` runs; empty on a CPU."""
        if self.device == "cuda":
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.torch.cuda.set_sync_debug_mode("warn")
                try:
                    work()
                finally:
                    self.torch.cuda.set_sync_debug_mode("default")
            places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
            return {"waits": len(places), "places": places}
        if self.device == "pretend":
            self.pretend.reads.clear()
            self.pretend.uploads.clear()
            work()
            return {"waits": len(self.pretend.reads) + len(self.pretend.uploads), "places": list(self.pretend.reads)}
        work()
        return {}


def batches_of(trainer):
    """Batches with their numbers of targets, pass after pass."""
    epoch = 0
    while True:
        batches = trainer._examples.batches(trainer.config["train_batch_size"], seed=(1, epoch))
        yield from zip(batches, batches.n_targets, strict=True)
        epoch += 1


# ------------------------------------------------------------------------------------------------------------ the parts


def part_a(part: Part) -> None:
    from recbole_tiger import run_recbole_tiger

    part.find("machine", **self_contained.describe_machine())

    def run(model: str, changes: dict) -> dict:
        result = run_recbole_tiger(model, "toy", config_dict=part.settings(model, changes), command_line={})
        return {"ok": True, "loss": result["history"][-1]["train_loss"], "ndcg@10": result["test_result"]["ndcg@10"]}

    def step(model: str, changes: dict) -> dict:
        trainer, _ = part.trainer(model, "toy", part.settings(model, changes))
        batches = batches_of(trainer)
        for _ in range(3):
            trainer._step(trainer.model.calculate_loss, *next(batches))
        batch, n_targets = next(batches)
        return part.waits(lambda: trainer._step(trainer.model.calculate_loss, batch, n_targets))

    for name, (model, changes) in OURS.items():
        part.attempt(f"{name}: an epoch on toy data", lambda model=model, changes=changes: run(model, changes))
        part.attempt(f"{name}: one step waits", lambda model=model, changes=changes: step(model, changes))
    for model in BASELINES:
        if (part.device, model) == ("pretend", "GRU4Rec"):
            part.find(f"{model}: left out", why="torch has no fused GRU for devices in Python")
            continue
        part.attempt(f"{model}: an epoch on toy data", lambda model=model: run(model, {}))


def part_b(part: Part) -> None:
    from recbole_tiger import run_recbole_tiger
    from recbole_tiger.data.p5_text import P5Text
    from recbole_tiger.experiment.loading import load_data_and_model, trainer_class

    exact = {**EXACT, "precision": "fp32"}
    P5Text.n_templates = property(lambda self: 1)  # P5 draws prompts, and not the same on both devices

    def losses(model: str, changes: dict) -> dict:
        trainer, _ = part.trainer(model, "toy", part.settings(model, exact, changes, on="cpu"))
        other, _ = part.trainer(model, "toy", part.settings(model, exact, changes))
        other.model.load_state_dict(trainer.model.state_dict())
        pairs = []
        for each in (trainer, other):
            batches = batches_of(each)
            pairs.append([float(each._step(each.model.calculate_loss, *next(batches))) for _ in range(5)])
        furthest = max(abs(a - b) / abs(a) for a, b in zip(*pairs, strict=True))
        return {"ok": furthest <= TOLERANCE, "furthest": furthest, "cpu": pairs[0], "device": pairs[1]}

    def crossed(model: str, changes: dict, trained_on: str, tested_on: str) -> dict:
        settings = part.settings(model, exact, changes, on=trained_on)
        result = run_recbole_tiger(model, "toy", config_dict=settings, command_line={})
        changed = {"gpu_id": part.settings(model, on=tested_on)["gpu_id"]}
        config, network, *_, test = load_data_and_model(result["files"]["checkpoint"], changed)
        found = trainer_class(model)(config, network).evaluate(test, load_best_model=False)
        difference = max(abs(found[name] - value) for name, value in result["test_result"].items())
        return {"ok": bool(difference <= 1e-6), "furthest": difference}

    for name, (model, changes) in OURS.items():
        part.attempt(f"{name}: losses on CPU and device", lambda m=model, c=changes: losses(m, c))
    for name in ("TIGER", "TIGER extended", "TIGERTree"):
        for places in (("cpu", part.device), (part.device, "cpu")):
            part.attempt(
                f"{name}: trained on {places[0]}, tested on {places[1]}", lambda n=name, p=places: crossed(*OURS[n], *p)
            )


def part_c(part: Part) -> None:
    from recbole_tiger import run_recbole_tiger
    from recbole_tiger.errors import TrainingStopped
    from recbole_tiger.training.generative import TIGERTrainer

    bf16 = {"precision": "bf16"} if part.device == "cuda" else {}
    switches = {"cross_position_bias": True, "user_buckets": 7, "label_smoothing": 0.1, "ema_decay": 0.9}

    def finite(model: str, changes: dict) -> dict:
        trainer, data = part.trainer(model, "toy", part.settings(model, changes, bf16))
        batches = batches_of(trainer)
        found = [float(trainer._step(trainer.model.calculate_loss, *next(batches))) for _ in range(20)]
        metrics = trainer.evaluate(data.test, load_best_model=False)  # raises for weights or scores that are not finite
        return {"ok": all(x == x and abs(x) < 1e9 for x in found), "loss": found[-1], "ndcg@10": metrics["ndcg@10"]}

    for name, (model, changes) in OURS.items():
        own = {**changes, **(switches if model == "TIGER" else {})}
        part.attempt(f"{name}: 20 steps in {bf16.get('precision', 'fp32')}", lambda m=model, c=own: finite(m, c))

    def resumed(model: str, changes: dict) -> dict:
        settings = part.settings(model, changes, {"epochs": 2})
        whole = run_recbole_tiger(model, "toy", config_dict=settings, command_line={})
        step, stopped = TIGERTrainer._step, ""

        def stopping(self, *arguments):
            if self.global_step == 3:  # within the second epoch of TIGERTree
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, *arguments)

        TIGERTrainer._step = stopping
        try:
            run_recbole_tiger(model, "toy", config_dict=settings, command_line={})
        except TrainingStopped as error:
            stopped = str(error)
        finally:
            TIGERTrainer._step = step
        last = stopped.partition("--resume=")[2]
        again = run_recbole_tiger(model, "toy", config_dict={**settings, "resume": last}, command_line={})
        losses = [[each["train_loss"] for each in run["history"]] for run in (whole, again)]
        furthest = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
        return {"ok": bool(last) and furthest < 1e-2, "furthest": furthest, "exact": losses[0] == losses[1]}

    for name in ("TIGER", "TIGERTree"):
        part.attempt(f"{name}: SIGTERM and resume", lambda n=name: resumed(*OURS[n]))


def floor(part: Part) -> dict:
    """What the machine's matrix products reach."""
    torch = part.torch
    n, rates = 256 if part.tiny else 4096, {}
    for kind in (torch.float32, torch.bfloat16):
        if part.device != "cuda" and kind is torch.bfloat16:
            continue
        where = {"device": part.pretend.DEVICE} if part.device == "pretend" else {"device": part.device}
        a, b = (torch.randn(n, n, **where).to(kind) for _ in range(2))
        for repeat in range(12):
            if repeat == 2:
                part.synchronize()
                started = time.perf_counter()
            a @ b
        part.synchronize()
        rates[str(kind)] = 10 * 2 * n**3 / (time.perf_counter() - started) / 1e12
    return {"TFLOP/s of matrix products": rates}


def steps(part: Part, model: str, **changes) -> dict:
    """Training steps per second."""
    torch, n_steps = part.torch, 5 if part.tiny else 200
    dataset, settings = part.large(model, **changes)
    trainer, _ = part.trainer(model, dataset, settings)
    batches, loss_func = batches_of(trainer), trainer._loss_func
    started = time.perf_counter()
    for _ in range(2 if part.tiny else 30):
        loss = trainer._step(loss_func, *next(batches))
    float(loss)
    first = time.perf_counter() - started
    if part.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(n_steps):
        loss = trainer._step(loss_func, *next(batches))
    last = float(loss)
    taken = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 2**20 if part.device == "cuda" else None
    return {
        "ok": last == last, "steps/s": n_steps / taken, "ms/step": 1e3 * taken / n_steps, "peak MiB": peak,
        "seconds of the first steps": first, "loss": last,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }  # fmt: skip


def graphed(part: Part, model: str, **changes) -> dict:
    """Forward and backward pass of one batch as a CUDA graph, then the optimizer as it is."""
    torch, n_steps = part.torch, 5 if part.tiny else 200
    dataset, settings = part.large(model, **changes)
    trainer, _ = part.trainer(model, dataset, settings)
    batch, _ = next(batches_of(trainer))

    def passes():
        with torch.autocast("cuda", torch.bfloat16, enabled=trainer.precision == "bf16", cache_enabled=False):
            loss = trainer.model.calculate_loss(batch)
        loss.backward()
        return loss

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            trainer.optimizer.zero_grad(set_to_none=True)
            passes()
    torch.cuda.current_stream().wait_stream(aside)
    trainer.optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = passes()
    first = None
    started = time.perf_counter()
    for _ in range(n_steps):
        for parameter in trainer.model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        graph.replay()
        first = float(loss) if first is None else first
        trainer.optimizer.step()
    last = float(loss)
    taken = time.perf_counter() - started
    return {"ok": last < first, "steps/s": n_steps / taken, "ms/step": 1e3 * taken / n_steps, "loss": [first, last]}


def search(part: Part, model: str, **changes) -> dict:
    """Users per second of the beam search."""
    dataset, settings = part.large(model, beam_size=20 if part.tiny else 50, **changes)
    trainer, data = part.trainer(model, dataset, settings)
    trainer.model.eval()
    interaction = next(iter(data.test))[0].to(trainer.device)
    n_users = 0
    for repeat in range(6):
        if repeat == 1:
            part.synchronize()
            started = time.perf_counter()
            n_users = 0
        n_users += len(trainer._topk(interaction, 10, None).items)
        if repeat and time.perf_counter() - started > 8:
            break
    part.synchronize()
    return {"users/s": n_users / (time.perf_counter() - started), "beam": settings.get("beam_size")}


def part_d(part: Part) -> None:
    part.attempt("matrix products", lambda: floor(part))
    part.attempt("TIGER, paper's sizes: steps", lambda: steps(part, "TIGER"))
    part.attempt("TIGER, paper's sizes, float32: steps", lambda: steps(part, "TIGER", precision="fp32"))
    part.attempt("TIGER, paper's sizes, block-causal: steps", lambda: steps(part, "TIGER", encoder_mask="block_causal"))
    part.attempt("TIGERTree: steps", lambda: steps(part, "TIGERTree"))
    part.attempt("TIGER, paper's sizes: search", lambda: search(part, "TIGER", decode_batch_size=1024))
    part.attempt("TIGERTree: search", lambda: search(part, "TIGERTree", decode_batch_size=1024))
    if part.device == "cuda":
        part.attempt("TIGER, paper's sizes, one batch as a CUDA graph: steps", lambda: graphed(part, "TIGER"))
    if part.device != "pretend":  # last: it takes the longest before its first step
        part.attempt("TIGER, paper's sizes, compiled: steps", lambda: steps(part, "TIGER", compile=True))


def part_e(part: Part) -> None:
    from recbole_tiger.errors import TrainingStopped
    from recbole_tiger.experiment.loading import load_data_and_model, trainer_class
    from recbole_tiger.settings.parse import parse_value

    steps = {"max_steps": 12, "eval_steps": 4} if part.tiny else {"max_steps": 28_000, "eval_steps": 1_000}
    dataset, settings = part.large("TIGER", decode_batch_size=1024)
    own = (argument.removeprefix("--").partition("=") for argument in part.settings_of_e)
    settings |= {"epochs": 200, **steps, **{key: parse_value(value, key) for key, _, value in own}}
    trainer, data = part.trainer("TIGER", dataset, settings)
    reserved = 5 if part.tiny else 45  # seconds for two tests
    timer = threading.Timer(max(part.left() - reserved, 5), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()

    def report(epoch: int, score: float) -> None:
        step, training = trainer.global_step, trainer.seconds["training"]
        part.find("validation", step=step, training=training, **trainer.history[-1]["valid"])

    try:
        trainer.fit(data.train, data.valid, callback_fn=report)
    except TrainingStopped as stopped:
        part.find("stopped by the clock", step=trainer.global_step, why=str(stopped))
    timer.cancel()
    part.find("trained", step=trainer.global_step, training=trainer.seconds["training"], best=trainer.best_valid_score)
    best = next(file for file in (trainer.saved_model_file, trainer.last_model_file) if Path(file).is_file())
    for mask in (False, True):

        def test(mask=mask) -> dict:
            config, network, *_, loader = load_data_and_model(best, {"mask_seen_items": mask})
            return dict(trainer_class("TIGER")(config, network).evaluate(loader, load_best_model=False))

        part.attempt(f"test, previously interacted items {'masked' if mask else 'not masked'}", test)


PARTS = {"a": part_a, "b": part_b, "c": part_c, "d": part_d, "e": part_e}


# ----------------------------------------------------------------------------------------------------------- the driver


def run_parts(
    names: list[str],
    command_of: Callable[[str, float], list[str]],
    output: Path,
    seconds: float,
    environment: dict,
    limits: dict[str, float],
) -> dict[str, int]:
    """Run each part for its limit, the ones without for what is left of all seconds; the status of each."""
    started, statuses = time.monotonic(), {}
    self_contained.GRACE = SCRIPT_GRACE
    for name in names:
        left = seconds - (time.monotonic() - started) - SCRIPT_GRACE
        limit = min(limits[name] or left, left)
        if limit <= 0:
            line = {"part": name, "what": "part", "ok": False, "error": "no time was left for it"}
        else:
            status, cut = self_contained.run_for(command_of(name, limit), limit, output / "log.txt", environment)
            statuses[name] = status
            line = {"part": name, "what": "part", "ok": status == 0, "status": status}
            line |= {"error": f"stopped after {limit:.0f} s"} if cut else {}
        with open(output / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "at": round(time.monotonic() - started, 1)}) + "\n")
        write_table(output)
    return statuses


def write_table(output: Path) -> None:
    """`results.md` of what `results.jsonl` holds so far."""
    rows = ["| part | what | found |", "| --- | --- | --- |"]
    for text in (output / "results.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        part, what = line.pop("part"), line.pop("what")
        facts = "; ".join(f"{name} {_short(value)}" for name, value in line.items() if name != "at")
        rows.append(f"| {part} | {_short(what)} | {facts} |".replace("\n", " "))
    (output / "results.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _short(value: object) -> str:
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def parsed(arguments: list[str]) -> argparse.Namespace:
    own, rest = arguments, []
    if "--" in arguments:
        own, rest = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="folder of what is found; must not hold any yet")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that this machine lacks")
    parser.add_argument("--data", type=Path, help="folder with amazon-beauty/; without it d and e take ml-100k")
    parser.add_argument("--minutes", type=float, default=11.5, help="for all parts together")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, in this order")
    parser.add_argument("--device", choices=("cuda", "cpu", "pretend"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy data and few steps everywhere")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(own)
    options.rest = rest
    options.output = options.output.resolve()
    options.data = options.data and options.data.resolve()
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts: unknown {', '.join(sorted(unknown))}; choose of {', '.join(PARTS)}")
    if options.data and not (options.data / "amazon-beauty" / "amazon-beauty.inter").is_file():
        parser.error(f"--data={options.data} has no amazon-beauty/amazon-beauty.inter; leave it out for ml-100k")
    if options.part is None and (options.output / "results.jsonl").exists():
        parser.error(f"--output={options.output} holds findings already; name a new folder")
    return options


def main(arguments: list[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parsed(arguments)
    if options.part:
        PARTS[options.part](Part(options))
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    packages = options.output.parent / f"{options.output.name}-packages"
    if options.wheels is not None:
        self_contained.install_wheels(options.wheels, packages)
        sys.path.insert(0, str(packages))
    if missing := self_contained.missing_packages():
        raise SystemExit(f"missing packages: {', '.join(missing)}; bring their wheels and name the folder as --wheels")
    paths = [str(REPOSITORY), *([str(packages)] if options.wheels else []), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}

    def command_of(name: str, seconds: float) -> list[str]:
        which = [f"--part={name}", f"--seconds={seconds}"]
        return [sys.executable, str(Path(__file__).resolve()), *which, *arguments]

    limits = LIMITS if options.device == "cuda" else dict.fromkeys(LIMITS, 0)  # a trial takes what it takes
    run_parts(options.parts.split(","), command_of, options.output, 60 * options.minutes, environment, limits)
    print((options.output / "results.md").read_text(encoding="utf-8"))
    findings = (options.output / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return int(not all(json.loads(line).get("ok", True) for line in findings))


if __name__ == "__main__":
    sys.exit(main())
