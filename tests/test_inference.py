"""The model in use: what is saved is what is loaded, what is missing is left out, what is damaged is named."""
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmtutor import capstone, data, inference, inputs
from mmtutor.course import card as cards
from mmtutor.course import records
from mmtutor.course.files import seal
from mmtutor.course.weights import read_tensors

JOB = "frozen/decoder/picture+sound/0.003/0"
SMALL = replace(inputs.PROFILES["quick"], fusions=("decoder",), epochs=1, limit=24)


@pytest.fixture(scope="module")
def run(tmp_path_factory, built):
    "A folder as a run leaves it, with its record."
    folder = tmp_path_factory.mktemp("run")
    capstone.claim_folder(folder, SMALL, fresh=False)
    encoders = inputs.pretrained(SMALL)
    banks = {split: inputs.bank(split, SMALL, encoders) for split in data.SPLITS}
    result = capstone.train_one(JOB, SMALL, banks, encoders, folder, progress=False)
    found = {split: capstone.gather({JOB: result}, split) for split in ("test", "validation")}
    records.record("capstone-own", "test", (0,), found | {"rank by validation": [JOB.rsplit("/", 1)[0]]}, folder)
    return folder


@pytest.fixture(scope="module")
def folder(run):
    return inference.publish(run)


@pytest.fixture(scope="module")
def finder(folder):
    return inference.load_finder(folder)


@pytest.fixture(scope="module")
def row(built):
    return data.view("test")[7]


def same(one, two, tolerance=1e-6):
    assert one.used == two.used and [n for n, _ in one.names] == [n for n, _ in two.names]
    assert np.allclose([p for _, p in one.groups], [p for _, p in two.groups], atol=tolerance)


# --- saved and loaded ---

def test_a_folder_has_five_files_and_no_pickle(folder):
    assert sorted(p.name for p in folder.iterdir()) == sorted(inference.FILES)
    assert not any(p.suffix in (".pt", ".pth", ".bin", ".pkl") for p in folder.iterdir())


def test_what_is_loaded_is_what_was_trained(run, finder):
    trained = read_tensors(run / JOB / "model/weights.safetensors")
    assert all(torch.equal(value, trained[name]) for name, value in finder.model.state_dict().items())
    assert not finder.model.training and finder.gallery.shape == (len(finder.names), SMALL.embedding)
    assert torch.allclose(finder.gallery.norm(dim=1), torch.ones(len(finder.names)), atol=1e-5)
    names = {name for split in data.SPLITS for name in data.view(split)["text"]}
    assert set(finder.names) == names and len(finder.names) == len(names)


def test_it_answers_as_the_model_does_in_the_evaluation(run, finder, row):
    "The same scores as through the bank of the run."
    encoders = inputs.pretrained(SMALL)
    items = inputs.bank("test", SMALL, encoders)
    tokens = items.pick("clean", ("picture", "sound"), torch.tensor([3]))
    with torch.no_grad():
        out = finder.model(tokens)
    wanted = (out.logits["group"][0].double() / finder.temperature).softmax(0)
    answer = finder.ask(picture=items.rows[3], sound=items.rows[3], top=1)
    for name, p in answer.groups:
        assert p == pytest.approx(float(wanted[finder.groups.index(name)]), abs=1e-5)
    near = torch.nn.functional.cosine_similarity(out.embedding, finder.gallery)
    assert answer.names[0] == (finder.names[near.argmax()], pytest.approx(float(near.max()), abs=1e-5))


# --- asked ---

@settings(max_examples=15, deadline=None)
@given(some=st.sets(st.sampled_from(inputs.MODALITIES), min_size=1), top=st.integers(1, 9))
def test_any_mixture_gives_probabilities_and_ranked_names(finder, row, some, top):
    answer = finder.ask(**{m: row["text"] if m == "text" else row for m in some}, top=top)
    assert set(answer.used) == some and len(answer.groups) == 8 and len(answer.names) == top
    chances, near = ([x for _, x in found] for found in (answer.groups, answer.names))
    assert sum(chances) == pytest.approx(1) and chances == sorted(chances, reverse=True) and min(chances) >= 0
    assert near == sorted(near, reverse=True) and all(-1 - 1e-6 <= x <= 1 + 1e-6 for x in near)
    assert all(word in str(answer) for word in some)


