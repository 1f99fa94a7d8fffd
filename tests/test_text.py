"""Chapter 6: the text encoder is BERT, padding never matters, and bad input is named."""
import copy
import functools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrained import copied, hub, layer_outputs, save_random
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from mmtutor import text as module
from mmtutor.text import TextConfig, TextEncoder, pool
from mmtutor.transformer import Tokens

TEXTS = ["a red apple", "", "The train leaves at noon, from platform 3!", "🍎", "grinning face with smiling eyes"]


@pytest.fixture(scope="session")
def encoder():
    return TextEncoder.from_pretrained()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    "A random BERT in a folder (no parameter at its default), and the module of transformers that it came from."
    folder = tmp_path_factory.mktemp("tiny")
    bert = save_random("Bert", folder, max_position_embeddings=40)
    (folder / "tokenizer.json").write_bytes(module._minilm("tokenizer.json").read_bytes())
    return folder, bert


def test_every_tensor_is_accounted_for(encoder):
    assert encoder.report.matched == 101 and encoder.report.parameters == 22_565_376
    assert encoder.report.ignored == ("embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight")
    assert not encoder.training and encoder.dim == 384


def test_real_weights_equal_transformers_per_layer(encoder):
    from transformers import BertConfig, BertModel
    bert = BertModel(BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)).eval()
    missing, _ = bert.load_state_dict(load_file(module._minilm("model.safetensors")), strict=False)
    assert not missing
    ids, mask = encoder.prepare(TEXTS)
    ours = layer_outputs([encoder.norm, *encoder.encoder.layers], lambda: encoder(ids, mask))
    with torch.no_grad():
        theirs = bert(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    assert len(ours) == len(theirs) == 7
    for a, b in zip(ours, theirs):
        assert (a - b)[mask].abs().max() < 1e-5


def test_local_folder_equals_transformers_in_float64(tiny_bert):
    folder, bert = tiny_bert
    ours, theirs = TextEncoder.from_pretrained(folder).double(), copy.deepcopy(bert).double()
    ids, mask = ours.prepare(TEXTS)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long()).last_hidden_state
        assert (ours(ids, mask).values - expected)[mask].abs().max() < 1e-12
    assert ours.config.max_length == 40 and ours.config.eps == 1e-5


def test_prefix_heads_and_old_names_of_a_checkpoint(tiny_bert, tmp_path):
    "bert-base-uncased on the hub: names begin with `bert.`, norms have gamma and beta, a word-guessing head follows."
    folder, _ = tiny_bert
    old = {"bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
           for k, v in load_file(folder / "model.safetensors").items()}
    assert any(k.endswith("gamma") for k in old)
    copied(folder, tmp_path)
    save_file(old | {"cls.predictions.bias": torch.zeros(5)}, tmp_path / "model.safetensors")
    a, b = TextEncoder.from_pretrained(folder), TextEncoder.from_pretrained(tmp_path)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert "cls.predictions.bias" in b.report.ignored


def test_hub_download_asks_for_safetensors_only(tiny_bert, monkeypatch):
    asked = hub(monkeypatch, tiny_bert[0])
    TextEncoder.from_pretrained("someone/some-bert")
    assert asked["name"] == "someone/some-bert"
    assert set(asked["allow_patterns"]) == {"config.json", "tokenizer.json", "model.safetensors"}


def test_hub_out_of_reach_names_the_offline_choice(monkeypatch):
    hub(monkeypatch, None)
    with pytest.raises(FileNotFoundError, match="someone/some-bert.*ConnectionError.*all-MiniLM-L6-v2"):
        TextEncoder.from_pretrained("someone/some-bert")


