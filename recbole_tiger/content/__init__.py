"""Item text to content embeddings: `columns` reads, `sentences` writes one sentence per item, `encoders` embed them.

`cooccurrence` makes vectors of the training sequences instead, `vectors` what networks read. No RecBole.
"""

from recbole_tiger.content.columns import read_item_table
from recbole_tiger.content.cooccurrence import cooccurrence_vectors
from recbole_tiger.content.encoders import ENCODERS, Encoder, build_encoder
from recbole_tiger.content.sentences import build_sentences, category_paths, item_titles
from recbole_tiger.content.vectors import ItemVectors

__all__ = [
    "ENCODERS",
    "Encoder",
    "ItemVectors",
    "build_encoder",
    "build_sentences",
    "category_paths",
    "cooccurrence_vectors",
    "item_titles",
    "read_item_table",
]
