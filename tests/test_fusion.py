"""Fusion, every design: what is absent leaves no trace, what is present counts, and binding needs the tokens."""
import inspect

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pooled import DIM, MODALITIES, close, refuses_bad_tokens, some
from torch import nn

import mmtutor.fusion
from mmtutor.fusion import FUSIONS, SharedFusionDecoder, equal_hidden, fusion_cost, make_fusion
from mmtutor.transformer import Tokens

DESIGNS = {name: (name, {} if name in ("score", "concat", "gated") else {"heads": 2}) for name in FUSIONS}
DESIGNS |= {"asking": ("decoder", {"depth": 1, "heads": 2, "queries": 1, "ask": ["text", "sound"]}),
            "levels": ("hierarchical", {"levels": [["sound"], ["text", "picture"]], "heads": 2}),
            "deep": ("coattention", {"depth": 2, "heads": 2})}
POOLED = {"score", "concat", "gated"}
every_design = pytest.mark.parametrize("name", DESIGNS)


def fusion_of(name):
    return make_fusion(DESIGNS[name][0], MODALITIES, DIM, **DESIGNS[name][1]).double().eval()


def hide(tokens, names, filling=float("nan")):
    return tokens | {m: Tokens(torch.full_like(values, filling), torch.zeros_like(mask))
                     for m, (values, mask) in tokens.items() if m in names}


SUBSETS = [tuple(m for m, bit in zip(MODALITIES, f"{n:03b}") if bit == "1") for n in range(1, 8)]


@every_design
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_absent_equals_never_there(name, subset):
    fusion, tokens = fusion_of(name), some()
    gone = [m for m in MODALITIES if m not in subset]
    alone = fusion({m: tokens[m] for m in subset})
    assert alone.shape == (3, DIM) and alone.isfinite().all()
    close(fusion(hide(tokens, gone)), alone)
    close(fusion(hide(tokens, gone, 1e30)), alone)
    if gone:
        assert (fusion(tokens) - alone).abs().max() > 1e-6  # what is there does count


@every_design
def test_absent_row_by_row(name):
    "Each sample may lack another modality; each equals the model run on that sample alone, without it."
    fusion, tokens = fusion_of(name), some(batch=7)
    for i, subset in enumerate(SUBSETS):
        for m in MODALITIES:
            if m not in subset:
                tokens[m].mask[i] = False
                tokens[m].values[i] = torch.nan
    together = fusion(tokens)
    for i, subset in enumerate(SUBSETS):
        alone = {m: Tokens(tokens[m].values[i:i + 1], tokens[m].mask[i:i + 1]) for m in subset}
        close(together[i:i + 1], fusion(alone))


@every_design
def test_nothing_present_is_a_finite_constant(name):
    fusion = fusion_of(name)
    out = fusion(hide(some(), MODALITIES))
    assert out.shape == (3, DIM) and out.isfinite().all()
    close(out[0], out[2])
    empty = Tokens(torch.zeros(3, 0, DIM, dtype=torch.float64), torch.zeros(3, 0, dtype=torch.bool))
    close(fusion(dict.fromkeys(MODALITIES, empty)), out)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(DESIGNS)), subset=st.sampled_from(SUBSETS), seed=st.integers(0, 1000),
       extra=st.integers(0, 3), batch=st.integers(0, 3), sizes=st.tuples(*[st.integers(1, 5)] * 3))
def test_padding_and_order_never_matter(name, subset, seed, extra, batch, sizes):
    "More padding with nonsense in it, another order of the mapping, another order of the tokens: the same state."
    torch.manual_seed(seed)
    fusion, tokens = fusion_of(name), {m: t for m, t in some(batch, sizes).items() if m in subset}
    state, other = fusion(tokens), {}
    for m, (values, mask) in reversed(tokens.items()):
        values = F.pad(values.masked_fill(~mask[..., None], torch.nan), (0, 0, 0, extra), value=torch.inf)
        order = torch.randperm(values.shape[1])
        other[m] = Tokens(values[:, order], F.pad(mask, (0, extra))[:, order])
    close(fusion(other), state)


