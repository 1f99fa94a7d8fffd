"""Binding: scenes looked up in a bank, what a fusion of summaries cannot see, the helps, the record of claim F2."""
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor import data
from mmtutor.binding import (
    VERSIONS,
    VOICES,
    Binder,
    Questions,
    Recipe,
    Reply,
    SelfAttentionFusion,
    accuracy,
    batches,
    encode_bank,
    learn,
    looks,
    loss_of,
    new_binder,
    questions,
    symbols,
)
from mmtutor.course import records
from mmtutor.fusion import mean_token
from mmtutor.lora import add_lora
from mmtutor.tasks import PHRASES, TYPES, scenes
from mmtutor.transformer import Tokens

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import claim_F2 as bench  # noqa: E402

POOLED = ("score", "concat", "gated")
bad_input = pytest.mark.bad_input
quick = settings(deadline=None, max_examples=15)
VOICE = data.TRAIN_VOICES[:1]


@pytest.fixture(scope="module")
def bank():
    return symbols()


@pytest.fixture(scope="module")
def real():
    return encode_bank()


@pytest.fixture(scope="module")
def some():
    return questions(scenes("test", 60, seed=3, voices=VOICES, variants=8), "test")


def doubled(bank):
    return bank._replace(pictures={k: v.double() for k, v in bank.pictures.items()},
                         sounds=Tokens(bank.sounds.values.double(), bank.sounds.mask),
                         phrases=Tokens(bank.phrases.values.double(), bank.phrases.mask))


