"""Semantic IDs in plain torch, without RecBole: vectors, IDs, a trie, and Hugging Face's T5 generating items.

python examples/plain_torch.py
"""

from __future__ import annotations

import torch
from transformers import T5Config, T5ForConditionalGeneration

from recbole_tiger import RQVAE, PrefixTrie, SemanticIDTable, StepFunction, TrieLogitsProcessor, beam_search


def main(n_items: int = 500, epochs: int = 50, k: int = 5) -> tuple[list[list[int]], list[list[int]]]:
    """Returns the items of `generate` and of `beam_search` for two users, which are equal."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(n_items, 32, generator=generator)  # your embeddings [n, dim]

    # Vectors to codes, and one ID for each item.
    rqvae = RQVAE(id_length=3, codebook_size=16, latent_dim=16, hidden_sizes=[64], epochs=epochs)
    codes = rqvae.fit_transform(vectors)  # [n, 3]
    table = SemanticIDTable.from_codes(codes, [f"item-{i}" for i in range(n_items)], rqvae.codebook_sizes_)
    trie = PrefixTrie.from_codes(table.codes[1:], table.level_sizes)  # items 1, 2, …, in the order of the table

    # A vocabulary: padding, end of ID, and the codewords of each level.
    first_tokens = [2 + sum(table.level_sizes[:level]) for level in range(trie.depth)]
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=2 + sum(table.level_sizes), **sizes, **tokens)).eval()
    history = torch.tensor([[7, 8, 9], [30, 31, 32]])  # item numbers of two users
    offsets = torch.tensor(first_tokens)
    input_ids = (torch.tensor(table.codes)[history] + offsets).flatten(1)  # [2, 3 * depth]

    # Hugging Face's generate with our trie.
    ids = model.generate(
        input_ids,
        num_beams=n_items,
        num_return_sequences=k,
        max_new_tokens=trie.depth + 1,
        length_penalty=0.0,
        logits_processor=[TrieLogitsProcessor(trie, first_tokens, eos_token_id=1)],
    )
    leaves = trie.find(ids[:, 1 : 1 + trie.depth] - offsets)
    generated = trie.first_item(leaves).view(-1, k).tolist()

    # Our search with the same model: it takes any function from the codewords so far to logits.
    def logits(prefixes: torch.Tensor) -> torch.Tensor:
        n_users, n_beams, level = prefixes.shape
        start = torch.zeros(n_users * n_beams, 1, dtype=torch.long)
        decoder_ids = torch.cat([start, (prefixes + offsets[:level]).flatten(0, 1)], 1)
        encoded = input_ids.repeat_interleave(n_beams, 0)
        out = model(input_ids=encoded, decoder_input_ids=decoder_ids).logits[:, -1]
        return out.view(n_users, n_beams, -1)[..., first_tokens[level] :][..., : table.level_sizes[level]]

    with torch.no_grad():
        found = beam_search(StepFunction(logits, n_users=2), trie, beam_size=n_items, k=k)
    for user, items in enumerate(found.items.tolist()):
        print(f"user {user}:", ", ".join(table.items[items]))
    return generated, found.items.tolist()


if __name__ == "__main__":
    main()
