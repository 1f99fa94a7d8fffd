"""The assembled model: any subset of modalities, exact round trips, and refusals that name what is known."""
import functools
import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor.course import ex_multimodal as ex
from mmtutor.course import records
from mmtutor.course.files import seal
from mmtutor.course.parts import count_flops, parts_of
from mmtutor.course.sketch import Sketch
from mmtutor.fusion import FUSIONS
from mmtutor.inputs import PROFILES, Bank, Cached
from mmtutor.multimodal import MultimodalConfig, MultimodalModel, Output, drop_modalities
from mmtutor.transformer import Tokens

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import claim_F5  # noqa: E402

WIDTHS = {"text": 6, "picture": 5, "sound": 4}
SUBSETS = [tuple(m for m, bit in zip(WIDTHS, f"{n:03b}") if bit == "1") for n in range(1, 8)]
DESIGNS = [{"fusion": name} for name in FUSIONS] + [{"ask": ("text",)}]


def config(**more):
    usual = {"widths": WIDTHS, "dim": 8, "heads": 2, "embedding": 7, "tasks": {"group": 3, "odd": 4}}
    return MultimodalConfig(**usual | more)


def some(batch=4, dtype=torch.float32):
    return {m: Tokens(torch.randn(batch, 3, w, dtype=dtype), torch.ones(batch, 3, dtype=torch.bool))
            for m, w in WIDTHS.items()}


class Small(nn.Module):
    "An encoder with a buffer, as BatchNorm has them."

    def __init__(self, inside, dim):
        super().__init__()
        self.dim, self.linear, self.norm = dim, nn.Linear(inside, dim), nn.BatchNorm1d(dim)

    def forward(self, x, mask):
        return Tokens(self.norm(self.linear(x).transpose(1, 2)).transpose(1, 2), mask)


def small_encoders():
    return {m: Small(2, w) for m, w in WIDTHS.items()}


def same(a: Output, b: Output):
    return torch.equal(a.state, b.state) and torch.equal(a.embedding, b.embedding) and all(
        torch.equal(a.logits[k], b.logits[k]) for k in a.logits)


def close(a: Output, b: Output):
    for x, y in [(a.state, b.state), (a.embedding, b.embedding), *((a.logits[k], b.logits[k]) for k in a.logits)]:
        torch.testing.assert_close(x, y, atol=1e-12, rtol=0)


@pytest.mark.parametrize("options", DESIGNS, ids=str)
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_any_subset(options, subset):
    model, tokens = MultimodalModel(config(**options)).double().eval(), some(dtype=torch.float64)
    alone = model({m: tokens[m] for m in subset})
    assert alone.state.shape == (4, 8) and alone.embedding.shape == (4, 7)
    assert {k: v.shape for k, v in alone.logits.items()} == {"group": (4, 3), "odd": (4, 4)}
    spoilt = {m: t if m in subset else Tokens(t.values * torch.nan, t.mask) for m, t in tokens.items()}
    close(model(spoilt, present={m: torch.full((4,), m in subset) for m in WIDTHS}), alone)
    if len(subset) < 3:
        assert (model(tokens).state - alone.state).abs().max() > 1e-6


def test_nothing_present_is_finite():
    model, none = MultimodalModel(config()).eval(), torch.zeros(4, dtype=torch.bool)
    out = model(some(), present=dict.fromkeys(WIDTHS, none))
    assert out.state.isfinite().all() and not out.agreement.any()
    torch.testing.assert_close(out.logits["odd"][0], out.logits["odd"][3], atol=1e-6, rtol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_empty_batch_has_empty_answers(fusion):
    out = MultimodalModel(config(fusion=fusion)).eval()(some(batch=0))
    assert out.state.shape == (0, 8) and out.logits["group"].shape == (0, 3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 0.99), batch=st.integers(0, 20))
