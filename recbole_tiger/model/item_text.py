"""Item text for models with an embedding table of items, of RecBole and ours: `item_text=add` and `item_text=only`.

Input: a built model and its dataset. Output: the same model, whose item tables read frozen text embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.utils import parametrize

from recbole_tiger.content.vectors import ItemVectors
from recbole_tiger.distributed.collectives import from_main
from recbole_tiger.models import model_spec
from recbole_tiger.nn import ContentMap, ContentTable
from recbole_tiger.tokenization import item_content


def read_item_text(model, config, dataset, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Let the item tables of a model read item text, as `item_text` says; without it the model stays as it is.

    The row of an item is then its own plus a learned linear map of its text embedding (`add`), or the map alone
    (`only`), wherever the model reads the table: in histories and in scores.

    Args:
        state: weights of a trained model, whose embeddings are taken; None: those that the settings describe.
    """
    mode = config["item_text"] or "none"
    if mode == "none":
        return
    rows = next((value for name, value in (state or {}).items() if name.endswith(".content.vectors")), None)
    if rows is None:
        items = [str(item) for item in dataset.field2id_token[dataset.iid_field][1:]]
        rows = from_main(lambda: ItemVectors.fit(item_content(config, items).embeddings).rows)
    for name in model_spec(config["model"]).item_tables:
        table = getattr(model, name)
        content = ContentMap(rows, table.weight.shape[1], stored=True)
        parametrize.register_parametrization(table, "weight", ContentTable(content, alone=mode == "only"))
