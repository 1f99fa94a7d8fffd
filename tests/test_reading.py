"""Data of one's own: everything is read as it was meant, or refused with the row and the reason."""
import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mmtutor.reading import FORM, Form, adopt, is_missing, read_picture, read_sound, read_text

QUICK = settings(max_examples=25, deadline=None)


def packed(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **more)
    return buffer.getvalue()


def wav(wave: np.ndarray, rate: int = 16_000, kind: str = "WAV", subtype: str = "FLOAT") -> bytes:
    soundfile.write(buffer := io.BytesIO(), wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def ramp(width: int = 64, height: int = 64) -> np.ndarray:
    return np.linspace(0, 1, width)[None] * np.ones((height, 1))


RAMP = Image.fromarray((ramp() * 255).astype(np.uint8))
TONE = np.sin(np.arange(8000) / 10).astype(np.float32)
DAMAGED = {kind: packed(RAMP.convert("RGB"), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")}
DAMAGED_SOUNDS = {"WAV": wav(TONE), "FLAC": wav(TONE, kind="FLAC", subtype="PCM_16"),
                  "OGG": wav(TONE, kind="OGG", subtype="VORBIS"), "AIFF": wav(TONE, kind="AIFF", subtype="PCM_16")}


# Pictures

@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([8, 33, 96]),
       st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I"]))
@QUICK
def test_any_picture_gets_the_agreed_form(width, height, size, mode):
    levels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3))
    if mode in ("I;16", "I"):
        image = Image.fromarray((levels[..., 0] * 257).astype(np.uint16 if mode == "I;16" else np.int32))
        assert image.mode == mode
    else:
        image = Image.fromarray(levels.astype(np.uint8)).convert("RGBA").convert(mode if mode != "HSV" else "RGB")
        image = image.convert(mode)
    picture = read_picture(image, Form(size=size))
    assert picture.shape == (3, size, size) and picture.dtype == torch.uint8 and picture.is_contiguous()


@given(st.integers(0, 65_535))
@example(255)
@example(256)
@example(65_535)
@QUICK
def test_sixteen_bits_become_eight_by_division(level):
    for kind, image in (("PNG", Image.new("I;16", (9, 9), level)), ("TIFF", Image.new("I;16", (9, 9), level)),
                        ("TIFF", Image.new("I", (9, 9), level))):
        assert (read_picture(packed(image, kind)) == level // 256).all()


def test_sixteen_bits_look_like_eight():
    deep = read_picture(Image.fromarray((ramp() * 65_535).astype(np.uint16)))
    assert (deep.int() - read_picture(RAMP).int()).abs().max() <= 1 and len(deep.unique()) > 90


@given(st.integers(1, 8))
@QUICK
def test_a_turn_mark_is_obeyed(mark):
    levels = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = mark
    image = Image.fromarray(levels)
    marked = Image.open(io.BytesIO(packed(image, exif=exif)))
    assert torch.equal(read_picture(packed(image, exif=exif)), read_picture(ImageOps.exif_transpose(marked)))
    assert torch.equal(read_picture(packed(image, exif=exif)), read_picture(image)) == (mark == 1)


@given(st.integers(10, 60), st.integers(10, 60))
@QUICK
def test_the_middle_square_is_kept_in_its_proportions(width, height):
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    picture = read_picture(Image.fromarray(levels), Form(size=side))
    assert np.array_equal(picture.permute(1, 2, 0), levels[top:top + side, left:left + side])


def test_transparent_lies_on_white_and_grey_has_three_equal_channels():
    assert (read_picture(Image.new("RGBA", (30, 30), (9, 9, 9, 0))) == 255).all()
    assert (read_picture(Image.new("LA", (30, 30), (0, 0))) == 255).all()
    grey = read_picture(RAMP)
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[1], grey[2]) and len(grey.unique()) > 50


def test_a_row_a_cell_bytes_a_path_and_an_image_read_alike(tmp_path):
    (tmp_path / "ramp.png").write_bytes(packed(RAMP))
    expected = read_picture(RAMP)
    for item in (packed(RAMP), {"bytes": packed(RAMP), "path": None},
                 {"bytes": None, "path": str(tmp_path / "ramp.png")},
                 {"picture": {"bytes": packed(RAMP), "path": None}, "id": 7}):
        assert torch.equal(read_picture(item), expected)


@given(st.sampled_from(sorted(DAMAGED)), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
       st.floats(0, 1))
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, on what it skips
def test_a_damaged_picture_is_a_picture_or_a_value_error(kind, changes, share):
    content = bytearray(DAMAGED[kind])
    for place, value in changes:
        content[place % min(len(content), 200)] = value
    content = bytes(content[:round(share * len(content))])
    try:
        assert read_picture(content).shape == (3, 96, 96)
    except ValueError as error:
        assert str(error).startswith("read_picture: the given picture cannot be used: ")


@given(st.binary(max_size=200))
@QUICK
def test_any_bytes_are_refused_by_name(content):
    for read, name in ((read_picture, "picture"), (read_sound, "sound")):
        with pytest.raises(ValueError, match=rf"read_{name}: the {name} of item 5 \('owl'\) cannot be used"):
            read({"id": 5, "text": "owl", name: {"bytes": content or b" ", "path": None}})


# Sounds

@given(st.integers(1, 4), st.sampled_from([8000, 11_025, 16_000, 44_100, 48_000]), st.integers(1, 3000))
@QUICK
def test_any_sound_gets_one_channel_and_the_rate(channels, rate, samples):
    wave = np.random.default_rng(samples).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)
    try:
        sound = read_sound(wav(wave, rate))
    except ValueError as error:  # a few samples at a high rate are less than one at 16 kHz
        assert "has no samples" in str(error) and samples * 16_000 / rate < 2
        return
    assert sound.ndim == 1 and sound.dtype == torch.float32 and abs(len(sound) - samples * 16_000 / rate) <= 1
    if rate == 16_000:
        torch.testing.assert_close(sound, torch.from_numpy(wave.mean(1)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind, subtype", [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "ULAW"), ("WAV", "DOUBLE"),
                                           ("FLAC", "PCM_16"), ("AIFF", "PCM_16"), ("OGG", "VORBIS")])