@every_design
def test_a_batch_is_its_rows(name):
    fusion, tokens = fusion_of(name), some()
    rows = [fusion({m: Tokens(t.values[i:i + 1], t.mask[i:i + 1]) for m, t in tokens.items()}) for i in range(3)]
    close(fusion(tokens), torch.cat(rows))


@every_design
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_gradients_reach_the_present_and_no_other(name, subset):
    fusion = fusion_of(name).train()
    tokens = hide(some(), [m for m in MODALITIES if m not in subset])
    tokens = {m: Tokens(t.values.requires_grad_(), t.mask) for m, t in tokens.items()}
    fusion(tokens).square().cumsum(1).sum().backward()
    for m, (values, mask) in tokens.items():
        if m in subset:
            assert values.grad.isfinite().all() and (values.grad[~mask] == 0).all()
            assert values.grad[mask].abs().amax(1).min() > 0, f"no gradient for a token of {m}"
        else:
            assert values.grad is None or (values.grad == 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())


@every_design
def test_weights_are_finite_and_leave_the_state_alone(name):
    fusion, tokens = fusion_of(name), hide(some(), ["picture"])
    tokens["text"].mask[1] = False
    tokens["sound"].mask[1] = False  # sample 1 has nothing at all
    state, weights = fusion(tokens, need_weights=True)
    close(state, fusion(tokens))
    assert isinstance(weights, dict) and all(w.isfinite().all() for w in weights.values())
    assert all((w == 0).all() for key, w in weights.items() if key == "picture" or key[-1] == "picture")


@pytest.mark.parametrize("name", ["decoder", "asking"])
def test_decoder_weights_belong_to_real_tokens_and_sum_to_one(name):
    fusion, tokens = fusion_of(name), hide(some(), ["picture"])
    tokens["text"].mask[1] = False
    tokens["sound"].mask[1] = False
    _, weights = fusion(tokens, need_weights=True)
    depth, queries = len(fusion.decoder.layers), len(fusion.queries)
    assert list(weights) == list(MODALITIES) and weights["text"].shape == (depth, 3, 2, queries, 4)
    total = sum(w.sum(-1) for w in weights.values())
    close(total[:, [0, 2]], torch.ones_like(total[:, [0, 2]]))
    assert (total[:, 1] == 0).all()


def test_decoder_is_the_stack_of_chapter_four():
    fusion, tokens = fusion_of("decoder"), some()
    context = torch.cat([t.values for t in tokens.values()], 1)
    mask = torch.cat([t.mask for t in tokens.values()], 1)
    expected = fusion.decoder(fusion.queries.expand(3, -1, -1), context, context_mask=mask).mean(1)
    close(fusion(tokens), expected)

def test_asking_adds_the_mean_of_a_modality_to_its_query():
    fusion = SharedFusionDecoder(MODALITIES, DIM, depth=1, heads=2, queries=2, ask=["sound"]).double().eval()
    tokens = some()
    context, mask = (torch.cat(parts, 1) for parts in zip(*(tokens[m] for m in MODALITIES)))
    asked = torch.stack([values[real].mean(0) for values, real in zip(*tokens["sound"])])
    queries = torch.cat([fusion.queries[:2].expand(3, -1, -1), (fusion.queries[2] + asked)[:, None]], 1)
    close(fusion(tokens), fusion.decoder(queries, context, context_mask=mask).mean(1))