def test_its_own_name_is_the_nearest_text(finder):
    name = finder.names[5]
    assert finder.ask(text=name, top=1).names[0][0] == name


def test_one_picture_in_every_form_gives_one_answer(finder, row, tmp_path):
    (tmp_path / "x.png").write_bytes(row["picture"]["bytes"])
    pixels = data.picture_of(row)
    forms = [row, row["picture"]["bytes"], tmp_path / "x.png", str(tmp_path / "x.png"), pixels, pixels.numpy(),
             Image.open(io.BytesIO(row["picture"]["bytes"]))]
    answers = [finder.ask(picture=form) for form in forms]
    for answer in answers[1:]:
        same(answer, answers[0])


def test_one_sound_in_every_form_gives_one_answer(finder, row, tmp_path):
    wave = data.sound_of(row)
    soundfile.write(tmp_path / "x.wav", wave.numpy(), 16_000, subtype="FLOAT")
    answers = [finder.ask(sound=form) for form in (row, row["sound"]["bytes"], tmp_path / "x.wav", wave, wave.numpy())]
    for answer in answers[1:]:
        same(answer, answers[0])


def test_a_stereo_file_of_another_rate_is_mixed_and_resampled(finder, row, tmp_path):
    import soxr
    wave = soxr.resample(data.sound_of(row).numpy(), 16_000, 44_100)
    soundfile.write(tmp_path / "x.wav", np.stack([wave, wave], 1), 44_100, subtype="PCM_16")
    one, two = finder.ask(sound=tmp_path / "x.wav"), finder.ask(sound=row)
    assert np.allclose([p for _, p in sorted(one.groups)], [p for _, p in sorted(two.groups)], atol=0.02)


def test_missing_is_left_out_and_not_zero(finder, row):
    alone, quiet = finder.ask(picture=row), finder.ask(picture=row, sound=torch.zeros(16_000))
    assert abs(dict(alone.groups)[alone.groups[0][0]] - dict(quiet.groups)[alone.groups[0][0]]) > 1e-4


@pytest.mark.bad_input
@pytest.mark.parametrize("wrong, kind, words", [
    ({}, ValueError, "got nothing and top=5, expected at least one of text, picture, sound"),
    ({"text": "a cat", "top": 0}, ValueError, "got text and top=0"),
    ({"text": "a cat", "top": 10**6}, ValueError, "top from 1 to"),
    ({"text": "   "}, ValueError, "the text has 0 characters"),
    ({"text": 3}, ValueError, "got int, expected str"),
    ({"picture": "no/such.png"}, FileNotFoundError, "there is no file 'no/such.png'"),
    ({"picture": b"GIF89a"}, ValueError, "read_picture: the given picture cannot be used"),
    ({"picture": torch.zeros(3, 8, 8)}, ValueError, r"the picture is \(3, 8, 8\) of torch.float32, expected uint8"),
    ({"picture": torch.zeros(8, 8, dtype=torch.uint8)}, ValueError, r"the picture is \(8, 8\)"),
    ({"sound": torch.zeros(0)}, ValueError, r"the sound is \(0,\)"),
    ({"sound": torch.tensor([0.0, float("nan")])}, ValueError, "expected finite float samples"),
    ({"sound": torch.zeros(2, 100)}, ValueError, r"the sound is \(2, 100\)"),
    ({"sound": torch.ones(100, dtype=torch.int16)}, ValueError, "the sound is .* of torch.int16"),
    ({"sound": torch.full((100,), 3000.0)}, ValueError, "about within ±1"),
    ({"sound": b"RIFF"}, ValueError, "read_sound: the given sound cannot be used")])
def test_wrong_queries_are_named(finder, wrong, kind, words):
    with pytest.raises(kind, match=words):
        finder.ask(**wrong)