def test_pickled_weights_are_not_opened(tiny_bert, tmp_path):
    copied(tiny_bert[0], tmp_path, without="model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(FileNotFoundError, match="no model.safetensors.*pickled weights are not opened"):
        TextEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("key, value", [("model_type", "roberta"), ("hidden_act", "gelu_new"), ("is_decoder", True),
                                        ("position_embedding_type", "relative_key")])
def test_models_that_do_not_fit_are_refused(tiny_bert, tmp_path, key, value):
    copied(tiny_bert[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=f"cannot hold this model: {key} is {value!r}"):
        TextEncoder.from_pretrained(tmp_path)


@pytest.mark.bad_input
@pytest.mark.parametrize("file, share, message", [
    ("config.json", 0.5, "config.json of .* is cut off or damaged"), ("config.json", 0, "config.json of .* is cut off"),
    ("tokenizer.json", 0.5, "tokenizer.json of .* is cut off or damaged"),
    ("model.safetensors", 0.5, "model.safetensors is cut off"), ("model.safetensors", 0, "is cut off: 0 bytes came")])
def test_a_model_with_a_damaged_file_names_it(tiny_bert, tmp_path, file, share, message):
    copied(tiny_bert[0], tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[:int(len(whole) * share)])
    with pytest.raises(ValueError, match=message):
        TextEncoder.from_pretrained(tmp_path)


@pytest.mark.bad_input
@pytest.mark.parametrize("key", ["vocab_size", "num_hidden_layers", "layer_norm_eps"])
def test_a_setting_that_is_missing_is_named(tiny_bert, tmp_path, key):
    copied(tiny_bert[0], tmp_path)
    given = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in given.items() if k != key}))
    with pytest.raises(ValueError, match=f"config.json of .* does not say {key}"):
        TextEncoder.from_pretrained(tmp_path)


def test_missing_tensor_is_refused(tiny_bert, tmp_path):
    copied(tiny_bert[0], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="1 missing.*encoder.layers.1.feed_forward.down.bias"):
        TextEncoder.from_pretrained(tmp_path)


def test_known_ids_and_framing(encoder):
    ids, mask = encoder.prepare(["a red apple", "", "🍎"])
    assert ids.tolist() == [[101, 1037, 2417, 6207, 102], [101, 102, 0, 0, 0], [101, 100, 102, 0, 0]]
    assert mask.tolist() == [[True] * 5, [True] * 2 + [False] * 3, [True] * 3 + [False] * 2]
    assert ids.dtype == torch.long and mask.dtype == torch.bool


def test_padding_and_truncation_of_the_tokenizer_file_are_off(encoder):
    "The file asks for exactly 128 tokens a text."
    assert json.loads(encoder.tokenizer.to_str())["model"]["type"] == "WordPiece"
    raw = json.loads(module._minilm("tokenizer.json").read_text())
    assert raw["padding"]["strategy"] == {"Fixed": 128} and raw["truncation"]["max_length"] == 128
    assert encoder.prepare(["snow"])[0].shape == (1, 3)
    assert encoder.prepare(["snow " * 200])[0].shape == (1, 202)


def test_too_long_is_cut_or_refused(encoder):
    ids, mask = encoder.prepare(["snow " * 600])
    assert ids.shape == (1, 512) and ids[0, 0] == 101 and ids[0, -1] == 102 and mask.all()
    with pytest.raises(ValueError, match="text 1 has 602 tokens, expected at most 512"):
        encoder.prepare(["short", "snow " * 600], truncate=False)
    assert encoder.prepare(["snow " * 510], truncate=False)[0].shape == (1, 512)


def test_padding_content_changes_no_bit(encoder):
    ids, mask = encoder.prepare(TEXTS)
    other = torch.where(mask, ids, torch.randint(0, encoder.config.vocabulary, ids.shape))
    assert not torch.equal(ids, other)
    with torch.no_grad():
        a, b = encoder(ids, mask), encoder(other, mask)
    assert torch.equal(a.values[mask], b.values[mask]) and torch.equal(pool(a), pool(b))


