"""Cross-modal fusion: who may ask whom, in which order, and what passes."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmtutor.crossmodal import BottleneckFusion, CoAttentionFusion, HierarchicalFusion, side_by_side
from mmtutor.pooled import mean_token
from mmtutor.transformer import Tokens

MODALITIES, DIM = ("text", "picture", "sound"), 8


def some(batch=3, share=0.3, **sizes):
    found = {}
    for m, n in (sizes or dict(zip(MODALITIES, (4, 5, 2)))).items():
        mask = torch.rand(batch, n) > share
        mask[:, :1] = True
        found[m] = Tokens(torch.randn(batch, n, DIM, dtype=torch.float64), mask)
    return found


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_side_by_side_keeps_order_and_may_be_empty():
    tokens = some()
    both = side_by_side([tokens["sound"], tokens["text"]], tokens["picture"].values)
    assert both.values.shape == (3, 6, DIM) and torch.equal(both.values[:, :2], tokens["sound"].values)
    assert torch.equal(both.mask[:, 2:], tokens["text"].mask)
    none = side_by_side([], tokens["text"].values)
    assert none.values.shape == (3, 0, DIM) and none.mask.shape == (3, 0)
    assert none.values.dtype == torch.float64 and none.mask.dtype == torch.bool


def test_co_attention_asks_the_others_as_they_were():
    "Two layers written out: in each, every stream asks the tokens that the others had before the layer."
    fusion, tokens = CoAttentionFusion(MODALITIES, DIM, depth=2, heads=2).double().eval(), some(share=0)
    x = {m: t.values for m, t in tokens.items()}
    for layer in fusion.layers:
        x = {m: layer[m](x[m], torch.cat([x[o] for o in MODALITIES if o != m], 1)) for m in MODALITIES}
    close(fusion(tokens), sum(fusion.norm(v).mean(1) for v in x.values()) / 3)


def test_co_attention_weights():
    fusion, tokens = CoAttentionFusion(MODALITIES, DIM, depth=2, heads=2).double().eval(), some()
    tokens["sound"].mask[1] = False
    state, seen = fusion(tokens, need_weights=True)
    close(state, fusion(tokens))
    assert set(seen) == {(a, b) for a in MODALITIES for b in MODALITIES if a != b}
    assert seen["text", "picture"].shape == (2, 3, 2, 4, 5)
    total = seen["text", "picture"].sum(-1) + seen["text", "sound"].sum(-1)
    close(total, torch.ones_like(total))
    assert (seen["text", "sound"][:, 1] == 0).all()
    assert (seen["text", "picture"].masked_select(~tokens["picture"].mask[None, :, None, None]) == 0).all()


def test_a_lone_stream_asks_nobody():
    fusion, tokens = CoAttentionFusion(["text"], DIM, heads=2).double().eval(), some(text=4)
    layer, (x, mask) = fusion.layers[0]["text"], tokens["text"]
    nobody = layer(x.masked_fill(~mask[..., None], 0), x[:, :0], mask, mask[:, :0])
    close(fusion(tokens), mean_token(Tokens(fusion.norm(nobody), mask)))


def mixed_difference(fusion):
    one = lambda: Tokens(torch.randn(4, 3, DIM, dtype=torch.float64), torch.ones(4, 3, dtype=torch.bool))
    a, b, c, d = (one() for _ in range(4))
    f = lambda x, y: fusion({"text": x, "sound": y})
    return (f(a, b) - f(c, b) - f(a, d) + f(c, d)).abs().max()


@pytest.mark.parametrize("depth", [1, 2])
def test_the_bottleneck_is_the_only_passage(depth):
    "With one layer the shared tokens are a sum of one part for each modality: nothing has passed."
    fusion = BottleneckFusion(MODALITIES, DIM, depth=depth, heads=2).double().eval()
    fusion.norm = nn.Identity()
    assert (mixed_difference(fusion) < 1e-12) == (depth == 1)


def test_bottleneck_written_out():
    fusion, tokens = BottleneckFusion(MODALITIES, DIM, depth=2, heads=2, bottlenecks=3).double().eval(), some(share=0)
    shared, x = fusion.shared.expand(3, -1, -1), {m: t.values for m, t in tokens.items()}
    for layer in fusion.layers:
        out = {m: layer[m](torch.cat([shared, x[m]], 1)) for m in MODALITIES}
        shared, x = sum(o[:, :3] for o in out.values()) / 3, {m: o[:, 3:] for m, o in out.items()}
    close(fusion(tokens), F.layer_norm(shared, (DIM,)).mean(1))


def test_the_shared_tokens_are_the_mean_over_the_present():
    fusion, tokens = BottleneckFusion(MODALITIES, DIM, heads=2).double().eval(), some()
    tokens["sound"].mask[1] = False
    alone = {m: Tokens(tokens[m].values[1:2], tokens[m].mask[1:2]) for m in ("text", "picture")}
    close(fusion(tokens)[1:2], fusion(alone))


def test_bottleneck_weights_are_those_of_the_shared_tokens():
    fusion, tokens = BottleneckFusion(MODALITIES, DIM, heads=2, bottlenecks=3).double().eval(), some()
    state, seen = fusion(tokens, need_weights=True)
    close(state, fusion(tokens))
    assert list(seen) == list(MODALITIES) and seen["picture"].shape == (2, 3, 2, 3, 5)
    assert (seen["picture"].masked_select(~tokens["picture"].mask[None, :, None, None]) == 0).all()
    assert (seen["picture"].sum(-1) < 1).all() and (seen["picture"].sum(-1) > 0).all()  # the rest: shared tokens


LEVELS = [["text_low", "picture_low"], ["text", "picture"]]


def leveled():
    return some(text_low=3, picture_low=6, text=3, picture=4)


def test_hierarchical_asks_level_after_level():
    tokens = leveled()
    fusion = HierarchicalFusion(list(tokens), DIM, levels=LEVELS, heads=2, queries=3).double().eval()
    x = fusion.queries.expand(3, -1, -1)
    for names, decoder in zip(LEVELS, fusion.decoders):
        context = side_by_side([tokens[m] for m in names], x)
        x = decoder.layers[0](x, context.values.masked_fill(~context.mask[..., None], 0), context_mask=context.mask)
    close(fusion(tokens), F.layer_norm(x, (DIM,)).mean(1))
    state, seen = fusion(tokens, need_weights=True)
    close(state, fusion(tokens))
    assert list(seen) == list(tokens) and seen["picture_low"].shape == (1, 3, 2, 3, 6)
    for names in LEVELS:
        total = sum(seen[m].sum(-1) for m in names)
        close(total, torch.ones_like(total))


def test_the_order_of_levels_matters():
    tokens = leveled()
    up, down = (HierarchicalFusion(list(tokens), DIM, levels=levels, heads=2).double().eval()
                for levels in (LEVELS, LEVELS[::-1]))
    down.load_state_dict(up.state_dict())
    assert (up(tokens) - down(tokens)).abs().max() > 1e-3


def test_a_whole_level_may_be_absent():
    tokens = leveled()
    fusion = HierarchicalFusion(list(tokens), DIM, levels=LEVELS, heads=2).double().eval()
    high = {m: tokens[m] for m in LEVELS[1]}
    gone = {m: Tokens(tokens[m].values * torch.nan, tokens[m].mask & False) for m in LEVELS[0]}
    close(fusion(high), fusion(gone | high))
    assert fusion(high).isfinite().all()


@pytest.mark.parametrize("design, sound", [(CoAttentionFusion, "picture"), (BottleneckFusion, "picture")])
def test_what_one_modality_says_changes_how_another_is_read(design, sound):
    assert mixed_difference(design(MODALITIES, DIM, heads=2).double().eval()) > 1e-6


@pytest.mark.bad_input
def test_messages():
    tokens = some()
    for design in (CoAttentionFusion, BottleneckFusion, HierarchicalFusion):
        fusion = design(MODALITIES, DIM, heads=2).double()
        with pytest.raises(ValueError, match=f"{design.__name__}: got tokens of no modality"):
            fusion({})
        with pytest.raises(ValueError, match=f"{design.__name__}: got tokens of smell"):
            fusion({"smell": tokens["text"]})
        with pytest.raises(ValueError, match=rf"{design.__name__}: sound is \(2, 2, 8\), expected \(3, tokens, 8\)"):
            fusion(tokens | {"sound": Tokens(tokens["sound"].values[:2], tokens["sound"].mask[:2])})
    for levels in ([["text"], ["picture"]], [["text", "picture"], ["sound", "text"]], [["smell", *MODALITIES]]):
        with pytest.raises(ValueError, match="expected each of text, picture, sound in exactly one level"):
            HierarchicalFusion(MODALITIES, DIM, heads=2, levels=levels)
    for design in (CoAttentionFusion, BottleneckFusion, HierarchicalFusion):
        with pytest.raises(ValueError, match=f"{design.__name__}: .*'depth': -1"):
            design(MODALITIES, DIM, heads=2, depth=-1)
    with pytest.raises(ValueError, match=r"side_by_side: .*\(3, 4, 8\).*like \(2, 1, 8\)"):
        side_by_side([tokens["text"]], torch.zeros(2, 1, 8))
    with pytest.raises(ValueError, match="0 queries.*at least one query"):
        HierarchicalFusion(MODALITIES, DIM, heads=2, queries=0)
    HierarchicalFusion(MODALITIES, DIM, heads=2, queries=1)
    with pytest.raises(ValueError, match="BottleneckFusion: 0 bottleneck tokens, expected at least one"):
        BottleneckFusion(MODALITIES, DIM, heads=2, bottlenecks=0)
    with pytest.raises(ValueError, match="3 heads cannot share a width of 8"):
        CoAttentionFusion(MODALITIES, DIM, heads=3)
