"""The front end of hearing against librosa, transformers and soxr; strange sounds; padding and blocks never matter."""
import io
import math
import wave

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtutor import listening
from mmtutor.listening import (
    LogMel,
    Player,
    band_groups,
    hertz_to_mel,
    mel_filters,
    mel_to_hertz,
    pad_sounds,
    resample,
)

RATE = 16_000
both = pytest.mark.parametrize("convention", ["whisper", "librosa"])


def noise(samples: int, seed: int = 0, loudness: float = 0.1) -> torch.Tensor:
    return loudness * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


# ---- mel ----

@pytest.mark.parametrize("bands, n_fft, rate", [(40, 400, RATE), (80, 400, RATE), (20, 512, 22_050), (64, 1024, 8_000)])
def test_filters_are_librosas(bands, n_fft, rate):
    import librosa
    theirs = torch.from_numpy(librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bands))
    torch.testing.assert_close(mel_filters(bands, n_fft, rate), theirs, atol=1e-8, rtol=1e-6)


def test_mel_scale_is_librosas_and_has_an_inverse():
    import librosa
    hertz = torch.tensor([0., 1, 440, 999, 1000, 1001, 8000, 20_000], dtype=torch.float64)
    torch.testing.assert_close(hertz_to_mel(hertz), torch.from_numpy(librosa.hz_to_mel(hertz.numpy())))
    torch.testing.assert_close(mel_to_hertz(hertz_to_mel(hertz)), hertz)