@settings(max_examples=8, deadline=None)
@given(st.lists(st.text(alphabet="abc dé🍎!", max_size=30), min_size=1, max_size=4))
def test_company_never_matters(tiny_bert, texts):
    encoder = TextEncoder.from_pretrained(tiny_bert[0]).double()
    with torch.no_grad():
        together = pool(encoder(*encoder.prepare(texts)))
        for i, text in enumerate(texts):
            assert (pool(encoder(*encoder.prepare([text])))[0] - together[i]).abs().max() < 1e-12


def test_empty_batch_and_a_row_without_a_token(tiny_bert):
    encoder = TextEncoder.from_pretrained(tiny_bert[0])
    tokens = encoder(*encoder.prepare([]))
    assert tokens.values.shape == (0, 0, 32) and pool(tokens).shape == (0, 32)
    ids, mask = encoder.prepare(["a red apple", "nothing"])
    mask[1] = False
    tokens = encoder(ids, mask)
    assert tokens.values.isfinite().all()
    for how in ("mean", "first", "max"):
        vectors = pool(tokens, how)
        assert vectors[1].eq(0).all() and vectors[0].ne(0).any()
    pool(tokens).sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.integers(1, 6), st.integers(0, 10_000))
def test_pool_equals_a_loop(batch, tokens, seed):
    g = torch.Generator().manual_seed(seed)
    values, mask = torch.randn(batch, tokens, 4, generator=g), torch.rand(batch, tokens, generator=g) < 0.6
    poisoned = values.masked_fill(~mask[..., None], torch.nan)
    for how, f in (("mean", lambda rows: rows.mean(0)), ("max", lambda rows: rows.amax(0))):
        got = pool(Tokens(poisoned, mask), how)
        for i in range(batch):
            rows = values[i][mask[i]]
            assert torch.allclose(got[i], f(rows) if len(rows) else torch.zeros(4), atol=1e-6)


def test_sentences_of_like_meaning_are_alike(encoder):
    pairs = [("a dog runs across the lawn", "a puppy plays on the grass"),
             ("the train leaves at noon", "the departure is at twelve o'clock"),
             ("how do I reset my password", "I forgot my login credentials"),
             ("heavy rain flooded the streets", "the storm left the roads under water")]
    with torch.no_grad():
        a, b = (torch.nn.functional.normalize(pool(encoder(*encoder.prepare(side))), dim=-1) for side in zip(*pairs))
    assert (a @ b.T).argmax(1).tolist() == (a @ b.T).argmax(0).tolist() == [0, 1, 2, 3]


def test_positions_matter(encoder):
    ids, mask = encoder.prepare(["the dog bites the man", "the man bites the dog"])
    blind = copy.deepcopy(encoder)
    with torch.no_grad():
        blind.position.weight.zero_()
        a, b = pool(encoder(ids, mask))
        c, d = pool(blind(ids, mask))
    assert (a - b).abs().max() > 0.01 and (c - d).abs().max() < 1e-5


def test_dropout_only_in_training(tiny_bert):
    encoder = TextEncoder.from_pretrained(tiny_bert[0], dropout=0.5)
    batch = encoder.prepare(["a red apple"])
    assert torch.equal(encoder(*batch).values, encoder(*batch).values)
    encoder.train()
    assert not torch.equal(encoder(*batch).values, encoder(*batch).values)


def test_own_sizes_train_and_round_trip():
    tokenizer = Tokenizer.from_file(str(module._minilm("tokenizer.json")))
    config = TextConfig(dim=16, heads=2, depth=1, hidden=32, max_length=8)
    encoder = TextEncoder(config, tokenizer)
    tokens = encoder(*encoder.prepare(["a very long text that is cut after eight tokens", "b"]))
    assert tokens.values.shape == (2, 8, 16) and tokens.mask.sum(1).tolist() == [8, 3]
    tokens.values.square().sum().backward()
    unused = {n for n, p in encoder.named_parameters() if p.grad is None}
    assert not unused and encoder.segment.weight.grad[1].eq(0).all()
    again = TextEncoder(config)
    again.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        assert torch.equal(again(*encoder.prepare(["b"])).values, encoder(*encoder.prepare(["b"])).values)


