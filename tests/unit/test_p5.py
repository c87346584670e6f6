"""P5: its numbers do not leak, its prompts are the text they stand for, its T5 is Hugging Face's, its beam is exact."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from catalogue import settings_of
from recbole.data.interaction import Interaction

from recbole_tiger import load_data_and_model, run_recbole_tiger
from recbole_tiger.data.p5_text import (
    TEMPLATES,
    P5Text,
    consecutive_numbers,
    own_pieces,
    pieces_of_word,
    random_numbers,
    words_of_templates,
)
from recbole_tiger.decoding import PrefixTrie
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import make_trainer, prepare_data

N_ITEMS = 120  # numbers of one and of two pieces


def write_cycle(root, name="ring", *, n_users=150, shuffled=False, reverse=False):
    """One cycle of items: the next one is i + 1, or with `shuffled` any other."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        length, start = rng.integers(6, 12), rng.integers(N_ITEMS)
        steps = rng.permutation(N_ITEMS)[:length] if shuffled else start + np.arange(length)
        rows += [f"u{user}\ti{step % N_ITEMS}\t{1_400_000_000 + 1000 * t}" for t, step in enumerate(steps)]
    rows = rows[::-1] if reverse else rows
    folder = root / name
    folder.mkdir(parents=True)
    (folder / f"{name}.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows) + "\n", encoding="utf-8"
    )
    (folder / f"{name}.item").write_text("item_id:token\n", encoding="utf-8")


SETTINGS = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_heads": 4,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "dropout_rate": 0.0,
    "epochs": 1,
    "train_batch_size": 64,
    "beam_size": 20,
    "show_progress": False,
    "state": "WARNING",
}


@pytest.fixture()
def ring(workplace):
    write_cycle(workplace / "data")
    return {**SETTINGS, "data_path": str(workplace / "data")}


def model_of(settings, dataset="ring", **more):
    """An untrained model in evaluation mode, and its test rows."""
    config = build_config("P5", dataset, config_dict={**settings, **more}, command_line={})
    data = prepare_data(config)
    model = make_trainer(config, data).model.eval()
    interaction = next(iter(data.test))[0]
    return model, interaction, data


def rows_of(model, interaction):
    return interaction[model.USER_ID], interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN]


# ------------------------------------------------------------------------------------------------------------- numbers


def test_random_numbers_depend_on_the_ids_and_the_seed_alone():
    ids = [f"item{i}" for i in range(500)]
    numbers = random_numbers(ids, 3)
    assert sorted(numbers) == list(range(1, 501))
    order = np.random.default_rng(0).permutation(500)
    assert (random_numbers([ids[i] for i in order], 3) == numbers[order]).all()
    assert (random_numbers(ids, 4) != numbers).any()
    assert abs(np.corrcoef(np.arange(500), numbers)[0, 1]) < 0.2  # nothing of the order is left


def test_consecutive_numbers_follow_the_sequences():
    items = np.array([4, 2, 4, 7, 2, 1])
    assert consecutive_numbers(items, 7).tolist() == [4, 2, 5, 1, 6, 7, 3]


def number_by_id(data, model):
    names = data.dataset.field2id_token[data.dataset.iid_field][1:]
    return dict(zip(names, map(tuple, model.text.targets[1:].tolist()), strict=True))


def test_item_numbers_do_not_depend_on_the_order_of_the_data(ring, workplace):
    write_cycle(workplace / "data", "backwards", reverse=True)
    seen = {}
    for how in ("random", "consecutive"):
        for dataset in ("ring", "backwards"):
            model, _, data = model_of(ring, dataset, p5_item_numbers=how)
            seen[how, dataset] = number_by_id(data, model)
    assert seen["random", "ring"] == seen["random", "backwards"]
    assert seen["consecutive", "ring"] != seen["consecutive", "backwards"]


def test_numbers_are_cut_into_pairs_of_digits():
    assert pieces_of_word("7") == ["▁7"]
    assert pieces_of_word("12345") == ["▁12", "34", "5"]
    assert pieces_of_word("item") == ["▁item"]


# ------------------------------------------------------------------------------------------------------------- prompts


def written(template, user, numbers):
    """The prompt of a template as words, and its target's, the slow way."""
    text = TEMPLATES[template].format(user=user, history=" , ".join(map(str, numbers)))
    return text.split()


