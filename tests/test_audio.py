"""Log-mel and audio encoders against librosa, transformers and Resemblyzer's formula; padding never matters."""
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmtutor import audio
from mmtutor.audio import (
    AudioTransformer,
    LogMel,
    RecurrentEncoder,
    hertz_to_mel,
    mel_filters,
    mel_to_hertz,
    pad_sounds,
    raise_quiet,
    resample,
    speaker_weights,
)
from mmtutor.course.weights import read_tensors

RATE = 16_000


def noise(samples: int, seed: int = 0, loudness: float = 0.1) -> torch.Tensor:
    return loudness * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def speaker() -> RecurrentEncoder:
    return RecurrentEncoder.from_pretrained("speaker-lstm")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    "A small Whisper with random weights, saved by transformers, and its folder."
    from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperModel
    torch.manual_seed(0)
    config = WhisperConfig(vocab_size=20, d_model=32, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=48,
                           decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, max_source_positions=50,
                           num_mel_bins=20, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    folder = tmp_path_factory.mktemp("whisper")
    model = WhisperModel(config).eval()
    for parameter in model.parameters():  # random biases and norms too, so that none can be mixed up
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder / "model")
    whole = WhisperForConditionalGeneration(config)
    whole.model.load_state_dict(model.state_dict())
    whole.save_pretrained(folder / "whole")
    return model.encoder, folder


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


def test_resample_keeps_what_fits_and_removes_the_rest():
    t = torch.arange(48_000, dtype=torch.float64) / 48_000
    low, high = (torch.sin(2 * torch.pi * f * t) for f in (1_000, 10_000))
    expected = torch.sin(2 * torch.pi * 1_000 * t[:16_000] * 3)
    middle = slice(1000, 15_000)
    torch.testing.assert_close(resample(low + high, 48_000)[middle], expected[middle], atol=1e-4, rtol=0)


# ---- the recurrent encoder ----

def by_resemblyzers_recipe(sounds: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    "States and voice prints as Resemblyzer computes them (audio.py and voice_encoder.py of 0.1.4, no pauses cut out)."
    import librosa
    tensors = read_tensors(speaker_weights(), inside="model_state")
    lstm, linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)
    lstm.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("lstm.")})
    linear.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("linear.")})
    states, prints = [], []
    for sound in sounds:
        wave = sound.numpy()
        change = -30 - 20 * np.log10(np.sqrt(np.mean((wave * 32767) ** 2)) / 32767)
        wave = wave * 10 ** (max(change, 0) / 20)
        mel = librosa.feature.melspectrogram(y=wave, sr=RATE, n_fft=400, hop_length=160, n_mels=40).astype(np.float32).T
        with torch.no_grad():
            all_states, (hidden, _) = lstm(torch.from_numpy(mel)[None])
            raw = torch.relu(linear(hidden[-1]))
        states.append(all_states[0]); prints.append(raw[0] / raw.norm())
    return states, torch.stack(prints)


@torch.no_grad()
def test_equal_to_resemblyzers_recipe(speaker):
    sounds = [noise(16_000), noise(9_999, loudness=0.001), noise(4_000, loudness=1)]  # the second is amplified
    theirs, prints = by_resemblyzers_recipe(sounds)
    ours, mask = speaker.states(*speaker.prepare(sounds))
    tensors = read_tensors(speaker_weights(), inside="model_state")
    for i, expected in enumerate(theirs):
        torch.testing.assert_close(ours[i][mask[i]], expected, atol=1e-5, rtol=0)
        raw = torch.relu(ours[i][mask[i]][-1] @ tensors["linear.weight"].T + tensors["linear.bias"])
        torch.testing.assert_close(raw / raw.norm(), prints[i], atol=1e-5, rtol=0)


def test_report_says_what_was_left_out(speaker):
    assert speaker.report.matched == 12 and speaker.report.parameters == sum(p.numel() for p in speaker.parameters())
    assert speaker.report.ignored == ("linear.bias", "linear.weight", "similarity_bias", "similarity_weight")
    assert not speaker.training


