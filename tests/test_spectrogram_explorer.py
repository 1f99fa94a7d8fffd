"""The spectrogram explorer: its mathematics held to torch and to the chapter on audio, its values, and its reader."""
import base64
import re

import numpy as np
import pytest
import torch
from browsing import axe_is_content, close, label, serve_figures
from hypothesis import given, settings
from hypothesis import strategies as st
from test_figures import holds_to_the_rules

from mmtutor.audio import LogMel, mel_filters
from mmtutor.course import spectrogram_explorer
from mmtutor.course.spectrogram_explorer import SpectrogramExplorer


def sound(samples: int = 8000) -> np.ndarray:
    "A tone of 1,000 Hz, then one of 3,000 Hz and a little noise, as 16 bits hold them."
    time = np.arange(samples) / 16_000
    wave = 0.4 * np.where(time < samples / 32_000, np.sin(2000 * np.pi * time), np.sin(6000 * np.pi * time))
    wave = wave + 0.01 * np.random.default_rng(0).normal(size=samples)
    return np.round(wave * 32768) / 32768


# What Python computes and gives

@pytest.mark.parametrize("window, hop", [(400, 160), (512, 128), (2048, 333), (100, 40)])
def test_powers_are_those_of_torch_stft(window, hop):
    wave = torch.from_numpy(sound())
    shape = torch.hann_window(window, dtype=torch.float64)
    expected = torch.stft(wave, window, hop, window=shape, center=True, pad_mode="reflect", return_complex=True)
    expected = 10 * expected.abs().square().clamp(min=1e-10).log10()
    close(spectrogram_explorer.decibels(wave.numpy(), 16_000, window, hop, 0), expected, 1e-8)


@pytest.mark.parametrize("bands, window", [(80, 400), (40, 400), (128, 1024), (10, 64)])
def test_triangles_are_the_filters_of_the_chapter(bands, window):
    close(spectrogram_explorer.triangles(bands, window, 16_000), mel_filters(bands, window).double(), 1e-7)


def test_levels_are_the_log_mel_that_whisper_hears():
    figure = SpectrogramExplorer(sound())
    levels = torch.from_numpy(figure.levels[:, :-1]) / 10  # LogMel leaves the last frame out
    cut = (torch.maximum(levels, levels.max() - 8) + 4) / 4
    torch.testing.assert_close(cut.T, LogMel()(torch.from_numpy(sound()).float()[None]).values[0].double(),
                               atol=2e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1025, 24_000), st.integers(8, 1024), st.integers(40, 2048), st.integers(4, 128), st.booleans())