# --- damaged ---

def edited(folder, where, **changes):
    copy = shutil.copytree(folder, where)
    about = json.loads((copy / "answers.json").read_text())
    (copy / "answers.json").write_text(json.dumps(seal(about | changes)))
    return copy


@pytest.mark.bad_input
@pytest.mark.parametrize("name", inference.FILES)
def test_a_missing_file_is_named(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}; expected README.md"):
        inference.load_finder(copy)


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["weights.safetensors", "names.safetensors", "config.json", "answers.json"])
def test_a_damaged_file_is_named(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match=name):
        inference.load_finder(copy)


@pytest.mark.bad_input
@pytest.mark.parametrize("changes, words", [
    ({"settings": {"speed": 9}}, "no setting speed"),
    ({"names": ["one"]}, "does not fit together: temperature .*, 1 names"),
    ({"temperature": 0}, "temperature 0.0"),
    ({"frozen encoders": {"sound": "0" * 64}}, "the frozen encoder of text, picture, sound has other weights than"),
    ({"temperature": "warm"}, "answers.json is damaged"),
    ({"groups": ["food"]}, "1 of 8 groups"),
    ({"job": None}, "answers.json is damaged")])
def test_what_does_not_fit_is_named(folder, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        inference.load_finder(edited(folder, tmp_path / "copy", **changes))


# --- published ---

@pytest.mark.bad_input
def test_only_a_finished_job_of_the_same_run_is_published(run, tmp_path):
    record = records.read("capstone-own", run)
    with pytest.raises(ValueError, match="is no folder of a run"):
        inference.publish(tmp_path)
    with pytest.raises(ValueError, match="decoder/picture.sound/0.003/7 is not finished"):
        inference.publish(run, job=JOB[:-1] + "7")
    with pytest.raises(ValueError, match="the record 'test' has no frozen/concat"):
        inference.check_record(record, "frozen/concat/picture+sound/0.003/0", {})
    result = json.loads((run / JOB / "result.json").read_text())
    inference.check_record(record, JOB, result)
    for odd in (result["test"]["odd"] + 0.1, float("nan")):
        result["test"]["odd"] = odd
        with pytest.raises(ValueError, match="odd of .* it tells of another run"):
            inference.check_record(record, JOB, result)
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy/capstone-own.json").unlink()
    with pytest.raises(ValueError, match="has no record; expected capstone-<profile>.json"):
        inference.publish(tmp_path / "copy")


def test_a_run_without_its_own_record_has_the_one_of_its_profile(tmp_path):
    assert inference.record_of(tmp_path, inputs.PROFILES["full"])["command"] == "mmtutor run --profile full"


# --- the card ---

def test_the_card_reads_back_with_the_figures_of_the_record(folder, run):
    from huggingface_hub import ModelCard
    found = ModelCard.load(folder / "README.md")
    test = records.read("capstone-own", run)["figures"]["test"][JOB.rsplit("/", 1)[0]]
    results = {r.metric_name: r.metric_value for r in found.data.eval_results}
    assert len(results) == len(cards.FIGURES)
    for key, (text, _) in cards.FIGURES.items():
        assert results[f"{text} (mean of 1 seeds)"] == round(test[key]["mean"], 4)
        assert f"| {text} | {test[key]['mean']:.3f} ± 0.000 |" in found.text
    assert found.data.license == "cc-by-sa-4.0" and found.data.library_name == "mmtutor"
    for word in ("## Limits", "Not for decisions about people", "OpenMoji, CC BY-SA 4.0", "Apache-2.0", "espeak-ng",
                 "Group", "commit"):
        assert word in found.text, word
    assert "{{" not in found.text and "{%" not in found.text


@pytest.mark.bad_input
def test_a_card_without_figures_is_refused():
    record = records.read("capstone-frozen")
    with pytest.raises(ValueError, match="no figures for 'all/decoder.*it has frozen/concat"):
        cards.model_card(record, "all/decoder/picture+sound/0.003/0", {"data": "emoji"}, [], 1, 1.0, [])