@torch.no_grad()
def test_a_batch_equals_its_sounds_and_padding_never_matters(speaker):
    sounds = [noise(n, seed=n) for n in (16_000, 7_777, 1, 1_280, 1_279)]
    waves, mask = speaker.prepare(sounds)
    tokens = speaker(waves, mask)
    for i, sound in enumerate(sounds):
        alone = speaker(*speaker.prepare([sound]))
        assert alone.mask.all()
        torch.testing.assert_close(tokens.values[i][tokens.mask[i]], alone.values[0], atol=1e-5, rtol=0)
    again = speaker(waves.masked_fill(~mask, float("nan")), mask)
    assert torch.equal(again.values, tokens.values) and torch.equal(again.mask, tokens.mask)
    assert not tokens.values[~tokens.mask].any()


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 3, 8, 500])
def test_tokens_are_means_of_states(stride):
    encoder = RecurrentEncoder(16, 1, 10, stride=stride).eval()
    batch = encoder.prepare([noise(5_000), noise(3_210)])
    states, real = encoder.states(*batch)
    values, mask = encoder(*batch)
    for i in range(2):
        expected = torch.stack([part.mean(0) for part in states[i][real[i]].split(stride)])
        torch.testing.assert_close(values[i][mask[i]], expected)


@torch.no_grad()
def test_about_twelve_tokens_a_second(speaker):
    assert speaker(*speaker.prepare([noise(10 * RATE)])).mask.sum() == 126


@torch.no_grad()
def test_empty_sounds_have_no_token_and_silence_has_finite_ones(speaker):
    values, mask = speaker(*speaker.prepare([torch.zeros(0), torch.zeros(8_000), noise(8_000)]))
    assert mask.sum(1).tolist() == [0, 7, 7] and values.isfinite().all()
    values, mask = speaker(*speaker.prepare([torch.zeros(0)]))
    assert not mask.any() and not values.any()


def test_quiet_sounds_are_raised_and_loud_ones_are_not():
    waves, mask = pad_sounds([noise(1000, loudness=1e-4), noise(500, loudness=0.5), torch.zeros(800)])
    raised = raise_quiet(waves, mask)
    assert 20 * raised[0].square().mean().sqrt().log10() == pytest.approx(-30, abs=1e-3)
    assert torch.equal(raised[1], waves[1]) and not raised[2].any()
    waves.requires_grad_()
    raise_quiet(waves, mask).sum().backward()
    assert torch.equal(waves.grad[2], mask[2].float()), "silence is not amplified, and neither is its gradient"
    half = raise_quiet(*pad_sounds([noise(1000, loudness=1e-4), torch.zeros(4000)]))[0, :1000]
    torch.testing.assert_close(half, raised[0])


def test_gradients_reach_every_weight_and_the_sound_and_stay_out_of_padding():
    encoder = RecurrentEncoder(8, 2, 10)
    waves, mask = encoder.prepare([noise(3_000), torch.zeros(2_000), torch.zeros(0)])
    waves.requires_grad_()
    encoder(waves, mask).values.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in encoder.parameters())
    assert waves.grad.isfinite().all() and waves.grad[0].any() and not waves.grad[~mask].any()


@pytest.mark.bad_input
def test_unknown_pretrained_name():
    with pytest.raises(ValueError, match="unknown name 'wav2vec', expected 'speaker-lstm'"):
        RecurrentEncoder.from_pretrained("wav2vec")


# ---- the Transformer ----

