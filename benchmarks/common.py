"""What the benchmark scripts share: sides that take turns, a machine's floor, the table of goals, peers of a T5."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

Side = Callable[[], object]

# ------------------------------------------------------------------------------------------------------------ measuring


def take_turns(sides: dict[str, Side], repeats: int) -> dict[str, list[float]]:
    """Seconds of every side, the sides taking turns; one untimed turn first.

    A float that a side returns is its time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            result = side()
            passed = time.perf_counter() - started
            if turn:
                seconds[name].append(result if isinstance(result, float) else passed)
    return seconds


def medians(sides: dict[str, Side], repeats: int) -> dict[str, float]:
    """Median seconds of every side, see :func:`take_turns`."""
    return {name: float(np.median(values)) for name, values in take_turns(sides, repeats).items()}


def peak_memory() -> float:
    """MiB of this process at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def load() -> str:
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


# ------------------------------------------------------------------------------------------------------------ the floor


def gemm_rate() -> float:
    """FLOP/s of the fastest of a few matrix products of the shapes at hand."""
    rates = []
    for rows, inner, columns in ((2048, 2048, 2048), (2048, 128, 1024), (8192, 128, 1152), (2048, 1024, 128)):
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        out = torch.mm(a, b)
        repeats = max(3, int(1e10 / (2 * a.numel() * columns)))
        started = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b, out=out)
        rates.append(2 * a.numel() * columns * repeats / (time.perf_counter() - started))
    return max(rates)


def t5_flops(config, lengths: np.ndarray, rows: int, n_logits: int) -> float:
    """Floating-point operations of the matrix products of a forward pass.

    Real tokens only, keys and values of a history once. The decoder's attention to itself is left out: a few tokens.

    Args:
        config: a `T5Config`.
        lengths: [n] tokens of each history.
        rows: decoder positions of each history.
        n_logits: of each history.
    """
    inner = config.num_heads * config.d_kv
    feed_forward, projections = 2 * config.d_model * config.d_ff, 4 * config.d_model * inner
    n, tokens, squares = len(lengths), float(lengths.sum()), float(np.square(lengths, dtype=float).sum())
    encoder = config.num_encoder_layers * (tokens * (projections + feed_forward) + 2 * squares * inner)
    memory = config.num_decoder_layers * tokens * 2 * config.d_model * inner
    decoder = (
        config.num_decoder_layers
        * rows
        * (n * (projections + 2 * config.d_model * inner + feed_forward) + 2 * tokens * inner)
    )
    return 2 * (encoder + memory + decoder + n * n_logits * config.d_model)


# ------------------------------------------------------------------------------------------------------------ the goals


class Table:
    """The goals, one line each, printed as they are measured and written to a JSON file where one is named.

    Args:
        output: the file.
        about: what stands in it beside the lines.
    """

    def __init__(self, output: str | None = None, about: dict | None = None) -> None:
        self.output, self.about = output, about or {}
        self.lines: list[dict] = []

    def line(self, what: str, measured: str, goal: str = "", met: bool | None = None) -> None:
        """A figure with its goal, or, with `met` None, one without."""
        line = {"what": what, "measured": measured, "goal": goal, "met": met}
        self.lines.append(line)
        shown = f"goal {goal:<12} {_verdict(line)}" if goal else ""
        print(f"{what:<80} {measured:<44} {shown}".rstrip(), flush=True)
        if self.output:
            Path(self.output).write_text(json.dumps({**self.about, "lines": self.lines}, indent=1) + "\n")

    def ratio(self, what: str, slow: float, fast: float, goal: float | None = None, *, at_least: bool = True) -> None:
        """`slow / fast` of two times in seconds."""
        ratio = slow / fast
        measured = f"{ratio:6.2f}x  ({1e3 * slow:9.1f} ms / {1e3 * fast:9.1f} ms)"
        if goal is None:
            self.line(what, measured)
        else:
            met = ratio >= goal if at_least else ratio <= goal
            self.line(what, measured, f"{'>=' if at_least else '<='} {goal:g}x", met)

    def markdown(self) -> str:
        rows = [["", "measured", "goal", ""], ["---"] * 4]
        rows += [[line["what"].strip(), line["measured"].strip(), line["goal"], _verdict(line)] for line in self.lines]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def verdict(self) -> str:
        failed = [line["what"] for line in self.lines if line["met"] is False]
        return f"not met: {'; '.join(failed)}" if failed else "all goals met"


def _verdict(line: dict) -> str:
    return {None: "", True: "met", False: "NOT MET"}[line["met"]]


# ---------------------------------------------------------------------------------------------------------------- peers


def hugging_face_t5(model, dropout_rate: float = 0.0):
    """Hugging Face's `T5ForConditionalGeneration` with the sizes and the weights of a `Seq2Seq`."""
    import transformers

    c = model.config
    config = transformers.T5Config(
        vocab_size=c.vocab_size,
        d_model=c.d_model,
        d_kv=c.d_kv,
        d_ff=c.d_ff,
        num_heads=c.num_heads,
        num_layers=c.num_encoder_layers,
        num_decoder_layers=c.num_decoder_layers,
        dropout_rate=dropout_rate,
        decoder_start_token_id=0,
        eos_token_id=None,
    )
    peer = transformers.T5ForConditionalGeneration(config).eval()
    peer.load_state_dict(model.to_hf_state_dict())
    return peer


def in_double(model) -> None:
    """Turn a model that is made of Hugging Face's T5 to double precision, its norms as well, which compute in single by
    themselves."""

    def norm(module, x: torch.Tensor) -> torch.Tensor:
        return module.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)

    model.double()
    for module in model.modules():
        if type(module).__name__ == "T5LayerNorm":
            module.forward = partial(norm, module)


def load_into_cornac(model, state: dict[str, torch.Tensor]) -> None:
    """Give cornac's `TIGERSeq2Seq` the weights of a `Seq2Seq`, which come under Hugging Face's names."""
    shared, head = state["shared.weight"], state["lm_head.weight"]
    own = dict(model.state_dict())
    own |= {name: state[name] for name in own if name in state and "embed_tokens" not in name}
    own |= {"bos": shared[:1, None], "token_emb.weight": shared[: 1 + sum(model.level_sizes)]}
    for level, (offset, size) in enumerate(zip(model.offsets.tolist(), model.level_sizes, strict=True)):
        own[f"heads.{level}.weight"] = head[offset : offset + size]
    model.load_state_dict(own)


class CornacWorker:
    """A script's `--cornac-worker` in the Python that has cornac: commands go in, each is answered with its seconds."""

    def __init__(self, script: str, python: str, folder: Path, threads: int) -> None:
        self.process = subprocess.Popen(
            [python, script, "--cornac-worker", str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )

    def run(self, command: str) -> float:
        print(command, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("cornac's side ended; see the message above")
        return json.loads(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