def test_decoder_is_torchs_decoder():
    "The same weights in nn.TransformerDecoder give the same state."
    ours = SharedFusionDecoder(MODALITIES, DIM, depth=1, heads=2, queries=3).double().eval()
    theirs = nn.TransformerDecoderLayer(DIM, 2, 4 * DIM, 0.0, "gelu", batch_first=True, norm_first=True).double().eval()
    layer = ours.decoder.layers[0]
    with torch.no_grad():
        for mine, his in ((layer.attention, theirs.self_attn), (layer.cross, theirs.multihead_attn)):
            his.in_proj_weight.copy_(torch.cat([mine.query.weight, mine.key.weight, mine.value.weight]))
            his.in_proj_bias.copy_(torch.cat([mine.query.bias, mine.key.bias, mine.value.bias]))
            his.out_proj.load_state_dict(mine.out.state_dict())
        theirs.linear1.load_state_dict(layer.feed_forward.up.state_dict())
        theirs.linear2.load_state_dict(layer.feed_forward.down.state_dict())
    tokens = some()
    context, mask = (torch.cat(x, 1) for x in zip(*tokens.values()))
    out = theirs(ours.queries.expand(3, -1, -1), context, memory_key_padding_mask=~mask)
    close(ours(tokens), F.layer_norm(out, (DIM,)).mean(1))


def test_one_level_is_the_shared_decoder():
    "With the same weights hierarchical fusion with one level is the shared fusion decoder."
    tall = make_fusion("hierarchical", MODALITIES, DIM, depth=2, heads=2, queries=3).double().eval()
    flat = make_fusion("decoder", MODALITIES, DIM, depth=2, heads=2, queries=3).double().eval()
    names = {"queries": "queries", "norm.weight": "decoder.norm.weight", "norm.bias": "decoder.norm.bias"}
    flat.load_state_dict({names.get(k, k.replace("decoders.0.", "decoder.")): v for k, v in tall.state_dict().items()})
    tokens = some()
    close(tall(tokens), flat(tokens))


@pytest.mark.parametrize("name", FUSIONS)
def test_swapped_values(name):
    "The mean cannot see which value goes with which key; what looks at tokens can."
    torch.manual_seed(1)
    fusion, embed = fusion_of(name), nn.Linear(4, DIM).double()
    cells = torch.randn(1, 2, 4, dtype=torch.float64)
    swapped = torch.cat([cells[..., :2], cells.flip(1)[..., 2:]], -1)
    states = [fusion({"picture": Tokens(embed(x), torch.ones(1, 2, dtype=torch.bool))}) for x in (cells, swapped)]
    assert ((states[0] - states[1]).abs().max() < 1e-12) == (name in POOLED)


@pytest.mark.parametrize("name", FUSIONS)
def test_one_interface(name):
    "Modalities and width, then only named options, all with defaults; `hidden` and `dropout` are among them."
    parameters = list(inspect.signature(FUSIONS[name]).parameters.values())
    assert [p.name for p in parameters[:2]] == ["modalities", "dim"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[2:])
    assert {"hidden", "dropout"} <= {p.name for p in parameters}
    fusion = make_fusion(name, MODALITIES, DIM, dropout=0.5).double()
    tokens = some()
    assert not torch.equal(fusion.train()(tokens), fusion(tokens))
    assert torch.equal(fusion.eval()(tokens), fusion(tokens))


def test_all_names_are_at_hand():
    for name in ("ScoreFusion ConcatFusion GatedFusion CoAttentionFusion BottleneckFusion HierarchicalFusion "
                 "SharedFusionDecoder ModalityTokens real_tokens mean_token").split():
        assert name in mmtutor.fusion.__all__ and hasattr(mmtutor.fusion, name)
    assert list(FUSIONS) == ["score", "concat", "gated", "coattention", "bottleneck", "hierarchical", "decoder"]


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("budget", [60_000, 250_000])
def test_equal_parameters(name, budget):
    before = torch.get_rng_state()
    hidden = equal_hidden(name, MODALITIES, 32, budget)
    assert torch.equal(before, torch.get_rng_state())
    sizes = [sum(p.numel() for p in make_fusion(name, MODALITIES, 32, hidden=h).parameters())
             for h in (hidden - 1, hidden, hidden + 1)]
    assert min(abs(size - budget) for size in sizes) == abs(sizes[1] - budget)


