"""Frozen to the bit, whatever calls train(); caches that cannot return the features of something else."""
import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from mmtutor import freezing
from mmtutor.finetune import FinetuneConfig, finetune
from mmtutor.freezing import cached_features, encode, fingerprint, freeze, matcher, thaw
from mmtutor.optimiser import parameter_groups
from mmtutor.transformer import Encoder, Tokens

pytestmark = pytest.mark.usefixtures("one_thread")


class Letters(nn.Module):
    "A text encoder whose token count depends on the batch."
    def __init__(self):
        super().__init__()
        self.dim, self.embedding, self.layers = 8, nn.Embedding(256, 8), Encoder(2, 8, 2, dropout=0.3)
        self.norm, self.bare = nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False)

    def prepare(self, texts):
        longest = max(len(t) for t in texts)
        ids = torch.tensor([[*t.encode(), *[0] * (longest - len(t))] for t in texts])
        return ids, torch.arange(longest) < torch.tensor([[len(t)] for t in texts])

    def forward(self, ids, mask):
        x = self.layers(self.embedding(ids), mask).transpose(1, 2)
        return Tokens(self.bare(self.norm(x)).transpose(1, 2), mask)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleDict({"text": Letters(), "picture": nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))})
        self.dropout, self.head = nn.Dropout(0.2), nn.Linear(16, 3)

    def forward(self, ids, mask, x):
        text = self.encoders["text"](ids, mask).values.mean(1)
        return self.head(self.dropout(torch.cat([text, self.encoders["picture"](x)], -1)))


WORDS = ["attention", "is", "all", "you", "need", "a", "b", "transformer", "of", "tokens", "x"]


class Data:
    def __init__(self):
        self.encoder, self.x, self.y = Letters(), torch.randn(11, 4), torch.arange(11) % 3

    def __len__(self):
        return 11

    def __getitem__(self, rows):
        return (*self.encoder.prepare([WORDS[i] for i in rows]), self.x[rows]), self.y[rows]


def loss_fn(model, batch, generator):
    return F.cross_entropy(model(*batch[0]), batch[1]), {}


CONFIG = FinetuneConfig(epochs=3, batch_size=4, learning_rate=1e-2, weight_decay=0.5, restore_best=True)
POLICIES = ["encoders", "encoders.text", "encoders.text, head", "encoders but last 1 of encoders.text.layers.layers",
            "encoders.picture", lambda name: "norm" in name, "none"]


def run(model):
    finetune(model, loss_fn, Data(), CONFIG, progress=False, validate=lambda m: {"score": 0.0})


# --- freezing ---

@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p if isinstance(p, str) else "predicate")
def test_frozen_parameters_and_sleeping_modules_keep_every_bit(policy):
    model = Model()
    report = freeze(model, policy)
    before = copy.deepcopy(model.state_dict())
    for module in model.modules():
        module.train()
    run(model)
    after = model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in report.frozen)
    asleep = [n for n in before if any(n.startswith(m + ".") for m in report.asleep)]
    assert all(torch.equal(before[n], after[n]) for n in asleep), "buffers too"
    assert not any(torch.equal(before[n], after[n]) for n in report.trainable)
    assert set(report.frozen) | set(report.trainable) == {n for n, _ in model.named_parameters()}
    assert report.frozen_numbers + report.trainable_numbers == sum(p.numel() for p in model.parameters())


def test_without_freeze_the_buffers_move():
    "The check above can fail: requires_grad alone lets BatchNorm move."
    model = Model()
    model.encoders.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    run(model)
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert {"encoders.picture.1.running_mean", "encoders.text.bare.running_mean"} <= moved


def test_sleeping_modules_are_deterministic_and_cannot_be_woken():
    model = Model()
    report = freeze(model, "encoders")
    assert report.asleep == ("encoders",)
    for wake in (model.train, model.encoders.train, model.encoders["text"].layers.train, model.eval):
        wake()
        assert not any(m.training for m in model.encoders.modules())
        batch = model.encoders["text"].prepare(WORDS)
        assert torch.equal(model.encoders["text"](*batch).values, model.encoders["text"](*batch).values)
    model.train()
    assert model.dropout.training and model.head.training and model.training


def test_no_optimiser_state_for_frozen_parameters():
    model = Model()
    report = freeze(model, "encoders")
    groups = parameter_groups(model, CONFIG)
    assert {n for g in groups for n in g["names"]} == set(report.trainable) == {"head.weight", "head.bias"}