@torch.no_grad()
@pytest.mark.parametrize("saved", ["model", "whole"])
def test_equal_to_whispers_encoder_layer_by_layer(whisper, saved):
    from transformers import WhisperFeatureExtractor
    reference, folder = whisper
    ours = AudioTransformer.from_pretrained(folder / saved)
    sounds = [noise(n, seed=n) for n in (16_000, 9_000, 321)]
    features = WhisperFeatureExtractor(feature_size=20, chunk_length=1)(
        [s.numpy() for s in sounds], sampling_rate=RATE, return_tensors="pt").input_features
    expected = reference(features, output_hidden_states=True)
    inputs = []
    for layer in ours.encoder.layers:
        layer.register_forward_pre_hook(lambda layer, args: inputs.append(args[0]))
    values, mask = ours(*ours.prepare(sounds))
    assert len(inputs) == 3
    for got, wanted in zip([*inputs, values], expected.hidden_states):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(values, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert mask.sum(1).tolist() == [50, 29, 2] and not ours.training and ours.dim == 32
    assert all(name.startswith(("decoder.", "model.decoder.", "proj_out")) for name in ours.report.ignored)


@torch.no_grad()
@pytest.mark.parametrize("attend_padding", [False, True])
def test_what_lies_behind_a_sound_never_matters(attend_padding):
    encoder = AudioTransformer(32, 4, 2, bands=20, tokens=50, attend_padding=attend_padding).eval()
    waves, mask = encoder.prepare([noise(16_000), noise(5_000), torch.zeros(3_000), torch.zeros(0)])
    values, real = encoder(waves, mask)
    again = encoder(waves.masked_fill(~mask, float("nan")), mask)
    assert torch.equal(values, again.values) and torch.equal(real, again.mask)
    assert values.isfinite().all() and real.sum(1).tolist() == [50, 16, 10, 0]


@torch.no_grad()
def test_the_length_of_the_padding_matters_to_whisper_only():
    for attend_padding in (False, True):
        torch.manual_seed(0)
        short = AudioTransformer(32, 4, 2, bands=20, tokens=30, attend_padding=attend_padding).eval()
        long = AudioTransformer(32, 4, 2, bands=20, tokens=60, attend_padding=attend_padding).eval()
        long.load_state_dict({k: v for k, v in short.state_dict().items() if k != "positions"}, strict=False)
        a, b = (net(*net.prepare([noise(5_000)])) for net in (short, long))
        same = torch.allclose(a.values[a.mask], b.values[b.mask], atol=1e-5)
        assert same != attend_padding


def test_every_weight_of_the_transformer_learns():
    encoder = AudioTransformer(16, 2, 2, bands=10, tokens=20)
    values = encoder(*encoder.prepare([noise(3_000), noise(1_000)])).values
    (values * torch.randn_like(values)).sum().backward()
    keys = [n for n, p in encoder.named_parameters() if not (p.grad.isfinite().all() and p.grad.abs().max() > 1e-4)]
    assert all(n.endswith("attention.key.bias") for n in keys), keys  # the softmax does not see a key's bias


@pytest.mark.bad_input
def test_wrong_use_of_the_transformer(tmp_path, monkeypatch):
    encoder = AudioTransformer(16, 2, 1, bands=10, tokens=20)
    with pytest.raises(ValueError, match="7000 samples, expected at most 6400; cut it into pieces"):
        encoder.prepare([noise(7_000)])
    with pytest.raises(ValueError, match=r"100 samples, expected 6400; use prepare\(\)"):
        encoder(torch.zeros(1, 100), torch.ones(1, 100, dtype=torch.bool))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="type 'bert' in 0 safetensors files, expected type 'whisper'"):
        AudioTransformer.from_pretrained(tmp_path)

    def unreachable(*args, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match=r"'nobody/nothing' is no folder.* not give it \(ConnectionError\)"):
        AudioTransformer.from_pretrained("nobody/nothing")


@pytest.mark.bad_input
def test_a_checkpoint_with_a_tensor_missing_is_refused(whisper, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file
    shutil.copytree(whisper[1] / "model", tmp_path / "cut")
    tensors = load_file(tmp_path / "cut" / "model.safetensors")
    name = "encoder.layers.1.fc1.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, tmp_path / "cut" / "model.safetensors")
    with pytest.raises(ValueError, match="1 missing .encoder.layers.1.feed_forward.up.weight"):
        AudioTransformer.from_pretrained(tmp_path / "cut")


def test_hub_name_is_asked_for_safetensors_only(whisper, monkeypatch):
    asked = {}

    def download(name, allow_patterns):
        asked.update(name=name, patterns=allow_patterns)
        return str(whisper[1] / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert AudioTransformer.from_pretrained("openai/whisper-none").dim == 32
    assert asked["name"] == "openai/whisper-none"
    assert all(p.endswith((".json", ".safetensors")) for p in asked["patterns"])


def test_public_names():
    assert {"LogMel", "RecurrentEncoder", "AudioTransformer", "pad_sounds", "resample"} <= set(audio.__all__)