def test_kinds_of_files(kind, subtype):
    sound = read_sound(wav(TONE / 2, kind=kind, subtype=subtype))
    assert len(sound) == 8000 and (sound - torch.from_numpy(TONE / 2)).abs().max() < 0.1


def test_eight_kilohertz_keeps_its_pitch():
    wave = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32)
    assert torch.fft.rfft(read_sound(wav(wave, 8000))).abs().argmax() == 440


@given(st.sampled_from(sorted(DAMAGED_SOUNDS)), st.floats(0, 1),
       st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6))
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # soundfile, on places before the start
def test_a_damaged_sound_is_a_sound_or_a_value_error(kind, share, changes):
    content = bytearray(DAMAGED_SOUNDS[kind])
    for place, value in changes:
        content[place % min(len(content), 100)] = value
    try:
        sound = read_sound(bytes(content[:round(share * len(content))]))
        assert sound.ndim == 1 and len(sound) and sound.isfinite().all() and sound.abs().max() <= 100
    except ValueError as error:
        assert str(error).startswith("read_sound: the given sound ")


@given(st.lists(st.tuples(st.integers(0, 7999), st.sampled_from([np.nan, np.inf, -np.inf])), min_size=1, max_size=5))
@QUICK
def test_a_number_that_is_none_is_counted_and_refused(places):
    wave = TONE.copy()
    for place, value in places:
        wave[place] = value
    with pytest.raises(ValueError, match=f"has {len(dict(places))} samples that are not finite"):
        read_sound(wav(wave))


def test_silence_is_a_sound():
    assert not read_sound(wav(np.zeros(100, np.float32))).any()


def test_the_length_is_looked_at_before_anything_is_decoded(monkeypatch):
    from mmtutor import reading
    monkeypatch.setattr(reading, "sound_of", lambda content: pytest.fail("decoded"))
    monkeypatch.setattr(reading, "picture_of", lambda image, size: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"lasts 0\.5 s, expected at most 0\.4 s; cut it"):
        read_sound(wav(TONE), Form(seconds=0.4))
    with pytest.raises(ValueError, match="it has 64 × 64 pixels, expected 1 to 4,095"):
        read_picture(packed(RAMP), Form(pixels=4095))


# What is refused

BOMB = packed(Image.new("1", (20_000, 20_000)))
EMPTY_BMP = DAMAGED["BMP"][:18] + bytes(8) + DAMAGED["BMP"][26:]  # width and height are 0