@pytest.mark.parametrize("named", [True, False])
def test_prompts_are_the_text_of_their_template(named):
    rng = np.random.default_rng(1)
    items, users = rng.permutation(1500)[:40] + 1, rng.permutation(3000)[:9] + 1
    pieces = own_pieces([*words_of_templates(), *map(str, items), *map(str, users)])
    text = P5Text(pieces, items, users if named else None, max_items=6)
    lengths = torch.tensor([6, 1, 3, 0, 5, 2, 6, 4])
    history = torch.from_numpy(rng.integers(1, 41, (8, 8))) * (torch.arange(8) < lengths[:, None])
    rows = torch.tensor([1, 2, 3, 4, 5, 6, 0, 9])  # 0: a user without a number
    templates = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    prompts = text(rows, history, lengths, templates)

    for row in range(8):
        user = str(users[rows[row] - 1]) if named and rows[row] else ""
        words = written(templates[row], user, [items[i - 1] for i in history[row, : lengths[row]]])
        tokens = [token for word in pieces.split(words) for token in word] + [pieces.end]
        numbers = [n for n, word in enumerate(words, 1) for _ in pieces_of_word(word)] + [0]
        padding = prompts.tokens.shape[1] - len(tokens)
        assert prompts.tokens[row].tolist() == tokens + [pieces.pad] * padding
        assert prompts.mask[row].tolist() == [True] * len(tokens) + [False] * padding
        assert prompts.words[row].tolist() == numbers + [0] * padding
    assert prompts.words.max() < text.n_words
    assert prompts.mask[:, -1].any()  # nothing is padded for all

    for item, number in enumerate(items, 1):
        target = pieces.split([str(number)])[0] + [pieces.end]
        assert text.targets[item].tolist() == target + [pieces.pad] * (text.targets.shape[1] - len(target))
    assert (text.targets[0] == pieces.pad).all()


def test_without_users_nobody_is_named():
    pieces = own_pieces([*words_of_templates(), *map(str, range(1, 10))])
    text = P5Text(pieces, np.arange(1, 5), np.arange(5, 10), max_items=3)
    history, lengths = torch.tensor([[1, 2, 0]]), torch.tensor([2])
    unnamed = text(None, history, lengths)
    assert torch.equal(unnamed.tokens, text(torch.tensor([0]), history, lengths).tokens)
    assert unnamed.tokens.shape[1] == text(torch.tensor([3]), history, lengths).tokens.shape[1] - 1
    with pytest.raises(ValueError, match="4 items.*MAX_ITEM_LIST_LENGTH"):
        text(None, torch.ones(1, 4, dtype=torch.long), torch.tensor([4]))


def test_whole_word_numbers_of_the_longest_prompt_have_an_embedding():
    pieces = own_pieces([*words_of_templates(), "1", "2"])
    text = P5Text(pieces, np.array([1]), np.array([2]), max_items=20)
    every = torch.arange(text.n_templates)
    one = torch.ones_like(every)
    prompts = text(one, torch.ones(len(every), 20, dtype=torch.long), 20 * one, every)
    assert int(prompts.words.max()) in (text.n_words - 2, text.n_words - 1)


# --------------------------------------------------------------------------------------------------------------- model


def test_logits_equal_hugging_face(ring):
    transformers = pytest.importorskip("transformers")
    model, interaction, _ = model_of(ring)
    reference = transformers.T5ForConditionalGeneration(hugging_face_config(transformers, model.seq2seq.config)).eval()
    reference.load_state_dict(model.seq2seq.to_hf_state_dict())
    items = torch.arange(1, len(interaction) + 1) % N_ITEMS + 1
    templates = torch.arange(len(interaction)) % len(TEMPLATES)
    prompts = model.text(*rows_of(model, interaction), templates)
    labels = model.text.targets[items]
    with torch.no_grad():
        embeds = reference.shared(prompts.tokens) + model.whole_words(prompts.words)
        expected = reference(inputs_embeds=embeds, attention_mask=prompts.mask.long(), labels=labels).logits
        ours = model(interaction, items, templates)
    assert expected.abs().max() > 1
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)
    # The loss of one example is the mean over its pieces.
    rows = torch.log_softmax(expected, -1).gather(2, labels[:, :, None])[:, :, 0] * (labels != 0)
    torch.manual_seed(5)
    drawn = torch.randint(len(TEMPLATES), items.shape)
    interaction.update(Interaction({model.POS_ITEM_ID: items}))
    torch.manual_seed(5)
    loss = model.calculate_loss(interaction)
    with torch.no_grad():
        logits = model(interaction, items, drawn)
    rows = torch.log_softmax(logits, -1).gather(2, labels[:, :, None])[:, :, 0]
    means = [-row[label != 0].mean() for row, label in zip(rows, labels, strict=True)]
    assert loss.item() == pytest.approx(float(torch.stack(means).mean()), rel=1e-5)


