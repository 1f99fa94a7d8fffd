"""Audio encoders against transformers and Resemblyzer's formula; stored frames give the same; padding never matters."""
import json

import numpy as np
import pytest
import torch
from pretrained import hub
from torch import nn

from mmtutor import audio, listening
from mmtutor.audio import AudioTransformer, RecurrentEncoder, pad_sounds, raise_quiet, speaker_weights
from mmtutor.course.weights import read_tensors
from mmtutor.listening import LogMel
from mmtutor.transformer import Tokens

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
@pytest.mark.parametrize("stride, cell", [(1, "lstm"), (3, "gru"), (8, "lstm"), (500, "gru")])
def test_tokens_are_means_of_states(stride, cell):
    encoder = RecurrentEncoder(16, 1, 10, stride=stride, cell=cell).eval()
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


@torch.no_grad()
def test_a_gru_reads_the_same_frames_has_three_gates_and_ignores_padding():
    torch.manual_seed(0)
    encoder, reference = RecurrentEncoder(12, 2, 10, cell="gru").eval(), nn.GRU(10, 12, 2, batch_first=True)
    reference.load_state_dict(encoder.lstm.state_dict())
    waves, mask = encoder.prepare([noise(4_000), noise(1_500)])
    expected = reference(encoder.frames(waves, mask).values)[0]
    assert torch.equal(encoder.states(waves, mask).values, expected)
    assert torch.equal(encoder(waves, mask).values, encoder(waves.masked_fill(~mask, float("nan")), mask).values)
    numbers = [sum(p.numel() for p in RecurrentEncoder(12, 2, 10, cell=c).parameters()) for c in ("gru", "lstm")]
    assert numbers[0] * 4 == numbers[1] * 3


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_reach_every_weight_and_the_sound_and_stay_out_of_padding(cell):
    encoder = RecurrentEncoder(8, 2, 10, cell=cell)
    waves, mask = encoder.prepare([noise(3_000), torch.zeros(2_000), torch.zeros(0)])
    waves.requires_grad_()
    encoder(waves, mask).values.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in encoder.parameters())
    assert waves.grad.isfinite().all() and waves.grad[0].any() and not waves.grad[~mask].any()


@pytest.mark.bad_input
def test_unknown_cell():
    with pytest.raises(ValueError, match="RecurrentEncoder: unknown cell 'rnn', expected 'lstm' or 'gru'"):
        RecurrentEncoder(16, 1, 10, cell="rnn")


@pytest.mark.bad_input
def test_sizes_and_frames_that_cannot_be():
    with pytest.raises(ValueError, match="RecurrentEncoder: dim 16, depth 0, stride 8"):
        RecurrentEncoder(16, 0)
    with pytest.raises(ValueError, match="sinusoids: 3 tokens of width 2, expected .* even width from 4 on"):
        audio.sinusoids(3, 2)
    waves, mask = torch.zeros(2, 5), torch.ones(1, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"raise_quiet: waves \(2, 5\), a torch.bool mask \(1, 5\)"):
        raise_quiet(waves, mask)
    for encoder in (RecurrentEncoder(16, 1, 10), AudioTransformer(16, 2, 1, bands=10, tokens=20)):
        with pytest.raises(ValueError, match=r"frames \(2, 5, 9\) and a torch.bool mask \(1, 5\)"):
            encoder.encode(Tokens(torch.zeros(2, 5, 9), mask))


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
    with pytest.raises(ValueError, match="AudioTransformer cannot hold this model: model_type is 'bert', expected 'wh"):
        AudioTransformer.from_pretrained(tmp_path)
    hub(monkeypatch, None)
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


@pytest.mark.bad_input
@pytest.mark.parametrize("content, message", [
    ('{"model_type": ', "config.json of .* is cut off or damaged"), ("[]", "config.json of .* holds a list, expected"),
    ('{"model_type": "whisper", "d_model": 8}', "config.json of .* does not say encoder_attention_heads, encoder_laye"),
    ("{}", "config.json of .* does not say model_type, d_model")])