@pytest.mark.filterwarnings("ignore:n_fft=400 is too large")
@pytest.mark.parametrize("samples", [1, 159, 160, 161, 400, 4_801, 16_000])
def test_equal_to_librosa(samples):
    import librosa
    sound = noise(samples)
    theirs = librosa.feature.melspectrogram(y=sound.numpy(), sr=RATE, n_fft=400, hop_length=160, n_mels=40).T
    values, mask = LogMel(40, convention="librosa")(sound[None])
    assert mask.all()
    torch.testing.assert_close(values[0], torch.from_numpy(theirs), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bands", [20, 80])
def test_equal_to_whispers_extractor(bands):
    from transformers import WhisperFeatureExtractor
    sounds = [noise(n, seed=n) for n in (16_000, 12_345, 16_001, 1, 300)] + [torch.zeros(500), 3 * noise(8_000)]
    theirs = WhisperFeatureExtractor(feature_size=bands, chunk_length=2)(
        [s.numpy() for s in sounds], sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
    values, mask = LogMel(bands)(*pad_sounds(sounds, 2 * RATE))
    torch.testing.assert_close(values.mT, theirs.input_features, atol=1e-4, rtol=0)
    assert torch.equal(mask, theirs.attention_mask.bool())


def test_equal_to_whispers_extractor_without_padding():
    from transformers import WhisperFeatureExtractor
    sound = noise(RATE)
    theirs = WhisperFeatureExtractor(chunk_length=1)(sound.numpy(), sampling_rate=RATE, return_tensors="pt")
    torch.testing.assert_close(LogMel()(sound[None]).values.mT, theirs.input_features, atol=1e-4, rtol=0)


@pytest.mark.parametrize("convention", ["whisper", "librosa"])
def test_gradient_is_right(convention):
    mel = LogMel(5, rate=1000, n_fft=16, hop=8, convention=convention).double()
    sound = noise(40, loudness=1).double()[None].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mel(x).values, sound)


@pytest.mark.parametrize("convention", ["whisper", "librosa"])
def test_silence_has_finite_values_and_gradients(convention):
    sound = torch.zeros(1, 1000, requires_grad=True)
    values = LogMel(40, convention=convention)(sound).values
    values.sum().backward()
    assert values.isfinite().all() and sound.grad.isfinite().all()


def test_autocast_leaves_the_mel_alone():
    sound = noise(2000)[None]
    with torch.autocast("cpu", torch.bfloat16):
        low = LogMel()(sound.bfloat16().float()).values
    assert low.dtype == torch.float32
    assert torch.equal(low, LogMel()(sound.bfloat16().float()).values)


# ---- sounds as they come ----

@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=4), st.integers(0, 2000))
def test_padding_never_matters_to_the_mel(lengths, more):
    mel = LogMel(10, convention="librosa")
    sounds = [noise(n, seed=i) for i, n in enumerate(lengths)]
    waves, mask = pad_sounds(sounds, max(lengths) + more or 1)
    values, real = mel(waves.masked_fill(~mask, float("nan")), mask)
    for i, sound in enumerate(sounds):
        assert real[i].sum() == (len(sound) // 160 + 1 if len(sound) else 0)
        if len(sound):
            torch.testing.assert_close(values[i][real[i]], mel(sound[None]).values[0], atol=1e-6, rtol=1e-5)


def test_pad_sounds_takes_arrays_doubles_and_nothing():
    waves, mask = pad_sounds([np.ones(3), torch.ones(2, dtype=torch.float64), torch.zeros(0)])
    assert waves.dtype == torch.float32 and waves.tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert mask.sum(1).tolist() == [3, 2, 0]
    waves, mask = pad_sounds([torch.zeros(0)])
    assert waves.shape == (1, 1) and not mask.any()


def test_clipped_and_slightly_too_loud_sounds_pass_unchanged():
    sound = torch.tensor([1.0, 1.0, -1.0, 1.2])
    assert torch.equal(pad_sounds([sound])[0][0], sound)


@pytest.mark.bad_input
@pytest.mark.parametrize("sound, says", [
    (torch.zeros(2, 100), r"sound 1: shape \(2, 100\).*sound\.mean\(0\)"),
    (torch.zeros(100, dtype=torch.int16), "sound 1: dtype torch.int16.*32768"),
    (torch.full((10,), 9000.0), "sound 1: values up to 9000.*32768"),
    (torch.tensor([0, 0, float("nan"), 1]), "sound 1: sample 2 is not finite"),
    (torch.tensor([float("-inf")]), "sound 1: sample 0 is not finite"),
    (torch.zeros(201), "sound 1: 201 samples, expected at most 200; cut it"),
])
def test_wrong_sounds_are_named(sound, says):
    with pytest.raises(ValueError, match=says):
        pad_sounds([torch.zeros(5), sound], 200)


@pytest.mark.bad_input
def test_no_sounds():
    with pytest.raises(ValueError, match="no sounds given, expected at least one"):
        pad_sounds([])


@pytest.mark.bad_input
def test_wrong_waves_and_masks():
    mel = LogMel()
    with pytest.raises(ValueError, match=r"waves \(1000,\).*sound\[None\]"):
        mel(torch.zeros(1000))
    with pytest.raises(ValueError, match=r"waves \(1, 1000\) with a torch.bool mask \(1, 999\)"):
        mel(torch.zeros(1, 1000), torch.ones(1, 999, dtype=torch.bool))
    with pytest.raises(ValueError, match="padding in front of real samples; pad behind"):
        mel(torch.zeros(1, 1000), torch.arange(1000)[None] > 3)
    with pytest.raises(ValueError, match="200 samples have no mirror image.*pad the sounds"):
        mel(torch.zeros(1, 200))
    with pytest.raises(ValueError, match="unknown convention 'kaldi', expected 'whisper' or 'librosa'"):
        LogMel(convention="kaldi")
    with pytest.raises(ValueError, match="LogMel: a hop of 0 samples"):
        LogMel(hop=0)
    with pytest.raises(ValueError, match="mel_filters: 0 bands, n_fft 400, 16000 Hz, expected 1 or more"):
        mel_filters(0)
    with pytest.raises(ValueError, match=r"band_groups: 0 groups of filters \(8, 33\)"):
        band_groups(mel_filters(8, 64), 0)
    with pytest.raises(ValueError, match="ways to make 10 groups of 80 bands, expected a million at most"):
        band_groups(mel_filters(80), 10)


def test_resample_keeps_what_fits_and_removes_the_rest():
    t = torch.arange(48_000, dtype=torch.float64) / 48_000
    low, high = (torch.sin(2 * torch.pi * f * t) for f in (1_000, 10_000))
    expected = torch.sin(2 * torch.pi * 1_000 * t[:16_000] * 3)
    middle = slice(1000, 15_000)
    torch.testing.assert_close(resample(low + high, 48_000)[middle], expected[middle], atol=1e-4, rtol=0)


@pytest.mark.bad_input
@pytest.mark.parametrize("sound, says", [
    (torch.zeros(2, 100), r"resample: shape \(2, 100\).*sound\.mean\(0\)"),
    (torch.zeros(100, dtype=torch.int16), "resample: dtype torch.int16.*32768"),
    (torch.tensor([0, float("nan")]), "resample: sample 1 is not finite"),
    (torch.zeros(100).half(), "resample: dtype torch.float16, expected torch.float32 or torch.float64"),
])
def test_resample_refuses(sound, says):
    with pytest.raises(ValueError, match=says):
        resample(sound, 8000)


@pytest.mark.bad_input
@pytest.mark.parametrize("rates", [(0, 16_000), (16_000, -1)])
def test_resample_refuses_rates_that_are_none(rates):
    with pytest.raises(ValueError, match=f"resample: from {rates[0]} Hz to {rates[1]} Hz, expected positive rates"):
        resample(torch.zeros(10), *rates)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3000), st.sampled_from([4000, 8000, 11_025, 16_000, 44_100, 48_000]), st.booleans())