def test_every_allowed_setting_gives_finite_levels(samples, half, hop, bands, mel):
    figure = SpectrogramExplorer(np.linspace(-1, 1, samples), window=2 * half, hop=hop, bands=bands, mel=mel)
    assert figure.levels.shape == (bands if mel else half + 1, samples // hop + 1)
    assert figure.levels.shape[0] == len(figure.frequencies) and np.isfinite(figure.levels).all()


def test_sixteen_bits_come_back_unchanged():
    whole = np.random.default_rng(0).integers(-32768, 32768, 4000) / 32768
    np.testing.assert_array_equal(SpectrogramExplorer(torch.from_numpy(whole)).sound, whole)
    assert SpectrogramExplorer(np.full(2000, 1.0)).sound.max() == 32767 / 32768, "full scale does not turn negative"


def test_silence_has_a_spectrogram():
    figure = SpectrogramExplorer(np.zeros(4000))
    assert (figure.levels == -100).all() and "loudest at 0.00 s" in figure.alt() and figure.static()


def test_it_holds_to_the_rules_of_every_figure(monkeypatch):
    holds_to_the_rules(SpectrogramExplorer(sound()), monkeypatch)


def test_values_change_together_or_not_at_all():
    figure = SpectrogramExplorer(sound())
    figure.sound = sound()[:4000]
    figure.update(window=1024, mel=False)
    assert len(figure.sound) == 4000 and figure.levels.shape == (513, 26)
    with pytest.raises(ValueError, match="window is 1023, expected an even number of samples"):
        figure.window = 1023
    assert figure.window == 1024
    assert {row[1] for row in figure.table()[2][2:-2]} == {"1,000"}


@pytest.mark.parametrize("given_, said", [
    ({"sound": np.zeros(1024)}, "a sound of 1,024 samples up to 0: expected 1,025 to 24,000 within ±1"),
    ({"sound": np.zeros(24_001)}, "a sound of 24,001 samples"),
    ({"sound": np.full(2000, 1.5)}, "up to 1.5"),
    ({"sound": np.full(2000, np.nan)}, "sound: not every number is finite"),
    ({"sound": np.zeros((1, 2000))}, "sound: expected 1 axes that are not empty, got shape (1, 2000)"),
    ({"sound": []}, "sound: expected 1 axes that are not empty"),
    ({"window": 4096}, "window is 4096, expected 16 to 2,048"),
    ({"hop": 0}, "hop is 0, expected 40 to 2,048"),
    ({"bands": 1000}, "bands is 1000, expected 4 to 128"),
    ({"rate": 1}, "rate is 1, expected 4,000 to 48,000"),
    ({"hertz": 9000}, "hertz is 9000, expected 0 to 8,000"),
    ({"time": float("nan")}, "time is nan, expected 0 to 1.5"),
])
def test_what_cannot_be_drawn_is_refused(given_, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        SpectrogramExplorer(**{"sound": sound()} | given_)


@pytest.mark.bad_input
@pytest.mark.parametrize("place, value", [(0, []), (2, 1), (3, 0), (3, -1), (4, -1), (1, 0)])
def test_what_has_no_levels_is_refused(place, value):
    given_ = [np.zeros(100), 8000, 16, 8, 4]
    given_[place] = value
    with pytest.raises(ValueError, match="decibels: |triangles: "):
        spectrogram_explorer.decibels(*given_)


# In the browser

@pytest.fixture(scope="module")
def address(tmp_path_factory):
    figure = SpectrogramExplorer(sound())
    with serve_figures(tmp_path_factory.mktemp("site"), one=[figure], still=[figure]) as address:
        yield address


@pytest.mark.browser
class TestMathematics:
    @pytest.mark.parametrize("window, hop", [(400, 160), (64, 200), (2048, 320), (250, 77), (38, 1000)])
    def test_powers_are_those_of_torch_stft(self, javascript, window, hop):
        wave = torch.from_numpy(sound(2500))
        shape = torch.hann_window(window, dtype=torch.float64)
        expected = torch.stft(wave, window, hop, window=shape, center=True, pad_mode="reflect", return_complex=True)
        (found,) = javascript("spectrogram", ["powers", wave.tolist(), window, hop])
        close(found, expected.abs().square().T, 1e-9)

    def test_the_mel_scale_and_its_filters(self, javascript):
        hertz = [0, 440, 999.9, 1000, 1000.1, 8000]
        mels = javascript("spectrogram", *(["toMel", h] for h in hertz))
        close(mels, torch.from_numpy(spectrogram_explorer.hertz_to_mel(hertz)), 1e-12)
        close(javascript("spectrogram", *(["toHertz", m] for m in mels)), torch.tensor(hertz).double(), 1e-3)
        for bands, window in [(80, 400), (16, 512)]:
            (found,) = javascript("spectrogram", ["filters", bands, window, 16_000])
            close(found, mel_filters(bands, window).double(), 1e-7)

    @pytest.mark.parametrize("bands", [0, 40])
    def test_levels_rows_and_frequencies(self, javascript, bands):
        figure = SpectrogramExplorer(sound(3000), mel=bool(bands), bands=bands or 80)
        call = ["levels", figure.sound.tolist(), 16_000, 400, 160, bands]
        unpacked, found = javascript("spectrogram", ["unpack", figure.packed], call)
        assert unpacked == figure.sound.tolist()
        close(found, torch.from_numpy(figure.levels.T.copy()), 1e-6)
        rows = range(len(figure.frequencies))
        centres = javascript("spectrogram", *(["centre", r, 16_000, 400, bands] for r in rows))
        close(centres, torch.from_numpy(figure.frequencies.copy()), 1e-9)
        assert javascript("spectrogram", *(["nearest", f, 16_000, 400, bands] for f in centres)) == list(rows)
        ends = javascript("spectrogram", ["nearest", 0, 16_000, 400, bands], ["nearest", 8000, 16_000, 400, bands])
        assert ends == [0, rows[-1]]


@pytest.mark.browser
@pytest.mark.slow
class TestInChromium:
    def test_it_is_live_and_asks_nothing_of_anyone(self, read):
        reader = read("one")
        assert reader.page.locator(".mmtutor-figure").get_attribute("data-state") == "live"
        assert reader.frame(0).locator(".pane").is_visible() and reader.foreign == [] and reader.said == []

    @pytest.mark.parametrize("width", [900, 390])
    def test_axe_finds_nothing_in_light_and_dark(self, read, width):
        axe_is_content(read("one", viewport={"width": width, "height": 2000}, reduced_motion="reduce"))

    def test_the_cursor_reads_by_keyboard_and_pointer(self, read):
        reader, figure = read("one"), SpectrogramExplorer(sound())
        frame = reader.frame(0)
        pane = frame.get_by_role("slider", name="cursor")

        def reads(column: int, row: int) -> None:
            level = max(-80, figure.levels[row, column] - figure.levels.max()) + 0.0
            level = f"{level:.1f}".replace("-0.0", "0.0").replace("-", "−")
            text = f"{column * 0.01:.3f} s, {figure.frequencies[row]:,.0f} Hz: {level} dB"
            frame.get_by_text(f"At {text} (band {row} of 80)").wait_for()
            assert pane.get_attribute("aria-valuetext") == text
            assert pane.get_attribute("aria-valuenow") == str(column)

        row = int(np.abs(figure.frequencies - 1000).argmin())
        reads(0, row)
        for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
            pane.press(key)
        assert reader.hears(0, "v.time === 0.02")
        reads(2, row + 1)
        pane.press("PageDown")
        reads(2, row - 9)
        pane.press("End")
        reads(50, row - 9)
        pane.press("Home")
        for _ in range(9):
            pane.press("PageDown")
        reads(0, 0)
        assert frame.evaluate("document.activeElement.className") == "pane"
        box = pane.bounding_box()
        pane.click(position={"x": box["width"] * 0.5, "y": box["height"] * (1 - 60.5 / 80)})
        assert reader.hears(0, "v.time === 0.25")
        reads(25, 60)
        reader.set(0, time=0.1, hertz=1000)
        reads(10, row)

    def test_the_picture_shows_the_levels(self, read):
        figure, frame = SpectrogramExplorer(sound()), read("one").frame(0)
        height, width, pixels = frame.evaluate("""() => { const c = document.querySelector('canvas');
          return [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]; }""")
        light = np.reshape(pixels, (height, width, 4))[::-1, :, 0]  # cividis: the brighter, the more red
        assert light.shape == figure.levels.shape
        shown = np.maximum(figure.levels - figure.levels.max(), -80)
        assert np.corrcoef(light.ravel(), shown.ravel())[0, 1] > 0.98
        assert light[np.unravel_index(shown.argmax(), shown.shape)] == 254

    def test_the_settings_by_keyboard_and_code(self, read):
        reader = read("one")
        frame = reader.frame(0)
        size = lambda: frame.evaluate("(c => [c.height, c.width])(document.querySelector('canvas'))")
        assert size() == [80, 51]
        frame.get_by_text("400 = 25.0 ms").wait_for()
        label(frame, "window").press("ArrowRight")
        assert reader.hears(0, "v.window === 512") and size() == [80, 51]
        label(frame, "hop").press("ArrowRight")
        assert reader.hears(0, "v.hop === 240") and size() == [80, 34]
        label(frame, "mel bands").press("Home")
        assert reader.hears(0, "v.bands === 4") and size() == [4, 34]
        label(frame, "mel scale").uncheck()
        assert reader.hears(0, "v.mel === false") and size() == [257, 34]
        assert label(frame, "mel bands").is_disabled()
        frame.get_by_text("8,000 samples become 34 frames of 257 numbers: 8,738.").wait_for()
        reader.set(0, window=64, hop=320)
        frame.get_by_text("80 % of the sound is not looked at").wait_for()
        reader.set(0, window=100, mel=True, bands=128)
        empty = int((mel_filters(128, 100) == 0).all(1).sum())
        assert empty > 10
        frame.get_by_text(f"{empty} of 128 bands get nothing").wait_for()
        wide = float(frame.locator("rect.window").get_attribute("width"))
        reader.set(0, time=0.2)
        frame.get_by_text("At 0.200 s").wait_for()
        assert float(frame.locator("rect.window").get_attribute("width")) > wide > 0, "half of it lay before the sound"

    def test_another_sound_is_drawn(self, read):
        reader, other = read("one"), SpectrogramExplorer(sound()[:4000])
        reader.set(0, packed=other.packed)
        reader.frame(0).get_by_text("4,000 samples become 26 frames").wait_for()

    def test_it_plays_and_stops(self, read):
        reader = read("one")
        frame = reader.frame(0)
        frame.evaluate("""() => { window.heard = []; const start = AudioBufferSourceNode.prototype.start;
          AudioBufferSourceNode.prototype.start = function () {
            heard.push([this.buffer.sampleRate, [...this.buffer.getChannelData(0)]]); start.call(this); }; }""")
        play = frame.get_by_role("button", name="play")
        play.press("Enter")
        frame.get_by_role("button", name="stop").click()
        frame.get_by_role("button", name="play").click()
        frame.get_by_role("button", name="stop").wait_for()
        frame.get_by_role("button", name="play").wait_for()  # half a second later it has ended
        rate, heard = frame.evaluate("heard[1]")
        assert rate == 16_000 and frame.evaluate("heard.length") == 2
        np.testing.assert_array_equal(heard, sound().astype(np.float32))
        assert reader.foreign == [] and reader.said == []

    def test_less_motion_is_respected(self, read):
        for less, shown in (("reduce", "none"), ("no-preference", "block")):
            frame = read("one", reduced_motion=less).frame(0)
            frame.evaluate("""() => { const make = BaseAudioContext.prototype.createBuffer;  // fifty seconds long
              BaseAudioContext.prototype.createBuffer = function (n, size, rate) {
                return make.call(this, n, 100 * size, rate); }; }""")
            frame.get_by_role("button", name="play").click()
            frame.get_by_role("button", name="stop").wait_for()
            assert frame.evaluate("getComputedStyle(document.querySelector('.now')).display") == shown

    def test_without_scripts_the_picture_and_the_table_stay(self, read):
        page = read("still", java_script_enabled=False).page
        assert page.locator("table").is_visible() and page.locator(".mmtutor-figure img").is_visible()


def test_a_second_and_a_half_stays_light():
    loud = np.random.default_rng(0).uniform(-1, 1, 24_000)
    figure = SpectrogramExplorer(loud)
    assert len(figure.packed) == len(base64.b64encode(bytes(48_000))) and len(figure.static()) < 250_000
