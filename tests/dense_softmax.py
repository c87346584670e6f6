"""The oracle of the softmax over the children of a prefix: one over all codewords of a level, one row at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def node_rows(table, level):
    """Row of each prefix of `level + 1` codewords in its node table: those with siblings, in ascending order."""
    prefixes = sorted({tuple(row) for row in table.codes[1:, : level + 1].tolist()}) if level else []
    parents = [prefix[:-1] for prefix in prefixes]
    branching = [prefix for prefix in prefixes if parents.count(prefix[:-1]) > 1]
    return {prefix: row for row, prefix in enumerate(branching, start=1)}


def dense_logits(hidden, codewords, nodes, level, prefixes, table, known, seen=None, repeat=0.0, content=None):
    """Logits `[N, V]` of all codewords of a level after prefixes (lists of codes), and which of them lead to an item.

    Args:
        hidden: `[N, d]`.
        codewords: `[V, d]`, what a hidden state is multiplied with.
        nodes: node tables by level, as text; or none.
        known: the table that the node tables were made for.
        seen, repeat: what is added where all items of a node are among a row's items, a list of numbers for each row.
        content: `[n_items + 1, d]` mapped content of items, the mean of which a node has too; or None.
    """
    logits = hidden @ codewords.t()
    legal = torch.zeros_like(logits, dtype=torch.bool)
    added = torch.zeros_like(logits)
    row_of = node_rows(known, level)
    for row, prefix in enumerate(prefixes):
        for other in table.codes[1:].tolist():
            if other[:level] == list(prefix):
                legal[row, other[level]] = True
                node = row_of.get(tuple(other[: level + 1]))
                if node is not None and nodes:
                    added[row, other[level]] = hidden[row] @ nodes[str(level)][node]
    if content is not None:
        for row, prefix in enumerate(prefixes):
            for code in legal[row].nonzero().flatten().tolist():
                below = (table.codes[1:, : level + 1] == [*prefix, code]).all(1).nonzero()[0] + 1
                added[row, code] = added[row, code] + hidden[row] @ content[below].mean(0)
    if seen is not None:
        for row, prefix in enumerate(prefixes):
            for code in legal[row].nonzero().flatten().tolist():
                below = (table.codes[1:, : level + 1] == [*prefix, code]).all(1).nonzero()[0] + 1
                if set(below.tolist()) <= set(seen[row]):
                    added[row, code] = added[row, code] + repeat
    return logits + added, legal


def dense_losses(
    hidden, codewords, nodes, table, items, over, smoothing=0.0, known=None, seen=None, repeat=None, content=None
):
    """Cross-entropy of the Semantic ID of each of `items` `[N]`.

    At each level a softmax over all codewords of the level, those that lead to no item masked (`over="children"`) or
    not (`over="level"`).

    Args:
        hidden: per level `[N, d]`.
        codewords: per level `[V, d]`.
        nodes, known: see `dense_logits`.
        smoothing: label smoothing.
        seen, content: see `dense_logits`; `repeat` has a value for each level.
    """
    total = 0.0
    repeat = [0.0] * table.length if repeat is None else repeat
    codes = torch.tensor(table.codes)[items]
    for level in range(table.length):
        prefixes = codes[:, :level].tolist()
        logits, legal = dense_logits(
            hidden[level],
            codewords[level],
            nodes,
            level,
            prefixes,
            table,
            table if known is None else known,
            seen,
            repeat[level],
            content,
        )
        if over == "children":
            # Summing -inf times 0 in label smoothing would give NaN, so the masked ones are left out by hand.
            log_p = F.log_softmax(logits.masked_fill(~legal, -torch.inf), -1)
            chosen = log_p.gather(1, codes[:, level, None]).squeeze(1)
            mean = torch.where(legal, log_p, 0).sum(1) / legal.sum(1)
            total = total - (1 - smoothing) * chosen - smoothing * mean
        else:
            total = total + F.cross_entropy(logits, codes[:, level], label_smoothing=smoothing, reduction="none")
    return total
