"""The miniature Transfusion: its mask, its diffusion held to the published formulas, its losses, what it refuses."""
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtutor.attention import causal_mask
from mmtutor.transfusion import (
    BEGIN,
    CLOSE,
    END,
    LENGTH,
    LETTERS,
    OPEN,
    PAD,
    PATCH,
    PLACES,
    WORDS,
    Transfusion,
    draw,
    losses,
    mixed_mask,
    pictures_in,
    read,
    sequences,
    shares,
    spell,
    step_back,
    to_patches,
    to_pictures,
    train,
    write,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import transfusion as bench  # noqa: E402

FIRST, BEHIND, ALONE = 0, 1, 2
bad_input = pytest.mark.bad_input
quick = settings(deadline=None, max_examples=30)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Transfusion(dim=16, heads=2, depth=2).double().eval()


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def both_masks(ids) -> torch.Tensor:
    "The mask by asking each pair: earlier or the same, or with nothing but patches between."
    n = ids.shape[1]
    mask = torch.zeros(len(ids), n, n, dtype=torch.bool)
    for b, row in enumerate(ids.tolist()):
        for i in range(n):
            for j in range(n):
                together = all(k == PATCH for k in row[min(i, j):max(i, j) + 1])
                mask[b, i, j] = row[j] != PAD and (j <= i or together)
    return mask


class TestTokens:
    def test_read_shows_what_no_vocabulary_has(self):
        assert read([PATCH + 1 + len(LETTERS), -1]) == "··"

    @pytest.mark.parametrize("word", WORDS)
    def test_words_there_and_back(self, word):
        assert read(spell(word) + [END, PAD, *spell("zero")]) == word

    def test_read_shows_what_is_no_letter(self):
        assert read([*spell("six"), OPEN, *spell("ten"), PATCH]) == "six·ten·"

    @pytest.mark.parametrize("label", range(10))
    def test_every_kind_holds_name_and_picture(self, label):
        rows = sequences(torch.full((3,), label), torch.arange(3)).tolist()
        name, picture = [BEGIN, *spell(WORDS[label]), END], [OPEN, *[PATCH] * PLACES, CLOSE]
        for row, wanted in zip(rows, (name + picture, picture + name, picture)):
            assert row[:len(wanted)] == wanted and set(row[len(wanted):]) <= {PAD} and len(row) == LENGTH

    def test_patches_are_convolution_windows(self):
        some = pictures(5)
        assert torch.equal(to_patches(some), F.unfold(some[:, None], 2, stride=2).transpose(1, 2))
        assert torch.equal(to_pictures(to_patches(some)), some)


class TestMask:
    @quick
    @given(st.lists(st.sampled_from([PAD, BEGIN, PATCH, PATCH, PATCH, 8]), min_size=1, max_size=12))
    def test_it_is_what_the_words_say(self, row):
        ids = torch.tensor([row])
        assert torch.equal(mixed_mask(ids), both_masks(ids))

    def test_without_pictures_it_is_causal(self):
        ids = torch.randint(PATCH + 1, 20, (3, 9))
        assert torch.equal(mixed_mask(ids), causal_mask(9).expand(3, 9, 9))
        assert torch.equal(mixed_mask(torch.full((1, 5), PATCH), two_way=False)[0], causal_mask(5))

    def test_pictures_are_numbered(self):
        ids = torch.tensor([[PATCH, PATCH, 8, PATCH, OPEN, PATCH], [8, 8, PATCH, PATCH, PATCH, PAD]])
        assert pictures_in(ids).tolist() == [[1, 1, 0, 2, 0, 3], [0, 0, 1, 1, 1, 0]]


class TestDiffusion:
    @quick
    @given(st.floats(0, 1))
    def test_variance_stays(self, t):
        signal, noise = shares(torch.tensor(t, dtype=torch.float64))
        assert signal**2 + noise**2 == pytest.approx(1, abs=1e-12) and signal > 0.003 * 0.99

    @quick
    @given(st.floats(0.05, 1), st.floats(0, 0.98), st.integers(0, 99))
    def test_a_step_is_ddims_formula(self, t, part, seed):
        "Song et al. 2021, equation 12 with σ = 0, in the ᾱ of that paper; pictures that need no holding within."
        generator = torch.Generator().manual_seed(seed)
        picture, noise = pictures(3, seed), torch.randn(3, 8, 8, generator=generator, dtype=torch.float64)
        now, then = (math.cos(0.998 * math.pi / 2 * time)**2 for time in (t, t * part))
        x = now**0.5 * picture + (1 - now)**0.5 * noise
        wanted = then**0.5 * (x - (1 - now)**0.5 * noise) / now**0.5 + (1 - then)**0.5 * noise
        assert torch.allclose(step_back(x, noise, t, t * part, fresh=0), wanted, atol=1e-9)

    def test_fresh_noise_is_ddpms_posterior(self):
        "Ho et al. 2020, equations 6 and 7: mean and variance of x at the earlier time, given x and the picture."
        t, earlier, size = 0.6, 0.5, 200_000
        now, then = (math.cos(0.998 * math.pi / 2 * time)**2 for time in (t, earlier))
        alpha = now / then
        picture, x = torch.full((size,), 0.3, dtype=torch.float64), torch.full((size,), 0.7, dtype=torch.float64)
        noise = (x - now**0.5 * picture) / (1 - now)**0.5
        found = step_back(x, noise, t, earlier, generator=torch.Generator().manual_seed(0))
        mean = then**0.5 * (1 - alpha) / (1 - now) * 0.3 + alpha**0.5 * (1 - then) / (1 - now) * 0.7
        variance = (1 - then) / (1 - now) * (1 - alpha)
        assert found.mean().item() == pytest.approx(mean, abs=5 * (variance / size)**0.5)
        assert found.var().item() == pytest.approx(variance, rel=0.02)

    def test_who_knows_the_noise_arrives_at_the_picture(self):
        goal = pictures(2)
        x = torch.randn(2, 8, 8, dtype=torch.float64)
        times = [1.0, 0.8, 0.3, 0.1, 0.0]
        for t, earlier in zip(times, times[1:]):
            signal, rest = shares(torch.tensor(t, dtype=torch.float64))
            x = step_back(x, (x - signal * goal) / rest, t, earlier)
        assert torch.allclose(x, goal, atol=1e-9)

    def test_wild_predictions_are_held_within(self):
        x = torch.randn(4, 4)
        assert step_back(x, 1e4 * torch.randn(4, 4), 1.0, 0.0, fresh=0).abs().max() <= 1


class TestModel:
    @pytest.mark.parametrize("kind", [FIRST, BEHIND])
    @pytest.mark.parametrize("two_way", [True, False])
    def test_who_hears_of_a_change(self, kind, two_way):
        "The output at a token depends on exactly the tokens that the mask allows, to the last layer."
        torch.manual_seed(1)
        model = Transfusion(dim=16, heads=2, depth=2, two_way=two_way).double().eval()
        ids, some = sequences(torch.tensor([3]), torch.tensor([kind])), to_patches(pictures(1)).requires_grad_()
        allowed, here = mixed_mask(ids, two_way)[0], ids[0] == PATCH
        scores = model(ids, some, torch.tensor([0.4]).double()).scores[0]
        for i in torch.nonzero(ids[0] != PAD)[:, 0].tolist():
            heard = torch.autograd.grad(scores[i].sum(), some, retain_graph=True)[0][0].abs().sum(-1) > 0
            assert torch.equal(heard, allowed[i, here]), i

    def test_text_alone_is_a_language_model(self, model):
        ids = torch.tensor([[BEGIN, *spell("seven"), END]])
        said = model(ids)
        x = model.order(model.embed(ids))
        wanted = model.scores(model.body(x, causal_mask(ids.shape[1])[None]))
        assert torch.equal(said.scores, wanted) and said.noise.shape == (1, 0, 4)

    def test_padding_and_company_do_not_matter(self, model):
        ids = sequences(torch.tensor([1, 3]), torch.tensor([FIRST, FIRST]))
        some, t = to_patches(pictures(2)), torch.tensor([0.2, 0.7]).double()
        together = model(ids, some, t)
        for i, tokens in enumerate((ids != PAD).sum(1).tolist()):
            alone = model(ids[i:i + 1, :tokens], some[i:i + 1], t[i:i + 1])
            assert torch.allclose(alone.scores[0], together.scores[i, :tokens], atol=1e-12)
            assert torch.allclose(alone.noise[0], together.noise[i], atol=1e-12)

    def test_time_and_place_are_heard(self, model):
        ids, some = sequences(torch.tensor([3]), torch.tensor([ALONE])), torch.zeros(1, 16, 4).double()
        early, late = (model(ids, some, torch.tensor([t]).double()).noise for t in (0.1, 0.9))
        assert not torch.allclose(early, late) and not torch.allclose(early[0, 0], early[0, 5])

    def test_more_than_fits_is_refused(self, model):
        picture = [OPEN, *[PATCH] * PLACES, CLOSE]
        with pytest.raises(ValueError, match=rf"ids are torch.int64 \(1, 36\), expected \(batch, up to {LENGTH}\)"):
            model(torch.tensor([picture * 2]), torch.zeros(1, 32, 4).double())

    def test_an_empty_batch(self, model):
        said = model(torch.zeros(0, 5, dtype=torch.long))
        assert said.scores.shape == (0, 5, PATCH + 1 + len(LETTERS))


class TestLosses:
    def test_by_hand(self, model):
        labels, t = torch.tensor([1, 7, 3]), torch.tensor([0.1, 0.6, 1.0]).double()
        ids, noise = sequences(labels, torch.tensor([0, 1, 2])), torch.randn(3, 16, 4, dtype=torch.float64)
        some = pictures(3)
        text, picture = losses(model, ids, some, t, noise)
        angle = 0.998 * math.pi / 2 * t[:, None, None]
        said = model(ids, angle.cos() * to_patches(some) + angle.sin() * noise, t)
        chances, found = said.scores.log_softmax(-1), []
        for row in range(3):
            for i in range(1, LENGTH):
                if ids[row, i] not in (PAD, PATCH):
                    found.append(-chances[row, i - 1, ids[row, i]].item())
        assert text.item() == pytest.approx(sum(found) / len(found), abs=1e-12)
        assert picture.item() == pytest.approx((said.noise - noise).square().sum().item() / 192, abs=1e-12)

    def test_it_learns_and_repeats(self):
        some, labels = pictures(20).float(), torch.arange(20) % 10
        runs = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            runs.append(train(Transfusion(16, 2, 1), some, labels, steps=40, batch=16, seed=seed))
        assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
        assert runs[0][-5:, 0].mean() < 0.9 * runs[0][:5, 0].mean() and runs[0].shape == (40, 2)

    def test_callback_sees_every_step(self):
        seen = []
        train(Transfusion(16, 2, 1), pictures(4).float(), torch.arange(4), steps=3, batch=2, after=seen.append)
        assert seen == [0, 1, 2]


class TestWriteAndDraw:
    def test_write_is_greedy_and_reads_only_its_picture(self, model):
        some = pictures(4)
        together = write(model, some)
        assert together == [write(model, some[i:i + 1])[0] for i in range(4)]
        ids = [OPEN, *[PATCH] * PLACES, CLOSE, BEGIN]
        for _ in range(LENGTH - len(ids)):
            ids.append(int(model(torch.tensor([ids]), to_patches(some[:1])).scores[0, -1].argmax()))
        assert together[0] == read(ids[19:])

    def test_draw_repeats_by_seed_and_stays_in_range(self):
        model = Transfusion(16, 2, 1).eval()
        ask = torch.tensor([1, 2])
        one, same, other = (draw(model, ask, steps=4, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(one, same) and not torch.equal(one, other)
        assert one.shape == (2, 8, 8) and one.abs().max() <= 1

    def test_guidance_zero_ignores_the_name_and_one_the_absence(self):
        torch.manual_seed(0)
        model = Transfusion(16, 2, 1).eval()
        names = torch.tensor([1]), torch.tensor([8])
        assert torch.equal(*(draw(model, name, steps=3, guidance=0) for name in names))
        assert not torch.equal(*(draw(model, name, steps=3, guidance=1) for name in names))

    def test_without_fresh_noise_only_the_start_is_random(self):
        "Few or many steps of DDIM begin at the same noise; the seen times go down to 0."
        times = []
        draw(Transfusion(16, 2, 1).eval(), torch.tensor([1]), steps=4, fresh=0, watch=lambda t, x: times.append(t))
        assert times == pytest.approx([0.75, 0.5, 0.25, 0])


@bad_input
@pytest.mark.parametrize("call, message", [
    (lambda m: spell("Zehn"), "spell: 'Zehn' has 'Z', expected the letters efghin"),
    (lambda m: to_patches(torch.zeros(2, 16, 16)), r"to_patches: pictures \(2, 16, 16\), expected \(batch, 8, 8\)"),
    (lambda m: to_patches(torch.full((1, 8, 8), 16.0)), "values beyond −1 … 1"),
    (lambda m: to_patches(torch.full((1, 8, 8), math.nan)), "NaN"),
    (lambda m: sequences(torch.tensor([10]), torch.tensor([0])), r"labels is .* \(1,\), expected .* from 0 to 9"),
    (lambda m: sequences(torch.tensor([1, 2]), torch.tensor([0])), r"kinds is .* \(1,\), .* in the shape \(2,\)"),
    (lambda m: shares(torch.tensor([1.5])), "shares: t holds NaN or values outside 0 … 1"),
    (lambda m: step_back(torch.zeros(1), torch.zeros(1), 0.2, 0.4), "from 0.2 to 0.4, expected 0 ≤ earlier < t ≤ 1"),
    (lambda m: m(torch.tensor([[OPEN, PATCH, CLOSE]]), torch.zeros(1, 1, 4)), "a picture of 1 patches, expected 16"),
    (lambda m: m(torch.tensor([[99]])), "expected .* numbers from 0 to 20"),
    (lambda m: m(torch.tensor([[OPEN] + [PATCH] * 16])), r"patches \(1, 0, 4\), expected .* = \(1, 16, 4\)"),
    (lambda m: m(torch.tensor([[BEGIN]]), torch.zeros(1, 16, 4)), r"patches \(1, 16, 4\), expected .* = \(1, 0, 4\)"),
    (lambda m: m(torch.tensor([[OPEN] + [PATCH] * 16]), torch.full((1, 16, 4), math.inf)), "without NaN or infinity"),
    (lambda m: m(torch.tensor([[BEGIN]]), t=torch.tensor([math.nan])), "expected .* times from 0 to 1"),
    (lambda m: m(torch.tensor([[BEGIN]]), t=torch.tensor([0.1, 0.2])), r"t \(2,\), expected \(1,\)"),
    (lambda m: draw(m, torch.tensor([1]), steps=0), "draw: 0 steps"),
    (lambda m: draw(m, torch.tensor([1]), guidance=math.nan), "guidance nan"),
    (lambda m: draw(m, torch.tensor([11])), "labels .* from 0 to 9"),
    (lambda m: sequences(torch.tensor([1.5]), torch.tensor([0])), "labels is torch.float32"),
    (lambda m: to_pictures(torch.zeros(2, 4, 16)), r"to_pictures: patches \(2, 4, 16\), expected \(batch, 16, 4\)"),
    (lambda m: pictures_in(torch.tensor([1, 2])), r"pictures_in: ids are torch.int64 \(2,\)"),
    (lambda m: step_back(torch.zeros(2, 1), torch.zeros(1, 2), 0.4, 0.2), r"step_back: .*noise \(1, 2\)"),
    (lambda m: step_back(torch.zeros(1), torch.zeros(1), 0.4, 0.2, fresh=1.5), "fresh 1.5"),
    (lambda m: losses(m, *[torch.zeros(n, 8, 8) for n in (2, 1)], torch.ones(2), torch.ones(2, 16, 1)), "losses: ids"),
    (lambda m: train(m, torch.zeros(2, 8, 8), torch.tensor([1])), r"train: labels is torch.int64 \(1,\)"),
    (lambda m: train(m, torch.zeros(2, 8, 8), torch.tensor([1, 2]), batch=0), "train: .* batch 0"),
    (lambda m: Transfusion(16, 2, -1), "Transfusion: .*'depth': -1"),
])
def test_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call(Transfusion(16, 2, 1))


class TestBenchmark:
    def test_a_toy_run_has_what_the_chapter_reads(self):
        found = bench.run(0, two_way=False, steps=2, each=1)
        assert {"read", "error", "recognised/1", "recognised/2", "nearest/1", "seconds"} <= set(found)
        assert all(0 <= found[key] <= 1 for key in ("read", "recognised/1", "recognised/4")) and found["error"] > 0.5

    def test_the_verdict_is_that_of_all_seeds(self):
        def ways(ours, theirs):
            keys = "read", "recognised/1", "error"
            return {"two-way": {k: {"values": ours} for k in keys}, "causal": {k: {"values": theirs} for k in keys}}
        said = bench.verdict(ways([0.9, 0.8, 0.9], [0.5, 0.6, 0.7]))
        assert "reading: better" in said and "guidance: better" in said and "noise: worse" in said
        assert bench.verdict(ways([0.9, 0.6, 0.9], [0.5, 0.7, 0.7])).count("not resolved") == 3
