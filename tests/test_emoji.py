"""The raw material: names, drawings, speech, and what counts as the same."""
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmtutor.course import emoji


@pytest.fixture(scope="module")
def names():
    return emoji.read_names()


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_names(names):
    assert len(names) == 1644
    assert len({item.group for item in names}) == 8 and len({item.subgroup for item in names}) == 95
    assert len({item.name for item in names}) == len({item.id for item in names}) == 1644
    assert names[0] == emoji.Emoji("1F600", "😀", "grinning face", "Smileys & Emotion", "face-smiling")
    assert not any("flag:" in item.name or "skin tone" in item.name or item.group in ("Flags", "Component")
                   for item in names)
    assert all("".join(chr(int(code, 16)) for code in item.id.split("-")) == item.emoji for item in names)


def test_limit_is_spread_over_the_list(names):
    few = emoji.read_names(40)
    assert len(few) == 40 and set(few) <= set(names) and len({item.group for item in few}) == 8


def test_styles(names):
    whale = [item for item in names if item.name in ("whale", "red apple")]
    for pair in emoji.drawings(whale):
        colour, lines = pixels(pair["colour"]), pixels(pair["lines"])
        assert colour.shape == lines.shape == (96, 96, 3)
        assert np.ptp(colour, axis=2).max() > 100, "the colour style has colours"
        assert np.ptp(lines, axis=2).max() == 0 and (lines < 50).mean() > 0.01, "the line style has black lines only"
        assert (colour[lines[..., 0] < 50] < 120).all(), "the lines lie where they lie in the colour style"
        assert (lines[0, 0] == 255).all() and (colour[0, 0] == 255).all(), "white ground"


def test_line_layers_are_those_named_line():
    svg = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><g id="color">'
           '<rect width="36" height="72"/></g>'
           '<g id="line-supplement">'
           '<rect x="36" width="36" height="36"/></g><g id="skin-line"/></svg>')
    colour, lines = pixels(emoji.draw(svg)), pixels(emoji.draw(svg, "lines"))
    assert colour[90, 10].max() == 0 and colour[10, 90].max() == 0
    assert lines[90, 10].min() == 255 and lines[10, 90].max() == 0
    assert pixels(emoji.draw(svg, size=48)).shape == (48, 48, 3)


@pytest.mark.parametrize("one, two", [
    ("woman judge", "judge"), ("man walking facing right", "person walking"), ("man: red hair", "woman"),
    ("three-thirty", "twelve o’clock"), ("keycap: 3", "keycap: #"), ("Mrs. Claus", "Mx Claus"), ("prince", "princess"),
    ("kiss: woman, man", "kiss"), ("merman", "mermaid"), ("women wrestling", "people wrestling"), ("boy", "girl"),
])
def test_same_family(one, two):
    assert emoji.word_family(one) == emoji.word_family(two)


@pytest.mark.parametrize("one, two", [
    ("whale", "spouting whale"), ("crown", "person with crown"), ("man", "manual wheelchair"),
    ("white cane", "man with white cane"),
    ("person standing", "person kneeling"), ("red heart", "heart suit"), ("womans clothes", "clothes"),
])
def test_other_family(one, two):
    assert emoji.word_family(one) != emoji.word_family(two)


def test_distances_against_the_loop(names):
    pngs = [pair["colour"] for pair in emoji.drawings(names[::150])]
    found = emoji.distances(pngs)
    small = [np.asarray(Image.open(io.BytesIO(p)).convert("RGB").reduce(4)).astype(float) for p in pngs]
    turns = lambda a: [np.rot90(b, k) for b in (a, a[:, ::-1]) for k in range(4)]
    loop = [[min(np.sqrt(((a - c) ** 2).mean()) for c in turns(b)) for b in small] for a in small]
    assert np.allclose(found, loop, atol=1e-9)
    assert (np.diag(found) == 0).all() and (found == found.T).all()


def test_turned_and_mirrored_pictures_are_the_same(names):
    png = next(emoji.drawings(names[700:701]))["colour"]
    image, turned = Image.open(io.BytesIO(png)), []
    for how in Image.Transpose:
        buffer = io.BytesIO()
        image.transpose(how).save(buffer, "png")
        turned.append(buffer.getvalue())
    assert emoji.distances([png, *turned]).max() == 0


def test_speech_is_the_same_bytes_again():
    import soundfile
    texts, voice = ["whale", "red apple", "“here” button, piñata", "keycap: #"], emoji.Voice("en-gb-x-rp+f1", 160, 60)
    one, two = list(emoji.speak(texts, voice)), list(emoji.speak(texts, voice))
    assert one == two and len(one) == len(texts)
    for flac in one:
        wave, rate = soundfile.read(io.BytesIO(flac), dtype="float32")
        assert rate == emoji.RATE and wave.ndim == 1 and 0.15 * rate < len(wave) < 4 * rate
        assert 0.1 < abs(wave).max() <= 1
    faster = list(emoji.speak(texts, voice._replace(speed=300)))
    assert sum(map(len, faster)) < sum(map(len, one))


def test_soxr_is_given_floating_point(monkeypatch):
    """Given whole numbers, soxr adds random dither beyond about three seconds: other bytes each time."""
    import soxr
    resample, given = soxr.resample, []
    monkeypatch.setattr(soxr, "resample", lambda wave, *rates: (given.append(wave.dtype), resample(wave, *rates))[1])
    list(emoji.speak(["whale", "the family of a man, a woman, a girl and a boy"], emoji.Voice("en-us+m3", 120, 45)))
    assert given == [np.float32, np.float32]


@pytest.mark.bad_input
def test_unknown_voice_is_named():
    with pytest.raises(RuntimeError, match="espeak-ng has no voice 'en-gb'"):
        list(emoji.speak(["whale"], emoji.Voice("en-gb", 160, 50)))


@pytest.mark.bad_input
def test_missing_espeak_says_what_to_install(monkeypatch):
    monkeypatch.setattr(emoji.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmtutor\[speech\]'"):
        list(emoji.speak(["whale"], emoji.Voice("en-us", 160, 50)))


def test_espeak_stays_in_its_own_process():
    code = ("import sys; from mmtutor.course import emoji; "
            "list(emoji.speak(['whale'], emoji.Voice('en-us', 160, 50))); "
            "maps = open('/proc/self/maps').read() if sys.platform == 'linux' else ''; "
            "sys.exit('espeakng_loader' in sys.modules or 'espeak' in maps)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 36"/>'


@pytest.mark.bad_input
@pytest.mark.parametrize("make, said", [
    (lambda: emoji.read_names(0), "limit is 0, expected 1 or more"),
    (lambda: emoji.draw("zebra"), "draw: 'zebra' is no SVG drawing"),
    (lambda: emoji.draw(SVG, "grey"), "style 'grey' of 96 pixels, expected colour or lines"),
    (lambda: list(emoji.drawings([emoji.Emoji("zebra", "", "striped", "", "")])), "no drawing 'zebra' of 'striped'"),
    (lambda: list(emoji.speak(["a\nb"], emoji.Voice("en-us", 160, 50))), "expected texts of one line each"),
    (lambda: list(emoji.speak(["a"], emoji.Voice("en-us", 160, 100))), "a pitch from 0 to 99"),
    (lambda: emoji.distances([b"zebra"]), "distances: a picture that cannot be read"),
    (lambda: emoji.distances([emoji.draw(SVG), emoji.draw(SVG, size=48)]), "expected squares of one size"),
    (lambda: emoji.distances([emoji.draw(SVG)], side=97), "a side of 97"),
])
def test_what_does_not_fit_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
