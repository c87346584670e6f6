"""Item text to content embeddings: `sentences` writes one sentence per item, `encoders` embed it."""
