"""The core in plain torch: any step function, tensors as embeddings, Hugging Face's generate with our trie."""

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

import recbole_tiger
from recbole_tiger import (
    PrefixTrie,
    ResidualKMeans,
    StepFunction,
    TrieLogitsProcessor,
    beam_search,
    exact_topk,
    prefix_allowed_tokens_fn,
)

SIZES = (3, 4, 5)
FIRST_TOKENS = [2, 5, 9]  # 0 is padding and start, 1 ends an ID
N_TOKENS = 14


@pytest.fixture(scope="module")
def trie():
    codes = np.unique(np.random.default_rng(0).integers(0, SIZES, (20, 3)), axis=0)
    return PrefixTrie.from_codes(codes, SIZES)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=N_TOKENS, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, **sizes)
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():  # far from uniform, so that an order is one
        model.lm_head.weight.mul_(20)
    return model


HISTORY = torch.tensor([[3, 6, 9, 2, 5, 10], [4, 8, 13, 3, 7, 11], [2, 5, 9, 4, 6, 12]])


def step_function(model):
    def logits(prefixes):
        n_users, n_beams, level = prefixes.shape
        tokens = (prefixes + torch.tensor(FIRST_TOKENS[:level], dtype=torch.long)).flatten(0, 1)
        decoder_ids = torch.cat([torch.zeros(len(tokens), 1, dtype=torch.long), tokens], 1)
        out = model(input_ids=HISTORY.repeat_interleave(n_beams, 0), decoder_input_ids=decoder_ids).logits[:, -1]
        return out.view(n_users, n_beams, -1)[..., FIRST_TOKENS[level] :][..., : SIZES[level]]

    return StepFunction(logits, n_users=len(HISTORY))


def generated(model, trie, beams, k, **options):
    """Items and scores of Hugging Face's beam search."""
    found = model.generate(
        HISTORY, num_beams=beams, num_return_sequences=k, max_new_tokens=trie.depth + 1, length_penalty=0.0,
        return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip
    leaves = trie.find(found.sequences[:, 1 : 1 + trie.depth] - torch.tensor(FIRST_TOKENS))
    assert (leaves >= 0).all() and (found.sequences[:, 1 + trie.depth] == 1).all(), "not an item"
    return trie.first_item(leaves).view(-1, k), found.sequences_scores.view(-1, k)


@pytest.mark.parametrize("normalise", ["level", "children"])
@pytest.mark.parametrize("beams", [4, 30])
def test_generate_with_the_trie_is_our_beam_search(model, trie, beams, normalise):
    processor = TrieLogitsProcessor(trie, FIRST_TOKENS, eos_token_id=1, normalise=normalise)
    items, scores = generated(model, trie, beams, 4, logits_processor=[processor])
    with torch.no_grad():
        ours = beam_search(step_function(model), trie, beam_size=beams, k=4, normalise=normalise)
    assert torch.equal(items, ours.items)
    assert torch.allclose(scores, ours.scores, atol=1e-4)
    if beams == 30:
        with torch.no_grad():
            assert torch.equal(exact_topk(step_function(model), trie, k=4, normalise=normalise).items, items)


def test_the_function_of_allowed_tokens_gives_items_and_what_the_processor_allows(model, trie):
    allowed = prefix_allowed_tokens_fn(trie, FIRST_TOKENS, eos_token_id=1)
    items, _ = generated(model, trie, 4, 4, prefix_allowed_tokens_fn=allowed)
    assert all(len(set(row)) == 4 for row in items.tolist())
    processor = TrieLogitsProcessor(trie, FIRST_TOKENS, eos_token_id=1)
    for code in [*trie.codes()[:6].tolist(), [0, 3, 4]]:
        tokens = torch.tensor([0, *(c + first for c, first in zip(code, FIRST_TOKENS, strict=True))])
        for length in range(1, 5):
            scores = processor(tokens[None, :length], torch.zeros(1, N_TOKENS))
            assert scores.isfinite().nonzero()[:, 1].tolist() == sorted(allowed(0, tokens[:length]))


def test_a_decoder_only_prompt_of_several_tokens(trie):
    prompt = torch.tensor([[9, 9, 9, 9]])
    processor = TrieLogitsProcessor(trie, FIRST_TOKENS, eos_token_id=1, prompt_length=4)
    found = processor(prompt, torch.zeros(1, N_TOKENS)).isfinite().nonzero()[:, 1].tolist()
    assert found == prefix_allowed_tokens_fn(trie, FIRST_TOKENS, 1, prompt_length=4)(0, prompt[0])
    assert found == [2 + code for code in trie.next_codes([]).tolist()]


def test_tensors_are_embeddings_too():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tokenizer = ResidualKMeans(id_length=2, codebook_size=4)
    codes = tokenizer.fit_transform(x)
    assert np.array_equal(codes, ResidualKMeans(id_length=2, codebook_size=4).fit_transform(x.detach().numpy()))
    half = tokenizer.transform(x.bfloat16())
    assert np.array_equal(half, tokenizer.transform(x.detach().bfloat16().float().numpy()))


def test_errors_of_shapes_name_argument_and_shape(trie):
    flat = StepFunction(lambda prefixes: torch.zeros(2, 3), n_users=2)
    narrow = StepFunction(lambda prefixes: torch.zeros(*prefixes.shape[:2], 3), n_users=2)
    for search in (lambda d: beam_search(d, trie, beam_size=4), lambda d: exact_topk(d, trie, k=4)):
        with pytest.raises(
            ValueError, match=r"logits of level 0 must be .* = \[2, 1, 3\], but their shape is \[2, 3\]"
        ):
            search(flat)
        with pytest.raises(ValueError, match=r"logits of level 1 .* = \[2, \d+, 4\], but their shape is \[2, \d+, 3\]"):
            search(narrow)
    with pytest.raises(ValueError, match=r"embeddings must be a matrix \[n, dim\], but their shape is \[5\]"):
        ResidualKMeans().fit(torch.zeros(5))
    with pytest.raises(ValueError, match="first_tokens must have one token for each of the 3 levels, but it has 2"):
        prefix_allowed_tokens_fn(trie, [2, 5], 1)
    with pytest.raises(ValueError, match=r"scores must be \[beams, tokens\] .* up to 4, but their shape is \[1, 3\]"):
        TrieLogitsProcessor(trie, FIRST_TOKENS, 1)(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 3))


def test_every_name_of_the_package_is_there():
    for name in recbole_tiger.__all__:
        assert getattr(recbole_tiger, name) is not None, name
    assert recbole_tiger.RQVAE.__module__ == "recbole_tiger.quantization.rqvae.quantizer"
