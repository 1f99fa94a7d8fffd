"""From rows to batches: filling never counts, nothing is swallowed, and chance does not depend on who draws."""
import io
import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from mmtutor.attention import padding_mask
from mmtutor.data import MODALITIES
from mmtutor.loading import NO_LABEL, Batches, Sample, Samples, collate, loader, sound_seconds
from mmtutor.reading import Form, adopt, read_picture, read_sound
from mmtutor.tasks import jitter

FORM = Form(size=12)
QUICK = settings(max_examples=25, deadline=None)


def png(level: int) -> bytes:
    Image.new("RGB", (12, 12), (level % 256, 7, 9)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def wav(samples: int) -> bytes:
    wave = 0.1 + 0.5 * np.random.default_rng(samples).random(samples)
    soundfile.write(buffer := io.BytesIO(), wave.astype(np.float32), 16_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def table(n: int = 12, **change) -> Dataset:
    "Rows with everything; the sounds are 10, 20, 30 … samples long."
    columns = {"text": [f"row {i}" for i in range(n)], "picture": [png(20 * i) for i in range(n)],
               "sound": [wav(10 * (i + 1)) for i in range(n)], "kind": [i % 3 for i in range(n)]}
    return adopt(Dataset.from_dict(columns | change))


def noise(item, random):
    "Takes numbers from the generator, so that it shows which generator it was."
    return item + torch.from_numpy(random.integers(1, 2 ** 20, item.shape)).float()


def stamp(text, random):
    return f"{text} {random.integers(2 ** 40)}"


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in ((a.row, b.row), (a.picture, b.picture), (a.sound, b.sound),
               (a.sound_mask, b.sound_mask))) and a.text == b.text and a.problems == b.problems and all(
        torch.equal(x[k], y[k]) for x, y in ((a.present, b.present), (a.labels, b.labels)) for k in x)


# Samples

def test_a_sample_is_what_the_readers_read():
    samples = Samples(table(), labels=["kind"], form=FORM)
    sample = samples[4]
    assert len(samples) == 12 and sample.row == 4 and sample.labels == {"kind": 1} and sample.problems == []
    assert sample.content["text"] == "row 4" and sorted(sample.content) == sorted(MODALITIES)
    assert torch.equal(sample.content["picture"], read_picture(table()[4], FORM))
    assert torch.equal(sample.content["sound"], read_sound(table()[4]))
    assert samples[3, 4].content["text"] == "row 4", "(epoch, row)"


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=6), st.data())
@QUICK
def test_any_cell_and_any_column_may_be_missing(there, draw):
    columns = draw.draw(st.lists(st.sampled_from(MODALITIES), min_size=1, max_size=3, unique=True))
    made = {"text": lambda i: f"row {i}", "picture": png, "sound": lambda i: wav(10 + i)}
    kinds = {"text": Value("string"), "picture": Value("binary"), "sound": Value("binary")}
    cells = {m: [made[m](i) if row[MODALITIES.index(m)] else None for i, row in enumerate(there)] for m in columns}
    rows = adopt(Dataset.from_dict(cells, Features({m: kinds[m] for m in columns})))
    batch = collate([Samples(rows, bad="mask", form=FORM)[i] for i in range(len(there))], FORM)
    kept = [i for i in range(len(there)) if any(cells[m][i] is not None for m in columns)]
    assert batch.row.tolist() == kept and len(batch.problems) == len(there) - len(kept)
    assert batch.picture.shape == (len(kept), 3, 12, 12) and len(batch.sound) == len(batch.text) == len(kept)
    for m in MODALITIES:
        assert batch.present[m].tolist() == [m in columns and cells[m][i] is not None for i in kept]
    assert batch.sound_mask.any(1).tolist() == batch.present["sound"].tolist()


def test_a_missing_label_is_left_out_of_the_loss():
    rows = table(3, kind=[2, None, 0])
    batch = collate([Samples(rows, labels=["kind"], form=FORM)[i] for i in range(3)], FORM)
    assert batch.labels["kind"].tolist() == [2, NO_LABEL, 0] and batch.labels["kind"].dtype == torch.long
    logits = torch.randn(3, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, batch.labels["kind"]),
                               torch.nn.functional.cross_entropy(logits[[0, 2]], batch.labels["kind"][[0, 2]]))


