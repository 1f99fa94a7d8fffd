"""Fusion: what is absent leaves no trace, what is present counts, and binding needs attention."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor.fusion import (
    FUSIONS,
    ConcatFusion,
    ModalityTokens,
    SharedFusionDecoder,
    make_fusion,
    mean_token,
    real_tokens,
)
from mmtutor.transformer import Tokens

MODALITIES, DIM = ("text", "picture", "sound"), 8
OPTIONS = {"concat": {}, "decoder": {"depth": 2, "heads": 2, "queries": 3},
           "asking": {"depth": 1, "heads": 2, "queries": 1, "ask": ["text", "sound"]}}


def fusion_of(name):
    return make_fusion("concat" if name == "concat" else "decoder", MODALITIES, DIM, **OPTIONS[name]).double().eval()


def some(batch=3, sizes=(4, 5, 2), dim=DIM, share=0.3):
    "Tokens with some padding; every row of every modality has at least its first token."
    found = {}
    for m, n in zip(MODALITIES, sizes):
        mask = torch.rand(batch, n) > share
        mask[:, 0] = True
        found[m] = Tokens(torch.randn(batch, n, dim, dtype=torch.float64), mask)
    return found


def hide(tokens, names, filling=float("nan")):
    return tokens | {m: Tokens(torch.full_like(values, filling), torch.zeros_like(mask))
                     for m, (values, mask) in tokens.items() if m in names}


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


SUBSETS = [tuple(m for m, bit in zip(MODALITIES, f"{n:03b}") if bit == "1") for n in range(1, 8)]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_absent_equals_never_there(name, subset):
    fusion, tokens = fusion_of(name), some()
    gone = [m for m in MODALITIES if m not in subset]
    alone = fusion({m: tokens[m] for m in subset})
    close(fusion(hide(tokens, gone)), alone)
    close(fusion(hide(tokens, gone, 1e30)), alone)
    if gone:
        assert (fusion(tokens) - alone).abs().max() > 1e-6  # what is there does count


@pytest.mark.parametrize("name", OPTIONS)
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


@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_present_is_a_finite_constant(name):
    fusion = fusion_of(name)
    out = fusion(hide(some(), MODALITIES))
    assert out.shape == (3, DIM) and out.isfinite().all()
    close(out[0], out[2])
    empty = Tokens(torch.zeros(3, 0, DIM, dtype=torch.float64), torch.zeros(3, 0, dtype=torch.bool))
    close(fusion(dict.fromkeys(MODALITIES, empty)), out)


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(sorted(OPTIONS)), seed=st.integers(0, 1000), extra=st.integers(0, 3),
       batch=st.integers(0, 3))
def test_padding_never_matters(name, seed, extra, batch):
    torch.manual_seed(seed)
    fusion, tokens = fusion_of(name), some(batch)
    longer = {m: Tokens(F.pad(t.values.masked_fill(~t.mask[..., None], torch.nan), (0, 0, 0, extra), value=torch.inf),
                        F.pad(t.mask, (0, extra))) for m, t in tokens.items()}
    close(fusion(longer), fusion(tokens))


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_stay_out_of_the_masked(name):
    fusion, tokens = fusion_of(name).train(), hide(some(), ["sound"])
    tokens = {m: Tokens(t.values.requires_grad_(), t.mask) for m, t in tokens.items()}
    fusion(tokens).square().sum().backward()
    for values, mask in tokens.values():
        assert values.grad.isfinite().all() and (values.grad[~mask] == 0).all()
    assert tokens["text"].values.grad[tokens["text"].mask].abs().min() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())


@pytest.mark.parametrize("name", OPTIONS)
def test_the_order_of_the_mapping_is_free(name):
    fusion, tokens = fusion_of(name), some()
    close(fusion(dict(reversed(tokens.items()))), fusion(tokens))


@pytest.mark.parametrize("name", OPTIONS)
def test_weights_belong_to_real_tokens_and_sum_to_one(name):
    fusion, tokens = fusion_of(name), hide(some(), ["picture"])
    tokens["text"].mask[1] = False
    tokens["sound"].mask[1] = False  # sample 1 has nothing at all
    state, weights = fusion(tokens, need_weights=True)
    close(state, fusion(tokens))
    if name == "concat":
        assert weights == {}
        return
    depth, queries = OPTIONS[name]["depth"], OPTIONS[name]["queries"] + len(OPTIONS[name].get("ask", ()))
    assert list(weights) == list(MODALITIES) and weights["text"].shape == (depth, 3, 2, queries, 4)
    assert (weights["picture"] == 0).all()
    total = sum(w.sum(-1) for w in weights.values())
    close(total[:, [0, 2]], torch.ones_like(total[:, [0, 2]]))
    assert (total[:, 1] == 0).all()


def test_decoder_is_the_stack_of_chapter_four():
    fusion, tokens = fusion_of("decoder"), some()
    context = torch.cat([t.values for t in tokens.values()], 1)
    mask = torch.cat([t.mask for t in tokens.values()], 1)
    expected = fusion.decoder(fusion.queries.expand(3, -1, -1), context, context_mask=mask).mean(1)
    close(fusion(tokens), expected)


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


def test_concat_means_the_real_tokens():
    fusion, tokens = fusion_of("concat"), some()
    parts = [(t.values * t.mask[..., None]).sum(1) / t.mask.sum(1, keepdim=True) for t in tokens.values()]
    close(fusion(tokens), fusion.mix(torch.cat(parts, 1)))
    parts[1] = fusion.absent["picture"].expand(3, -1)
    close(fusion({m: tokens[m] for m in ("text", "sound")}), fusion.mix(torch.cat(parts, 1)))


def test_mean_token_is_the_pooling_of_the_text_chapter():
    from mmtutor.text import pool
    tokens = some()["picture"]
    tokens.mask[1] = False
    close(mean_token(tokens), pool(tokens))
    assert (mean_token(Tokens(tokens.values * torch.nan, torch.zeros_like(tokens.mask))) == 0).all()


def test_tokens_are_projected_normed_and_marked():
    widths = {"text": 3, "sound": 5}
    module = ModalityTokens(widths, DIM, max_tokens=6).double()
    tokens = {"sound": Tokens(torch.randn(2, 4, 5, dtype=torch.float64), torch.ones(2, 4, dtype=torch.bool))}
    out = module(tokens)["sound"]
    x = F.linear(tokens["sound"].values, module.project["sound"].weight, module.project["sound"].bias)
    close(out.values, F.layer_norm(x, (DIM,)) + module.modality["sound"] + module.position["sound"][:4])
    same = Tokens(tokens["sound"].values[:, :1].expand(-1, 4, -1), tokens["sound"].mask)
    assert (module({"sound": same})["sound"].values.diff(dim=1).abs().amax(-1) > 0).all()  # order matters


def test_tokens_take_half_precision_from_a_cache():
    module = ModalityTokens({"text": 3}, DIM)
    values, mask = torch.randn(2, 4, 3, dtype=torch.float16), torch.ones(2, 4, dtype=torch.bool)
    half, full = (module({"text": Tokens(x, mask)})["text"].values for x in (values, values.float()))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full)


@pytest.mark.parametrize("name", FUSIONS)
def test_swapped_values(name):
    "The mean cannot see which value goes with which key; the decoder can."
    torch.manual_seed(1)
    fusion, embed = fusion_of(name), nn.Linear(4, DIM).double()
    cells = torch.randn(1, 2, 4, dtype=torch.float64)
    swapped = torch.cat([cells[..., :2], cells.flip(1)[..., 2:]], -1)
    states = [fusion({"picture": Tokens(embed(x), torch.ones(1, 2, dtype=torch.bool))}) for x in (cells, swapped)]
    assert ((states[0] - states[1]).abs().max() < 1e-12) == (name == "concat")


@pytest.mark.bad_input
def test_bad_input_is_named():
    tokens = some()
    fusion = fusion_of("decoder")
    with pytest.raises(ValueError, match="unknown fusion 'bilinear', expected one of concat, decoder"):
        make_fusion("bilinear", MODALITIES, DIM)
    with pytest.raises(ValueError, match="got tokens of smell; .*known are text, picture, sound"):
        fusion(tokens | {"smell": tokens["text"]})
    with pytest.raises(ValueError, match="got tokens of no modality"):
        fusion({})
    with pytest.raises(ValueError, match=r"picture is \(2, 5, 8\), expected \(3, tokens, 8\)"):
        fusion(tokens | {"picture": Tokens(tokens["picture"].values[:2], tokens["picture"].mask[:2])})
    with pytest.raises(ValueError, match=r"mask of text is torch.float64 \(3, 4\), expected torch.bool"):
        fusion({"text": Tokens(tokens["text"].values, tokens["text"].mask.double())})
    with pytest.raises(ValueError, match="5 tokens of picture, but 4 positions; .*max_tokens"):
        ModalityTokens(dict.fromkeys(MODALITIES, DIM), DIM, max_tokens=4).double()(tokens)
    with pytest.raises(ValueError, match="ask=\\('smell',\\); expected .* modalities out of text, picture, sound"):
        SharedFusionDecoder(MODALITIES, DIM, heads=2, ask=["smell"])
    with pytest.raises(ValueError, match="0 queries"):
        SharedFusionDecoder(MODALITIES, DIM, heads=2, queries=0)
    with pytest.raises(TypeError, match="depth"):
        make_fusion("concat", MODALITIES, DIM, depth=2)


def test_real_tokens_leaves_its_input_alone():
    tokens = hide(some(), ["sound"])
    kept = real_tokens(tokens, dict.fromkeys(MODALITIES, DIM))
    assert kept["sound"].values.isfinite().all() and tokens["sound"].values.isnan().all()


def test_half_precision_stays_close():
    fusion = ConcatFusion(MODALITIES, DIM).eval()
    tokens = {m: Tokens(t.values.float(), t.mask) for m, t in some().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fusion(tokens).float(), fusion(tokens).float())
        assert (fusion(tokens).float() - fusion.float()(tokens)).abs().max() < 0.1
