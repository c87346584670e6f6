"""Our T5 against Hugging Face's with the same weights: logits, gradients, weights both ways, cached decoding."""

import math

import pytest
import torch

from recbole_tiger.nn import IncrementalDecoder, Seq2Seq, T5Config
from recbole_tiger.nn.dropout import dropout

SMALL = dict(vocab_size=70, d_model=32, d_kv=8, d_ff=48, num_heads=3, num_encoder_layers=2, num_decoder_layers=3)


def our_model(seed=0, **changes):
    torch.manual_seed(seed)
    model = Seq2Seq(T5Config(**{**SMALL, **changes})).eval()
    if model.decoder.cross_bias is not None:
        torch.nn.init.normal_(model.decoder.cross_bias.weight, std=0.2)
    return model


def hugging_face_model(config, seed=0):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    hf_config = transformers.T5Config(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        d_kv=config.d_kv,
        d_ff=config.d_ff,
        num_heads=config.num_heads,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        dropout_rate=config.dropout_rate,
        relative_attention_num_buckets=config.relative_attention_num_buckets,
        relative_attention_max_distance=config.relative_attention_max_distance,
        tie_word_embeddings=config.tie_word_embeddings,
        decoder_start_token_id=config.pad_token_id,
    )
    # transformers 5 sets this to True whatever it is told, and keeps what it was told as the scaling of the
    # output.
    hf_config.tie_word_embeddings = config.tie_word_embeddings
    model = transformers.T5ForConditionalGeneration(hf_config).eval()
    model.set_input_embeddings(model.shared)  # untied concerns the output layer only, as in T5 1.1
    return model