def broken(n: int = 4) -> Dataset:
    "Row 1 has a damaged picture, row 2 a sound of nothing, row 3 nothing at all."
    rows = table(n).to_list()
    rows[1]["picture"]["bytes"] = rows[1]["picture"]["bytes"][:40]
    rows[2]["sound"]["bytes"] = wav(0)
    rows[3] = dict.fromkeys(rows[3])
    return adopt(Dataset.from_list(rows))


def test_refuse_names_the_row_and_the_reason():
    samples = Samples(broken(), form=FORM)
    for row, message in ((1, "row 1: read_picture: the picture of item .*'row 1'.* cannot be used"),
                         (2, "row 2: read_sound: .* has no samples"),
                         (3, "row 3: it has no text, no picture, no sound")):
        with pytest.raises(ValueError, match=message):
            samples[row]
    assert samples[0].problems == []


def test_skip_leaves_the_row_out_and_mask_only_the_modality():
    skipped, masked = (collate([Samples(broken(), bad=bad, form=FORM)[i] for i in range(4)], FORM)
                       for bad in ("skip", "mask"))
    assert skipped.row.tolist() == [0] and masked.row.tolist() == [0, 1, 2]
    assert masked.present["picture"].tolist() == [True, False, True]
    assert masked.present["sound"].tolist() == [True, True, False]
    assert masked.text == ["row 0", "row 1", "row 2"]
    for batch in (skipped, masked):
        assert [p.split(":")[0] for p in batch.problems] == ["row 1", "row 2", "row 3"], "nothing is swallowed"


def test_all_skipped_is_a_batch_of_length_zero():
    batch = collate([Samples(broken(), bad="skip", form=FORM, labels=["kind"])[i] for i in (1, 2)], FORM)
    assert batch.row.shape == (0,) and batch.picture.shape == (0, 3, 12, 12) and batch.sound.shape == (0, 1)
    assert batch.sound_mask.shape == (0, 1) and batch.text == [] and len(batch.problems) == 2
    assert all(len(there) == 0 and there.dtype == torch.bool for there in batch.present.values())
    assert batch.labels["kind"].shape == (0,) and batch.labels["kind"].dtype == torch.long
    assert len(collate([]).row) == 0


# Collation

@given(st.lists(st.integers(0, 40), min_size=1, max_size=8))
@QUICK
def test_sounds_are_filled_up_and_the_mask_says_where(lengths):
    sounds = [torch.rand(n) + 0.1 for n in lengths]
    batch = collate([Sample(i, {"text": "x", "sound": s}, {}, []) for i, s in enumerate(sounds)], FORM)
    assert batch.sound.shape == batch.sound_mask.shape == (len(sounds), max(1, *lengths))
    assert torch.equal(batch.sound_mask, padding_mask(torch.tensor(lengths), max(1, *lengths)))
    for i, sound in enumerate(sounds):
        assert torch.equal(batch.sound[i][batch.sound_mask[i]], sound)
    assert not batch.sound[~batch.sound_mask].any()


def test_the_order_of_the_samples_is_kept():
    samples = Samples(table(), labels=["kind"], form=FORM)
    batch = collate([samples[i] for i in (7, 2, 5)], FORM)
    assert batch.row.tolist() == [7, 2, 5] and batch.text == ["row 7", "row 2", "row 5"]
    assert batch.labels["kind"].tolist() == [1, 2, 2] and batch.sound_mask.sum(1).tolist() == [80, 30, 60]
    assert batch.picture[:, 0, 0, 0].tolist() == [140, 40, 100]


def model_of(batch, model, encoders):
    from mmtutor.transformer import Tokens
    inputs = {"text": encoders["text"](batch.text), "picture": encoders["picture"](batch.picture),
              "sound": Tokens(encoders["sound"](batch.sound), batch.sound_mask)}
    return model(inputs, batch.present)