def test_dropping_never_takes_the_last(seed, share, batch):
    torch.manual_seed(seed)
    tokens = {m: Tokens(t.values, torch.rand(batch, 3) > 0.6) for m, t in some(batch).items()}
    dropped = drop_modalities(tokens, share)
    before, after = (torch.stack([t.mask.any(1) for t in x.values()], 1) for x in (tokens, dropped))
    assert torch.equal(before.any(1), after.any(1))   # something stays where something was
    assert not (after & ~before).any()                # nothing appears
    for m in WIDTHS:                                  # a modality goes as a whole
        assert torch.equal(dropped[m].mask, tokens[m].mask & dropped[m].mask.any(1, keepdim=True))
        assert dropped[m].values is tokens[m].values


@pytest.mark.bad_input
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_dropping_wants_a_chance_and_a_modality(share):
    with pytest.raises(ValueError, match="drop_modalities: share .* of text, picture, sound; expected a chance"):
        drop_modalities(some(), share)
    with pytest.raises(ValueError, match="drop_modalities: share 0.5 of no modality"):
        drop_modalities({}, 0.5)


def test_dropping_has_the_stated_shares():
    count = 40_000
    tokens = {m: Tokens(torch.zeros(count, 1, 1), torch.ones(count, 1, dtype=torch.bool)) for m in WIDTHS}
    kept = torch.cat([t.mask for t in drop_modalities(tokens, 0.5).values()], 1).double().mean(0)
    assert (kept - (1 / 2 + 1 / 24)).abs().max() < 0.012  # 4.5 standard errors of 0.0025
    assert torch.cat([t.mask for t in drop_modalities(tokens, 0.0).values()], 1).all()


def test_modality_dropout_only_while_training():
    model, tokens = MultimodalModel(config(modality_dropout=0.5, dropout=0.0)), some(64)
    assert not same(model(tokens), model(tokens))
    assert same(model.eval()(tokens), model(tokens))
    plain = MultimodalModel(config(dropout=0.0))
    assert same(plain(tokens), plain(tokens))


def test_encoders_run_on_what_prepare_gave_and_tokens_pass():
    model = MultimodalModel(config(), small_encoders()).eval()
    raw = {m: (torch.randn(4, 3, 2), torch.ones(4, 3, dtype=torch.bool)) for m in WIDTHS}
    tokens = model.encode(raw)
    assert all(isinstance(t, Tokens) for t in tokens.values())
    assert model.encode(tokens)["text"] is tokens["text"]
    assert same(model(raw), model(tokens)) and same(model(raw | {"text": tokens["text"]}), model(tokens))