@pytest.mark.bad_input
@pytest.mark.parametrize("read, item, message", [
    (read_picture, BOMB, "the given picture cannot be used: Image size .400000000 pixels. exceeds limit"),
    (read_picture, packed(Image.new("1", (8000, 8000))), "it has 8000 × 8000 pixels, expected 1 to 50,000,000"),
    (read_picture, Image.new("RGB", (0, 5)), "it has 0 × 5 pixels"),
    (read_picture, EMPTY_BMP, "the given picture cannot be used"),
    (read_picture, Image.new("F", (5, 5)), "floating-point numbers of unknown range; scale them to 0–255"),
    (read_picture, Image.new("I", (5, 5), 70_000), "range from 70000 to 70000, expected 16 bits, 0 to 65535"),
    (read_picture, Image.new("I", (5, 5), -1), "range from -1 to -1, expected 16 bits"),
    (read_picture, DAMAGED["PNG"][:60], "truncated"),
    (read_picture, b"", "cannot identify image file"),
    (read_picture, None, "the given picture is missing"),
    (read_picture, 7, "the given picture cannot be used"),
    (read_picture, {"id": 3, "picture": None}, r"the picture of item 3 \('no text'\) is missing"),
    (read_picture, {"bytes": None, "path": "nowhere.png"}, "cannot be read: No such file or directory: nowhere.png"),
    (read_sound, wav(TONE[:0]), "the given sound has no samples"),
    (read_sound, wav(TONE * 32_768), r"has values up to 32768, expected about ±1; divide 16-bit samples by 32768"),
    (read_sound, wav(np.zeros(16_000 * 61, np.float32)), "it lasts 61.0 s, expected at most 60 s; cut it"),
    (read_sound, b"RIFF", "the given sound cannot be used"),
    (read_sound, 7, "the given sound cannot be used"),
    (read_sound, {"id": 3, "text": "owl", "sound": None}, r"the sound of item 3 \('owl'\) is missing"),
    (read_text, "", "the text has 0 characters, expected 1 to 100,000"),
    (read_text, " \n\t", "the text has 0 characters"),
    (read_text, "x" * 100_001, "the text has 100001 characters"),
    (read_text, {"text": None}, "got NoneType, expected str"),
    (read_text, {"picture": None}, "got NoneType, expected str"),
    (read_text, b"bytes", "got bytes, expected str"),
])
def test_what_is_refused(read, item, message):
    with pytest.raises(ValueError, match=message):
        read(item)


@given(st.text(min_size=1, max_size=50).filter(str.strip))
@QUICK
def test_a_text_is_left_as_it_is(text):
    assert read_text(text) == read_text({"text": text}) == text


@pytest.mark.parametrize("cell, missing", [
    (None, True), ("", True), ({"bytes": None, "path": None}, True), ({"bytes": None, "path": ""}, True),
    ({"bytes": b"", "path": None}, False), ({"bytes": None, "path": "x.png"}, False), ("x", False), (0, False)])
def test_missing_is_not_broken(cell, missing):
    assert is_missing(cell) is missing


# Folders

@pytest.fixture
def folder(tmp_path):
    for name in ("animals/owl", "animals/whale", "things/drum"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(packed(RAMP))
    (tmp_path / "animals/owl.wav").write_bytes(wav(TONE))
    (tmp_path / "animals/owl.txt").write_text("an owl\n", encoding="utf-8")
    (tmp_path / "things/.hidden.png").write_bytes(b"")
    (tmp_path / "things/notes.md").write_text("not of a known kind")
    return tmp_path


def test_files_of_one_name_are_a_row_and_their_folder_is_the_class(folder):
    mine = adopt(folder)
    assert mine["id"][:] == ["animals/owl", "animals/whale", "things/drum"]
    assert mine["text"][:] == ["an owl", None, None] and mine["label"][:] == [0, 0, 1]
    assert mine.features["label"] == ClassLabel(names=["animals", "things"])
    assert [is_missing(row["sound"]) for row in mine] == [False, True, True]
    assert all(torch.equal(read_picture(row), read_picture(RAMP)) for row in mine) and len(read_sound(mine[0])) == 8000


def test_without_subfolders_there_is_no_class(tmp_path):
    for name in ("b.JPG", "a.png"):
        RAMP.save(tmp_path / name)
    assert adopt(tmp_path)["id"][:] == ["a", "b"] and "label" not in adopt(str(tmp_path)).column_names


def test_metadata_with_a_mark_quotes_gaps_and_file_names(folder):
    (folder / "metadata.csv").write_text(
        '\ufefffile_name,text,label\nanimals/owl.png,"an owl, white",bird\nanimals/owl.wav,,bird\n'
        'things/drum.png,drum,\n',
        encoding="utf-8")
    mine = adopt(folder)
    assert mine["text"][:] == ["an owl, white", None, "drum"] and mine["label"][:] == [0, 0, None]
    assert [is_missing(row["picture"]) for row in mine] == [False, True, False]
    assert len(read_sound(mine[1])) == 8000 and read_picture(mine[2]).shape == (3, 96, 96)


@pytest.mark.bad_input
@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "things/../../secret.png", "link/secret.png"])
def test_a_table_may_not_leave_its_folder(folder, path):
    (folder / "link").symlink_to(folder.parent)
    (folder / "metadata.csv").write_text(f"picture\nthings/drum.png\n{path}\n")
    with pytest.raises(ValueError, match=f"adopt: row 1 of metadata.csv names {path}, which is outside of the folder"):
        adopt(folder)