@pytest.mark.parametrize("fusion", ["concat", "decoder"])
def test_filling_never_changes_what_the_model_answers(fusion):
    """A row's answer depends on nobody else in its batch, nor on what stands where nothing is."""
    from mmtutor.multimodal import MultimodalConfig, MultimodalModel
    from mmtutor.transformer import Tokens
    model = MultimodalModel(MultimodalConfig(widths={"text": 3, "picture": 3, "sound": 2}, dim=8, heads=2, embedding=6,
                                             tasks={"kind": 3}, fusion=fusion, max_tokens=256)).double().eval()
    every = lambda values: Tokens(values.double(), torch.ones(values.shape[:2], dtype=torch.bool))
    encoders = {"text": lambda texts: every(torch.tensor([[[len(t), *t.encode()[-2:]]] for t in texts]) / 100
                                            if texts[0] else torch.zeros(len(texts), 1, 3)),
                "picture": lambda pictures: every(pictures.flatten(2).mT[:, ::48] / 255),
                "sound": lambda sounds: torch.stack([sounds, sounds ** 2], dim=-1).double()}
    rows = table(6).to_list()
    rows[1]["picture"] = rows[3]["sound"] = None
    samples = Samples(adopt(Dataset.from_list(rows)), form=FORM)
    together = collate([samples[i] for i in range(6)], FORM)
    out = model_of(together, model, encoders)
    for i in range(6):
        alone = model_of(collate([samples[i]], FORM), model, encoders)
        torch.testing.assert_close(alone.logits["kind"][0], out.logits["kind"][i], atol=1e-12, rtol=0)
        torch.testing.assert_close(alone.embedding[0], out.embedding[i], atol=1e-12, rtol=0)
    spoilt = together._replace(sound=together.sound.masked_fill(~together.sound_mask, 1e6),
                               picture=torch.where(together.present["picture"][:, None, None, None], together.picture,
                                                   torch.full_like(together.picture, 255)))
    again = model_of(spoilt, model, encoders)
    torch.testing.assert_close(again.state, out.state, atol=1e-12, rtol=0)
    torch.testing.assert_close(again.embedding, out.embedding, atol=1e-12, rtol=0)
    careless = dict.fromkeys(MODALITIES, torch.ones(6, dtype=torch.bool))
    naive = model_of(together._replace(present=careless), model, encoders)
    assert (naive.state - out.state)[1].abs().max() > 1e-6, "without `present` the filling counts"


# Batches

LENGTHS = st.lists(st.floats(0, 10), max_size=120)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 6), st.booleans(), st.booleans(), st.integers(0, 5),
       st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_row_once_an_epoch(lengths, size, pool, shuffle, drop_last, seed, epoch):
    batches = Batches(lengths, size, pool=pool, shuffle=shuffle, drop_last=drop_last, seed=seed)
    plan = batches.plan(epoch)
    rows = [int(row) for batch in plan for row in batch]
    assert len(set(rows)) == len(rows) and all(1 <= len(batch) <= size for batch in plan)
    left = len(lengths) % size if drop_last else 0
    assert len(rows) == len(lengths) - left and sum(len(batch) < size for batch in plan) <= 1
    again = Batches(lengths, size, pool=pool, shuffle=shuffle, drop_last=drop_last, seed=seed).plan(epoch)
    assert all(np.array_equal(a, b) for a, b in zip(plan, again, strict=True))
    assert list(batches) == [[(0, int(row)) for row in batch] for batch in batches.plan(0)]


@given(LENGTHS.filter(len), st.integers(1, 9), st.integers(2, 5), st.integers(0, 3))
@QUICK
def test_batches_of_a_pool_do_not_overlap_in_length(lengths, size, pool, epoch):
    batches, lengths = Batches(lengths, size, pool=pool, shuffle=False), np.array(lengths)
    plan = batches.plan(epoch)
    for start in range(0, len(plan), pool):
        here = plan[start:start + pool]
        assert all(lengths[a].max() <= lengths[b].min() for a, b in zip(here, here[1:]))


def filling(lengths, batches, epoch=0):
    return 1 - lengths.sum() / sum(len(b) * lengths[b].max() for b in batches.plan(epoch))


def test_a_larger_pool_wastes_less_and_still_mixes():
    lengths = np.random.default_rng(0).gamma(4, 0.2, 1000)
    wasted = [filling(lengths, Batches(lengths, 16, pool=pool)) for pool in (1, 4, 16, 63)]
    assert wasted == sorted(wasted, reverse=True) and wasted[2] < wasted[0] / 3
    batches = Batches(lengths, 16, pool=16)
    sets = [{frozenset(b.tolist()) for b in batches.plan(epoch)} for epoch in (0, 1)]
    assert len(sets[0] & sets[1]) <= 1, "other batches in another epoch"
    longest = [lengths[b].max() for b in batches.plan(0)]
    assert longest != sorted(longest), "batches come in any order"