def masks(n_users, length):
    """Padding of every kind: none, right (from a single token on), left, in between."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, length + 1, (n_users,), generator=generator)
    lengths[:2] = torch.tensor([1, length])
    right = torch.arange(length) < lengths[:, None]
    holes = torch.rand(n_users, length, generator=generator) < 0.5
    holes[:, 3] = True
    return {"none": torch.ones_like(right), "right": right, "left": right.flip(1), "holes": holes}


def batch(n_users=9, length=37, n_targets=5, vocabulary=70, seed=2):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, vocabulary, (n_users, length), generator=generator)
    targets = torch.randint(1, vocabulary, (n_users, n_targets), generator=generator)
    targets[:, 0] = 0
    return ids, targets


@pytest.mark.parametrize("padding", ["none", "right", "left", "holes"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("grad", [True, False])  # the CPU computes attention differently for training
def test_logits_equal_hugging_face(tied, padding, grad):
    model = our_model(tie_word_embeddings=tied)
    if not tied:
        with torch.no_grad():  # T5 1.1 does not scale; keep the logits of the size of the tied ones
            model.lm_head.weight.mul_(SMALL["d_model"] ** -0.5)
    reference = hugging_face_model(model.config)
    reference.load_state_dict(model.to_hf_state_dict())
    ids, targets = batch()
    mask = masks(*ids.shape)[padding]
    with torch.set_grad_enabled(grad):
        ours = model(ids, mask, targets)
        expected = reference(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=targets).logits
    assert expected.abs().max() > 1
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    if padding == "none":
        torch.testing.assert_close(model(ids, None, targets), expected, atol=1e-5, rtol=0)


def test_logits_equal_hugging_face_at_long_distances_and_other_buckets():
    model = our_model(relative_attention_num_buckets=12, relative_attention_max_distance=20)
    reference = hugging_face_model(model.config)
    reference.load_state_dict(model.to_hf_state_dict())
    ids, targets = batch(n_users=2, length=150, n_targets=60)
    expected = reference(input_ids=ids, decoder_input_ids=targets).logits
    torch.testing.assert_close(model(ids, None, targets), expected, atol=1e-5, rtol=0)


def test_logits_equal_hugging_face_at_the_size_of_the_paper():
    torch.manual_seed(0)
    model = Seq2Seq(T5Config(vocab_size=3025)).eval()
    n_parameters = sum(p.numel() for p in model.parameters())
    assert 4_600_000 < n_parameters < 5_000_000  # the paper's words give 4.85 M (its text says 13 M)
    reference = hugging_face_model(model.config)
    reference.load_state_dict(model.to_hf_state_dict())
    ids, targets = batch(n_users=4, length=81, n_targets=4, vocabulary=3025)
    mask = masks(4, 81)["right"]
    with torch.no_grad():
        ours = model(ids, mask, targets)
        expected = reference(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=targets).logits
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", ["none", "right", "holes"])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_equal_hugging_face(tied, padding):
    model = our_model(tie_word_embeddings=tied)
    reference = hugging_face_model(model.config)
    reference.load_state_dict(model.to_hf_state_dict())
    ids, targets = batch()
    mask = masks(*ids.shape)[padding]
    labels = torch.randint(0, 70, targets.shape, generator=torch.Generator().manual_seed(3))

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    loss(model(ids, mask, targets)).backward()
    loss(reference(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=targets).logits).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    ours = model.to_hf_state_dict()
    for name, parameter in reference.named_parameters():
        scale = parameter.grad.abs().max().clamp(min=1e-3)
        torch.testing.assert_close(ours[name] / scale, parameter.grad / scale, atol=2e-5, rtol=0, msg=name)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_go_to_hugging_face_and_back(tied):
    model = our_model(tie_word_embeddings=tied)
    reference = hugging_face_model(model.config, seed=5)
    state = reference.state_dict()
    assert model.to_hf_state_dict().keys() == state.keys()
    model.load_hf_state_dict(state)
    back = model.to_hf_state_dict()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    ids, targets = batch()
    expected = reference(input_ids=ids, decoder_input_ids=targets).logits
    torch.testing.assert_close(model(ids, None, targets), expected, atol=1e-5, rtol=1e-5)
    before = model.embedding.weight[0, 0].item()
    back["shared.weight"].zero_()  # a copy: the model keeps its weights
    assert model.embedding.weight[0, 0].item() == before != 0


def test_weights_that_do_not_fit_are_refused():
    model = our_model()
    state = model.to_hf_state_dict()
    with pytest.raises(ValueError, match="missing.*decoder.final_layer_norm.weight"):
        model.load_hf_state_dict({k: v for k, v in state.items() if k != "decoder.final_layer_norm.weight"})
    with pytest.raises(ValueError, match="unknown.*extra"):
        model.load_hf_state_dict({**state, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="shared.weight has shape"):
        model.load_hf_state_dict(our_model(vocab_size=71).to_hf_state_dict())
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        model.load_hf_state_dict({**state, "lm_head.weight": state["lm_head.weight"] + 1})


def test_initialisation_has_the_standard_deviations_of_t5():
    model = our_model(d_model=64, d_kv=16, num_heads=4, d_ff=256, initializer_factor=0.5, tie_word_embeddings=False)
    expected = {
        "shared": 1.0,
        "lm_head": 1.0,
        ".q.": (64 * 16) ** -0.5,
        ".k.": 64**-0.5,
        ".v.": 64**-0.5,
        ".o.": 64**-0.5,
        ".wi.": 64**-0.5,
        ".wo.": 256**-0.5,
        "relative_attention_bias": 64**-0.5,
    }
    for name, weight in model.to_hf_state_dict().items():
        if name.endswith("norm.weight"):
            assert (weight == 0.5).all()
            continue
        std = 0.5 * next((std for part, std in expected.items() if part in name), 1.0)
        assert weight.std().item() == pytest.approx(std, rel=4 / math.sqrt(weight.numel())), name


@pytest.mark.parametrize("padding", ["none", "right", "left", "holes"])
@pytest.mark.parametrize("cross_bias", [False, True])
@torch.no_grad()
def test_cached_decoding_with_beams_equals_teacher_forcing(padding, cross_bias):
    model = our_model(cross_position_bias=cross_bias)
    ids, _ = batch(n_users=5)
    mask = masks(*ids.shape)[padding]
    memory = model.encode(ids, mask)
    generator = torch.Generator().manual_seed(0)
    decoder = IncrementalDecoder(model, memory, mask)
    paths = torch.zeros(5, 1, 1, dtype=torch.long)  # tokens of every beam so far [B, K, U]
    hidden = decoder.step(paths[:, :, 0])
    n_beams = 1
    for beams in (4, 4, 7, 3, 6):
        parents = torch.randint(n_beams, (5, beams), generator=generator)
        tokens = torch.randint(1, 70, (5, beams), generator=generator)
        paths = torch.cat([paths.gather(1, parents[:, :, None].expand(-1, -1, paths.shape[2])), tokens[:, :, None]], 2)
        branch = decoder.fork()
        branch.step(tokens.flip(1), parents)  # leaves the decoder as it was
        hidden = decoder.step(tokens, parents)
        n_beams = beams
        expected = torch.stack([model.decode(paths[:, k], memory, mask)[:, -1] for k in range(beams)], 1)
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=0)
    same = decoder.fork().step(tokens, torch.arange(n_beams).expand(5, -1))
    torch.testing.assert_close(decoder.step(tokens), same)


@pytest.mark.parametrize("cross_bias", [False, True])
def test_padding_and_company_change_nothing(cross_bias):
    model = our_model(cross_position_bias=cross_bias)
    ids, targets = batch()
    mask = masks(*ids.shape)["right"]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            together = model(ids, mask, targets)
            garbage = torch.where(mask, ids, 69)
            assert torch.equal(model(garbage, mask, targets), together)
            assert (model.encode(ids, mask)[~mask] == 0).all()
            for user, length in enumerate(mask.sum(1).tolist()):
                alone = model(ids[[user], :length], None, targets[[user]])
                torch.testing.assert_close(alone, together[[user]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("cross_bias", [False, True])
def test_a_user_without_any_token_is_finite_and_ignores_padding(cross_bias):
    model = our_model(cross_position_bias=cross_bias)
    ids, targets = batch()
    mask = masks(*ids.shape)["right"]
    mask[4] = False
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            logits = model(ids, mask, targets)
            assert logits.isfinite().all()
            torch.testing.assert_close(model(ids[:, :5] * 0 + 9, mask[:, :5], targets)[4], logits[4])
            hidden = IncrementalDecoder(model, model.encode(ids, mask), mask).step(targets[:, :1])
            torch.testing.assert_close(model.logits(hidden), logits[:, :1], atol=1e-5, rtol=0)
            nobody = model(ids[:, :0], mask[:, :0], targets)
            torch.testing.assert_close(nobody[4], logits[4], atol=1e-5, rtol=0)


def test_the_cross_attention_adds_a_number_for_each_distance_from_the_end():
    """One decoder layer, by loops over heads and tokens; distances below half of the buckets have one each."""
    model = our_model(cross_position_bias=True, num_decoder_layers=1, dropout_rate=0.0)
    ids, targets = batch(n_users=4, length=12)
    mask = masks(*ids.shape)["holes"]
    layer, config = model.decoder.layers[0], model.config
    memory = model.encode(ids, mask)
    ours = model.decode(targets, memory, mask)
    weight = model.decoder.cross_bias.weight * 10
    with torch.no_grad():
        hidden = model.embed(targets)
        attention = layer.self_attention
        query, key, value = attention.heads(attention.qkv(layer.self_norm(hidden)), 3)
        scores = query @ key.transpose(2, 3) + model.decoder.relative_bias(5, 5)
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
        hidden = hidden + attention.o((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        attention = layer.cross_attention
        query, normed = attention.q.weight.split(config.d_kv), layer.cross_norm(hidden)
        key, value = (part.split(config.d_kv) for part in attention.kv.weight.chunk(2))
        for user in range(4):
            tokens = [t for t in range(12) if mask[user, t]]
            attended = []
            for head in range(config.num_heads):
                scores = torch.stack(
                    [
                        normed[user] @ query[head].t() @ (key[head] @ memory[user, t])
                        + weight[len(tokens) - 1 - place, head]
                        for place, t in enumerate(tokens)
                    ],
                    1,
                )
                attended.append(scores.softmax(1) @ (memory[user, tokens] @ value[head].t()))
            hidden[user] += attention.o(torch.cat(attended, 1))
        hidden = hidden + layer.feed_forward(layer.ff_norm(hidden))
        torch.testing.assert_close(model.decoder.final_norm(hidden), ours, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="cross_position_bias"):
        model.to_hf_state_dict()


def test_the_cross_attention_bias_starts_as_t5():
    plain = Seq2Seq(T5Config(**SMALL)).eval()
    torch.manual_seed(0)
    with_bias = Seq2Seq(T5Config(**SMALL, cross_position_bias=True)).eval()
    assert not with_bias.decoder.cross_bias.weight.any()
    plain.load_state_dict({k: v for k, v in with_bias.state_dict().items() if "cross_bias" not in k})
    ids, targets = batch()
    assert torch.equal(with_bias(ids, None, targets), plain(ids, None, targets))


def test_the_attention_mask_limits_who_sees_whom():
    model = our_model()
    ids, _ = batch()
    mask = masks(*ids.shape)["right"]
    length = ids.shape[1]
    blocks = torch.arange(length) // 4
    allowed = blocks[:, None] >= blocks[None, :]  # an item sees itself and earlier ones
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            memory = model.encode(ids, mask, attention_mask=allowed)
            per_user = model.encode(ids, mask, attention_mask=allowed.expand(len(ids), -1, -1))
            assert torch.equal(memory, per_user)
            later = ids.clone()
            later[:, 20:] = 5
            changed = model.encode(later, mask, attention_mask=allowed)
            torch.testing.assert_close(changed[:, :20], memory[:, :20], atol=1e-5, rtol=0)
            # The memory of the first blocks is the memory of a history that ends there.
            cut = model.encode(ids[:, :20], mask[:, :20], attention_mask=allowed[:20, :20])
            torch.testing.assert_close(cut, memory[:, :20], atol=1e-5, rtol=0)
            assert not torch.allclose(model.encode(later, mask)[:, :20], model.encode(ids, mask)[:, :20], atol=1e-3)


def test_own_input_embeddings_and_token_ranges():
    model = our_model()
    ids, targets = batch()
    mask = masks(*ids.shape)["right"]
    memory = model.encode(ids, mask)
    assert torch.equal(model.encode(inputs_embeds=model.embed(ids), mask=mask), memory)
    hidden = model.decode(targets, memory, mask)
    torch.testing.assert_close(model.logits(hidden, slice(11, 31)), model.logits(hidden)[..., 11:31])
    with pytest.raises(ValueError, match="either token ids or inputs_embeds"):
        model.encode(ids, mask, inputs_embeds=model.embed(ids))
    with pytest.raises(ValueError, match="either token ids or inputs_embeds"):
        model.encode(mask=mask)


def test_dropout_has_its_rate_its_scale_and_its_gradient():
    torch.manual_seed(0)
    hidden = torch.rand(1000, 301).add_(0.5).requires_grad_()
    for rate in (0.1, 0.5, 0.9):
        for relu in (False, True):
            out = dropout(hidden, rate, True, relu=relu)
            kept = out != 0
            share = kept.float().mean().item()
            assert share == pytest.approx(1 - rate, abs=5 * math.sqrt(rate * (1 - rate) / hidden.numel()))
            torch.testing.assert_close(out[kept], hidden[kept] / (1 - rate), rtol=2e-4, atol=0)
            (grad,) = torch.autograd.grad(out.sum(), hidden)
            torch.testing.assert_close(grad, kept / (1 - rate), rtol=2e-4, atol=0)
            # Independent from row to row and from column to column.
            x = kept.float() - kept.float().mean()
            for shifted in (x.roll(1, 0), x.roll(1, 1), x.roll(4, 1)):
                assert (x * shifted).mean().abs() < 5 * rate * (1 - rate) / math.sqrt(x.numel())
    signed = torch.randn(50, 60, requires_grad=True)
    out = dropout(signed, 0.3, True, relu=True)
    assert (out[signed <= 0] == 0).all() and (out >= 0).all()
    (grad,) = torch.autograd.grad(out.sum(), signed)
    assert torch.equal(grad > 0, out > 0)
    torch.manual_seed(7)
    first = dropout(hidden, 0.1, True)
    torch.manual_seed(7)
    assert torch.equal(dropout(hidden, 0.1, True), first)
    assert torch.equal(dropout(hidden, 0.1, False), hidden) and torch.equal(dropout(hidden, 0.0, True), hidden)
    assert torch.equal(dropout(signed, 0.1, False, relu=True), signed.relu())


def test_training_drops_out_and_decoding_never_does():
    model = our_model(dropout_rate=0.2)
    ids, targets = batch()
    mask = masks(*ids.shape)["right"]
    still = model(ids, mask, targets)
    model.train()
    torch.manual_seed(0)
    first = model(ids, mask, targets)
    torch.manual_seed(0)
    assert torch.equal(model(ids, mask, targets), first)
    assert not torch.allclose(first, still, atol=1e-2) and not torch.allclose(model(ids, mask, targets), first)
    with torch.no_grad():  # dropout belongs to the mode, not to the gradient
        assert not torch.allclose(model(ids, mask, targets), still, atol=1e-2)
    memory = torch.randn(9, 37, 32)
    steps = [IncrementalDecoder(model, memory, mask).step(targets[:, :1]) for _ in range(2)]
    assert torch.equal(*steps)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"d_model": 0}, "d_model must be positive"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"pad_token_id": 70}, "pad_token_id 70"),
        ({"relative_attention_num_buckets": 7}, "relative_attention_num_buckets"),
        ({"relative_attention_max_distance": 16}, "relative_attention_max_distance"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        T5Config(**{**SMALL, **changes})
