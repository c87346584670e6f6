"""The command ``invalid-ids``: how many IDs of a free beam search belong to no item (paper, section 5 and Figure 6).

Comes in: a trained run. Goes out: the share of invalid IDs among the first K, K = 1..50, and what keeping the search
inside the catalogue gains in Recall@K.
"""

from __future__ import annotations

import torch
from tabulate import tabulate

from recbole_tiger.analysis.runs import (
    TrainedRun,
    describe,
    heading,
    new_folder,
    open_run,
    pop_number,
    recommend_users,
    write_outputs,
)
from recbole_tiger.errors import ConfigError
from recbole_tiger.report import pages
from recbole_tiger.report.figures import lines

USAGE = """Usage: python run_recbole_tiger.py invalid-ids --checkpoint=FILE [--k=50] [--key=value ...]

Lets a trained model write Semantic IDs freely and counts those that no item has, beside the constrained search.

  --checkpoint=FILE          best.pth of a run; without it, --model, --dataset and any key of a run to train first
  --k=50                     the longest list
  --search_beams=N           beams of both searches; by default k, or beam_size if that is more
  --users=N                  so many test users, drawn at random; by default all
  --output_dir=FOLDER        a folder that does not exist yet, for invalid-ids.json and .html
"""

#: Models whose decoder has a probability for every codeword after every prefix.
FREE_WRITERS = ("TIGER",)
SHOWN = (1, 5, 10, 20, 50)
PAPER = "The paper reports about 2% invalid IDs among the top 20 on Beauty (section 5, Figure 6)."
#: Said of a model to which it applies.
LEGAL = "This run has loss_over=legal: it learned nothing of codewords that lead to no item, so most of what it writes freely is invalid."


def run(settings: dict) -> str:
    """Count, write, and return the table."""
    k = pop_number(settings, "k", 50, low=1, kind=int)
    beams = pop_number(settings, "search_beams", None, low=1, kind=int)
    n_users = pop_number(settings, "users", None, low=1, kind=int)
    output = settings.pop("output_dir", None)
    trained = open_run(settings, n_users)
    if trained.config["model"] not in FREE_WRITERS:
        raise ConfigError(
            f"model={trained.config['model']} chooses among the items' own IDs and cannot write another: nothing to count"
        )
    beams = beams or max(k, trained.config["beam_size"])
    if beams < k:
        raise ConfigError(f"search_beams={beams} is smaller than k={k}: a list of that length cannot be filled")
    folder = new_folder(output, "invalid-ids", trained.config)
    about = describe(trained)
    result = {"about": heading(about), **about, **invalid_ids(trained, k, beams)}
    note = f"\n{LEGAL}" if trained.config["loss_over"] == "legal" else ""
    header, rows = _table(result)
    places = write_outputs(folder, "invalid-ids", result, sections(result), title="Invalid IDs")
    return (
        f"{result['about']}\n{beams} beams in both searches; a free list keeps the places of its invalid IDs\n"
        f"{tabulate(rows, headers=header, disable_numparse=True)}\n\n{PAPER}{note}\n{places}"
    )


def invalid_ids(trained: TrainedRun, k: int, beams: int) -> dict:
    """Shares and recalls for K = 1..k.

    The share of invalid IDs at K is that among the first K IDs of all users together. Free search masks nothing, since
    it knows no items; the constrained one follows `mask_seen_items`.

    Returns:
        lists of k numbers: ``invalid``, ``recall_free`` and ``recall_constrained``; and ``search_beams``.
    """
    model, valid, items = trained.model, [], []
    for part in trained.test.chunks(trained.config["eval_batch_size"], "free search"):
        found = model.write_ids(part.users, part.history, part.lengths, k, beam_size=beams)
        valid.append(found.valid.cpu())
        items.append(found.items.cpu())
    valid, free = torch.cat(valid), torch.cat(items)
    constrained = recommend_users(trained, k, "constrained search", beam_size=beams).items
    targets = trained.test.targets.cpu()
    places = torch.arange(1, k + 1)
    return {
        "search_beams": beams,
        "invalid": ((~valid).double().mean(0).cumsum(0) / places).tolist(),
        "recall_free": _recalls(free, targets),
        "recall_constrained": _recalls(constrained, targets),
    }


def _recalls(items: torch.Tensor, targets: torch.Tensor) -> list[float]:
    """Recall@1 .. Recall@K of lists [n, K] without repetitions."""
    return (items == targets[:, None]).double().mean(0).cumsum(0).tolist()


def _table(result: dict) -> tuple[list[str], list[list[str]]]:
    k = len(result["invalid"])
    rows = []
    for number in sorted({n for n in (*SHOWN, k) if n <= k}):
        invalid, free, constrained = (
            result[name][number - 1] for name in ("invalid", "recall_free", "recall_constrained")
        )
        rows.append([str(number), f"{invalid:.2%}", f"{free:.4f}", f"{constrained:.4f}", f"{constrained - free:+.4f}"])
    return ["K", "invalid IDs", "Recall@K, free", "Recall@K, constrained", "gain"], rows


def sections(result: dict) -> list[pages.Section]:
    """The page of a result."""
    ks = list(range(1, len(result["invalid"]) + 1))
    shares = lines(
        ks, {"invalid IDs": result["invalid"]}, x_title="K", y_title="share of the first K IDs", percent=True
    )
    recalls = lines(
        ks,
        {"constrained": result["recall_constrained"], "free": result["recall_free"]},
        x_title="K",
        y_title="Recall@K",
    )
    return [
        pages.Section(
            "Figure 6 of the paper, on this run",
            [
                "A Semantic ID is invalid if no item has it. Free beam search writes any codewords; constrained search only "
                "those that lead to an item.",
                PAPER,
            ],
            [
                pages.Figure(shares, title="Invalid IDs among the first K"),
                pages.Figure(
                    recalls, title="What the constraint gains", note=f"{result['search_beams']} beams in both"
                ),
                pages.Table(*_table(result)),
            ],
        )
    ]