def test_settings_that_say_too_little(whisper, tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes((whisper[1] / "model" / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"from_pretrained: {message}"):
        AudioTransformer.from_pretrained(tmp_path)


@pytest.mark.bad_input
def test_settings_without_weights(whisper, tmp_path):
    (tmp_path / "config.json").write_bytes((whisper[1] / "model" / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors \(pickled weights are not opened\)"):
        AudioTransformer.from_pretrained(tmp_path)


def test_hub_name_is_asked_for_safetensors_only(whisper, monkeypatch):
    asked = hub(monkeypatch, whisper[1] / "model")
    assert AudioTransformer.from_pretrained("openai/whisper-none").dim == 32
    assert asked["name"] == "openai/whisper-none"
    assert all(p.endswith((".json", ".safetensors")) for p in asked["allow_patterns"])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
def test_stored_frames_give_the_same_bit_for_bit(kind, tmp_path):
    torch.manual_seed(0)
    encoder = RecurrentEncoder(16, 2, 10) if kind == "recurrent" else AudioTransformer(16, 2, 2, bands=10, tokens=50)
    encoder.eval()
    waves, mask = encoder.prepare([noise(16_000), noise(5_000), torch.zeros(2_000), torch.zeros(0)])
    frames = encoder.frames(waves, mask) if kind == "recurrent" else encoder.mel(waves, mask)
    torch.save(tuple(frames), tmp_path / "frames.pt")
    direct, stored = encoder(waves, mask), encoder.encode(Tokens(*torch.load(tmp_path / "frames.pt")))
    assert torch.equal(direct.values, stored.values) and torch.equal(direct.mask, stored.mask)
    assert direct.mask.sum(1).tolist() == ([13, 4, 2, 0] if kind == "recurrent" else [50, 16, 7, 0])


@torch.no_grad()
def test_frames_are_the_mel_powers_of_the_raised_sound_and_states_follow_from_them():
    encoder = RecurrentEncoder(16, 2, 10, loudness=-20.0).eval()
    waves, mask = encoder.prepare([noise(3_000, loudness=1e-3), noise(1_000)])
    frames = encoder.frames(waves, mask)
    expected = LogMel(10, convention="librosa")(raise_quiet(waves, mask, -20.0), mask)
    assert torch.equal(frames.values, expected.values) and torch.equal(frames.mask, expected.mask)
    assert frames.mask.sum(1).tolist() == [19, 7]
    assert torch.equal(encoder.states(waves, mask).values, encoder.lstm(frames.values)[0])


@torch.no_grad()
def test_what_padded_frames_hold_never_matters_to_the_states():
    encoder = RecurrentEncoder(16, 2, 10).eval()
    frames = Tokens(torch.randn(2, 40, 10), torch.arange(40) < torch.tensor([[40], [20]]))
    changed = Tokens(frames.values.masked_fill(~frames.mask[..., None], 7.0), frames.mask)
    a, b = encoder.encode(frames), encoder.encode(changed)
    assert torch.equal(a.mask, b.mask) and torch.equal(a.values, b.values)


@torch.no_grad()
def test_fewer_frames_than_the_model_was_built_for_take_the_first_positions():
    torch.manual_seed(0)
    encoder = AudioTransformer(16, 2, 2, bands=10, tokens=50).eval()
    frames = torch.randn(2, 30, 10)
    short = encoder.encode(Tokens(frames, torch.ones(2, 30, dtype=torch.bool)))
    padded = encoder.encode(Tokens(nn.functional.pad(frames, (0, 0, 0, 70)), torch.arange(100).expand(2, -1) < 30))
    torch.testing.assert_close(short.values, padded.values[:, :15], atol=1e-6, rtol=0)
    assert padded.mask.sum(1).tolist() == [15, 15]


@pytest.mark.bad_input
def test_too_many_frames():
    encoder = AudioTransformer(16, 2, 1, bands=10, tokens=20)
    with pytest.raises(ValueError, match="41 frames, expected at most 40"):
        encoder.encode(Tokens(torch.zeros(1, 41, 10), torch.ones(1, 41, dtype=torch.bool)))


def test_gradients_reach_stored_frames_and_every_weight():
    encoder = RecurrentEncoder(8, 2, 10)
    frames = Tokens(torch.rand(2, 30, 10, requires_grad=True), torch.arange(30) < torch.tensor([[30], [11]]))
    encoder.encode(frames).values.square().sum().backward()
    assert frames.values.grad.isfinite().all() and not frames.values.grad[1, 11:].any()
    assert all(p.grad.any() for p in encoder.lstm.parameters())


@torch.no_grad()
def test_resampled_clipped_and_quiet_sounds_are_encoded(speaker):
    "The loudness is lost on purpose; what clipping and a telephone leave is near the clean sound, a wrong rate is not."
    t = torch.arange(RATE) / RATE
    sound = 0.3 * sum(torch.sin(2 * torch.pi * 150 * k * t) / k for k in range(1, 20))
    eight = listening.resample(sound, RATE, 8000)
    kinds = {"quiet": sound * 0.001, "clipped": sound.clamp(-0.3, 0.3), "telephone": listening.resample(eight, 8000),
             "wrong rate": eight}
    level = lambda x: 0.01 * x / x.square().mean().sqrt()
    clean = speaker(*speaker.prepare([level(sound)])).values[0]
    alike = {}
    for name, other in kinds.items():
        tokens = speaker(*speaker.prepare([level(other)])).values[0]
        assert tokens.isfinite().all()
        alike[name] = nn.functional.cosine_similarity(tokens[1:-1], clean[1:len(tokens) - 1], dim=1).mean()
    assert alike["quiet"] > 0.999 and alike["wrong rate"] < min(alike["clipped"], alike["telephone"])


def test_names_of_the_front_end_can_still_be_imported_from_here():
    for name in ("LogMel", "hertz_to_mel", "mel_filters", "mel_to_hertz", "pad_sounds", "resample"):
        assert getattr(audio, name) is getattr(listening, name)
