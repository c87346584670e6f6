"""Neural networks in plain torch: T5, the networks over the tree of Semantic IDs, and their step decoders.

Input: token or item tensors. Output: hidden states, logits and losses. Nothing here knows RecBole.
"""

from recbole_tiger.nn.content_map import ContentMap, ContentTable
from recbole_tiger.nn.optimization import RowAdamW, WeightAverage
from recbole_tiger.nn.step_decoders import Seq2SeqStepDecoder, TreeSeq2SeqStepDecoder, TreeStepDecoder
from recbole_tiger.nn.t5.config import T5Config
from recbole_tiger.nn.t5.incremental import IncrementalDecoder
from recbole_tiger.nn.t5.seq2seq import Seq2Seq
from recbole_tiger.nn.tree.item_tree import ItemTree
from recbole_tiger.nn.tree.module import TreeModule
from recbole_tiger.nn.tree.network import Seen, TreeConfig, TreeNetwork
from recbole_tiger.nn.tree.seq2seq import TreeSeq2Seq

__all__ = [
    "ContentMap",
    "ContentTable",
    "IncrementalDecoder",
    "ItemTree",
    "RowAdamW",
    "Seen",
    "Seq2Seq",
    "Seq2SeqStepDecoder",
    "T5Config",
    "TreeConfig",
    "TreeModule",
    "TreeNetwork",
    "TreeSeq2Seq",
    "TreeSeq2SeqStepDecoder",
    "TreeStepDecoder",
    "WeightAverage",
]