def test_fingerprints_are_pinned(monkeypatch):
    asked, member = {}, module.member

    def watch(wheel, name, sha256):
        asked[name.rsplit("/", 1)[1]] = sha256
        return member(wheel, name, sha256)
    monkeypatch.setattr(module, "member", watch)
    TextEncoder.from_pretrained()
    assert asked == {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"}


@pytest.mark.bad_input
@pytest.mark.parametrize("texts, message", [
    ("one text", "got one text, 'one text', expected a list of texts"),
    (["fine", None], "text 1 is of type NoneType, expected str"),
    ([b"bytes"], "text 0 is of type bytes, expected str"),
])
def test_what_is_no_text(encoder, texts, message):
    with pytest.raises(ValueError, match=message):
        encoder.prepare(texts)


@pytest.mark.bad_input
@pytest.mark.parametrize("ids, mask, message", [
    (torch.tensor([[101, 30_522]]), torch.ones(1, 2).bool(), "ids from 101 to 30522, expected 0 to 30521"),
    (torch.tensor([[-1, 102]]), torch.ones(1, 2).bool(), "ids from -1 to 102"),
    (torch.zeros(1, 513).long(), torch.ones(1, 513).bool(), "tokens at most 512"),
    (torch.zeros(1, 3).long(), torch.ones(1, 2).bool(), r"ids \(1, 3\) and a torch.bool mask \(1, 2\)"),
    (torch.zeros(1, 3).long(), torch.ones(1, 3), "torch.float32 mask"),
    (torch.zeros(3).long(), torch.ones(3).bool(), r"expected both \(batch, tokens\)"),
])
def test_what_are_no_ids(encoder, ids, mask, message):
    with pytest.raises(ValueError, match=message):
        encoder(ids, mask)


@pytest.mark.bad_input
def test_no_tokenizer_and_no_such_pooling():
    with pytest.raises(ValueError, match="no tokenizer; give it one"):
        TextEncoder(TextConfig(dim=16, heads=2, depth=1, hidden=32)).prepare(["a"])
    with pytest.raises(ValueError, match="unknown way 'median', expected 'mean', 'first' or 'max'"):
        pool(Tokens(torch.zeros(1, 1, 1), torch.ones(1, 1).bool()), "median")


# --- a tokenizer of one's own, attention pooling, texts of any kind

def test_trained_wordpiece_is_repeatable_and_loses_no_known_character():
    names = module.unicode_names()
    assert len(names) == 8771 and names == sorted(set(names))
    first, again = (module.train_wordpiece(names[:2000], 300) for _ in range(2))
    assert first.get_vocab() == again.get_vocab() and first.get_vocab_size() <= 300
    assert [first.token_to_id(piece) for piece in module.SPECIAL] == [0, 1, 2, 3, 4]
    assert first.encode("a").tokens[0] == "[CLS]" and first.encode("").tokens == ["[CLS]", "[SEP]"]
    for name in names[:2000:97]:
        assert "[UNK]" not in first.encode(name).tokens


@pytest.mark.bad_input
def test_sizes_and_tokens_that_cannot_be():
    with pytest.raises(ValueError, match="TextEncoder: got TextConfig.*types=0.*sizes of 1 or more"):
        TextEncoder(TextConfig(types=0))
    tokens = Tokens(torch.zeros(2, 3, 4), torch.ones(1, 3, dtype=torch.bool))
    for call in (pool, module.AttentionPool(4)):
        with pytest.raises(ValueError, match=r"got tokens torch.float32 \(2, 3, 4\) and a torch.bool mask \(1, 3\)"):
            call(tokens)


@pytest.mark.bad_input
def test_a_vocabulary_too_small_for_the_letters_is_refused():
    with pytest.raises(ValueError, match="train_wordpiece: 8 pieces, expected at least 11.*each of the 3 characters"):
        module.train_wordpiece(["ab", "ca"], 8)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.sampled_from([1, 2, 4]), st.integers(0, 10_000))
