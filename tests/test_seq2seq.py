"""A model that writes: teacher forcing, caches, greedy and beam decoding against exhaustive search, bad input."""
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from torch import nn

from mmtutor.seq2seq import Seq2Seq, beam_search, greedy
from mmtutor.transformer import Tokens

quick = settings(max_examples=10, deadline=None)


def tiny(target=6, seed=0, **options):
    torch.manual_seed(seed)
    model = Seq2Seq(9, target, dim=8, heads=2, hidden=16, **options).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def sources(batch=3, tokens=5):
    source = torch.randint(3, 9, (batch, tokens))
    source[1:, tokens - 2:] = 0
    return source


@torch.no_grad()
def log_probability(model, source, written):
    "Of each row of `written` (without start): the sum up to its stop."
    inputs = torch.cat([torch.full((len(written), 1), model.start), written[:, :-1]], dim=1)
    found = model(source, inputs).log_softmax(-1).gather(2, written[..., None])[..., 0]
    return (found * (written != model.pad)).sum(1)


def test_a_place_sees_what_came_before_and_nothing_else():
    model, source = tiny(), sources()
    written = torch.randint(2, 6, (3, 6))
    changed = written.clone()
    changed[:, 4] = 5 - (changed[:, 4] == 5).long()
    before, after = model(source, written), model(source, changed)
    assert before.shape == (3, 6, 6)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.allclose(before[:, 4:], after[:, 4:])


def test_padding_of_the_source_never_matters():
    model, source = tiny(), sources()
    wide = nn.functional.pad(source, (0, 4))
    written = torch.randint(2, 6, (3, 6))
    assert torch.allclose(model(source, written), model(wide, written), atol=1e-12)
    assert torch.allclose(model(source[1:2, :3], written[1:2]), model(source, written)[1:2], atol=1e-12)


def test_order_of_the_source_matters_and_of_the_written():
    model, source, written = tiny(), sources(), torch.tensor([[1, 3, 4, 5]] * 3)
    assert not torch.allclose(model(source, written), model(source.flip(1), written))
    assert not torch.allclose(model(source, written)[:, -1], model(source, written[:, [0, 2, 1, 3]])[:, -1])


@quick
@given(seed=st.integers(0, 99), depth=st.tuples(st.integers(0, 2), st.integers(1, 3)), first=st.booleans())
def test_the_cache_changes_nothing(seed, depth, first):
    model = tiny(seed=seed, depth=depth, norm_first=first)
    source, written = sources(), torch.randint(1, 6, (3, 7))
    context, cache, scores, weights = model.encode(source), model.decoder.new_cache(), [], []
    for end in (3, 4, 7):
        part = model.decode(written[:, :end], context, need_weights=True, cache=cache)
        scores.append(part[0])
        weights.append(part[1])
    whole, looked = model.decode(written, context, need_weights=True)
    assert torch.allclose(torch.cat(scores, dim=1), whole, atol=1e-10)
    assert torch.allclose(torch.cat(weights, dim=3), looked, atol=1e-10)
    assert looked.shape == (depth[1], 3, 2, 7, 5)


@pytest.mark.parametrize("seed", range(3))
def test_greedy_takes_the_best_each_time(seed):
    model, source = tiny(seed=seed), sources()
    out = greedy(model, source, limit=8)
    assert torch.equal(out, greedy(model, source, limit=8, cached=False))
    for row, read in zip(out, source):
        written = [model.start]
        while len(written) <= out.shape[1] and model.stop not in written:
            written.append(int(model(read[None], torch.tensor([written]))[0, -1].argmax()))
        assert row.tolist() == written[1:] + [model.pad] * (len(row) - len(written) + 1)


def test_greedy_stops_early_and_pads():
    model = tiny()
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias.copy_(torch.tensor([0.0, 0, 9, 0, 0, 0]))   # stop at once
    assert greedy(model, sources(), limit=50).tolist() == [[2]] * 3
    found, score = beam_search(model, sources(), limit=50, beams=1)
    assert found.tolist() == [[[2]]] * 3 and torch.allclose(score.exp(), score.exp().clamp(min=0.99))


@quick
@given(seed=st.integers(0, 99))
def test_one_beam_is_greedy(seed):
    model, source = tiny(seed=seed), sources()
    assert torch.equal(beam_search(model, source, 6, beams=1)[0][:, 0], greedy(model, source, 6))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cached", [True, False])
def test_enough_beams_find_what_exhaustive_search_finds(seed, cached):
    model, source = tiny(target=4, seed=seed), sources()
    everything = set()
    for written in itertools.product(range(4), repeat=3):
        if model.stop in written:
            written = written[:written.index(model.stop) + 1]
        everything.add(tuple(written) + (model.pad,) * (3 - len(written)))
    # `pad` may also be written as a token: it is a word like any other before the stop
    candidates = torch.tensor(sorted(everything))
    found, score = beam_search(model, source, 3, beams=64, cached=cached)
    for i, read in enumerate(source):
        inputs = torch.cat([torch.full((len(candidates), 1), 1), candidates[:, :-1]], dim=1)
        each = model(read.expand(len(candidates), -1), inputs).log_softmax(-1).gather(2, candidates[..., None])[..., 0]
        stopped = (candidates == model.stop).long().cumsum(1) - (candidates == model.stop).long()
        best = (each * (stopped == 0)).sum(1).max()
        assert torch.allclose(score[i, 0], best, atol=1e-10)
    assert (score[:, :-1] >= score[:, 1:]).all()