def test_cost_by_hand():
    d, hidden, batch, n, q = 32, 48, 2, 16, 4
    tokens = {m: Tokens(torch.randn(batch, k, d), torch.rand(batch, k) < 0.7) for m, k in (("text", 6), ("sound", 10))}
    decoder = SharedFusionDecoder(["text", "sound"], d, depth=1, queries=q, hidden=hidden)
    projections = 4 * q * d * d + 2 * q * d * d + 2 * n * d * d
    flops = 2 * batch * (projections + 2 * q * q * d + 2 * q * n * d + 2 * q * d * hidden)
    parameters = 8 * d * d + 8 * d + 2 * d * hidden + hidden + d + 4 * 2 * d + q * d
    assert fusion_cost(decoder, tokens) == {"parameters": parameters, "flops": flops}
    concat = make_fusion("concat", ["text", "sound"], d, hidden=hidden)
    assert fusion_cost(concat, tokens)["flops"] == 2 * batch * (2 * d * hidden + hidden * d)


@pytest.mark.parametrize("name", FUSIONS)
def test_save_and_load(name, tmp_path):
    fusion, other, tokens = fusion_of(name), fusion_of(name), some()
    torch.save(fusion.state_dict(), tmp_path / "fusion.pt")
    other.load_state_dict(torch.load(tmp_path / "fusion.pt"))
    assert torch.equal(other(tokens), fusion(tokens))


def test_sizes_that_are_not_given():
    counts = {name: len(FUSIONS[name](MODALITIES, 12).queries) for name in ("decoder", "hierarchical")}
    assert counts == {"decoder": 4, "hierarchical": 4} and len(FUSIONS["decoder"](MODALITIES, 12).decoder.layers) == 2
    assert len(FUSIONS["bottleneck"](MODALITIES, 12).shared) == 4
    assert len(FUSIONS["decoder"](MODALITIES, 12, queries=1).queries) == 1


@pytest.mark.bad_input
@every_design
@pytest.mark.parametrize("modalities, dim, more", [
    (("text", "text"), DIM, {}), ((), DIM, {}), (MODALITIES, 0, {}), (MODALITIES, DIM, {"dropout": 1.0}),
    (MODALITIES, DIM, {"dropout": -0.1}), (MODALITIES, DIM, {"hidden": 0})])
def test_who_cannot_be_built_says_its_name(name, modalities, dim, more):
    design, options = DESIGNS[name]
    with pytest.raises(ValueError, match=f"^{FUSIONS[design].__name__}: "):
        make_fusion(design, modalities, dim, **options, **more)


@pytest.mark.bad_input
@every_design
def test_bad_tokens_are_named(name):
    refuses_bad_tokens(fusion_of(name))


@pytest.mark.bad_input
def test_bad_settings_are_named():
    known = "score, concat, gated, coattention, bottleneck, hierarchical, decoder"
    with pytest.raises(ValueError, match=f"unknown fusion 'bilinear', expected one of {known}"):
        make_fusion("bilinear", MODALITIES, DIM)
    with pytest.raises(ValueError, match="ask=\\('smell',\\); expected .* modalities out of text, picture, sound"):
        SharedFusionDecoder(MODALITIES, DIM, heads=2, ask=["smell"])
    with pytest.raises(ValueError, match="0 queries"):
        SharedFusionDecoder(MODALITIES, DIM, heads=2, queries=0)
    with pytest.raises(ValueError, match="SharedFusionDecoder: .*'depth': -1"):
        equal_hidden("decoder", MODALITIES, DIM, 1000, heads=2, depth=-1)
    assert equal_hidden("decoder", MODALITIES, DIM, 1000, heads=2, depth=0) == 1
    with pytest.raises(TypeError, match="depth"):
        make_fusion("concat", MODALITIES, DIM, depth=2)
    with pytest.raises(ValueError, match="equal_hidden: decoder of width 32 has at least .* parameters, .*got 1,000"):
        equal_hidden("decoder", MODALITIES, 32, 1000)