def shuffle(asked: Questions, seed: int) -> Questions:
    order = torch.rand(len(asked), 9, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return replace(asked, version=asked.version.gather(1, order), cells=asked.cells.gather(1, order))


class TestBank:
    def test_splits_share_no_version_of_a_picture(self):
        every = [v for split in VERSIONS.values() for v in split]
        assert sorted(every) == list(range(28))

    def test_symbols_are_the_types_themselves(self, bank):
        assert bank.widths == {"picture": 24, "sound": 24, "text": 4}
        for v, voice in enumerate(VOICES):
            assert torch.equal(bank.sounds.values[24 * v:24 * (v + 1), 0], torch.eye(24)), voice
        assert bank.pictures["lines"].shape == (28, 24, 24) and bank.phrases.values[:, 0].argmax(1).tolist() == [
            relation for relation in range(4) for _ in range(4)]

    def test_the_encoded_bank_holds_every_picture_sound_and_phrase(self, real):
        bank = real
        assert set(bank.pictures) == {"colour", "lines"}
        assert all(tuple(x.shape) == (28, 24, 128) for x in bank.pictures.values())
        assert len(bank.sounds.values) == 24 * 6 == len(bank.sounds.mask) and bank.sounds.mask[:, 0].all()
        assert len(bank.phrases.values) == 16
        assert all(x.isfinite().all() for x in (*bank.pictures.values(), bank.sounds.values, bank.phrases.values))
        assert (bank.pictures["colour"] - bank.pictures["lines"]).abs().amax(-1).min() > 0.1  # two styles
        own = bank.pictures["colour"][:16].mean(0)  # a new version is nearest to the mean of its own type, mostly
        near = torch.cdist(bank.pictures["colour"][20:].flatten(0, 1), own).argmin(1)
        assert (near == torch.arange(24).repeat(8)).float().mean() > 0.95


class TestQuestions:
    def test_scenes_are_looked_up_cell_by_cell(self, real):
        bank, made = real, scenes("test", 20, voices=VOICES, variants=8)
        asked = questions(made, "test", "lines")
        tokens = asked.tokens(bank, torch.arange(20))
        for i, s in enumerate(made):
            for place in range(9):
                wanted = bank.pictures["lines"][20 + s.variants[place], s.cells[place]]
                assert torch.equal(tokens["picture"].values[i, place], wanted)
            row = 24 * VOICES.index(s.voice) + s.spoken
            assert torch.equal(tokens["sound"].values[i], bank.sounds.values[row])
            assert torch.equal(tokens["text"].mask[i], bank.phrases.mask[
                [p for r in PHRASES for p in r].index(s.phrase)])
            assert TYPES[asked.answer[i]] == TYPES[s.cells[s.answer_place]]
        assert len(asked) == 20 and list(asked.tokens(bank, torch.arange(2), ["text"])) == ["text"]

    @bad_input
    def test_what_does_not_fit_is_named(self):
        made = scenes("validation", 30, voices=VOICE, variants=16)
        with pytest.raises(ValueError, match="questions: version 15 of a picture, split 'validation' has 4"):
            questions(made, "validation")
        with pytest.raises(ValueError, match="0 scenes for split 'test'; expected at least one"):
            questions([], "test")
        with pytest.raises(ValueError, match="split 'trial'.*train, validation, test"):
            questions(made, "trial")
        for odd in ({"variants": (-1,) * 9}, {"cells": (0,) * 8}, {"voice": "no"}, {"relation": 4}, {"spoken": 24}):
            with pytest.raises(ValueError, match="questions: Scene.*expected nine cells"):
                questions([made[0]._replace(**{"variants": (0,) * 9} | odd)], "validation")
        asked = questions(scenes("test", 2, voices=VOICE), "test")
        with pytest.raises(ValueError, match=r"Questions: place is .* \(1,\), expected .* in the shape \(2,\)"):
            replace(asked, place=asked.place[:1])
        with pytest.raises(ValueError, match="Questions: scenes .* in crayon and this bank: 'crayon'"):
            replace(asked, style="crayon").tokens(symbols(), torch.arange(2))


class TestBlindness:
    "What is shown by hand in the chapter, exactly."

    @pytest.mark.parametrize("name", POOLED)
    @quick
    @given(st.integers(0, 999))
    def test_no_fusion_of_summaries_sees_who_is_where(self, bank, some, name, seed):
        model = new_binder(name, bank, seed, dim=16).double().eval()
        rows = torch.arange(len(some))
        a, b = (model(q.tokens(doubled(bank), rows)) for q in (some, shuffle(some, seed)))
        for x, y in zip(a[:3], b[:3]):
            assert torch.allclose(x, y, atol=1e-12)

    @pytest.mark.parametrize("name", ["decoder", "self-attention", "coattention", "bottleneck", "hierarchical"])
    def test_those_that_attend_do(self, bank, some, name):
        model = new_binder(name, bank, 0, dim=16).double().eval()
        rows = torch.arange(len(some))
        a, b = (model(q.tokens(doubled(bank), rows)).answer for q in (some, shuffle(some, 1)))
        assert (a - b).abs().max() > 1e-4

    def test_the_ceilings_are_those_of_counting(self):
        made = scenes("test", 4000, seed=5)
        assert all(s.answer != s.spoken and s.answer in s.cells for s in made)
        beside = [[o.answer_place for o in made if o.place == p] for p in range(9)]
        assert all(len(set(x)) == 4 for x in beside)


class TestSelfAttention:
    def tokens(self, **more):
        torch.manual_seed(0)
        return {m: Tokens(torch.randn(3, n, 16, dtype=torch.float64), torch.ones(3, n).bool())
                for m, n in (("picture", 9), ("sound", 4))} | more

    def test_order_and_hidden_content_do_not_matter(self):
        torch.manual_seed(0)
        fusion = SelfAttentionFusion(["picture", "sound"], 16).double().eval()
        tokens = self.tokens()
        values, mask = tokens["picture"]
        turned = tokens | {"picture": Tokens(values.flip(1), mask)}
        assert torch.allclose(fusion(tokens), fusion(turned), atol=1e-12)
        hidden = tokens | {"sound": Tokens(torch.full_like(tokens["sound"].values, math.nan),
                                           torch.zeros_like(tokens["sound"].mask))}
        assert torch.allclose(fusion(hidden), fusion({"picture": tokens["picture"]}), atol=1e-12)
        state, weights = fusion(tokens, need_weights=True)
        assert state.shape == (3, 16) and weights == {}

    @bad_input
    def test_unknown_modality(self):
        fusion = SelfAttentionFusion(["picture"], 16).double()
        with pytest.raises(ValueError, match="SelfAttentionFusion: got tokens of sound; .* known are picture"):
            fusion(self.tokens())


class TestBinder:
    def test_match_is_the_scaled_cosine(self, bank, some):
        model = new_binder("concat", bank, 0, dim=16).double().eval()
        tokens = some.tokens(doubled(bank), torch.arange(5))
        voice = mean_token(Tokens(model.project["sound"](tokens["sound"].values), tokens["sound"].mask))
        cells = model.project["picture"](tokens["picture"].values)
        wanted = 10 * F.cosine_similarity(voice[:, None], cells, dim=-1)
        assert torch.allclose(model(tokens).match, wanted, atol=1e-6)

    @pytest.mark.parametrize("modalities", [("picture", "text"), ("sound", "text"), ("text",)])
    def test_without_voice_or_picture_there_is_no_match(self, bank, some, modalities):
        model = new_binder("decoder", bank, 0, modalities=modalities, dim=16)
        reply = model(some.tokens(bank, torch.arange(4), modalities))
        assert reply.match is None and reply.answer.shape == (4, 24) and reply.place.shape == (4, 9)
        assert model.fusion.ask == tuple(m for m in ("sound", "text") if m in modalities)

    def test_scale_reaches_the_fusion(self, bank, some):
        class Seen(nn.Module):
            def forward(self, tokens):
                self.tokens = tokens
                return mean_token(tokens["picture"])
        found = []
        for scale in (1.0, 3.0):
            torch.manual_seed(0)
            model = Binder(bank.widths, Seen(), dim=16, scale=scale)
            model(some.tokens(bank, torch.arange(2)))
            found.append(model.fusion.tokens["picture"].values)
        assert torch.allclose(3 * found[0], found[1], atol=1e-5)
        cell = found[0][0] - model.project["picture"](bank.pictures["colour"][0, some.cells[0]])
        wanted = model.modality["picture"] + model.row[1] + model.column[2]
        assert torch.allclose(cell[5], wanted, atol=1e-5)  # place 5: second row, third column

    def test_takes_low_rank_corrections_on_every_linear_layer(self, bank, some):
        model, tokens = new_binder("concat", bank, 0, dim=16), some.tokens(bank, torch.arange(4))
        before = model.eval()(tokens)
        assert add_lora(model, lambda name: True, rank=1).wrapped
        assert all(torch.equal(x, y) for x, y in zip(model(tokens), before))  # a correction begins as none

    @bad_input
    def test_what_it_refuses(self, bank, some):
        with pytest.raises(ValueError, match=r"Binder: modalities \('smell',\), expected at least one of picture"):
            Binder(bank.widths, nn.Identity(), modalities=["smell"])
        with pytest.raises(ValueError, match="Binder: modalities \\(\\)"):
            Binder(bank.widths, nn.Identity(), modalities=[])
        model = new_binder("concat", bank, 0, modalities=("sound", "text"), dim=16)
        with pytest.raises(ValueError, match="Binder: got tokens of picture"):
            model(some.tokens(bank, torch.arange(2)))
        with pytest.raises(ValueError, match="unknown fusion 'bilinear'"):
            new_binder("bilinear", bank, 0)
        one = some.tokens(bank, torch.arange(2))["picture"]
        with pytest.raises(ValueError, match="Binder: 1 tokens of the picture, expected 9 cells"):
            new_binder("concat", bank, 0, dim=16)({"picture": Tokens(one.values[:, :1], one.mask[:, :1])})


class TestTraining:
    def test_the_loss_by_hand(self, some):
        torch.manual_seed(0)
        reply, rows = Reply(torch.randn(6, 24), *(torch.randn(6, 9) for _ in range(3))), torch.arange(6)
        recipe = Recipe(match=0.5, place=2, answer_place=3)
        log = lambda scores, right: -scores.log_softmax(1)[rows, right[:6]].mean()
        wanted = (log(reply.answer, some.answer) + 0.5 * log(reply.match, some.place) + 2 * log(reply.place, some.place)
                  + 3 * log(reply.answer_place, some.answer_place))
        assert loss_of(reply, some, rows, recipe).item() == pytest.approx(wanted.item(), rel=1e-6)

    def test_a_help_of_weight_0_may_be_nan_or_absent(self, some):
        none = Recipe(match=0, place=0, answer_place=0)
        answer, bad = torch.randn(6, 24), torch.full((6, 9), math.nan)
        found = loss_of(Reply(answer, bad, bad, bad), some, torch.arange(6), none)
        assert found.item() == pytest.approx(F.cross_entropy(answer, some.answer[:6]).item(), rel=1e-6)
        assert loss_of(Reply(answer, bad, bad, None), some, torch.arange(6), replace(none, match=1)).isfinite()

    def test_the_rate_goes_up_stays_and_falls(self):
        recipe = Recipe(steps=1000, warm_up=100, flat=0.6)
        found = [recipe.shape(step) for step in range(1000)]
        assert found[0] == pytest.approx(0.01) and found[49] == pytest.approx(0.5) and found[100:601] == [1.0] * 501
        assert found[800] == pytest.approx(0.5) and found[-1] < 1e-4 and max(found) == 1

    def test_batches_go_round(self):
        stream = batches(10, 3, 0)
        first = torch.cat([next(stream) for _ in range(3)])
        assert [len(next(stream)) for _ in range(6)] == [3] * 6
        assert len(set(first.tolist())) == 9 and not torch.equal(first, torch.cat([next(stream) for _ in range(3)]))

    def test_accuracy_counts(self, bank, some):
        class Knows(nn.Module):
            modalities = ("text",)

            def forward(self, tokens):
                n, first = len(tokens["text"].values), getattr(self, "first", 0)
                self.first = first + n
                answer = F.one_hot(some.answer[first:first + n], 24).float()
                answer[:15] = F.one_hot((some.answer[:15] + 1) % 24, 24).float()
                return Reply(answer, F.one_hot(some.place, 9).float(), F.one_hot(some.place, 9).float(), None)
        found = accuracy(Knows(), bank, some)
        assert found == {"answer": 45 / 60, "place": 1.0, "answer_place": 0.0}
        astray = new_binder("concat", bank, 0, dim=16)
        astray.heads["answer"].bias.data[:] = math.nan
        assert math.isnan(accuracy(astray, bank, some)["answer"])

    def test_learning_twice_gives_the_same(self, bank):
        train = questions(scenes("train", 256, voices=VOICE), "train")
        valid = questions(scenes("validation", 50, voices=VOICE), "validation")
        recipe, found = Recipe(steps=6, every=4, batch=64), []
        for _ in range(2):
            model = new_binder("decoder", bank, 5, dim=16, depth=1)
            found.append((learn(model, bank, train, valid, recipe, 5), model.heads["answer"].weight))
        assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
        assert [p["step"] for p in found[0][0]] == [4, 6] and set(found[0][0][0]) == {
            "step", "answer", "place", "answer_place", "match"}

    @bad_input
    def test_what_training_refuses(self, bank, some):
        with pytest.raises(ValueError, match="batches: 100 scenes do not fill a batch of 128"):
            next(batches(100, 128, 0))
        for odd in ({"steps": 0}, {"flat": 1.0}, {"place": math.nan}):
            with pytest.raises(ValueError, match="Recipe.*: expected flat below 1"):
                Recipe(**odd)
        with pytest.raises(ValueError, match="loss_of: no rows"):
            loss_of(Reply(torch.ones(0, 24), None, None, None), some, torch.arange(0), Recipe())
        broken = bank._replace(pictures={"colour": torch.full_like(bank.pictures["colour"], math.nan)})
        with pytest.raises(ValueError, match="learn: the loss is nan at step 1: nan in the bank"):
            learn(new_binder("concat", bank, 0, dim=16), broken, some, some, Recipe(batch=32), 0)

    @pytest.mark.slow
    def test_the_decoder_binds_and_the_concatenation_does_not(self, bank):
        torch.set_num_threads(1)
        recipe = Recipe(steps=500, every=500)
        train = questions(scenes("train", recipe.steps * recipe.batch, voices=VOICE), "train")
        valid = questions(scenes("validation", 1000, voices=VOICE), "validation")
        found = {name: learn(new_binder(name, bank, 0), bank, train, valid, recipe, 0)[-1] for name in (
            "decoder", "concat")}
        assert found["decoder"]["answer"] >= 0.8 and found["concat"]["answer"] <= 0.18


class TestLooks:
    def test_shares_are_those_of_the_weights(self, bank, some):
        model = new_binder("decoder", bank, 0, dim=16, depth=2).eval()
        found = looks(model, bank, some)
        _, weights = model(some.tokens(bank, torch.arange(60)), need_weights=True)
        for layer in range(2):
            for query in range(3):
                seen = weights["picture"][layer, :, :, query].mean(1)  # scene, cell
                assert found["answer"][layer, query].item() == pytest.approx(
                    sum(seen[i, some.answer_place[i]].item() for i in range(60)) / 60, abs=1e-6)
                assert found["named"][layer, query].item() == pytest.approx(
                    sum(seen[i, some.place[i]].item() for i in range(60)) / 60, abs=1e-6)
                assert found["cells"][layer, query].item() == pytest.approx(seen.sum(1).mean().item(), abs=1e-6)
                assert found["right"][layer, query].item() == pytest.approx(
                    sum(seen[i].argmax() == some.answer_place[i] for i in range(60)).item() / 60)

    @bad_input
    def test_only_a_decoder_that_sees(self, bank, some):
        with pytest.raises(ValueError, match="looks: ConcatFusion with picture, sound, text; expected a SharedFusion"):
            looks(new_binder("concat", bank, 0), bank, some)
        with pytest.raises(ValueError, match="looks: SharedFusionDecoder with sound, text"):
            looks(new_binder("decoder", bank, 0, modalities=("sound", "text")), bank, some)


class TestExperiment:
    @pytest.mark.parametrize("case", ["concat", "gated", "score", "self-attention", "hierarchical"])
    def test_every_fusion_gets_the_decoders_number_of_parameters(self, bank, case):
        given = bench.CASES[case]
        budget = sum(p.numel() for p in new_binder("decoder", bank, 0, hidden=bench.HIDDEN).fusion.parameters())
        hidden = bench.hidden_of(given["fusion"], bench.ALL, given.get("options", {}), budget)
        model = new_binder(given["fusion"], bank, 0, hidden=hidden, **given.get("options", {}))
        assert sum(p.numel() for p in model.fusion.parameters()) == pytest.approx(budget, rel=0.01)

    def test_other_ears_keep_the_voices_apart(self, real):
        found = bench.with_ears(real, "log-mel", 0).sounds
        assert found.values.shape[::2] == (144, 80) and found.mask[:, 0].all()
        assert found.mask.sum(1).tolist() == real.sounds.mask.sum(1).tolist()

    def figures(self, decoder, pooled, alike=True):
        accuracy = lambda values: {"accuracy": {"test/answer": records.spread(values)}}
        cases = {"decoder": accuracy(decoder)} | {p: accuracy(pooled) for p in POOLED}
        real = {key: {"decoder": records.spread([0.6, 0.61, 0.62]), "concat": records.spread(
            [0.6, 0.61, 0.62] if alike else [0.7, 0.71, 0.72])} for key in (
                "clean/group/picture+sound", "degraded/group/text+picture+sound")}
        return cases, real

    def test_the_verdict_says_what_the_figures_say(self):
        said = bench.verdict(*self.figures([0.9, 0.95, 1.0], [0.12, 0.12, 0.13]))
        assert said.startswith("holds when") and "0.83 ahead" in said and "the two tied" in said
        assert "concatenation was ahead" in bench.verdict(*self.figures([0.9, 1, 1], [0.1, 0.1, 0.1], alike=False))
        assert bench.verdict(*self.figures([0.1, 0.9, 0.9], [0.12, 0.1, 0.1])).startswith("not resolved")


@pytest.fixture(scope="module")
def study():
    return records.read("claims")["F2"]


class TestRecord:
    def got(self, study, case, key="test/answer"):
        return study["figures"]["scenes"][case]["accuracy"][key]["mean"]

    def test_the_decoder_binds(self, study):
        assert self.got(study, "decoder") >= 0.90
        assert self.got(study, "decoder", "held-out pairs/answer") >= 0.60

    def test_summaries_stay_at_their_ceiling(self, study):
        pooled = [self.got(study, p) for p in POOLED if p in study["figures"]["scenes"]]
        assert max(pooled) <= 0.18 and self.got(study, "decoder") - max(pooled) >= 0.45

    def test_every_modality_is_needed(self, study):
        most = {"picture+sound": 0.30, "picture+text": 0.18, "sound+text": 0.16}
        for pair, ceiling in most.items():
            if pair in study["figures"]["scenes"]:
                assert self.got(study, pair) <= ceiling, pair
        assert "picture+sound" in study["figures"]["scenes"]

    def test_equal_parameters_and_seeds(self, study):
        cases = study["figures"]["scenes"]
        sizes = [cases[c]["parameters"] for c in cases]
        assert max(sizes) <= 1.01 * min(sizes) and study["seeds"] == [0, 1, 2] and study["chapter"] == "11_binding"
        assert all(len(c["curve"]["answer"]) == 3 for c in cases.values())

    def test_the_curve_is_a_staircase(self, study):
        curve = study["figures"]["scenes"]["decoder"]["curve"]
        for seed in range(3):
            first = [next(i for i, v in enumerate(curve[key][seed]) if v > 0.8) for key in (
                "place", "answer_place", "answer")]
            assert first == sorted(first)