def test_attention_pool_equals_a_loop_and_ignores_padding(batch, tokens, heads, seed):
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, tokens, 8, generator=g, dtype=torch.float64)
    mask = torch.rand(batch, tokens, generator=g) < 0.7
    weigh = module.AttentionPool(8, heads).double()
    assert torch.allclose(weigh(Tokens(values, mask)), pool(Tokens(values, mask)))
    with torch.no_grad():
        weigh.query.copy_(torch.randn(weigh.query.shape, generator=g, dtype=torch.float64))
        found = weigh(Tokens(values.masked_fill(~mask[..., None], torch.nan), mask))
    for i in range(batch):
        rows = values[i][mask[i]]
        for h, (query, part) in enumerate(zip(weigh.query, rows.split(8 // heads, -1))):
            share = (part @ query / (8 // heads) ** 0.5).softmax(0)
            expected = share @ part if len(rows) else torch.zeros(8 // heads).double()
            assert torch.allclose(found[i].split(8 // heads)[h], expected)


@pytest.mark.bad_input
def test_attention_pool_refuses():
    with pytest.raises(ValueError, match="3 heads cannot share a width of 8"):
        module.AttentionPool(8, 3)
    with pytest.raises(ValueError, match=r"got tokens \(1, 2, 6\), expected \(batch, tokens, 8\)"):
        module.AttentionPool(8)(Tokens(torch.zeros(1, 2, 6), torch.ones(1, 2).bool()))


@pytest.mark.bad_input
@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=3))
def test_any_text_in_any_script_is_framed_and_encoded(tiny_bert, texts):
    "Zero-length text, control characters, scripts that the vocabulary lacks: ids within the vocabulary, no error."
    encoder = _cached(tiny_bert[0])
    ids, mask = encoder.prepare(texts)
    assert ids.shape == mask.shape and len(ids) == len(texts)
    for row, real in zip(ids, mask):
        kept = row[real].tolist()
        assert kept[0] == 101 and kept[-1] == 102 and 2 <= len(kept) <= 40 and not row[~real].any()
    with torch.no_grad():
        assert encoder(ids, mask).values.isfinite().all()


@pytest.mark.bad_input
@settings(max_examples=20, deadline=None)
@given(st.integers(-(2**40), 2**40).filter(lambda i: not 0 <= i < 30_522), st.integers(0, 4))
def test_an_id_outside_the_vocabulary_is_named(tiny_bert, wrong, place):
    ids = torch.full((1, 5), 7)
    ids[0, place] = wrong
    with pytest.raises(ValueError, match=f"got token ids from {min(wrong, 7)} to {max(wrong, 7)}, expected 0 to 30521"):
        _cached(tiny_bert[0])(ids, torch.ones(1, 5).bool())


@pytest.mark.bad_input
@pytest.mark.parametrize("text, place", [("a\ud83c b", 1), ("\udfff", 0)])
def test_half_a_character_is_named(encoder, text, place):
    with pytest.raises(ValueError, match=f"text 0 holds half a character.*at place {place}.*errors='replace'"):
        encoder.prepare([text])


def test_an_unknown_language_is_unknown_and_says_so_in_its_pieces(encoder):
    "Amharic: every word is [UNK], so different sentences are nearly one; German is read in scraps, and is not English."
    pieces = encoder.tokenizer.encode("ውሻ በሣር ላይ ይሮጣል").tokens
    assert pieces == ["[CLS]", *["[UNK]"] * 4, "[SEP]"]
    texts = ["ውሻ በሣር ላይ ይሮጣል", "ባቡሩ እኩለ ቀን ላይ", "a dog runs across the lawn", "ein Hund läuft über den Rasen"]
    with torch.no_grad():
        unit = torch.nn.functional.normalize(pool(encoder(*encoder.prepare(texts))), dim=-1)
    assert unit[0] @ unit[1] > 0.95 and unit[2] @ unit[3] < 0.2


@functools.cache
def _cached(folder):
    return TextEncoder.from_pretrained(folder)