def test_epochs_and_seeds_differ_and_repeat():
    order = {(seed, epoch): tuple(np.concatenate(Batches(50, 8, seed=seed).plan(epoch)))
             for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(order.values())) == 4
    batches = Batches(50, 8)
    for epoch in range(3):
        assert [e for batch in batches for e, _ in batch] == [epoch] * 50
    assert batches.epoch == 3


@given(st.integers(0, 3), st.integers(0, 13))
@QUICK
def test_going_on_in_the_middle(epoch, batch):
    whole, part = Batches(50, 4, seed=7), Batches(50, 4, seed=7)
    whole.start(epoch)
    part.start(epoch, batch)
    assert len(part) == max(13 - batch, 0)
    assert list(part) == list(whole)[batch:]
    assert list(part) == list(whole), "and the next epoch is a whole one"


def test_an_epoch_that_was_broken_off_is_read_again():
    batches = Batches(50, 4)
    first = next(iter(batches))
    assert batches.epoch == 0 and next(iter(batches)) == first


def test_a_start_in_the_middle_of_a_pass_is_kept():
    batches = Batches(50, 4)
    passing = iter(batches)
    next(passing)
    batches.start(5, 2)
    assert len(list(passing)) == 12 and (batches.epoch, batches.batch) == (5, 2)


# Chance

def draws(samples, epochs, rows):
    return {(e, r): (samples[e, r].content["text"], samples[e, r].content["sound"].numpy().tobytes())
            for e in range(epochs) for r in range(rows)}


def test_chance_is_of_seed_epoch_row_and_modality_alone():
    change = {"text": stamp, "sound": noise}
    found = {seed: draws(Samples(table(), augment=change, seed=seed, form=FORM), 3, 6) for seed in (0, 1)}
    every = [draw for one in found.values() for draw in one.values()]
    assert len({text.split()[-1] for text, _ in every}) == len({sound for _, sound in every}) == 36
    backwards = Samples(table(), augment=change, form=FORM)
    for e, r in reversed(sorted(found[0])):
        assert backwards[e, r].content["text"] == found[0][e, r][0], "whenever and wherever it is read"
    alone = Samples(table(), augment={"sound": noise}, form=FORM)
    assert alone[2, 5].content["sound"].numpy().tobytes() == found[0][2, 5][1], "whatever else is changed"


def test_two_modalities_of_a_row_draw_different_numbers():
    heard = {}

    def note(m):
        return lambda item, random: (heard.setdefault(m, []).append(random.random()), item)[1]
    Samples(table(), augment={m: note(m) for m in MODALITIES}, form=FORM)[1, 3]
    assert len({draw for (draw,) in heard.values()}) == 3


def test_what_is_missing_is_not_changed():
    rows = table(2).to_list()
    rows[0]["sound"] = None
    sample = Samples(adopt(Dataset.from_list(rows)), augment={"sound": lambda *_: pytest.fail("changed")}, form=FORM)[0]
    assert "sound" not in sample.content


def read(workers: int, context: str | None = None, epochs: int = 2):
    rows = table()
    samples = Samples(rows, labels=["kind"], augment={"picture": jitter, "sound": noise, "text": stamp}, form=FORM)
    batches = Batches(sound_seconds(rows), 4, pool=2, seed=3)
    if context is None:
        loading = loader(samples, batches, workers=workers)
    else:
        from functools import partial
        loading = DataLoader(samples, batch_sampler=batches, collate_fn=partial(collate, form=FORM),
                             num_workers=workers, persistent_workers=True, multiprocessing_context=context)
    return [batch for _ in range(epochs) for batch in loading]


