"""What a leaderboard says: its tables, and the sentences beside them.

Input: a :class:`~recbole_tiger.leaderboard.table.Leaderboard`. Output: text, alike for all forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recbole_tiger.evaluation.significance import has_user_values
from recbole_tiger.leaderboard.table import PLACE_KEYS, PRETRAINED, PROTOCOL_KEYS, Leaderboard, differences, is_leaking
from recbole_tiger.report.tables import Table
from recbole_tiger.settings.chain import changed_settings
from recbole_tiger.settings.schema import keys_with
from recbole_tiger.settings.split import LEAVE_ONE_OUT, describe_split

SHARED_FUTURE = (
    "Leave-one-out holds back each user's last items, whenever they happened: models see what other users did after "
    "them."
)
#: Settings that are no row's own.
_NOT_OWN = frozenset({*PROTOCOL_KEYS, *PLACE_KEYS, *keys_with("derived"), PRETRAINED})
#: How the best values are marked in cells.
MARKS = "* best, + second best"


def marks(board: Leaderboard, metric: str) -> list[str]:
    """``*`` for the rows with the best mean, ``+`` for those with the second best, as printed; "" for the others."""
    digits = _digits(board)
    values = [round(row.mean[metric], digits) for row in board.rows]
    ranked = sorted({value for value in values if not np.isnan(value)}, reverse=True)
    if len(board.rows) < 2 or not has_user_values(metric):  # larger is better for these
        return [""] * len(values)
    return ["*" if value in ranked[:1] else "+" if value in ranked[1:2] else "" for value in values]


def _digits(board: Leaderboard) -> int:
    return int(board.rows[0].first["config"].get("metric_decimal_place", 4))


def describe(board: Leaderboard) -> str:
    """The protocol of a table in a sentence."""
    users = f", {board.n_users:,} test users" if board.n_users else ""
    return (
        f"{_evaluation(board)}, selected on validation {board.protocol['valid_metric']}{users}, data {board.checksum}"
    )


def _evaluation(board: Leaderboard) -> str:
    protocol = board.protocol
    return (
        f"{describe_split(protocol['eval_args']['split'])}, full ranking, histories of at most "
        f"{protocol['MAX_ITEM_LIST_LENGTH']} items, seen items {'' if protocol['mask_seen_items'] else 'not '}masked, "
        f"equal times {'in file order' if protocol['tie_order'] == 'file' else 'shuffled'}"
    )


def names(boards: Sequence[Leaderboard]) -> list[str]:
    """The protocol of each table in few words; where tables of a dataset differ in more, with that in brackets."""
    found = [f"{_evaluation(board)}, {board.protocol['valid_metric']}" for board in boards]
    alike: dict[tuple[str, str], list[int]] = {}
    for index, (board, name) in enumerate(zip(boards, found, strict=True)):
        alike.setdefault((board.dataset, name), []).append(index)
    for same in alike.values():
        settings = [{**boards[index].protocol, "data": boards[index].checksum} for index in same]
        for index, pairs in zip(same, differences(settings), strict=True):
            found[index] += f" [{pairs}]" if pairs else ""
    return found


def protocol_sentence(board: Leaderboard) -> str:
    """:func:`describe` as a sentence of its own."""
    text = describe(board)
    return f"{text[0].upper()}{text[1:]}."


def failure_lines(board: Leaderboard) -> list[str]:
    """Why rows have no result, a sentence for each."""
    return [f"{label} has no result: {reason}" for label, reason in board.failures]


def tables(board: Leaderboard) -> list[Table]:
    """The measured tables: metrics, intervals and tests where there are any, costs."""
    return [quality_table(board), *([statistics_table(board)] if board.n_resamples else []), cost_table(board)]


def quality_table(board: Leaderboard) -> Table:
    """Test metrics; best and second best carry their marks."""
    digits, marked = _digits(board), {metric: marks(board, metric) for metric in board.metrics}

    def cell(index: int, metric: str) -> str:
        row = board.rows[index]
        if np.isnan(row.mean[metric]):
            return "-"
        spread = "" if row.std is None else f" ± {row.std[metric]:.{digits}f}"
        return f"{row.mean[metric]:.{digits}f}{spread} {marked[metric][index]}".rstrip()

    cells = []
    for index, row in enumerate(board.rows):
        gain = "" if row.gain is None else f"{100 * row.gain:+.1f}%"
        numbers = [cell(index, metric) for metric in board.metrics]
        cells.append([row.label, row.first.get("loss") or "-", str(len(row.runs)), *numbers, gain])
    header = ["model", "loss", "runs", *board.metrics, "gain"]
    return Table(header, cells, "Test metrics", columns="llr" + "r" * len(board.metrics) + "r")


def statistics_table(board: Leaderboard) -> Table:
    """Intervals and tests."""
    cells = []
    for row in board.rows:
        found = row.comparison
        assert found is not None  # this table stands only where there are intervals
        own = [row.label, f"{row.mean[board.main]:.4f}", f"{found.low:.4f} to {found.high:.4f}"]
        if found.difference is None:
            cells.append([*own, "", "", "", ""])
            continue
        between = f"{found.difference_low:+.4f} to {found.difference_high:+.4f}"
        cells.append([*own, f"{found.difference:+.4f}", between, f"{found.p:.2g}", f"{found.p_holm:.2g}"])
    delta = f"delta to {board.reference}"
    header = ["model", board.main, "95% interval", delta, "95% interval of delta", "p", "p (Holm)"]
    return Table(header, cells, f"Intervals and tests on {board.main}", columns="lrrrrrr")


def cost_table(board: Leaderboard) -> Table:
    """What the rows cost and where they come from."""

    def count(value: float | None) -> str:
        return "-" if value is None else f"{value:,.0f}"

    cells = [
        [
            row.label,
            f"{row.first['parameters']:,}",
            f"{row.seconds('training'):,.1f}",
            f"{row.seconds('validation'):,.1f}",
            f"{row.seconds('test'):,.2f}",
            count(row.speed("training")),
            count(row.speed("test")),
            row.first.get("recipe") or row.first["config"].get("recipe") or "-",
            row.seeds(),
            row.commit(),
        ]
        for row in board.rows
    ]
    header = "model,parameters,training s,validation s,test s,train examples/s,test users/s,recipe,seeds,commit"
    return Table(header.split(","), cells, "Cost and origin", columns="lrrrrrrlll")


def settings_table(board: Leaderboard) -> Table:
    """What was set for each row beside its model's defaults and the table's protocol; folded on a page."""
    cells = []
    for row in board.rows:
        config = {**row.first["config"], "model": row.model, "dataset": board.dataset}
        own = {key: value for key, value in changed_settings(config).items() if key not in _NOT_OWN}
        cells.append([row.label, ", ".join(f"{key}={value}" for key, value in own.items()) or "-"])
    return Table(["model", "settings"], cells, "Settings", "What differs from the model's defaults.", folded=True)


def notes(board: Leaderboard) -> list[str]:
    """What a reader of the table has to know; the first note begins with :data:`MARKS`."""
    lines = [f"{MARKS}; gain: {board.main} against the best other row."]
    if any(row.std is not None for row in board.rows):
        lines.append("Mean ± standard deviation over seeds.")
    if board.n_resamples:
        n = len(board.rows) - 1
        test = f"; p: paired t-test against {board.reference}, then Holm's correction for {n} comparison{'s' * (n > 1)}"
        lines.append(
            f"Intervals: paired bootstrap of {board.n_resamples:,} resamples of the test users, seeds averaged for "
            f"each user{test if n else ''}."
        )
    elif has_user_values(board.main):
        without = [row.label for row in board.rows if not all((run.folder / "ranks.npz").is_file() for run in row.runs)]
        lines.append(f"No intervals and tests: runs of {', '.join(without)} have no ranks.npz.")
    split = board.protocol["eval_args"]["split"]
    if split == LEAVE_ONE_OUT:
        lines.append(SHARED_FUTURE)
    elif "temporal" in split:
        lines.append(_periods(board.rows[0].first["split"], split["temporal"]["target"]))
    leaking = [row.label for row in board.rows if is_leaking(row.first)]
    if leaking:
        lines.append(
            f"{', '.join(leaking)}: items are numbered in data order, including test items, so word pieces leak the "
            "answer (paper, Appendix A)."
        )
    cut = [row.label for row in board.rows if any(_was_cut(run.result) for run in row.runs)]
    if cut:
        lines.append(f"Stopped by max_seconds, not by epochs or stopping_step: {', '.join(cut)}.")
    lines += _reevaluated(board)
    if any(run.result.get("dirty") for row in board.rows for run in row.runs):
        lines.append("A + after a commit: there were uncommitted changes.")
    for row in board.rows:
        inflated = [found for run in row.runs if (found := run.result.get("id_level_test_result"))]
        if inflated:
            means = {name: np.mean([found[name] for found in inflated]) for name in inflated[0]}
            values = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
            lines.append(
                f"{row.label} counted by Semantic IDs instead of items, for comparison with papers that do: {values}."
            )
    return lines


def _was_cut(result: Mapping) -> bool:
    """Whether the time for training was over before its epochs were."""
    limit, history = result["config"].get("max_seconds"), result.get("history")
    if not limit or not history or result["seconds"].get("training", 0.0) < limit:
        return False
    return history[-1]["epoch"] + 1 < result["config"]["epochs"]


def _reevaluated(board: Leaderboard) -> list[str]:
    """Which rows are checkpoints that the `evaluate` command evaluated, and what was different in training."""
    found: dict[str, list[str]] = {}
    for row in board.rows:
        record = row.first.get("evaluated_again")
        if not record:
            continue
        text = "reevaluated with the run's own settings"
        if record["changes"]:
            new, old = (", ".join(f"{k}={v}" for k, v in record[side].items()) for side in ("changes", "from"))
            text = f"reevaluated with {new}; training and model selection used {old}"
        found.setdefault(text, []).append(row.label)
    everyone = len(board.rows)
    return [f"{'All rows' if len(rows) == everyone else ', '.join(rows)}: {text}." for text, rows in found.items()]


def _periods(split: Mapping, target: str) -> str:
    """What a global temporal split gave, in a sentence."""
    ends, test = split["dates"], split["test"]
    history = "everything before it, also within the period" if target == "last" else "what came before the period"
    return (
        f"Models learn from the {split['training_interactions']:,} interactions before {ends[0]}, are selected on "
        f"those before {ends[1]} and tested on the rest: each user's {target} item of a period, predicted from "
        f"{history}. {test['new_items']:,} of the test targets are items without a training interaction."
    )
