"""Positions against transformers and their own mathematics: offsets, shifts, grids, and what wrong input says."""
import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from mmtutor.attention import attend, causal_mask
from mmtutor.positions import LearnedPositions, RotaryPositions, SinusoidalPositions, grid_positions

quick = settings(max_examples=20, deadline=None)
LAYOUTS = ("interleaved", "halves")
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)
bad_input = pytest.mark.bad_input


def by_hand(place, dim, base=10_000.0):
    return [f(place * base ** (-2 * i / dim)) for i in range(dim // 2) for f in (math.sin, math.cos)]


# What a model without positions cannot see

def model(positions=None, rotary=None, mask=None):
    "Two rounds of attention and a network per token, in 64-bit floats."
    maps = torch.randn(2, 4, 8, 8, dtype=torch.float64)

    def run(x):
        x = x if positions is None else positions(x)
        for q, k, v, w in maps:
            queries, keys = x @ q, x @ k
            if rotary is not None:
                queries, keys = rotary(queries), rotary(keys)
            x = x + attend(queries, keys, x @ v, mask)
            x = x + (x @ w).tanh()
        return x
    return run


def shuffled_error(run, tokens=9):
    x, order = torch.randn(2, tokens, 8, dtype=torch.float64), torch.tensor([3, 1, 4, 0, 5, 8, 2, 6, 7])
    return (run(x[:, order]) - run(x)[:, order]).abs().max().item()


def test_without_positions_a_model_is_equivariant_and_with_them_it_is_not():
    assert shuffled_error(model()) < 1e-12
    assert shuffled_error(model(SinusoidalPositions(8))) > 0.1
    assert shuffled_error(model(LearnedPositions(8, 9).double())) > 1e-3
    assert shuffled_error(model(rotary=RotaryPositions(8))) > 0.1


def test_a_causal_mask_alone_breaks_equivariance():
    assert shuffled_error(model(mask=causal_mask(9))) > 0.1


# Sinusoidal

@quick
@given(pairs=st.integers(1, 12), places=st.lists(st.integers(-50, 5000), min_size=1, max_size=5),
       base=st.sampled_from([100.0, 10_000.0]))
def test_sinusoid_is_the_formula(pairs, places, base):
    dim = 2 * pairs
    ours = SinusoidalPositions(dim, base=base).encode(torch.tensor(places), torch.float64)
    expected = torch.tensor([by_hand(p, dim, base) for p in places], dtype=torch.float64)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-9)


@quick
@given(place=st.integers(0, 1000), step=st.integers(-500, 500))
def test_one_step_is_one_rotation(place, step):
    dim = 16
    blocks = []
    for i in range(dim // 2):
        c, s = (f(step * 10_000.0 ** (-2 * i / dim)) for f in (math.cos, math.sin))
        blocks.append(torch.tensor([[c, s], [-s, c]], dtype=torch.float64))
    M, p = torch.block_diag(*blocks), SinusoidalPositions(dim)
    moved, here = (p.encode(torch.tensor([at]), torch.float64)[0] for at in (place + step, place))
    assert torch.allclose(moved, M @ here, rtol=0, atol=1e-10)


def test_dot_products_of_sinusoids_know_the_distance_alone():
    p = SinusoidalPositions(32).encode(torch.arange(40), torch.float64)
    table = p @ p.T
    for offset in range(40):
        assert torch.diagonal(table, offset).sub(table[0, offset]).abs().max() < 1e-10


def test_halves_are_the_same_numbers_in_another_order():
    t = torch.arange(7)
    inter, halves = (SinusoidalPositions(10, layout=layout).encode(t) for layout in LAYOUTS)
    assert torch.equal(torch.cat([inter[:, ::2], inter[:, 1::2]], -1), halves)


def test_whispers_positions():
    from transformers.models.whisper.modeling_whisper import sinusoids as theirs

    from mmtutor.audio import sinusoids
    ours = SinusoidalPositions(64, layout="halves", base=10_000 ** (64 / 62)).encode(torch.arange(1500), torch.float64)
    for reference in (theirs(1500, 64), sinusoids(1500, 64)):
        assert (ours - reference).abs().max() < 2e-3  # theirs round their angles to 32 bits
        assert (ours[:20] - reference[:20]).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_follows_the_tokens(dtype):
    x = torch.randn(2, 5, 8).to(dtype)
    for module in (SinusoidalPositions(8), LearnedPositions(8, 5), RotaryPositions(8)):
        assert module(x).dtype == dtype and module(x).shape == x.shape


def test_half_precision_does_not_merge_places():
    "Angles are computed in 32 bits: place 257 differs from place 256 although bfloat16 cannot hold 257."
    x = torch.ones(1, 600, 8, dtype=torch.bfloat16)
    assert not torch.equal(SinusoidalPositions(8)(x)[0, 256], SinusoidalPositions(8)(x)[0, 257])
    error = (RotaryPositions(8)(x).double() - RotaryPositions(8)(x.double())).abs().max()
    assert error < 0.03


# Rotary

def llama(q, k, places, base):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
    config = LlamaConfig(hidden_size=q.shape[1] * q.shape[-1], num_attention_heads=q.shape[1],
                         rope_parameters={"rope_type": "default", "rope_theta": base})
    return apply_rotary_pos_emb(q, k, *LlamaRotaryEmbedding(config)(q, places))


@pytest.mark.parametrize("dim, base", [(8, 10_000.0), (16, 500_000.0), (64, 10_000.0)])
def test_halves_are_llamas(dim, base):
    q, k = torch.randn(2, 3, 4, 9, dim)
    places = torch.randint(0, 8000, (3, 9))
    rotary = RotaryPositions(dim, base=base)
    for ours, theirs in zip((rotary(q, places), rotary(k, places)), llama(q, k, places, base)):
        assert torch.equal(ours, theirs)
    assert torch.equal(rotary(q), llama(q, k, torch.arange(9).expand(3, 9), base)[0])


def test_interleaved_is_gptjs():
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions
    q, places = torch.randn(3, 4, 9, 16), torch.randint(0, 2048, (3, 9))
    sin, cos = create_sinusoidal_positions(2048, 16)[places].chunk(2, dim=-1)
    theirs = apply_rotary_pos_emb(q.transpose(1, 2), sin, cos).transpose(1, 2)
    assert torch.equal(RotaryPositions(16, layout="interleaved")(q, places), theirs)


@both_layouts
@pytest.mark.parametrize("axes", [1, 2])
@quick
@given(seed=st.integers(0, 1000), move=st.tuples(st.integers(-200, 200), st.integers(-200, 200)))
def test_scores_know_the_offset_alone(layout, axes, seed, move):
    torch.manual_seed(seed)
    q, k = torch.randn(2, 2, 3, 6, 8, dtype=torch.float64)
    rotary = RotaryPositions(8, axes=axes, layout=layout)
    at = torch.randint(-50, 50, (2, 6, axes))
    shape = (lambda t: t[..., 0]) if axes == 1 else (lambda t: t)
    far = at + torch.tensor(move[:axes])
    scores, moved = (rotary(q, shape(p)) @ rotary(k, shape(p)).mT for p in (at, far))
    assert (scores - moved).abs().max() < 1e-10


@both_layouts
def test_rotary_keeps_lengths_undoes_itself_and_leaves_place_zero(layout):
    x, at, rotary = torch.randn(4, 9, 12, dtype=torch.float64), torch.arange(9) * 3, RotaryPositions(12, layout=layout)
    assert torch.allclose(rotary(x, at).norm(dim=-1), x.norm(dim=-1))
    assert torch.allclose(rotary(rotary(x, at), -at), x)
    assert torch.equal(rotary(x)[:, 0], x[:, 0]) and not torch.allclose(rotary(x)[:, 1], x[:, 1])


def test_scores_do_change_with_the_offset_and_with_mixed_layouts():
    q, k, at = torch.randn(6, 8), torch.randn(6, 8), torch.arange(6)
    inter, halves = (RotaryPositions(8, layout=layout) for layout in LAYOUTS)
    assert not torch.allclose(halves(q, at) @ halves(k, at).T, halves(q, at) @ halves(k, at + 1).T)
    assert not torch.allclose(inter(q) @ inter(k).T, halves(q) @ halves(k).T)
    there = inter(q, at + 5) @ halves(k, at + 5).T
    assert not torch.allclose(inter(q) @ halves(k).T, there), "one of each: not even the offset is kept"


def test_the_layouts_differ_by_an_order_within_the_head():
    x, order = torch.randn(3, 7, 10), [*range(0, 10, 2), *range(1, 10, 2)]
    inter, halves = (RotaryPositions(10, layout=layout) for layout in LAYOUTS)
    assert torch.equal(halves(x[..., order]), inter(x)[..., order])


def test_two_axes_are_two_rotations():
    x, cells = torch.randn(3, 6, 8), grid_positions(2, 3)
    half = RotaryPositions(4)
    expected = torch.cat([half(x[..., :4], cells[:, 0]), half(x[..., 4:], cells[:, 1])], dim=-1)
    assert torch.equal(RotaryPositions(8, axes=2)(x, cells), expected)


def test_fractions_and_gradients():
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    for module in (RotaryPositions(4), SinusoidalPositions(4)):
        assert torch.autograd.gradcheck(module, (x, torch.tensor([0.5, 1.25, 7.0])))
    half = SinusoidalPositions(4).encode(torch.tensor([0.5]), torch.float64)
    assert torch.allclose(half, torch.tensor([by_hand(0.5, 4)], dtype=torch.float64))


# Learned

def test_learned_is_a_lookup_and_learns_only_what_it_saw():
    module, x = LearnedPositions(8, 6), torch.randn(2, 4, 8)
    assert torch.equal(module(x), x + module.table[:4])
    at = torch.tensor([[5, 5, 0, 1], [2, 3, 4, 5]])
    assert torch.equal(module(x, at), x + module.table[at])
    module(x).sum().backward()
    assert module.table.grad[:4].eq(2).all() and module.table.grad[4:].eq(0).all()


def test_learned_grid_is_row_times_width_plus_column():
    module, x = LearnedPositions(4, (2, 3)), torch.randn(1, 6, 4)
    assert torch.equal(module(x), x + module.table)
    assert torch.equal(module.encode(torch.tensor([[1, 2], [0, 1]])), module.table[[5, 1]])
    assert torch.equal(module(x[:, :1], torch.tensor([[1, 0]])), x[:, :1] + module.table[3])


def test_resized_line_and_grid():
    line = LearnedPositions(1, 2)
    line.table.data = torch.tensor([[0.0], [8.0]])
    assert line.resized(4).table.detach().flatten().tolist() == [0.0, 2.0, 6.0, 8.0]
    grid = LearnedPositions(4, (3, 5))
    assert torch.allclose(grid.resized((3, 5)).table, grid.table, atol=1e-6)
    assert grid.resized((6, 2)).size == (6, 2) and grid.resized((6, 2)).table.shape == (12, 4)
    assert grid.resized((6, 2)).table.requires_grad


def test_resized_is_what_transformers_does_to_a_vit():
    from transformers import ViTConfig
    from transformers.models.vit.modeling_vit import ViTEmbeddings
    config = ViTConfig(hidden_size=8, num_attention_heads=2, image_size=16, patch_size=4)
    theirs = ViTEmbeddings(config)
    torch.nn.init.normal_(theirs.position_embeddings)
    ours = LearnedPositions(8, (4, 4))
    ours.table.data = theirs.position_embeddings.detach()[0, 1:]
    stretched = theirs.interpolate_pos_encoding(torch.zeros(1, 1 + 6 * 7, 8), 24, 28)[0, 1:]
    assert torch.allclose(ours.resized((6, 7)).table, stretched, atol=1e-6)


# Places of every shape

def test_grid_positions():
    assert grid_positions(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert grid_positions(1, 1).tolist() == [[0, 0]] and grid_positions(0, 3).shape == (0, 2)


def test_each_axis_has_its_half_of_the_width():
    cells = grid_positions(3, 4)
    one = SinusoidalPositions(6)
    expected = torch.cat([one.encode(cells[:, 0]), one.encode(cells[:, 1])], -1)
    assert torch.equal(SinusoidalPositions(12, axes=2).encode(cells), expected)


@pytest.mark.parametrize("module", [SinusoidalPositions(8), LearnedPositions(8, 20), RotaryPositions(8)], ids=repr)
def test_positions_of_each_sequence_reach_every_head(module):
    x, at = torch.randn(2, 3, 5, 8), torch.tensor([[0, 1, 2, 3, 4], [9, 3, 3, 0, 1]])
    whole = module(x, at)
    for b in range(2):
        for head in range(3):
            assert torch.equal(whole[b, head], module(x[b, head], at[b]))
    assert torch.equal(module(x), module(x, torch.arange(5))) and torch.equal(module(x), module(x, at[:1]))


@pytest.mark.parametrize("module", [SinusoidalPositions(8), LearnedPositions(8, 5), RotaryPositions(8)], ids=repr)
def test_empty_sequences_and_nan_in_tokens(module):
    assert module(torch.zeros(2, 0, 8)).shape == (2, 0, 8)
    x = torch.zeros(1, 3, 8)
    x[0, 1] = float("nan")
    assert module(x).isnan().any(-1).tolist() == [[False, True, False]], "NaN stays in its own token"


@pytest.mark.parametrize("module", [SinusoidalPositions(8), LearnedPositions(8, 5), RotaryPositions(8)], ids=repr)
def test_the_input_is_left_alone(module):
    x = torch.randn(2, 5, 8)
    before = x.clone()
    module(x)
    assert torch.equal(x, before)


def test_nothing_to_learn_but_the_table():
    assert not list(SinusoidalPositions(8).parameters()) and not list(RotaryPositions(8).parameters())
    assert not SinusoidalPositions(8).state_dict() and not RotaryPositions(8).state_dict()
    assert LearnedPositions(8, (3, 4)).state_dict()["table"].shape == (12, 8)


# What wrong input says

X = torch.zeros(2, 5, 8)
WRONG = {
    "odd width": (lambda: SinusoidalPositions(7), "SinusoidalPositions: width 7", "multiple of 2"),
    "no base": (lambda: RotaryPositions(8, base=0), "RotaryPositions: base 0", "above 0"),
    "whole numbers": (lambda: SinusoidalPositions(8)(X.long()), "x is torch.int64", "expected floats"),
    "a grid of less than none": (lambda: grid_positions(2, -1), "grid_positions: 2 rows and -1 columns", "0 or more"),
    "odd width, rotary": (lambda: RotaryPositions(5), "RotaryPositions: width 5", "multiple of 2"),
    "width for two axes": (lambda: RotaryPositions(6, axes=2), "width 6 for 2 axis(es)", "multiple of 4"),
    "no width": (lambda: SinusoidalPositions(0), "width 0", "positive"),
    "no axes": (lambda: SinusoidalPositions(8, axes=0), "0 axis(es)", "expected"),
    "layout": (lambda: RotaryPositions(8, layout="half"), "'half'", "['halves', 'interleaved']"),
    "width of x": (lambda: RotaryPositions(8)(X[..., :4]), "x is (2, 5, 4)", "expected (…, tokens, 8)"),
    "x of one axis": (lambda: SinusoidalPositions(8)(X[0, 0]), "x is (8,)", "expected (…, tokens, 8)"),
    "too many places": (lambda: RotaryPositions(8)(X, torch.arange(6)), "positions (6,)", "each of 5 tokens"),
    "places of another batch": (lambda: SinusoidalPositions(8)(X, torch.zeros(3, 5)), "positions (3, 5)", "(2, 5, 8)"),
    "places of a batch, no batch": (lambda: RotaryPositions(8)(X[0], torch.zeros(5, 5)), "(5, 5)", "do not go with"),
    "a place too deep": (lambda: RotaryPositions(8)(X, torch.zeros(1, 2, 5)), "(1, 2, 5)", "or (batch, tokens)"),
    "one number for two axes": (lambda: RotaryPositions(8, axes=2)(X, torch.arange(5)), "(5,)", "(tokens, 2)"),
    "three numbers": (lambda: SinusoidalPositions(8, axes=2).encode(torch.zeros(5, 3)), "(5, 3)", "(tokens, 2)"),
    "no places for two axes": (lambda: SinusoidalPositions(8, axes=2)(X), "2 axes and no positions", "grid_positions"),
    "a mask": (lambda: SinusoidalPositions(8)(X, torch.ones(2, 5).bool()), "booleans", "cumsum(-1) - 1"),
    "NaN": (lambda: SinusoidalPositions(8)(X, torch.tensor([0, 1, math.nan, 3, 4])), "NaN or infinity", "finite"),
    "infinity": (lambda: RotaryPositions(8)(X, torch.tensor([0, 1, math.inf, 3, 4])), "NaN or infinity", "finite"),
    "beyond the table": (lambda: LearnedPositions(8, 4)(X), "place 4 is outside the table of 4 places", "resized()"),
    "negative place": (lambda: LearnedPositions(8, 9)(X, torch.arange(-1, 4)), "place -1 is outside", "9 places"),
    "beyond the grid": (lambda: LearnedPositions(8, (2, 2))(X, grid_positions(1, 5)), "place (0, 2)", "2 × 2 places"),
    "fractions": (lambda: LearnedPositions(8, 9).encode(torch.tensor([0.5])), "float32", "whole numbers"),
    "no places at all": (lambda: LearnedPositions(8, 0), "size 0", "positive"),
    "three axes": (lambda: LearnedPositions(8, (2, 2, 2)), "size (2, 2, 2)", "(rows, columns)"),
    "grid without positions": (lambda: LearnedPositions(8, (2, 2))(X), "2 axes and no positions", "grid_positions"),
    "resize to other axes": (lambda: LearnedPositions(8, 4).resized((2, 2)), "resize (4,) to (2, 2)", "axes"),
}


@bad_input
@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused_in_words(name):
    call, *words = WRONG[name]
    with refused(*words):
        call()


def test_signatures_are_alike():
    "The three classes can stand in for each other: the same names for what goes in."
    for cls in (SinusoidalPositions, LearnedPositions, RotaryPositions):
        assert list(inspect.signature(cls.forward).parameters) == ["self", "x", "positions"]
        assert next(iter(inspect.signature(cls).parameters)) == "dim"