def hugging_face_config(transformers, config, **more):
    return transformers.T5Config(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        d_kv=config.d_kv,
        d_ff=config.d_ff,
        num_heads=config.num_heads,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        decoder_start_token_id=0,
        **more,
    )


def all_scores(model, interaction):
    """Log-likelihood of every item, one forward pass each: no trie, no cache, no beam."""
    users, history, lengths = rows_of(model, interaction)
    columns = []
    with torch.no_grad():
        for item in range(1, N_ITEMS + 1):
            rows = {model.USER_ID: users, model.ITEM_SEQ: history, model.ITEM_SEQ_LEN: lengths}
            columns.append(model.predict({**rows, model.ITEM_ID: torch.full_like(users, item)}))
    return torch.stack(columns, 1)  # [B, N_ITEMS]


@pytest.mark.parametrize("scoring", ["beam", "exact"])
def test_the_search_finds_the_best_items_with_their_likelihoods(ring, scoring):
    model, interaction, _ = model_of(ring, scoring=scoring, decode_batch_size=13)
    interaction = interaction[:30]
    scores = all_scores(model, interaction)
    for beam_size in (N_ITEMS, None):  # as wide as the catalogue; the setting's 20
        result = model.recommend(*rows_of(model, interaction), 10, beam_size=beam_size)
        taken = scores.gather(1, result.items - 1)
        torch.testing.assert_close(result.scores, taken, atol=1e-4, rtol=0)  # whatever was found has its own likelihood
        if scoring == "exact" or beam_size:
            torch.testing.assert_close(taken, scores.topk(10).values, atol=1e-4, rtol=0)
    assert {len(set(row)) for row in result.items.tolist()} == {10}


def test_excluded_items_never_come_back(ring):
    model, interaction, _ = model_of(ring)
    interaction = interaction[:20]
    free = model.recommend(*rows_of(model, interaction), 20)
    rest = model.recommend(*rows_of(model, interaction), 20, excluded=free.items[:, :5])
    assert (rest.items > 0).all()
    assert not (rest.items[:, :, None] == free.items[:, None, :5]).any()


def test_a_small_memory_for_logits_changes_nothing(ring, monkeypatch):
    model, interaction, _ = model_of(ring)
    whole = model.recommend(*rows_of(model, interaction), 10)
    monkeypatch.setattr("recbole_tiger.model.p5.MAX_LOGITS", 20 * model.seq2seq.config.vocab_size * 7)
    careful, *_ = model_of(ring)
    assert careful.decode_batch_size == 7 < model.decode_batch_size
    parts = careful.recommend(*rows_of(careful, interaction), 10)
    assert torch.equal(whole.items, parts.items)


