"""The tasks: damage as asked, and no input that can answer alone."""
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtutor import tasks

FEW = settings(max_examples=25, deadline=None)
rng = lambda seed=0: np.random.default_rng(seed)


# Degraded inputs

def test_mask_words():
    text = "face with tears of joy"
    assert tasks.mask_words(text, 0, rng()) == text
    assert tasks.mask_words(text, 1, rng()) == " ".join(["[MASK]"] * 5)
    assert tasks.mask_words(text, 0.6, rng(1)) == tasks.mask_words(text, 0.6, rng(1))
    many = tasks.mask_words("word " * 5000, 0.6, rng())
    assert abs(many.count("[MASK]") / 5000 - 0.6) < 0.03
    assert tasks.mask_words("", 0.5, rng()) == ""


@given(share=st.floats(0, 1), seed=st.integers(0, 100))
@FEW
def test_occlude_hides_the_share(share, seed):
    picture = torch.zeros(3, 96, 96, dtype=torch.uint8)
    hidden = tasks.occlude(picture, share, rng(seed))
    side = round(96 * share ** 0.5)
    grey = (hidden == 128).all(0)
    assert grey.sum() == side ** 2 and not picture.any(), "a copy is changed, not the picture"
    assert abs(float(grey.float().mean()) - share) < 0.011
    assert torch.equal(hidden, tasks.occlude(picture, share, rng(seed)))


def test_occluder_reaches_every_pixel():
    picture = torch.zeros(3, 12, 12, dtype=torch.uint8)
    covered = sum(tasks.occlude(picture, 0.25, rng(s))[0] == 128 for s in range(300))
    assert (covered > 0).all()


@given(decibels=st.sampled_from([-10.0, 0.0, 10.0, 30.0]), scale=st.sampled_from([0.01, 0.5]))
@FEW
def test_noise_has_the_ratio(decibels, scale):
    sound = scale * torch.sin(torch.arange(16_000) * 0.2)
    noisy = tasks.add_noise(sound, decibels, rng())
    added = noisy - sound
    measured = 10 * torch.log10(sound.square().mean() / added.square().mean())
    assert abs(float(measured) - decibels) < 0.3 and noisy.dtype == sound.dtype


def test_noise_on_nothing():
    assert torch.equal(tasks.add_noise(torch.zeros(100), 0, rng()), torch.zeros(100))
    assert tasks.add_noise(torch.zeros(0), 0, rng()).shape == (0,)


def test_jitter():
    picture = torch.full((3, 96, 96), 255, dtype=torch.uint8)
    picture[:, 40:56, 30:50] = 0
    versions = [tasks.jitter(picture, rng(s)) for s in range(40)]
    assert len({v.numpy().tobytes() for v in versions}) > 30
    for version in versions:
        ink = version[0] < 255
        assert version.dtype == torch.uint8 and ink.sum() == 16 * 20, "moved, not cut or stretched"
        rows, columns = ink.any(1).nonzero(), ink.any(0).nonzero()
        assert abs(int(rows[0]) - 40) <= 9 and min(abs(int(columns[0]) - 30), abs(int(columns[0]) - 46)) <= 9
        assert 0 <= version.min() <= 0.31 * 255
    assert torch.equal(tasks.jitter(picture, rng(3)), versions[3])


# Odd one out

labels = st.lists(st.integers(0, 5), min_size=2, max_size=60).filter(lambda x: 2 * max(Counter(x).values()) <= len(x))


@given(label=labels, seed=st.integers(0, 10))
@FEW
def test_strangers_are_a_permutation_with_other_labels(label, seed):
    label = np.array(label)
    guest = tasks.strangers(label, rng(seed))
    assert sorted(guest) == list(range(len(label))) and (label[guest] != label).all()


@given(label=labels, seed=st.integers(0, 10))
@FEW
def test_one_modality_says_nothing(label, seed):
    """The proof: every row stands in every modality exactly once under every answer."""
    n, found = len(label), tasks.odd_one_out(label, seed)
    assert len(found.odd) == 4 * n
    for modality in (found.text, found.picture, found.sound):
        table = np.zeros((n, 4), dtype=int)
        np.add.at(table, (modality, found.odd), 1)
        assert (table == 1).all()


@given(label=labels, seed=st.integers(0, 10))
@FEW
def test_the_odd_one_is_odd(label, seed):
    found, label = tasks.odd_one_out(label, seed), np.array(label)
    rows = np.stack(found[:3])
    for column, odd in zip(rows.T, found.odd):
        honest = [column[m] for m in range(3) if m != odd]
        assert len(set(honest)) == 1, "the others are one row"
        if odd < 3:
            assert label[column[odd]] != label[honest[0]]


def test_no_classifier_on_one_modality_beats_chance():
    """The best lookup table, made on some questions, is at chance on the others; all three inputs are exact."""
    label = np.arange(400) % 8
    found = tasks.odd_one_out(label, 0)
    first, second = slice(0, 800), slice(800, None)
    for modality in found[:3]:
        table = np.zeros((400, 4))
        np.add.at(table, (modality[first], found.odd[first]), 1)
        assert (table.argmax(1)[modality[second]] == found.odd[second]).mean() < 0.3
        table = np.zeros((8, 4))
        np.add.at(table, (label[modality], found.odd), 1)
        assert (table == table[:, :1]).all(), "nor do the labels say anything"
    text, picture, sound = (label[m] for m in found[:3])
    solved = np.select([text == picture, text == sound, picture == sound], [np.where(text == sound, 3, 2), 1, 0])
    assert (solved == found.odd).all()


