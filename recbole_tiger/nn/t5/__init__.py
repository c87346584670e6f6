"""T5 in plain torch: token ids in, hidden states and logits out, under teacher forcing or step by step."""