def test_freezing_in_mid_run_stops_momentum_and_decay():
    "An optimiser made before, with momentum for all: after freeze it moves nothing that is frozen."
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    data = Data()
    step = lambda: (loss_fn(model, data[torch.arange(11)], None)[0].backward(), optimizer.step())
    step()
    freeze(model, "encoders")
    before = copy.deepcopy(model.state_dict())
    step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("encoders.")


def test_all_and_none():
    model = Model()
    assert freeze(model, "all").trainable == () and not model.train().training
    report = freeze(model, "none")
    assert report.frozen == () == report.asleep and model.train().training and model.encoders["text"].norm.training
    assert "train" not in vars(model) and all(p.requires_grad for p in model.parameters())


def test_all_but_last_layers():
    model = Model()
    report = freeze(model, "all but last 1 of encoders.text.layers.layers")
    assert report.trainable and all(n.startswith("encoders.text.layers.layers.1.") for n in report.trainable)
    model.train()
    layers = model.encoders["text"].layers.layers
    assert layers[1].training and layers[1].dropout.training and not layers[0].dropout.training
    assert not model.dropout.training, "dropout without parameters goes by its name"


def test_freeze_describes_the_whole_state():
    model = Model()
    freeze(model, "encoders")
    assert set(freeze(model, "head").frozen) == {"head.weight", "head.bias"}
    assert model.encoders["text"].train().training


def test_thaw_wakes_only_what_it_names():
    model = Model()
    freeze(model, "encoders")
    report = thaw(model, "encoders.text")
    assert report.asleep == ("encoders.picture",) and all(n.startswith("encoders.picture") for n in report.frozen)
    model.train()
    assert model.encoders["text"].layers.training and not model.encoders["picture"][2].training
    assert thaw(model).frozen == ()
    freeze(model, lambda name: name.startswith(("head", "dropout")))  # dropout has no weights to be known by
    assert thaw(model, lambda name: name == "head.bias").frozen == ("head.weight",)
    assert thaw(model, "head").asleep == ("dropout",) and not model.train().dropout.training
    assert freeze(model, "all").asleep == ("the whole model",)


def test_gradients_of_what_goes_on_learning_stay():
    model = Model()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    freeze(model, "encoders")
    assert all(p.grad is None for p in model.encoders.parameters())
    assert all(p.grad.eq(1).all() for p in model.head.parameters())


def test_copies_sleep_on_their_own():
    model = Model()
    freeze(model, "encoders")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.train()
        assert not twin.encoders["text"].norm.training
        thaw(twin)
        assert twin.train().encoders["text"].norm.training and not model.train().encoders["text"].norm.training


def test_tied_weights_must_agree():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    assert freeze(model, "all").frozen_numbers == 15
    assert thaw(model, lambda name: name == "a.bias").frozen_numbers == 12
    with pytest.raises(ValueError, match="b.weight is one tensor under two names"):
        freeze(model, "a")


@pytest.mark.bad_input
def test_policies_that_match_nothing():
    model = Model()
    with pytest.raises(ValueError, match=r"nothing .* is called 'encoder'; it has \['dropout', 'encoders', 'head'\]"):
        freeze(model, "encoder")
    with pytest.raises(ValueError, match="nothing in the model is called ''"):
        freeze(model, "")
    with pytest.raises(ValueError, match="nothing in the model is called 'encoders.sound'"):
        freeze(model, "encoders.text, encoders.sound")
    layers = "encoders.text.layers.layers"
    for wrong in (f"last 3 of {layers}", f"last 0 of {layers}", "last 1 of nothing", "x"):
        with pytest.raises(ValueError, match="expected 'but last K of NAME'"):
            freeze(model, f"encoders but {wrong}")
    assert all(p.requires_grad for p in model.parameters())


def test_prefixes_end_at_dots():
    model = nn.ModuleDict({"a": nn.Linear(1, 1), "ab": nn.Linear(1, 1)})
    assert freeze(model, "a").frozen == ("a.weight", "a.bias")
    assert not matcher(model, "a")("ab.weight") and not matcher(model, "none")("a")


# --- features ---

def by_hand(encoder, raw, size):
    "Batches in order, padded afterwards with zeros."
    encoder.eval()
    rows = []
    for start in range(0, len(raw), size):
        values, mask = encoder(*encoder.prepare(raw[start:start + size]))
        rows += [(v[m], m) for v, m in zip(values.detach(), mask)]
    longest = max(len(m) for _, m in rows)
    values, mask = torch.zeros(len(raw), longest, encoder.dim), torch.zeros(len(raw), longest, dtype=torch.bool)
    for i, (v, _) in enumerate(rows):
        values[i, :len(v)], mask[i, :len(v)] = v, True
    return Tokens(values, mask)