def test_embed_is_a_projection_of_mean_and_maximum_and_blind_to_padding():
    model, tokens = MultimodalModel(config()), some()["picture"]
    both = torch.cat([tokens.values.mean(1), tokens.values.amax(1)], 1)
    torch.testing.assert_close(model.embed("picture", tokens), model.targets["picture"](both))
    longer = Tokens(torch.cat([tokens.values, tokens.values * torch.nan], 1),
                    torch.cat([tokens.mask, ~tokens.mask], 1))
    assert torch.equal(model.embed("picture", longer), model.embed("picture", tokens))
    for nothing in (Tokens(tokens.values, tokens.mask & False), Tokens(tokens.values[:, :0], tokens.mask[:, :0])):
        bias = model.targets["picture"].bias.expand(4, -1)
        torch.testing.assert_close(model.embed("picture", nothing), bias)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_subset_any_length_any_batch(data):
    """Padding, order of the modalities and company in the batch never matter, whatever the design and the subset.

    Each sample of a padded batch is compared with itself alone: no padding, another order, absent ones left out.
    """
    options = data.draw(st.sampled_from(DESIGNS))
    subset = data.draw(st.permutations(data.draw(st.sampled_from(SUBSETS))))
    batch = data.draw(st.integers(1, 3))
    lengths = data.draw(st.lists(st.tuples(*[st.integers(0, 4)] * len(subset)).filter(any), min_size=batch,
                                 max_size=batch))
    torch.manual_seed(data.draw(st.integers(0, 999)))
    model, tokens = MultimodalModel(config(**options)).double().eval(), {}
    for i, m in enumerate(subset):
        mask = torch.arange(5) < torch.tensor([row[i] for row in lengths])[:, None]
        values = torch.randn(batch, 5, WIDTHS[m], dtype=torch.float64)
        tokens[m] = Tokens(values.masked_fill(~mask[..., None], torch.nan), mask)
    together = model(tokens)
    for i, row in enumerate(lengths):
        one = {m: Tokens(tokens[m].values[i:i + 1, :n], tokens[m].mask[i:i + 1, :n]) for m, n in zip(subset, row) if n}
        alone = model(dict(reversed(one.items())))
        for ours, theirs in ((together.state, alone.state), (together.embedding, alone.embedding),
                             (together.agreement, alone.agreement),
                             *((together.logits[k], alone.logits[k]) for k in alone.logits)):
            torch.testing.assert_close(ours[i:i + 1], theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_gradients_reach_every_present_encoder_and_no_other(fusion, subset):
    "Others are given too, marked as absent: for all samples, and then for all but one."
    model = MultimodalModel(config(fusion=fusion, dropout=0.0), small_encoders()).eval()
    raw = {m: (torch.randn(4, 3, 2), torch.ones(4, 3, dtype=torch.bool)) for m in WIDTHS}
    absent = {m: torch.zeros(4, dtype=torch.bool) for m in WIDTHS if m not in subset}

    def reached(present):
        model.zero_grad()
        out = model(raw, present=present)
        (out.embedding.square().sum() + sum(x.square().sum() for x in out.logits.values())).backward()
        return {m for m, e in model.encoders.items()
                if any(p.grad is not None and p.grad.abs().max() > 0 for p in e.parameters())}

    assert reached(absent) == set(subset)
    assert reached({m: torch.arange(4) == 2 for m in absent}) == set(WIDTHS)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_nan_stays_in_its_sample(fusion):
    model, tokens = MultimodalModel(config(fusion=fusion)).eval(), some()
    expected = model(tokens)
    tokens["picture"].values[1, 0, 0] = torch.nan
    found = model(tokens)
    assert found.state[1].isnan().any() and found.logits["group"][1].isnan().any()
    rest = [0, 2, 3]
    torch.testing.assert_close(found.state[rest], expected.state[rest])
    torch.testing.assert_close(found.embedding[rest], expected.embedding[rest])


def test_each_design_gets_what_it_knows():
    model = lambda **more: MultimodalModel(config(**more)).fusion
    assert [len(model(fusion=f, depth=3).layers) for f in ("coattention", "bottleneck")] == [3, 3]
    assert model(fusion="hierarchical", queries=6).queries.shape == (6, 8)
    assert model(fusion="decoder", ask=("text",), queries=2).queries.shape == (3, 8)
    assert model(fusion="concat", hidden=17).mix[0].out_features == 17
    assert all(d.p == 0.4 for f in FUSIONS for d in model(fusion=f, dropout=0.4).modules()
               if isinstance(d, nn.Dropout))


def test_every_parameter_can_be_trained():
    for fusion in FUSIONS:
        model, tokens = MultimodalModel(config(fusion=fusion), small_encoders()), some()
        raw = {m: (torch.randn(4, 3, 2), torch.ones(4, 3, dtype=torch.bool)) for m in WIDTHS}
        present = {m: torch.tensor([True, True, True, i != 0]) for i, m in enumerate(WIDTHS)}
        present["picture"][1] = present["sound"][2] = False  # so that each learned "absent" is used
        out = model(raw, present=present)
        loss = out.embedding.square().sum() + sum(x.square().sum() for x in out.logits.values()) + model.log_scale
        loss = loss + sum(model.embed(m, tokens[m]).square().sum() for m in WIDTHS)
        loss.backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()
                    and not n.endswith(("key.bias", "linear.bias"))]  # a softmax, a norm: blind to these


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip_is_exact(tmp_path, dtype):
    model = MultimodalModel(config(ask=("text",), modality_dropout=0.25)).to(dtype).eval()
    found = MultimodalModel.load(model.save(tmp_path / "model"))
    assert found.config == model.config and not found.training
    for (a, x), (b, y) in zip(model.state_dict().items(), found.state_dict().items(), strict=True):
        assert a == b and x.dtype == y.dtype and torch.equal(x, y)
    tokens = some(dtype=dtype)
    assert same(found(tokens), model(tokens))
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "weights.safetensors"]


