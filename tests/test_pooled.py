"""Pooled fusion: the mean of what is there, shares and gates over the present, and what a sum cannot do."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor.pooled import ConcatFusion, GatedFusion, ModalityTokens, ScoreFusion, mean_present, mean_token, real_tokens
from mmtutor.transformer import Tokens

MODALITIES, DIM = ("text", "picture", "sound"), 8  # not in alphabetical order, which torch's ParameterDict would make


def some(batch=3, sizes=(4, 5, 2), dim=DIM, share=0.3):
    "Tokens with some padding; every row of every modality has at least its first token."
    found = {}
    for m, n in zip(MODALITIES, sizes):
        mask = torch.rand(batch, n) > share
        mask[:, 0] = True
        found[m] = Tokens(torch.randn(batch, n, dim, dtype=torch.float64), mask)
    return found


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def refuses_bad_tokens(fusion: nn.Module) -> None:
    "Every fusion says under its name what came and what it expected."
    tokens, name = some(), type(fusion).__name__
    with pytest.raises(ValueError, match=f"{name}: got tokens of no modality.*known are text, picture, sound"):
        fusion({})
    with pytest.raises(ValueError, match=f"{name}: got tokens of smell; .*known are text, picture, sound"):
        fusion(tokens | {"smell": tokens["text"]})
    with pytest.raises(ValueError, match=rf"{name}: picture is \(2, 5, 8\), expected \(3, tokens, 8\)"):
        fusion(tokens | {"picture": Tokens(tokens["picture"].values[:2], tokens["picture"].mask[:2])})
    with pytest.raises(ValueError, match=rf"{name}: text is \(3, 4, 5\), expected \(3, tokens, 8\)"):
        fusion({"text": Tokens(tokens["text"].values[..., :5], tokens["text"].mask)})
    with pytest.raises(ValueError, match=r"the mask of text is torch.float64 \(3, 4\), expected torch.bool \(3, 4\)"):
        fusion({"text": Tokens(tokens["text"].values, tokens["text"].mask.double())})


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
    assert all(0 < p.abs().max() < 0.2 for p in module.position.values()), "a little, beside what it is added to"
    for design in (ConcatFusion, GatedFusion):
        assert all(0 < p.abs().max() < 0.2 for p in design(MODALITIES, DIM).absent.values())
    values, mask = torch.randn(2, 4, 3, dtype=torch.float16), torch.ones(2, 4, dtype=torch.bool)
    half, full = (module({"text": Tokens(x, mask)})["text"].values for x in (values, values.float()))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full)


def test_real_tokens_leaves_its_input_alone():
    tokens = some()
    tokens["sound"].values.fill_(torch.nan)
    tokens["sound"].mask.fill_(False)
    kept = real_tokens(tokens, dict.fromkeys(MODALITIES, DIM))
    assert kept["sound"].values.isfinite().all() and tokens["sound"].values.isnan().all()


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(0, 4), modalities=st.integers(1, 4), rest=st.sampled_from([(3,), (2, 3)]),
       seed=st.integers(0, 99))
def test_mean_present_is_a_loop(batch, modalities, rest, seed):
    torch.manual_seed(seed)
    states = torch.randn(batch, modalities, *rest, dtype=torch.float64)
    present = torch.rand(batch, modalities) < 0.6
    out = mean_present(states, present)
    assert out.shape == (batch, *rest)
    for i in range(batch):
        there = [states[i, m] for m in range(modalities) if present[i, m]]
        close(out[i], sum(there) / len(there) if there else torch.zeros(rest, dtype=torch.float64))


def test_averaged_states_are_averaged_scores():
    "Behind a linear head; and each modality answers with its own network."
    fusion, head, tokens = ScoreFusion(MODALITIES, DIM).double().eval(), nn.Linear(DIM, 5).double(), some()
    tokens["picture"].mask[1] = False
    alone = {m: head(fusion.own[m](mean_token(tokens[m]))) for m in MODALITIES}
    scores = head(fusion(tokens))
    close(scores[0], sum(alone[m][0] for m in MODALITIES) / 3)
    close(scores[1], (alone["text"][1] + alone["sound"][1]) / 2)
    _, shares = fusion(tokens, need_weights=True)
    assert shares["picture"].tolist() == [[1 / 3], [0], [1 / 3]] and shares["text"].shape == (3, 1)


def test_concat_means_the_real_tokens():
    fusion, tokens = ConcatFusion(MODALITIES, DIM).double().eval(), some()
    parts = [(t.values * t.mask[..., None]).sum(1) / t.mask.sum(1, keepdim=True) for t in tokens.values()]
    close(fusion(tokens), fusion.mix(torch.cat(parts, 1)))
    parts[1] = fusion.absent["picture"].expand(3, -1)
    close(fusion({m: tokens[m] for m in ("text", "sound")}), fusion.mix(torch.cat(parts, 1)))
    assert fusion(tokens, need_weights=True)[1] == {}
    first, last = (layer for layer in fusion.mix if isinstance(layer, torch.nn.Linear))
    x = torch.randn(5, first.in_features, dtype=torch.float64)
    close(fusion.mix(x), F.layer_norm(last(F.gelu(first(x))), (DIM,)))


def test_gated_by_hand():
    "Sample by sample: gates over the present ones, from all summaries in the order of the modalities."
    fusion, tokens = GatedFusion(MODALITIES, DIM, hidden=6).double().eval(), some()
    tokens["picture"].mask[1] = False
    state, gates = fusion(tokens, need_weights=True)
    for i in range(3):
        there = [m for m in MODALITIES if tokens[m].mask[i].any()]
        summary = {m: tokens[m].values[i][tokens[m].mask[i]].mean(0) if m in there else fusion.absent[m]
                   for m in MODALITIES}
        scores = dict(zip(MODALITIES, fusion.gate(torch.cat(list(summary.values()))).split(6)))
        total = sum(scores[m].exp() for m in there)
        for m in MODALITIES:
            close(gates[m][i], scores[m].exp() / total if m in there else torch.zeros(6, dtype=torch.float64))
        mixed = sum(scores[m].exp() / total * fusion.value[m](summary[m]).tanh() for m in there)
        close(state[i], fusion.out(mixed))


def test_two_gates_are_the_gated_multimodal_unit():
    "Arevalo et al. 2017: h = z·tanh(W₁x₁) + (1 − z)·tanh(W₂x₂), z a sigmoid of both inputs."
    fusion, tokens = GatedFusion(MODALITIES[:2], DIM).double().eval(), some()
    a, b = (mean_token(tokens[m]) for m in MODALITIES[:2])
    scores = fusion.gate(torch.cat([a, b], 1))
    z = (scores[:, :DIM] - scores[:, DIM:]).sigmoid()
    mixed = z * fusion.value["text"](a).tanh() + (1 - z) * fusion.value["picture"](b).tanh()
    close(fusion({m: tokens[m] for m in MODALITIES[:2]}), fusion.out(mixed))


def interaction(fusion):
    one = lambda: Tokens(torch.randn(4, 1, DIM, dtype=torch.float64), torch.ones(4, 1, dtype=torch.bool))
    a, b, c, d = (one() for _ in range(4))
    f = lambda x, y: fusion({"text": x, "sound": y})
    return (f(a, b) - f(c, b) - f(a, d) + f(c, d)).abs().max()


@pytest.mark.parametrize("design, adds", [(ScoreFusion, True), (ConcatFusion, False), (GatedFusion, False)])
def test_only_scores_are_a_sum(design, adds):
    assert (interaction(design(MODALITIES, DIM).double().eval()) < 1e-12) == adds


@pytest.mark.bad_input
@pytest.mark.parametrize("design", [ScoreFusion, ConcatFusion, GatedFusion])
def test_messages_name_the_design(design):
    refuses_bad_tokens(design(MODALITIES, DIM).double())


@pytest.mark.bad_input
@pytest.mark.parametrize("call, message", [
    (lambda: mean_token(Tokens(torch.ones(2, 3, 4), torch.ones(2, 1, dtype=torch.bool))), r"mean_token: .* \(2, 1\)"),
    (lambda: mean_present(torch.ones(2, 3, 4), torch.ones(2, 1, dtype=torch.bool)), r"mean_present: .* \(2, 1\)"),
    (lambda: mean_present(torch.ones(2, 3, 4), torch.ones(2, 3)), "present torch.float32"),
    (lambda: ScoreFusion(["text"], 0), "ScoreFusion: .*'dim': 0.*sizes from 1"),
    (lambda: ScoreFusion(["text"], 8, hidden=0), "'hidden': 0"),
    (lambda: ConcatFusion(["text"], 8, dropout=1.5), "ConcatFusion: .*dropout 1.5"),
    (lambda: GatedFusion(["text", "text"], 8), "GatedFusion: modalities .*different names"),
    (lambda: GatedFusion([], 8), "GatedFusion: modalities"),
    (lambda: ModalityTokens({"text": 0}, 8), "ModalityTokens: .*'width of text': 0"),
])
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.bad_input
def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match="5 tokens of picture, but 4 positions; .*max_tokens"):
        ModalityTokens(dict.fromkeys(MODALITIES, DIM), DIM, max_tokens=4).double()(some())


@pytest.mark.parametrize("design", [ScoreFusion, ConcatFusion, GatedFusion])
def test_half_precision_stays_close(design):
    fusion = design(MODALITIES, DIM).eval()
    tokens = {m: Tokens(t.values.float(), t.mask) for m, t in some().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = fusion(tokens)
    assert (low.float() - fusion(tokens)).abs().max() < 0.1