@given(st.lists(st.text("abcdef", min_size=1, max_size=9), min_size=1, max_size=14), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_encode_pads_batches_of_different_length(texts, size):
    torch.manual_seed(0)
    encoder = Letters()
    expected, tokens = by_hand(encoder, texts, size), encode(encoder, texts, size)
    assert torch.equal(tokens.values, expected.values) and torch.equal(tokens.mask, expected.mask)
    torch.testing.assert_close(encode(encoder, texts, 99).values, expected.values, rtol=0, atol=1e-5)


def test_encode_restores_modes_and_needs_no_gradient():
    encoder = Letters()
    encoder.norm.eval()
    tokens = encode(encoder, WORDS)
    assert encoder.training and encoder.layers.training and not encoder.norm.training
    assert not tokens.values.requires_grad and torch.equal(tokens.values, encode(encoder, WORDS).values)


def count_encodings(monkeypatch):
    calls, real = [], freezing.encode
    monkeypatch.setattr(freezing, "encode", lambda *a, **k: calls.append(1) or real(*a, **k))
    return calls


def equal(a, b):
    return torch.equal(a.values, b.values) and torch.equal(a.mask, b.mask)


def test_cache_is_bit_equal_and_read_once_written(tmp_path, monkeypatch):
    encoder, calls = Letters(), count_encodings(monkeypatch)
    fresh = cached_features(encoder, WORDS, key="words v1", batch_size=3, folder=tmp_path)
    read = cached_features(encoder, WORDS, key="words v1", batch_size=3, folder=tmp_path)
    assert len(calls) == 1 and isinstance(read, Tokens)
    assert equal(fresh, read) and equal(read, by_hand(encoder, WORDS, 3))
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("change", ["weight", "buffer", "input", "order", "key", "eps", "setting"])
def test_anything_else_is_another_file(tmp_path, monkeypatch, change):
    encoder, texts, key, calls = Letters(), list(WORDS), "k", count_encodings(monkeypatch)
    cached_features(encoder, texts, key=key, folder=tmp_path)
    with torch.no_grad():
        if change == "weight":
            encoder.embedding.weight[7, 3] += 1e-6
        elif change == "buffer":
            encoder.norm.running_mean[0] += 1e-6
        elif change == "input":
            texts[4] += "s"
        elif change == "order":
            texts[0], texts[1] = texts[1], texts[0]
        elif change == "key":
            key = "l"
        elif change == "eps":
            encoder.norm.eps = 1e-3
        elif change == "setting":  # one that `repr` does not show
            encoder.layers.layers[1].norm_first = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cached_features(encoder, texts, key=key, folder=tmp_path)
    assert len(calls) == 2 and len(list(tmp_path.iterdir())) == 2 and equal(found, by_hand(encoder, texts, 64))


@pytest.mark.parametrize("how", ["flip value", "flip header", "cut", "empty", "text"])
def test_damaged_cache_is_named_and_made_anew(tmp_path, how):
    encoder = Letters()
    good = cached_features(encoder, WORDS, key="k", folder=tmp_path)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    if how.startswith("flip"):
        data[-9 if how == "flip value" else 12] ^= 1
    file.write_bytes({"cut": data[:-5], "empty": b"", "text": b"hello"}.get(how, data))
    with pytest.warns(UserWarning, match=f"{file.stem}.*is damaged .*; made anew"):
        again = cached_features(encoder, WORDS, key="k", folder=tmp_path)
    assert equal(good, again)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(good, cached_features(encoder, WORDS, key="k", folder=tmp_path))


def test_stale_cache_says_why(tmp_path, monkeypatch):
    encoder = Letters()
    cached_features(encoder, WORDS, key="k", folder=tmp_path)
    with pytest.warns(UserWarning, match="is stale .made with other batch_size.; made anew"):
        cached_features(encoder, WORDS, key="k", folder=tmp_path, batch_size=2)
    with pytest.warns(UserWarning, match="made with other batch_size, dtype"):
        half = cached_features(encoder, WORDS, key="k", folder=tmp_path, dtype=torch.float16)
    assert half.values.dtype == torch.float16
    monkeypatch.setattr(freezing.torch, "__version__", "2.99.0")
    with pytest.warns(UserWarning, match="made with other torch"):
        cached_features(encoder, WORDS, key="k", folder=tmp_path, dtype=torch.float16)


def test_default_folder_is_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMTUTOR_CACHE", str(tmp_path))
    cached_features(Letters(), WORDS, key="a/b: c", folder=None)
    (file,) = (tmp_path / "features").iterdir()
    assert file.name.startswith("a-b-c-")


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def full(content, path, facts):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(freezing, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        cached_features(Letters(), WORDS, key="k", folder=tmp_path)
    assert not list(tmp_path.iterdir())


class Flat(nn.Module):
    "Takes anything with a length; one token."
    dim = 1

    def prepare(self, items):
        return (torch.tensor([[[float(len(np.asarray(i).reshape(-1)))]] for i in items]),)

    def forward(self, x):
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool))