def test_likelihoods_over_legal_pieces_sum_to_one(ring):
    model, interaction, _ = model_of(ring, likelihood="children", beam_size=N_ITEMS)
    result = model.recommend(*rows_of(model, interaction[:20]), N_ITEMS)
    torch.testing.assert_close(result.scores.exp().sum(1), torch.ones(20), atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------------------ learning

LONGER = {
    "d_model": 64,
    "d_ff": 256,
    "epochs": 60,
    "max_steps": 320,
    "learning_rate": 0.01,
    "lr_scheduler": "cosine",
    "warmup_steps": 30,
    "weight_decay": 0.0,
    "MAX_ITEM_LIST_LENGTH": 1,
    "eval_step": 100,
    "topk": [1, 5, 10],
    "p5_user_number": False,
}


def test_a_known_rule_is_learned(ring):
    result = run_recbole_tiger("P5", "ring", config_dict={**ring, **LONGER}, command_line={})
    assert result["test_result"]["recall@1"] >= 0.9


def test_shuffled_sequences_are_not(ring, workplace):
    write_cycle(workplace / "data", "noise", shuffled=True)
    result = run_recbole_tiger("P5", "noise", config_dict={**ring, **LONGER, "max_steps": 60}, command_line={})
    assert result["test_result"]["recall@1"] <= 0.1
    assert result["test_result"]["recall@10"] <= 0.25  # 10 of 120 by chance


def test_one_run_end_to_end_and_its_checkpoint(toy):
    settings = settings_of("P5", toy)
    result = run_recbole_tiger("P5", "toy", config_dict=settings, command_line={})
    assert result["config"]["recipe"] == "scratch"
    stored = json.loads(Path(result["files"]["result"]).read_text(encoding="utf-8"))
    assert stored["test_result"] == result["test_result"]
    _, model, dataset, _, _, test_data = load_data_and_model(result["files"]["checkpoint"])
    again = make_trainer_for(model, test_data)
    assert dict(again) == pytest.approx(result["test_result"], abs=1e-12)
    scores = model.full_sort_predict(next(iter(test_data))[0])
    assert scores.shape[1] == dataset.item_num and (scores > -torch.inf).sum(1).eq(settings["beam_size"]).all()

    # Weights of other numbers mean nothing here.
    other = model.other_parameter()
    model.load_other_parameter(other)
    pieces = other["item_pieces"].clone()
    pieces[[1, 2]] = pieces[[2, 1]]
    for wrong in ({**other, "item_checksum": 0}, {**other, "item_pieces": pieces}):
        with pytest.raises(ConfigError, match="other items, item numbers"):
            model.load_other_parameter(wrong)


def make_trainer_for(model, test_data):
    from recbole_tiger.training.generative import TIGERTrainer

    return TIGERTrainer(test_data.config, model).evaluate(test_data, load_best_model=False)


def test_same_seed_same_losses(ring):
    losses = [
        run_recbole_tiger("P5", "ring", config_dict={**ring, "seed": seed}, command_line={})["history"][0]["train_loss"]
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_consecutive_numbers_are_named_in_the_result(ring):
    result = run_recbole_tiger(
        "P5", "ring", config_dict={**ring, "p5_item_numbers": "consecutive", "max_steps": 1}, command_line={}
    )
    assert result["config"]["recipe"] == "scratch_leaking"


# ---------------------------------------------------------------------------------------------------------- checkpoints


def write_t5(folder, *, words=None, **more):
    """A tiny T5 in Hugging Face's layout, with a SentencePiece-like tokenizer over digits and the prompts' words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = words_of_templates() if words is None else words
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [(f"▁{word}", -3.0) for word in words] + [(str(digit), -4.0) for digit in range(10)]
    pieces += [(f"▁{number}", -3.0) for number in range(10, 60)] + [(str(number), -4.5) for number in range(10, 40)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace()]
    )
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=len(pieces) + 6,
        d_model=24,
        d_kv=8,
        d_ff=40,
        num_heads=2,
        num_layers=2,
        decoder_start_token_id=0,
        **more,
    )
    torch.manual_seed(3)
    model = transformers.T5ForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    return tokenizer, model


def test_a_checkpoint_brings_its_weights_and_its_tokenizer(ring, workplace):
    tokenizer, reference = write_t5(workplace / "t5")
    model, interaction, data = model_of(ring, p5_checkpoint=str(workplace / "t5"))
    interaction = interaction[:40]
    for name, ours in model.seq2seq.to_hf_state_dict().items():
        assert torch.equal(ours, reference.state_dict()[name]), name

    # The tokens are those of the tokenizer on the whole text.
    users, history, lengths = rows_of(model, interaction)
    prompts = model.text(users, history, lengths)
    items = random_numbers(data.dataset.field2id_token[data.dataset.iid_field][1:], [2024, 0])
    named = random_numbers(data.dataset.field2id_token[data.dataset.uid_field][1:], [2024, 1])
    for row in range(40):
        words = written(0, named[users[row] - 1], [items[i - 1] for i in history[row, : lengths[row]]])
        encoded = tokenizer.encode(" ".join(words))
        assert prompts.tokens[row][prompts.mask[row]].tolist() == encoded.ids
        starts = [token.startswith("▁") for token in encoded.tokens]
        assert prompts.words[row][prompts.mask[row]].tolist() == [*np.cumsum(starts)[:-1], 0]

    scores = all_scores(model, interaction)
    result = model.recommend(users, history, lengths, 10, beam_size=N_ITEMS)
    torch.testing.assert_close(result.scores, scores.topk(10).values, atol=1e-4, rtol=0)


def test_training_starts_from_a_checkpoint(ring, workplace):
    write_t5(workplace / "t5")
    settings = {**ring, "p5_checkpoint": str(workplace / "t5"), "max_steps": 3}
    result = run_recbole_tiger("P5", "ring", config_dict=settings, command_line={})
    assert result["config"]["recipe"] == "checkpoint"
    _, model, *_ = load_data_and_model(result["files"]["checkpoint"])
    assert model.seq2seq.config.d_model == 24


def test_old_checkpoints_with_a_bias_that_nobody_reads(ring, workplace):
    _, reference = write_t5(workplace / "t5")
    (workplace / "t5" / "model.safetensors").unlink()
    state = {name: value for name, value in reference.state_dict().items() if "embed_tokens" not in name}
    state["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.zeros(32, 2)
    torch.save(state, workplace / "t5" / "pytorch_model.bin")
    model, *_ = model_of(ring, p5_checkpoint=str(workplace / "t5"))
    assert torch.equal(model.seq2seq.embedding.weight, reference.shared.weight)


@pytest.mark.parametrize("damage", ["gated", "other", "weights", "tokenizer", "digits", "empty", "sizes"])
def test_a_folder_that_cannot_be_used_is_refused(ring, workplace, damage):
    folder = workplace / "t5"
    write_t5(folder, words=["user"] if damage == "digits" else None)
    if damage in ("gated", "other"):
        content = json.loads((folder / "config.json").read_text())
        content.update({"feed_forward_proj": "gated-gelu"} if damage == "gated" else {"model_type": "bert"})
        (folder / "config.json").write_text(json.dumps(content))
    elif damage == "sizes":
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, "d_ff": 41}))
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes(b"no weights")
    elif damage == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    elif damage == "empty":
        (folder / "model.safetensors").unlink()
    elif damage == "digits":
        content = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = content["model"]["vocab"]
        content["model"]["vocab"] = [[f"x{p}" if p.strip("▁").isdigit() else p, score] for p, score in vocabulary]
        (folder / "tokenizer.json").write_text(json.dumps(content))
    words = {
        "gated": "feed_forward_proj='gated-gelu'",
        "other": "not that of a T5",
        "weights": "cannot be read",
        "tokenizer": "tokenizer cannot be read",
        "digits": "same pieces",
        "sizes": "its weights are not those of its config.json",
        "empty": "neither model.safetensors nor pytorch_model.bin",
    }
    with pytest.raises(ConfigError, match=words[damage]):
        model_of(ring, p5_checkpoint=str(folder))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"p5_checkpoint": "no-folder"}, "p5_checkpoint='no-folder' is not a folder with a config.json"),
        ({"p5_item_numbers": "sorted"}, "p5_item_numbers='sorted'.*consecutive"),
        ({"recipe": "scratch", "p5_item_numbers": "consecutive"}, "recipe='scratch' does not fit.*scratch_leaking"),
        ({"recipe": "checkpoint"}, "recipe='checkpoint' does not fit"),
        ({"encoder_mask": "block_causal"}, "encoder_mask='block_causal' is not for P5"),
        ({"beam_size": 5}, "beam_size=5 is smaller"),
    ],
)
def test_settings_that_cannot_work_are_refused(ring, settings, words):
    with pytest.raises(ConfigError, match=words):
        build_config("P5", "ring", config_dict={**ring, **settings}, command_line={})


def test_one_temperature_per_level_must_fit_the_numbers(ring):
    model, *_ = model_of(ring)
    assert isinstance(model.trie, PrefixTrie) and model.trie.depth == 3
    model_of(ring, temperature=[1.0, 0.5, 1.0])
    with pytest.raises(ConfigError, match="temperature=.*3 word pieces"):
        model_of(ring, temperature=[1.0, 0.5])


def test_training_draws_from_all_prompts_and_evaluation_from_one(ring, monkeypatch):
    model, interaction, _ = model_of(ring)
    seen = []
    original = P5Text.forward

    def record(self, users, history, lengths, templates=None):
        seen.append(None if templates is None else set(templates.tolist()))
        return original(self, users, history, lengths, templates)

    monkeypatch.setattr(P5Text, "forward", record)
    interaction.update(Interaction({model.POS_ITEM_ID: torch.ones(len(interaction), dtype=torch.long)}))
    model.calculate_loss(interaction)
    model.recommend(*rows_of(model, interaction), 5)
    assert seen[0] == set(range(len(TEMPLATES))) and seen[1:] == [None]