@pytest.mark.bad_input
def test_bad_folders(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="adopt: there is no folder"):
        adopt(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="adopt: there is no folder"):
        adopt("")
    with pytest.raises(ValueError, match="adopt: the columns are none, expected any of text, picture and sound"):
        adopt(tmp_path_factory.mktemp("empty"))
    (folder / "animals/owl.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"animals.owl has two files for its picture, one of them owl\.(png|jpg)"):
        adopt(folder)
    (folder / "metadata.csv").write_text("picture,text\na.png,owl\nb.png,one,two\n")
    with pytest.raises(ValueError, match="row 1 of metadata.csv has more fields than the first line has names"):
        adopt(folder)


# Tables

def test_the_columns_of_others_are_renamed_and_not_decoded():
    theirs = Dataset.from_dict({"caption": ["a"], "image": [packed(RAMP)], "audio": [wav(TONE)], "kind": [3]})
    mine = adopt(theirs, {"caption": "text", "kind": "label"})
    assert mine.column_names == ["text", "picture", "sound", "label"]
    assert mine.features["picture"] == ImageColumn(decode=False) and mine.features["sound"] == Audio(decode=False)
    assert read_picture(mine[0]).shape == (3, 96, 96) and len(read_sound(mine[0])) == 8000
    assert theirs.column_names == ["caption", "image", "audio", "kind"], "the given table stays as it is"


def test_a_decoding_column_is_taken_over():
    theirs = Dataset.from_dict({"image": [packed(RAMP), None]}, Features({"image": ImageColumn()}))
    mine = adopt(theirs)
    assert isinstance(mine[0]["picture"]["bytes"], bytes) and is_missing(mine[1]["picture"])


def test_a_column_named_by_the_reader_wins():
    theirs = Dataset.from_dict({"image": [packed(RAMP)], "sketch": [packed(RAMP.rotate(90))]})
    with pytest.raises(ValueError, match="adopt: two of the columns image, sketch would have one name"):
        adopt(theirs, {"sketch": "picture"})  # two pictures: which one is for the reader to say
    mine = adopt(theirs.remove_columns("image"), {"sketch": "picture"})
    assert torch.equal(read_picture(mine[0]), read_picture(RAMP.rotate(90)))


@pytest.mark.bad_input
@pytest.mark.parametrize("columns", [{"zebra": "text"}, {"sketch": ""}])
def test_renaming_what_is_not_there_or_to_nothing(columns):
    with pytest.raises(ValueError, match="adopt: columns renames .*, expected names of the columns, sketch, and a new"):
        adopt(Dataset.from_dict({"sketch": [packed(RAMP)]}), columns)


@pytest.mark.bad_input
@pytest.mark.parametrize("odd", [{"size": 0}, {"pixels": -1}, {"seconds": float("nan")}, {"characters": 0}])
def test_forms_that_nothing_has(odd):
    with pytest.raises(ValueError, match="Form: .*, expected numbers above 0"):
        Form(**odd)


@pytest.mark.bad_input
@pytest.mark.parametrize("table, message", [
    (Dataset.from_dict({"caption": ["a"]}), r"the columns are caption, expected .*columns=\{'caption': 'text'\}"),
    (Dataset.from_dict({"picture": [1.5]}), r"column 'picture' is Value\('float64'\), expected paths, bytes or Image"),
    (Dataset.from_dict({"sound": [[1, 2]]}), "column 'sound' is .*, expected paths, bytes or Audio"),
    ({"text": ["a"]}, "got dict, expected a folder or one split of a data set"),
    (None, "got NoneType"),
])
def test_tables_that_do_not_fit(table, message):
    with pytest.raises(ValueError, match=message):
        adopt(table)


def test_our_own_data_can_be_adopted(built):
    rows = built.view("validation")
    mine = adopt(rows)
    assert mine.column_names == rows.column_names and mine.features["group"] == rows.features["group"]
    assert torch.equal(read_picture(mine[3]), built.picture_of(rows[3]))
    assert torch.equal(read_sound(mine[3]), built.sound_of(rows[3]))


def test_form_is_what_the_model_takes():
    from mmtutor.data import SIZE
    assert FORM == Form(size=SIZE) and Form(size=8) != FORM


def test_import_is_light():
    code = ("import sys, mmtutor.reading; "
            "print([m for m in ('datasets', 'soundfile', 'soxr', 'scipy', 'pyarrow') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