def test_resampling_keeps_the_length_in_seconds_and_the_dtype(samples, rate, double):
    sound = noise(samples).to(torch.float64 if double else torch.float32)
    again = resample(sound, rate)
    assert again.dtype == sound.dtype and again.isfinite().all() and not again.requires_grad
    assert abs(len(again) - samples * 16_000 / rate) <= 1
    if rate == 16_000:
        assert torch.equal(again, sound) and again.data_ptr() != sound.data_ptr() or not samples


def test_resample_is_soxrs():
    import soxr
    sound = noise(4000)
    assert np.array_equal(resample(sound, 8000).numpy(), soxr.resample(sound.numpy(), 8000, RATE))
    wrong = sound.clone().requires_grad_()
    assert torch.equal(resample(wrong, 8000), resample(sound, 8000)), "the gradient is cut, the sound stays"


# ---- strange sounds ----

strange = st.one_of(
    st.builds(lambda n: torch.zeros(n), st.integers(0, 1500)),                                       # empty, silent
    st.builds(lambda n, s, g: noise(n, s, g).clamp(-1, 1), st.integers(1, 1500), st.integers(0, 99),  # faint to clipped
              st.sampled_from([1e-30, 1e-6, 1e-3, 0.1, 1.0, 30.0])),
    st.builds(lambda n: torch.ones(n), st.integers(1, 1500)),                                        # a constant
    st.builds(lambda n, at: torch.eye(n)[at % n], st.integers(1, 1500), st.integers(0, 1499)))       # a click


@settings(max_examples=25, deadline=None)
@given(st.lists(strange, min_size=1, max_size=4), st.sampled_from(["whisper", "librosa"]))
def test_frames_and_gradients_are_finite_and_a_batch_is_its_sounds_one_by_one(sounds, convention):
    mel = LogMel(20, convention=convention)
    width = max(400, *map(len, sounds))
    waves, mask = pad_sounds(sounds, width)
    waves.requires_grad_()
    values, real = mel(waves, mask)
    assert values.isfinite().all()
    values.sum().backward()
    assert waves.grad.isfinite().all() and not waves.grad[~mask].any()
    with torch.no_grad():
        for i, sound in enumerate(sounds):
            alone, there = mel(*pad_sounds([sound], width))
            torch.testing.assert_close(values[i], alone[0], atol=1e-5, rtol=1e-5)
            assert torch.equal(real[i], there[0])
            hop = len(sound) // 160 + (len(sound) > 0) if convention == "librosa" else -(-len(sound) // 160)
            assert there.sum() == min(hop, values.shape[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 300), st.sampled_from([float("nan"), float("inf"), float("-inf")]), st.data())
def test_a_sample_that_is_not_finite_is_found_wherever_it_stands(samples, value, data):
    sound = noise(samples + 1)
    at = data.draw(st.integers(0, samples))
    sound[at] = value
    for use in (lambda: pad_sounds([sound]), lambda: resample(sound, 8000), lambda: Player({"it": sound})):
        with pytest.raises(ValueError, match=f"sample {at} is not finite; repair the recording or leave it out"):
            use()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(2, 300), st.booleans())
def test_stereo_is_refused_and_its_mean_is_not(channels, samples, swapped):
    stereo = noise(channels * samples).view(channels, samples)
    stereo = stereo.T if swapped else stereo
    with pytest.raises(ValueError, match=r"sound 0: shape \(\d+, \d+\), expected \(samples,\); make stereo mono"):
        pad_sounds([stereo])
    assert pad_sounds([stereo.mean(0)])[1].all()


@both
def test_blocks_are_not_seen(convention, monkeypatch):
    mel, waves = LogMel(20, convention=convention), noise(3 * 5_000).view(3, 5_000)
    mask = torch.arange(5_000) < torch.tensor([[5_000], [1_234], [0]])
    whole = mel(waves, mask)
    for block in (1, 7, 40, 10_000):
        monkeypatch.setattr(listening, "BLOCK", block)
        parts = mel(waves, mask)
        torch.testing.assert_close(parts.values, whole.values, atol=1e-6, rtol=1e-5)
        assert torch.equal(parts.mask, whole.mask)


@both
def test_no_mask_is_a_mask_of_ones(convention):
    mel, waves = LogMel(20, convention=convention), noise(2_000).view(2, 1_000)
    a, b = mel(waves), mel(waves, torch.ones(2, 1_000, dtype=torch.bool))
    assert torch.equal(a.values, b.values) and torch.equal(a.mask, b.mask) and a.mask.all()


def test_silence_is_minus_one_and_a_half_and_a_quiet_sound_is_a_shifted_one():
    mel = LogMel(20)
    assert torch.equal(mel(torch.zeros(1, 1000)).values, torch.full((1, 6, 20), -1.5))
    loud, quiet = mel(noise(1000)[None]).values, mel(0.01 * noise(1000)[None]).values
    torch.testing.assert_close(loud - quiet, torch.ones_like(loud), atol=1e-5, rtol=0)