def test_round_trip_with_encoders_and_their_buffers(tmp_path):
    model = MultimodalModel(config(), small_encoders())
    raw = {m: (torch.randn(4, 3, 2), torch.ones(4, 3, dtype=torch.bool)) for m in WIDTHS}
    for _ in range(3):
        model(raw)  # moves the running statistics
    model.eval().save(tmp_path)
    assert same(MultimodalModel.load(tmp_path, small_encoders())(raw), model(raw))
    bare, tokens = MultimodalModel.load(tmp_path, encoders={}), model.encode(raw)
    assert same(bare(tokens), model(tokens)) and not len(bare.encoders)


def columns(model, *inputs):
    "The summary as title → numbers."
    lines = [(line[:22].strip(), line[22:].split()) for line in model.summary(*inputs).splitlines()]
    return {title: [int(x.replace(",", "")) for x in rest] for title, rest in lines[1:]}


def test_summary_counts_what_is_there_and_what_learns():
    model = MultimodalModel(config(), small_encoders()).half()
    model.encoders.requires_grad_(False)
    found, size = columns(model), 2 * (2 * 6 + 6 + 12) + 2 * 2 * 6 + 8  # half: 2 bytes; the norm counts its batches
    assert found["encoder of text"] == [2 * 6 + 6 + 12, 0, size]
    every = sum(p.numel() for p in model.parameters())
    assert found["all"][:2] == [every, every - sum(p.numel() for p in model.encoders.parameters())]
    assert found["all"][2] == sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))
    assert found["rest"][:2] == [2, 2]  # gate and temperature
    for total, *parts in zip(found.pop("all"), *found.values()):
        assert total == sum(parts)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_summary_counts_operations_as_the_widths_say(fusion):
    model, tokens = MultimodalModel(config(fusion=fusion, depth=1), {"sound": Small(2, 4)}), some()
    raw = tokens | {"sound": (torch.randn(4, 3, 2), torch.ones(4, 3, dtype=torch.bool))}
    found = {title: numbers[-1] for title, numbers in columns(model, raw).items()}
    assert found["tokens"] == 2 * 3 * 8 * (6 + 5 + 4) and found["encoder of sound"] == 2 * 3 * 2 * 4
    assert found["head: group"] == 2 * 11 * 3 and found["embedding"] == 2 * 8 * 7
    assert found["alone: text"] == 2 * 12 * 7 and found["rest"] == 0
    if fusion == "decoder":  # queries 4, tokens 9: project, mix, project in both attentions; then 8 → 32 → 8
        own = 4 * 4 * 8 * 8 + 2 * 4 * 4 * 8
        cross = (4 + 9 + 9 + 4) * 8 * 8 + 2 * 4 * 9 * 8
        assert found["fusion: decoder"] == 2 * (own + cross + 2 * 4 * 8 * 32)
    alone = {title: numbers[-1] for title, numbers in columns(model, {"text": tokens["text"]}).items()}
    assert alone["alone: picture"] == alone["encoder of sound"] == 0
    assert 0 < alone["fusion: " + fusion] <= found["fusion: " + fusion]


