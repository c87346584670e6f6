"""Neural networks in plain torch: token tensors in, logits out. Nothing here knows RecBole."""

from recbole_tiger.nn.seq2seq import IncrementalDecoder, Seq2Seq, T5Config

__all__ = ["IncrementalDecoder", "Seq2Seq", "T5Config"]