def test_scores_of_beams_are_log_probabilities():
    model, source = tiny(), sources()
    found, score = beam_search(model, source, 5, beams=3)
    assert found.shape == (3, 3, 5) and torch.equal(found, beam_search(model, source, 5, beams=3, cached=False)[0])
    for beam in range(3):
        no_pad_inside = (found[:, beam] != 0) | (found[:, beam] == 2).cumsum(1).bool()
        rows = no_pad_inside.all(1)
        expected = log_probability(model, source, found[:, beam])
        assert torch.allclose(score[rows, beam], expected[rows], atol=1e-10)
    assert len({tuple(row) for row in found[0].tolist()}) == 3   # no beam twice


class Toy:
    "a (3) with 0.6, then anything; b (4) with 0.4, then b with 0.9."
    pad, start, stop = 0, 1, 2
    table = {(1,): {3: 0.6, 4: 0.4}, (1, 3): {3: 0.5, 4: 0.5}, (1, 4): {3: 0.1, 4: 0.9}}

    def encode(self, source):
        return Tokens(torch.zeros(len(source), 1, 1), torch.ones(len(source), 1, dtype=torch.bool))

    def decode(self, written, context, cache=None):
        probability = torch.zeros(len(written), 1, 5)
        for row, prefix in zip(probability, written.tolist()):
            for token, p in self.table.get(tuple(prefix), {self.stop: 1.0}).items():
                row[0, token] = p
        return probability.log()


def test_a_beam_finds_what_greed_misses():
    found, score = beam_search(Toy(), torch.zeros(2, 1), beams=2, cached=False)
    assert found[:, 0].tolist() == [[4, 4, 2]] * 2 and torch.allclose(score[:, 0].exp(), torch.tensor(0.36))
    assert greedy(Toy(), torch.zeros(2, 1), cached=False)[0, 0] == 3
    found, score = beam_search(Toy(), torch.zeros(1, 1), beams=6, cached=False)   # there are only four sequences
    assert torch.allclose(score.exp(), torch.tensor([[0.36, 0.3, 0.3, 0.04, 0, 0]])) and not score.isnan().any()


@pytest.mark.parametrize("batch, tokens", [(0, 4), (0, 0), (2, 0)])
def test_nothing_to_read(batch, tokens):
    model, source = tiny(), torch.zeros(batch, tokens, dtype=torch.long)
    out = greedy(model, source, limit=4)
    assert len(out) == batch and torch.equal(out, greedy(model, source, limit=4, cached=False))
    assert beam_search(model, source, 4, beams=2)[0].shape[:2] == (batch, 2)
    if batch:   # all padding is like nothing
        assert torch.equal(out, greedy(model, torch.zeros(batch, 3, dtype=torch.long), limit=4))


def test_no_limit_no_token():
    assert greedy(tiny(), sources(), limit=0).shape == (3, 0)


def test_decoding_leaves_no_graph_and_no_random_state():
    model, state = tiny(), torch.get_rng_state()
    assert not beam_search(model, sources(), 3)[1].requires_grad
    greedy(tiny(seed=0), sources())
    torch.set_rng_state(state)


def test_learns_to_copy():
    torch.manual_seed(0)
    model = Seq2Seq(7, 7, dim=16, heads=2, hidden=32, depth=(1, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        word = torch.randint(3, 7, (32, 3))
        written = torch.cat([torch.full((32, 1), 1), word], dim=1)
        loss = nn.functional.cross_entropy(model(word, written[:, :-1]).flatten(0, 1), word.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def poisoned():
    model = tiny()
    with torch.no_grad():
        model.source.weight[4] = float("nan")
    return model


BAD = {
    "floats": (lambda: tiny()(sources().double(), sources()), ["source", "float64", "(3, 5)", "whole numbers"]),
    "one axis": (lambda: tiny().encode(sources()[0]), ["(5,)", "(batch, tokens)"]),
    "number too large": (lambda: greedy(tiny(), sources() + 9), ["source", "0 to 8"]),
    "negative": (lambda: tiny()(sources() - 1, sources()), ["-1", "0 to 8"]),
    "written too large": (lambda: tiny()(sources(), sources() + 6), ["written", "0 to 5"]),
    "NaN, greedy": (lambda: greedy(poisoned(), torch.tensor([[3, 5], [4, 3]])), ["NaN", "[1]", "token 1"]),
    "NaN, beams": (lambda: beam_search(poisoned(), torch.tensor([[4, 5], [3, 3]])), ["NaN", "token 1"]),
    "less than no limit": (lambda: greedy(tiny(), sources(), -1), ["greedy: a limit of -1", "0 or more"]),
    "less than no limit, beams": (lambda: beam_search(tiny(), sources(), -1), ["beam_search: a limit of -1"]),
    "one depth": (lambda: Seq2Seq(5, 5, depth=(1,)), ["depth (1,)", "for each side"]),
    "no room for stop": (lambda: Seq2Seq(5, 2), ["5 and 2 pieces", "3 pieces or more"]),
    "no beam": (lambda: beam_search(tiny(), sources(), beams=0), ["0 beams", "1 at least"]),
    "heads": (lambda: Seq2Seq(5, 5, dim=10, heads=4), ["4 heads", "10"]),
    "odd width": (lambda: Seq2Seq(5, 5, dim=9, heads=3), ["SinusoidalPositions", "9"]),
    "depth": (lambda: Seq2Seq(5, 5, depth=(-1, 1)), ["Encoder", "-1"]),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    make, words = BAD[name]
    with refused(*words):
        make()