def test_summary_leaves_the_model_as_it_was():
    model, tokens = MultimodalModel(config(modality_dropout=0.5), small_encoders()).train(), some()
    model.encoders.eval()
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    torch.manual_seed(3)
    with torch.no_grad():
        assert model.summary(tokens)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1)) and modes == [m.training for m in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.bad_input
def test_summary_wants_inputs_that_the_model_takes():
    model = MultimodalModel(config()).train()
    with pytest.raises(ValueError, match="got tokens of no modality"):
        model.summary({})
    with pytest.raises(ValueError, match="0 samples; expected .* at least one sample"):
        model.summary(some(0))
    with pytest.raises(ValueError, match="parts_of: smell unknown, .* expected submodules of MultimodalModel"):
        parts_of(model, {"nose": "smell"})
    assert model.training, "left as it was, even after an error"


def test_counting_sees_what_the_counter_of_torch_does_not():
    lstm = nn.LSTM(5, 7, 2)
    assert count_flops(lstm, torch.randn(6, 3, 5))[""] == 2 * 6 * 3 * 4 * 7 * ((5 + 7) + (7 + 7))
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.randn(2, 5, 8)
    assert count_flops(attention, x)["self_attn"] >= 2 * 2 * 2 * 5 * 5 * 8  # the projections bypass the counter's eyes


@pytest.mark.bad_input
def test_configuration_is_checked():
    assert config(widths=tuple(WIDTHS.items())) == config() and hash(config()) == hash(config())
    with pytest.raises(ValueError, match="unknown fusion 'sum', expected one of .*concat.*decoder"):
        config(fusion="sum")
    with pytest.raises(ValueError, match=r"widths=\(\)"):
        config(widths={})
    with pytest.raises(ValueError, match="widths=.*expected different names"):
        config(widths=(("text", 1), ("text", 2)))
    with pytest.raises(ValueError, match="tasks=.*a number > 0"):
        config(tasks={"group": 0})
    with pytest.raises(ValueError, match="MultimodalConfig: {'heads': 0, 'embedding': -1}"):
        config(heads=0, embedding=-1)
    with pytest.raises(ValueError, match="modality_dropout=1.0, expected at least 0 and below 1"):
        config(modality_dropout=1.0)
    with pytest.raises(ValueError, match="ask=\\('smell',\\)"):
        MultimodalModel(config(ask=["smell"]))


@pytest.mark.bad_input
def test_inputs_are_checked():
    model, tokens = MultimodalModel(config(), {"text": Small(2, 6)}), some()
    with pytest.raises(ValueError, match="tokens of smell; .*known are text, picture, sound"):
        model({"smell": tokens["text"]})
    with pytest.raises(ValueError, match="got tokens of no modality; expected at least one"):
        model({})
    with pytest.raises(ValueError, match=r"MultimodalModel: picture is \(3, 3, 5\), expected \(4, tokens, 5\)"):
        model(tokens | {"picture": some(3)["picture"]})
    with pytest.raises(ValueError, match=r"present\['text'\] has shape \(4,\), torch.float32; expected one True"):
        model(tokens, present={"text": torch.ones(4)})
    with pytest.raises(ValueError, match="no encoder for picture; .*text, picture, sound, with an encoder: text"):
        model({"picture": (torch.zeros(1), torch.zeros(1))})
    with pytest.raises(ValueError, match=r"present\['sound'\] .*some of the inputs, which are text"):
        model({"text": tokens["text"]}, present={"sound": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"present\['text'\] has shape \(3,\)"):
        model({"text": tokens["text"]}, present={"text": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="MultimodalModel.embed: got tokens of smell; .*known are"):
        model.embed("smell", tokens["text"])
    with pytest.raises(ValueError, match=r"encoders \['smell'\] do not fit"):
        MultimodalModel(config(), {"smell": Small(2, 6)})
    with pytest.raises(ValueError, match=r"encoders \{'text': 5\} do not fit the configured widths"):
        MultimodalModel(config(), {"text": Small(2, 5)})


@pytest.mark.bad_input
def test_damaged_folders_are_refused(tmp_path):
    MultimodalModel(config(), small_encoders()).save(tmp_path)
    for encoders in (None, {"text": Small(2, 6)}):
        with pytest.raises(ValueError, match=r"saved with .*'picture': 'Small'.*encoders=\{\} to leave them out"):
            MultimodalModel.load(tmp_path, encoders)
    with pytest.raises(ValueError, match="wrong shape"):
        MultimodalModel.load(tmp_path, {m: Small(3, w) for m, w in WIDTHS.items()})
    about = json.loads((tmp_path / "config.json").read_text())
    about["config"]["colour"] = "red"
    (tmp_path / "config.json").write_text(json.dumps(seal(about)))
    with pytest.raises(ValueError, match="saved by another version: it has colour"):
        MultimodalModel.load(tmp_path, {})
    (tmp_path / "config.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="config.json describes no model"):
        MultimodalModel.load(tmp_path, {})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json describes no model"):
        MultimodalModel.load(tmp_path, {})
    MultimodalModel(config()).save(tmp_path)
    weights = bytearray((tmp_path / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="weights.safetensors is not the expected file"):
        MultimodalModel.load(tmp_path)


# --- calibration, agreement, feature dropout ---

def test_calibration_makes_the_offset_and_scale_of_an_encoder_irrelevant():
    "Features shifted and scaled, then calibrated, give what the plain calibrated ones give."
    torch.manual_seed(0)
    plain, model = some(32, torch.float64), MultimodalModel(config()).double().eval()
    moved = {m: Tokens(t.values * 50 + torch.arange(t.values.shape[-1]), t.mask) for m, t in plain.items()}
    model.calibrate(plain)
    expected, one = model(plain), model.embed("text", plain["text"])
    model.calibrate(moved)
    close(model(moved), expected)
    torch.testing.assert_close(model.embed("text", moved["text"]), one, atol=1e-12, rtol=0)
    values = model.features(plain | {"text": moved["text"]})["text"].values
    assert values.mean((0, 1)).abs().max() < 1e-12 and abs(values.square().mean().sqrt() - 1) < 1e-12


def test_calibration_looks_at_real_tokens_only_and_is_saved(tmp_path):
    model, tokens = MultimodalModel(config()).eval(), some()
    half = {m: Tokens(t.values.clone(), t.mask & (torch.arange(3) < 2)) for m, t in tokens.items()}
    model.calibrate(half)
    centre = model.centre_text.clone()
    for t in half.values():
        t.values[:, 2] = torch.nan
    model.calibrate(half)
    assert torch.equal(model.centre_text, centre)
    torch.testing.assert_close(centre, tokens["text"].values[:, :2].mean((0, 1)))
    assert same(MultimodalModel.load(model.save(tmp_path))(tokens), model(tokens))


@pytest.mark.bad_input
def test_calibration_wants_tokens():
    empty = {"text": Tokens(torch.zeros(2, 3, 6), torch.zeros(2, 3, dtype=torch.bool))}
    with pytest.raises(ValueError, match="MultimodalModel.calibrate: 0 real tokens of text, expected 2 or more"):
        MultimodalModel(config()).calibrate(empty)
    broken = some()
    broken["sound"].values[1, 2, 0] = torch.nan
    with pytest.raises(ValueError, match="MultimodalModel.calibrate: 1 real tokens of sound hold NaN or infinity"):
        MultimodalModel(config()).calibrate(broken)


def test_heads_see_whether_modalities_agree():
    "With heads that read the agreement alone, the odd pair is recognised, and an absent modality agrees with nothing."
    model = MultimodalModel(config(widths=dict.fromkeys(WIDTHS, 6), embedding=6)).eval()
    with torch.no_grad():
        for target in model.targets.values():
            target.weight.copy_(torch.eye(6, 12)); target.bias.zero_()
        head = model.heads["odd"]
        head.weight.zero_(); head.bias.zero_()
        head.weight[:3, -3:] = torch.eye(3)
    a, b = torch.eye(6)[0].expand(1, 2, 6), torch.eye(6)[1].expand(1, 2, 6)
    real = torch.ones(1, 2, dtype=torch.bool)
    ask = lambda **values: model({m: Tokens(v, real) for m, v in values.items()}).logits["odd"][0, :3].tolist()
    assert model.pairs == [("text", "picture"), ("text", "sound"), ("picture", "sound")]
    model.log_scale.data.fill_(0)  # a temperature of 1
    assert ask(text=a, picture=a, sound=b) == [1, 0, 0]
    assert ask(text=a, picture=b, sound=b) == [0, 0, 1]
    assert ask(text=a, sound=a) == [0, 1, 0]
    model.log_scale.data.fill_(100)
    assert ask(text=a, sound=a) == [0, 100, 0], "at most 100"


def test_embedding_starts_as_the_sum_of_its_modalities():
    model, tokens = MultimodalModel(config()).eval(), some()
    model.gate.data.zero_()
    parts = [nn.functional.normalize(model.embed(m, tokens[m]), dim=-1) for m in ("picture", "sound")]
    out = model({m: tokens[m] for m in ("picture", "sound")})
    torch.testing.assert_close(out.embedding, nn.functional.normalize(sum(parts), dim=-1))


def test_feature_dropout_hides_the_same_channels_in_all_tokens_of_a_sample():
    model = MultimodalModel(config(feature_dropout=0.5)).train()
    ones = lambda n: {"text": Tokens(torch.ones(n, 3, 6), torch.ones(n, 3, dtype=torch.bool))}
    values = model.features(ones(200))["text"].values
    assert set(values.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(values[:, 0], values[:, 1]) and torch.equal(values[:, 0], values[:, 2])
    assert abs((values == 0).double().mean() - 0.5) < 0.05
    assert len(values[:, 0].unique(dim=0)) > 20, "each sample draws its own"
    again = model.eval().features(ones(2))["text"]
    assert again.values.eq(1).all()
    with pytest.raises(ValueError, match="feature_dropout=1"):
        config(feature_dropout=1)


# --- the claim and the sketch ---

def test_claim_F5_runs_and_compares_every_subset_with_its_specialist():
    group = torch.arange(24) % 8
    kinds = {"clean": {m: Cached([Tokens(torch.randn(24, 3, w), torch.ones(24, 3, dtype=torch.bool))])
                       for m, w in WIDTHS.items()}}
    items = Bank(None, group, group, kinds)
    found = claim_F5.run({"train": items, "test": items}, WIDTHS, PROFILES["quick"], "concat", 0, 0.3, epochs=1)
    assert set(found) == {f"concat/{way}/{s}" for way in ("with", "without", "alone") for s in claim_F5.SUBSETS}
    assert all(0 <= x <= 1 for x in found.values())
    differences = claim_F5.gaps({k: records.spread([x, x, x]) for k, x in found.items()})
    assert len(differences) == 7 + 6 and "concat/without/text+picture+sound" not in differences


@pytest.mark.parametrize("dropped, never, begins", [
    (0.0, -0.1, "holds when the model is trained with modality dropout"), (-0.1, -0.1, "fails for some sets"),
    (0.0, 0.0, "not resolved at this scale")])
def test_claim_F5_says_what_the_figures_say(dropped, never, begins):
    noise = [0.0, 0.002, -0.002, 0.001, -0.001]
    change = {"alone": 0.0, "with": dropped, "without": never}
    figures = {f"{f}/{way}/{s}": records.spread([0.7 + by + (x if way == "alone" else 0) for x in noise])
               for f in claim_F5.FUSIONS for s in claim_F5.SUBSETS for way, by in change.items()}
    assert claim_F5.verdict(claim_F5.gaps(figures)).startswith(begins)
    assert all(name in claim_F5.summary(figures) for name in claim_F5.FUSIONS)


def test_the_sketch_fails_in_the_stated_ways_and_repaired_it_runs():
    words, small, sound = torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.rand(2, 3, 16, 16), torch.randn(2, 5, 16)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Sketch()(words, small, sound)
    with pytest.raises(TypeError, match="memory"):
        Sketch(see=ex.places.reference)(words, small, sound)
    repairs = {"see": ex.places, "ask": ex.ask, "join": ex.side_by_side, "sentence": ex.sentence}
    torch.manual_seed(0)
    deaf = Sketch(**{name: e.reference for name, e in repairs.items()})
    fixed = Sketch(**{name: e.another for name, e in repairs.items()}, listen=tuple(WIDTHS))
    for model, unheard in ((deaf, [1]), (fixed, [])):
        assert ex.unheard.reference(functools.partial(model, words), [small, sound]) == unheard
        assert model(words, torch.rand(2, 3, 40, 24), sound).shape == (2, 8)
    before = fixed(words, small, sound)
    with torch.no_grad():
        fixed.words.weight[0] = 9.0  # what padding is made of
    assert torch.allclose(fixed(words, small, sound), before, atol=1e-5)
