"""Augmentation: as asked, per item, repeatable, on copies; and nothing said of a label that is not so."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor import augment

FEW = settings(max_examples=25, deadline=None)
rng = lambda seed=0: np.random.default_rng(seed)


def batch(count=4, height=12, width=10, seed=0):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(seed))


WAYS = {"shift": lambda b, r: augment.shift(b, 0.3, r), "crop": lambda b, r: augment.crop(b, 0.3, r),
        "colour": lambda b, r: augment.colour(b, 0.5, r), "erase": lambda b, r: augment.erase(b, 0.5, r),
        "flip": lambda b, r: augment.flip(b, r, torch.ones(len(b), dtype=torch.bool))}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# Pictures

@ways
def test_a_copy_of_the_same_kind_that_repeats(way):
    pictures = batch(8)
    before = pictures.clone()
    found = way(pictures, rng(1))
    assert torch.equal(pictures, before) and found.shape == pictures.shape and found.dtype == torch.uint8
    assert torch.equal(found, way(pictures, rng(1))) and not torch.equal(found, way(pictures, rng(2)))
    assert way(pictures[:0], rng()).shape == (0, 3, 12, 10)
    found[:] = 0
    assert torch.equal(pictures, before)


@ways
def test_each_item_is_changed_in_its_own_way(way):
    same = batch(1, 24, 24).expand(12, -1, -1, -1)
    assert len({picture.numpy().tobytes() for picture in way(same, rng())}) > (1 if way is WAYS["flip"] else 8)


@given(seed=st.integers(0, 50), share=st.floats(0, 1))
@FEW
def test_shift_is_the_loop(seed, share):
    pictures = batch(seed=seed)
    found, draw = augment.shift(pictures, share, rng(seed)), rng(seed)
    steps = [draw.integers(-int(share * side), int(share * side) + 1, (4, 1)).ravel() for side in (12, 10)]
    for picture, moved, down, right in zip(pictures, found, *steps):
        wide = nn.functional.pad(picture, (10, 10, 12, 12), value=255)
        assert torch.equal(moved, wide[:, 12 - down:24 - down, 10 - right:20 - right])


def test_shift_takes_the_fill():
    assert set(augment.shift(batch(30) * 0 + 7, 0.5, rng(), fill=9).unique().tolist()) == {7, 9}


def test_flip_only_where_allowed():
    pictures, allowed = batch(40), torch.arange(40) % 2 == 0
    found = augment.flip(pictures, rng(), allowed, chance=1)
    assert torch.equal(found[allowed], pictures[allowed].flip(3)) and torch.equal(found[~allowed], pictures[~allowed])
    assert torch.equal(augment.flip(pictures, rng(), allowed, chance=0), pictures)
    share = np.mean([(augment.flip(pictures, rng(s), allowed) != pictures).flatten(1).any(1).float().mean()
                     for s in range(60)])
    assert abs(share - 0.25) < 0.03


def test_crop_of_everything_and_of_a_part():
    pictures = batch()
    assert torch.equal(augment.crop(pictures, 1, rng()), pictures)
    ramp = torch.arange(96, dtype=torch.uint8).expand(64, 3, 96, 96).contiguous()
    found = augment.crop(ramp, 0.25, rng())
    reach = (found.amax((1, 2, 3)).float() - found.amin((1, 2, 3))) / 95
    assert 0.48 <= reach.min() and reach.max() <= 1.0 and reach.max() - reach.min() > 0.3
    assert (found.diff(dim=3).short() >= 0).all(), "no mirror, no wrap"


def test_crop_window_is_placed_like_a_cut():
    picture = batch(1, 16, 16).float()

    class Corner:
        "Draws the smallest window, at the upper left."
        def uniform(self, low, high, size):
            return np.full(size, low)

    found = augment.crop(picture.to(torch.uint8), 0.25, Corner())[0]
    expected = nn.functional.interpolate(picture[:, :, :8, :8], scale_factor=2, mode="bilinear", align_corners=False)
    assert (found[:, 2:-2, 2:-2].float() - expected[0, :, 2:-2, 2:-2]).abs().max() <= 1


def test_colour():
    pictures = batch()
    assert torch.equal(augment.colour(pictures, 0, rng()), pictures)
    grey = torch.full((20, 3, 4, 4), 100, dtype=torch.uint8)
    found = augment.colour(grey, 0.5, rng())
    assert (found == found[:, :1, :1, :1]).all() and len(found.unique()) > 8
    assert 50 <= found.min() and found.max() <= 150
    white = torch.full((20, 3, 4, 4), 250, dtype=torch.uint8)
    assert augment.colour(white, 1, rng()).max() == 255, "clipped, not wrapped"


def test_colour_in_steps():
    picture, factors = batch(1), rng(3).uniform(0.6, 1.4, (3, 1, 1, 1, 1)).ravel()
    x = picture[0].double().numpy() * factors[0]
    weights = np.array([0.299, 0.587, 0.114])
    mean = (x.mean((1, 2)) * weights).sum()
    x = mean + (x - mean) * factors[1]
    grey = np.einsum("chw,c->hw", x, weights)
    expected = np.clip(np.round(grey + (x - grey) * factors[2]), 0, 255)
    assert np.abs(augment.colour(picture, 0.4, rng(3))[0].numpy() - expected).max() <= 1


def test_erase_hides_up_to_its_share():
    black = torch.zeros(200, 3, 20, 20, dtype=torch.uint8)
    share = (augment.erase(black, 0.4, rng()) == 128).float().mean((1, 2, 3))
    assert share.max() <= 0.43 and share.min() < 0.05 and abs(share.mean() - 0.2) < 0.03
    assert torch.equal(augment.erase(black, 0, rng()), black)


@pytest.mark.parametrize("name, may", [
    ("elephant", True), ("guitar", True), ("bright sun", True), ("copyright", True), ("right arrow", False),
    ("left-facing fist", False), ("two o’clock", False), ("five-thirty", False), ("input latin letters", False),
    ("person walking facing right", False), ("keycap: 3", False), ("SOON arrow", False), ("stop sign", False)])
def test_may_mirror(name, may):
    assert augment.may_mirror(name) is may


# Text

@given(words=st.lists(st.sampled_from(["a", "bb", "ccc", "dd"]), max_size=8), share=st.floats(0, 1),
       seed=st.integers(0, 20))
@FEW
def test_dropped_words(words, share, seed):
    found = augment.drop_words(" ".join(words), share, rng(seed)).split()
    assert len(found) >= min(1, len(words))
    rest = iter(words)
    assert all(word in rest for word in found), "a part of the words, in their order"


def test_drop_words_has_the_share():
    assert augment.drop_words("one two", 0, rng()) == "one two" and augment.drop_words("", 0.5, rng()) == ""
    left = len(augment.drop_words("word " * 5000, 0.3, rng()).split()) / 5000
    assert abs(left - 0.7) < 0.03
    assert {augment.drop_words("a b c", 1, rng(s)) for s in range(40)} == {"a", "b", "c"}


# Sound

def test_delay():
    sound = torch.arange(1.0, 11)
    seen = set()
    for seed in range(60):
        moved = augment.delay(sound, 3, rng(seed))
        step = int(rng(seed).integers(-3, 4))
        assert moved.tolist() == [(i + 1 - step if 0 <= i - step < 10 else 0) for i in range(10)]
        seen.add(step)
    assert seen == set(range(-3, 4)) and sound[0] == 1
    assert not augment.delay(sound[:2], 50, rng(1)).any() and augment.delay(sound[:0], 3, rng()).shape == (0,)


@given(seed=st.integers(0, 60), loud=st.floats(0.01, 0.9))
@FEW
def test_gain_is_within_its_decibels_and_full_scale(seed, loud):
    sound = loud * torch.sin(torch.arange(400) * 0.3).double()
    found = augment.gain(sound, 12, rng(seed))
    ratio = float(found[7] / sound[7])
    assert torch.allclose(found, ratio * sound) and found.abs().max() <= 1 + 1e-9
    wanted = 10 ** (rng(seed).uniform(-12, 12) / 20)
    assert ratio == pytest.approx(min(wanted, 1 / float(sound.abs().max())))


def test_gain_of_silence_and_of_too_loud():
    assert not augment.gain(torch.zeros(5), 6, rng()).any() and augment.gain(torch.zeros(0), 6, rng()).shape == (0,)
    loud = torch.tensor([2.0, -2.0])
    assert all(augment.gain(loud, 12, rng(s)).abs().max() <= 2 for s in range(20)), "never louder than it came"


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_speed_changes_length_and_pitch(factor):
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(16_000) / 16_000)
    found = augment.speed(tone, factor)
    assert abs(len(found) - 16_000 / factor) <= 2 and found.dtype == tone.dtype
    peak = torch.fft.rfft(found).abs().argmax() * 16_000 / len(found)
    assert abs(float(peak) - 500 * factor) < 3
    assert abs(float(found[200:-200].square().mean()) - 0.5) < 0.02


def test_speed_one_is_a_copy():
    sound = torch.randn(50)
    found = augment.speed(sound, 1)
    assert torch.equal(found, sound) and found.data_ptr() != sound.data_ptr()
    assert augment.speed(sound[:0], 2).shape == (0,)


@given(seed=st.integers(0, 200), items=st.integers(1, 4), frames=st.integers(1, 30), bands=st.integers(1, 12),
       data=st.data())
@FEW
def test_stripes(seed, items, frames, bands, data):
    tables = torch.randn(items, frames, bands, generator=torch.Generator().manual_seed(seed)).double()
    length = torch.tensor([data.draw(st.integers(0, frames)) for _ in range(items)])
    mask = torch.arange(frames) < length[:, None]
    before = tables.clone()
    found = augment.mask_stripes(tables, rng(seed), time=(1, 9), frequency=(1, min(3, bands)), mask=mask)
    assert torch.equal(tables, before) and torch.equal(found[~mask], tables[~mask]), "padding stays as it is"
    for table, new, real, many in zip(tables, found, mask, length.tolist()):
        changed = (new != table)[real]
        if not many:
            continue
        assert torch.allclose(new[real][changed], table[real].mean()), "the mean of the real frames"
        rows, columns = changed.all(1), changed.all(0)
        assert torch.equal(changed, rows[:, None] | columns), "whole stripes only"
        if not columns.all():
            places = rows.nonzero().ravel()
            assert len(places) <= min(9, many // 2)
            assert not len(places) or int(places[-1] - places[0]) + 1 == len(places), "one stripe"
        assert torch.isfinite(new).all()


def test_stripes_reach_everywhere_and_can_be_left_out():
    tables = torch.randn(300, 20, 8)
    found = augment.mask_stripes(tables, rng(), time=(1, 5), frequency=(0, 0))
    assert (found != tables).any(0).all() and torch.equal((found != tables).all(2), (found != tables).any(2))
    assert torch.equal(augment.mask_stripes(tables, rng(), time=(0, 0), frequency=(0, 0)), tables)
    padded = torch.cat((tables, torch.full((300, 9, 8), 1e6)), 1)
    mask = torch.arange(29).expand(300, -1) < 20
    again = augment.mask_stripes(padded, rng(), time=(1, 5), frequency=(0, 0), mask=mask)
    assert torch.allclose(again[:, :20], found, atol=1e-6), "what lies in the padding never matters"


TABLES, ONE = torch.zeros(2, 10, 8), torch.ones(4, dtype=torch.bool)


@pytest.mark.bad_input
@pytest.mark.parametrize("wrong, message", [
    (lambda: augment.shift(batch()[0], 0.1, rng()), r"shift: pictures are .*\(3, 12, 10\).*picture\[None\]"),
    (lambda: augment.shift(batch().float(), 0.1, rng()), "shift: pictures are torch.float32"),
    (lambda: augment.shift(batch(), 10, rng()), "shift: share is 10, expected a number from 0 to 1"),
    (lambda: augment.shift(batch(), 0.1, rng(), fill=300), "shift: fill is 300, expected a number from 0 to 255"),
    (lambda: augment.flip(batch(), rng(), ONE[:3]), r"allowed is torch.bool \(3,\), expected torch.bool \(4,\)"),
    (lambda: augment.flip(batch(), rng(), ONE.int()), "allowed is torch.int32"),
    (lambda: augment.flip(batch(), rng(), ONE, chance=2), "flip: chance is 2"),
    (lambda: augment.crop(batch(), 0, rng()), "crop: least is 0, expected a part of the area above 0"),
    (lambda: augment.crop(batch()[0], 0.5, rng()), "crop: pictures are"),
    (lambda: augment.colour(batch()[:, :1], 0.5, rng()), "colour: pictures have 1 channels, expected 3"),
    (lambda: augment.colour(batch(), float("nan"), rng()), "colour: amount is nan"),
    (lambda: augment.erase(batch(), -0.1, rng()), "erase: share is -0.1"),
    (lambda: augment.may_mirror(" "), "may_mirror: the name is empty"),
    (lambda: augment.drop_words("a", 30, rng()), "drop_words: share is 30"),
    (lambda: augment.delay(torch.zeros(2, 9), 1, rng()), r"delay: sound is torch.float32 \(2, 9\), expected"),
    (lambda: augment.delay(torch.zeros(9), -1, rng()), "delay: most is -1 samples"),
    (lambda: augment.gain(torch.zeros(9, dtype=torch.int16), 1, rng()), "gain: sound is torch.int16"),
    (lambda: augment.gain(torch.zeros(9), -6, rng()), "gain: decibels is -6"),
    (lambda: augment.gain(torch.zeros(9), 1e30, rng()), "gain: decibels is 1e.30, expected 0 or more, 200 at most"),
    (lambda: augment.speed(torch.zeros(9), 0), "speed: factor is 0, expected a number from 0.25 to 4"),
    (lambda: augment.mask_stripes(TABLES[0], rng()), r"mask_stripes: tables are torch.float32 \(10, 8\)"),
    (lambda: augment.mask_stripes(TABLES, rng(), frequency=(1, 9)), r"frequency is \(1, 9\).*no wider than the 8"),
    (lambda: augment.mask_stripes(TABLES, rng(), time=(-1, 2)), r"time is \(-1, 2\).*neither negative"),
    (lambda: augment.mask_stripes(TABLES, rng(), mask=torch.ones(2, 9, dtype=torch.bool)), r"mask is .*\(2, 9\)"),
])
def test_messages(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize("least", [0.05, 0.5, 1.0])
def test_a_crop_brings_in_nothing_from_outside(least):
    white = torch.full((60, 3, 7, 9), 255, dtype=torch.uint8)
    assert torch.equal(augment.crop(white, least, np.random.default_rng(0)), white)