@pytest.fixture(scope="module")
def here():
    return read(0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(here, workers):
    assert all(same(a, b) for a, b in zip(read(workers), here, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("context", sorted(set(multiprocessing.get_all_start_methods()) - {"fork"}))
def test_workers_that_are_new_processes_change_nothing(here, context):
    assert all(same(a, b) for a, b in zip(read(2, context), here, strict=True))


def test_all_changes_of_two_epochs_are_distinct(here):
    stamps = [text.split()[-1] for batch in here for text in batch.text]
    assert len(stamps) == len(set(stamps)) == 24
    assert {row for batch in here[:3] for row in batch.row.tolist()} == set(range(12))


def test_an_interrupted_epoch_goes_on_bit_by_bit(here):
    rows = table()
    batches = Batches(sound_seconds(rows), 4, pool=2, seed=3)
    batches.start(epoch=1, batch=1)
    samples = Samples(rows, labels=["kind"], augment={"picture": jitter, "sound": noise, "text": stamp}, form=FORM)
    rest = list(loader(samples, batches))
    assert len(rest) == 2 and all(same(a, b) for a, b in zip(rest, here[4:], strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_worker_names_the_broken_row():
    samples = Samples(broken(), form=FORM)
    with pytest.raises(ValueError, match="row 1: read_picture"):
        list(loader(samples, Batches(4, 2, shuffle=False), workers=1))


def test_samples_can_be_sent_to_a_process():
    samples = pickle.loads(pickle.dumps(Samples(table(), augment={"sound": noise}, form=FORM)))
    assert torch.equal(samples[1, 2].content["sound"], Samples(table(), augment={"sound": noise},
                                                               form=FORM)[1, 2].content["sound"])


# Lengths

def test_lengths_are_read_from_the_headers(built, monkeypatch):
    rows = built.view("validation")
    found = sound_seconds(rows)
    some = range(0, len(rows), 20)
    assert np.allclose(found[list(some)], [len(built.sound_of(rows[i])) / built.RATE for i in some])
    monkeypatch.setattr(soundfile, "read", lambda *_, **__: pytest.fail("decoded"))
    assert len(sound_seconds(rows.select(range(3)))) == 3


def test_what_cannot_be_read_has_no_length():
    rows = adopt(Dataset.from_dict({"sound": [wav(1600), None, b"no sound", wav(0)]}))
    assert sound_seconds(rows).tolist() == [0.1, 0, 0, 0]


def test_a_loader_over_the_embedded_data(built):
    rows = built.view("validation")
    batch = next(iter(loader(Samples(rows, labels=["group"]), Batches(len(rows), 5, shuffle=False))))
    assert batch.text == rows["text"][:5] and batch.labels["group"].tolist() == rows["group"][:5]
    assert torch.equal(batch.picture[2], built.picture_of(rows[2]))
    assert torch.equal(batch.sound[4][batch.sound_mask[4]], built.sound_of(rows[4]))


# What is refused

@pytest.mark.bad_input
@pytest.mark.parametrize("wrong, message", [
    (lambda: Samples(table(), bad="ignore"), "bad='ignore', expected 'refuse', 'skip' or 'mask'"),
    (lambda: Samples(Dataset.from_dict({"caption": ["a"]})), "the columns are caption, expected any of .*see adopt"),
    (lambda: Samples(table().remove_columns("sound"), augment={"sound": noise}), "expected sound; see adopt"),
    (lambda: Samples(table(), augment={"smell": noise}), "expected smell"),
    (lambda: Samples(table(), labels=["text"]), "label 'text' is string, expected whole numbers; see .*class_encode"),
    (lambda: Samples(table(), labels=["size"]), "label 'size' is no such column, expected whole numbers"),
    (lambda: Batches(10, 0), "size=0, pool=1"),
    (lambda: Batches(10, 2, pool=0), "size=2, pool=0"),
    (lambda: Batches([[1.0]], 2), r"lengths of shape \(1, 1\), expected .* one length for each row"),
    (lambda: Batches([1.0, np.nan], 2), r"lengths \[1.0, nan\], expected no negative number and no NaN"),
    (lambda: Batches(-1, 2), "lengths -1, expected no negative number"),
    (lambda: Batches(4, 2).start(0, -1), "start at batch -1 of epoch 0"),
    (lambda: Samples(table(3), seed=-1), "seed is -1"),
    (lambda: collate([Sample(7, {"picture": torch.zeros(3, 5, 5)}, {}, [])], FORM), r"has a picture \(3, 5, 5\)"),
    (lambda: collate([Sample(0, {"text": "a"}, {}, []), Sample(1, {"text": "b"}, {"kind": 1}, [])]), "different"),
    (lambda: loader(Samples(table(3)), Batches(4, 2)), "planned for 4 rows, there are 3 samples"),
])
def test_messages(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_class_labels_are_whole_numbers():
    rows = table(3).cast_column("kind", ClassLabel(names=["a", "b", "c"]))
    assert Samples(rows, labels=["kind"], form=FORM)[2].labels == {"kind": 2}


def test_import_is_light():
    code = ("import sys, mmtutor.loading; "
            "print([m for m in ('datasets', 'soundfile', 'soxr', 'scipy', 'pyarrow') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