def test_odd_one_out_is_seeded():
    a, b, c = (tasks.odd_one_out(np.arange(50) % 7, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(x, y) for x, y in zip(a, b)) and not np.array_equal(a.picture, c.picture)


@pytest.mark.bad_input
@pytest.mark.parametrize("label", [[], [1], [0, 0, 0, 1]])
def test_too_few_strangers(label):
    with pytest.raises(ValueError, match="strangers: one label has .* at most half"):
        tasks.odd_one_out(label, 0)


# Scenes

@pytest.fixture(scope="module")
def many():
    return {split: tasks.scenes(split, 3000, 0, voices=("a", "b"), variants=5)
            for split in ("train", "validation", "test")}


def test_scene_rules(many):
    for scene in many["train"] + many["test"]:
        assert len(set(scene.cells)) == 9 and set(scene.cells) <= set(range(24))
        assert len(scene.variants) == 9 and set(scene.variants) <= set(range(5)) and scene.voice in ("a", "b")
        assert scene.phrase in tasks.PHRASES[scene.relation]
        assert scene.cells[scene.place] == scene.spoken and scene.cells[scene.answer_place] == scene.answer
        grid, place = np.array(scene.cells).reshape(3, 3), divmod(scene.place, 3)
        steps = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
        down, right = steps[tasks.RELATIONS[scene.relation]]
        assert grid[(place[0] + down) % 3, (place[1] + right) % 3] == scene.answer


def test_phrases_say_what_they_mean():
    words = ({"left"}, {"right"}, {"above", "over", "up", "upper"}, {"below", "under", "down", "lower"})
    for relation, phrases in enumerate(tasks.PHRASES):
        for phrase in phrases:
            assert [r for r in range(4) if words[r] & set(phrase.split())] == [relation], phrase
    assert len({len(p) for p in tasks.PHRASES}) == 1


def test_held_out_pairs(many):
    asked = {split: {(s.spoken, s.relation) for s in found} for split, found in many.items()}
    everything = {(t, r) for t in range(24) for r in range(4)}
    assert asked["train"] == asked["test"] == everything - tasks.HELD_OUT
    assert {(s.spoken, s.relation) for s in tasks.scenes("test", 400, pairs="held out")} == set(tasks.HELD_OUT)
    assert Counter(r for _, r in tasks.HELD_OUT) == {0: 3, 1: 3, 2: 3, 3: 3}


def test_splits_share_no_scene_and_are_seeded(many):
    assert not set(many["train"]) & set(many["test"]) and not set(many["validation"]) & set(many["test"])
    assert tasks.scenes("train", 50, 3) == tasks.scenes("train", 50, 3) != tasks.scenes("train", 50, 4)
    assert tasks.scenes("train", 50, 3) == tasks.scenes("train", 80, 3)[:50]


def test_no_pair_of_inputs_can_answer(many):
    """Each thing seen gets its most frequent answer, counted on one half and tried on the other."""
    def accuracy(seen, answer):
        table = Counter((seen(s), answer(s)) for s in many["train"])
        best = {what: max((n, a) for (w, a), n in table.items() if w == what)[1] for what, _ in table}
        return np.mean([best.get(seen(s)) == answer(s) for s in many["test"]])
    assert accuracy(lambda s: 0, lambda s: s.answer_place) < 0.14
    assert accuracy(lambda s: s.relation, lambda s: s.answer_place) < 0.14
    assert accuracy(lambda s: (s.spoken, s.relation), lambda s: s.answer) < 0.08
    assert accuracy(lambda s: s.spoken, lambda s: s.relation) < 0.33
    assert accuracy(lambda s: (s.place, s.relation), lambda s: s.answer_place) == 1


def test_types_are_in_the_data():
    from mmtutor.course.emoji import read_names
    assert len(tasks.TYPES) == len(set(tasks.TYPES)) == 24
    assert set(tasks.TYPES) <= {item.name for item in read_names()}


@pytest.mark.bad_input
@pytest.mark.parametrize("wrong, message", [
    (lambda: tasks.scenes("dev", 1), "no split 'dev'.*train, validation and test"),
    (lambda: tasks.scenes("test", 1, pairs="all"), "pairs are seen or held out"),
    (lambda: tasks.scenes("train", 1, pairs="held out"), "for validation and test"),
    (lambda: tasks.mask_words("a", 60, rng()), "share is a probability, got 60"),
    (lambda: tasks.occlude(torch.zeros(3, 8, 8, dtype=torch.uint8), 1.2, rng()), "from 0 to 1, got 1.2"),
    (lambda: tasks.occlude(torch.zeros(8, 8, dtype=torch.uint8), 0.2, rng()), r"occlude: the picture is .*\(8, 8\)"),
    (lambda: tasks.jitter(torch.zeros(3, 8, 8), rng()), "jitter: the picture is torch.float32"),
    (lambda: tasks.add_noise(torch.zeros(2, 8), 5, rng()), r"add_noise: sound is torch.float32 \(2, 8\)"),
    (lambda: tasks.scenes("test", 1, voices=()), "0, 1 variants and voices"),
])
def test_messages(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