def test_every_kind_of_input_has_a_fingerprint(tmp_path):
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    other = Image.fromarray(np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3))
    pairs = [(torch.zeros(3), torch.ones(3)), (torch.zeros(4), torch.zeros(2, 2)),
             (torch.zeros(2), torch.zeros(2).int()), (np.zeros(3), np.ones(3)),
             (b"ab", b"ac"), (picture, other), ("é", "e")]
    for a, b in pairs:
        for item in (a, a, b):
            cached_features(Flat(), [item], key="k", folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * len(pairs)
    cached_features(Flat(), ["ab", "c"], key="j", folder=tmp_path)
    cached_features(Flat(), ["a", "bc"], key="j", folder=tmp_path)
    assert len(list(tmp_path.glob("j-*"))) == 2, "where one input ends matters"


def test_fingerprint_sees_names_types_and_shapes():
    one = nn.Linear(2, 3)
    twin = copy.deepcopy(one)
    assert fingerprint(one) == fingerprint(twin)
    assert fingerprint(one) == fingerprint(one.eval()), "the mode is no weight"
    assert fingerprint(one) != fingerprint(twin.double())
    assert fingerprint(nn.Sequential(one)) != fingerprint(one)
    one.config = {"size": 2}
    small = fingerprint(one)
    one.config = {"size": 3}
    assert fingerprint(one) != small, "a config is part of it"
    one._seen = 7
    before, one._seen = fingerprint(one), 8
    assert fingerprint(one) == before, "what is private is not"


@pytest.mark.bad_input
def test_bad_inputs():
    with pytest.raises(ValueError, match="0 inputs in batches of 64; expected at least one of each"):
        encode(Letters(), [])
    with pytest.raises(ValueError, match="in batches of 0"):
        encode(Letters(), WORDS, 0)
    with pytest.raises(ValueError, match="an input is a dict; expected text, bytes, a tensor"):
        cached_features(Flat(), [{}], key="k")


def test_features_that_are_not_finite_are_named_and_not_kept(tmp_path):
    encoder = Letters()
    with torch.no_grad():
        encoder.embedding.weight[ord("x")] = torch.nan
    with pytest.raises(ValueError, match=r"features of inputs \[10\] are not finite \(1 in all\)"):
        cached_features(encoder, WORDS, key="k", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_training_on_cached_features_is_training_on_the_frozen_model():
    "Float64, dropout in the head on: equal to 1e-10."
    class Head(nn.Module):
        def __init__(self, encoder):
            super().__init__()
            torch.manual_seed(3)
            self.encoders = nn.ModuleDict({"text": encoder})
            self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 3)).double()

        def forward(self, *inputs):
            tokens = inputs[0] if isinstance(inputs[0], Tokens) else self.encoders["text"](*inputs)
            return self.head((tokens.values * tokens.mask[..., None]).sum(1))

    encoder = Letters().double()
    features, labels = encode(encoder, WORDS, 4), torch.arange(11) % 3

    class Live(Data):
        def __getitem__(self, rows):
            return encoder.prepare([WORDS[i] for i in rows]), labels[rows]

    class Cached(Data):
        def __getitem__(self, rows):
            return (Tokens(features.values[rows], features.mask[rows]),), labels[rows]

    models = []
    for data in (Live(), Cached()):
        model = Head(copy.deepcopy(encoder))
        freeze(model, "encoders")
        finetune(model, loss_fn, data, CONFIG, progress=False)
        models.append(model)
    torch.testing.assert_close(models[0].head[1].weight, models[1].head[1].weight, rtol=0, atol=1e-10)