def test_librosas_decibels_are_whispers_numbers_away_from_the_ends():
    import librosa
    sound = noise(8_000)
    power = librosa.feature.melspectrogram(y=sound.numpy(), sr=RATE, n_fft=400, hop_length=160, n_mels=40).T
    ours = torch.from_numpy(librosa.power_to_db(power, top_db=80) / 10 + 4) / 4
    torch.testing.assert_close(LogMel(40)(sound[None]).values[0, 2:-2], ours[2:-3], atol=1e-5, rtol=0)


@pytest.mark.bad_input
def test_nothing_at_all():
    for shape in ((0, 1000), (1, 0)):
        with pytest.raises(ValueError, match=r"waves \(\d+, \d+\) hold nothing, expected a sound and a sample"):
            LogMel()(torch.zeros(shape))


def test_a_clipped_tone_has_odd_overtones_only():
    tone = torch.sin(2 * math.pi * 500 * torch.arange(RATE, dtype=torch.float64) / RATE)
    strength = torch.fft.rfft(tone.clamp(-1 / 3, 1 / 3)).abs()
    strength = strength[500:4000:500] / strength[500]
    assert (strength[1::2] < 1e-9).all() and (strength[::2] > 0.03).all()


@pytest.mark.parametrize("rate, tone", [(8000, 5000), (8000, 7000), (4000, 2500), (10_000, 6200)])
def test_dropping_samples_folds_a_tone_and_resampling_removes_it(rate, tone):
    step = 40_000 // rate
    sound = torch.sin(2 * math.pi * tone * torch.arange(40_000, dtype=torch.float64) / 40_000)
    dropped, right = sound[::step], resample(sound, 40_000, rate)
    assert torch.fft.rfft(dropped).abs().argmax() == abs(tone - rate * round(tone / rate))
    assert right[rate // 8:-rate // 8].abs().max() < 1e-3


# ---- the player ----

def test_player_writes_what_wave_reads():
    sound = torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0, 1.7])
    player = Player({"a < b": sound}, 8000)
    with wave.open(io.BytesIO(player.wav("a < b"))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        heard = np.frombuffer(file.readframes(99), "<i2")
    assert heard.tolist() == [0, 16384, -16384, 32767, -32767, 32767]
    shown = player._repr_html_()
    assert shown.count("<audio controls") == 1 and 'aria-label="a &lt; b"' in shown and "a < b" not in shown
    assert repr(player) == "[sound: a < b, 0.00 s]"


@pytest.mark.bad_input
def test_player_names_the_wrong_sound():
    with pytest.raises(ValueError, match="Player: 0 Hz"):
        Player({}, 0)
    with pytest.raises(ValueError, match=r"Player: no sound 'two', expected one of \['one'\]"):
        Player({"one": torch.zeros(5)}).wav("two")
    with pytest.raises(ValueError, match=r"Player: two: shape \(2, 5\)"):
        Player({"one": torch.zeros(5), "two": torch.zeros(2, 5)})


# ---- the product without the zeros ----

@settings(max_examples=25, deadline=None)
@given(st.integers(1, 128), st.sampled_from([64, 400, 512]), st.integers(1, 4))
def test_groups_of_bands_give_the_whole_product_and_cost_no_more(bands, n_fft, groups):
    filters, bins = mel_filters(bands, n_fft), n_fft // 2 + 1
    parts = band_groups(filters, groups)
    assert [i for b, _ in parts for i in range(bands)[b]] == list(range(bands)) and len(parts) == min(groups, bands)
    power = torch.rand(5, bins)
    product = torch.cat([power[:, heard] @ filters[b, heard].T for b, heard in parts], 1)
    torch.testing.assert_close(product, power @ filters.T, atol=1e-6, rtol=1e-5)
    cost = lambda parts: sum((b.stop - b.start) * max(heard.stop - heard.start, 0) for b, heard in parts)
    assert cost(parts) <= cost(band_groups(filters, 1)) <= bands * bins


def test_three_groups_save_two_thirds_of_the_products_and_no_three_save_more():
    heard = mel_filters(80) > 0
    cost = lambda i, j: (j - i) * (int(heard[i:j].any(0).nonzero()[-1]) + 1 - int(heard[i:j].any(0).nonzero()[0]))
    table = {(i, j): cost(i, j) for i in range(80) for j in range(i + 1, 81)}
    best = min(table[0, a] + table[a, b] + table[b, 80] for a in range(1, 79) for b in range(a + 1, 80))
    found = sum(table[b.start, b.stop] for b, _ in band_groups(mel_filters(80)))
    assert found == best < 80 * 201 / 3
