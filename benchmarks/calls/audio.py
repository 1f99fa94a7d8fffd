"""One good call of each public function of chapter 8: listening, and the encoders of sound."""
import torch
from fuzzed import good

from mmtutor.audio import AudioTransformer, RecurrentEncoder, raise_quiet, sinusoids, speaker_weights
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
from mmtutor.transformer import Tokens


def _sounds(samples: int = 400) -> dict:
    return dict(waves=torch.randn(2, samples) * 0.1, mask=torch.arange(samples) < torch.tensor([[samples], [300]]))


# --- listening ---

@good("listening.Player")
def _():
    def used(**given):
        player = Player(**given)
        return repr(player), player._repr_html_(), [player.wav(name) for name in player.sounds]
    return used, dict(sounds={"a": torch.rand(20) - 0.5, "b": torch.zeros(5)}, rate=16_000)


@good("listening.Player wav")
def _():
    return Player({"a": torch.rand(20) - 0.5}).wav, dict(name="a")


@good("listening.resample")
def _():
    return resample, dict(sound=torch.randn(100) * 0.1, rate=8000, to=16_000)


@good("listening.hertz_to_mel")
def _():
    return hertz_to_mel, dict(hertz=torch.tensor([0.0, 300.0, 1000.0, 8000.0]))


@good("listening.mel_to_hertz")
def _():
    return mel_to_hertz, dict(mel=torch.tensor([0.0, 4.5, 15.0, 45.0]))


@good("listening.mel_filters")
def _():
    return mel_filters, dict(bands=8, n_fft=64, rate=16_000)


@good("listening.band_groups")
def _():
    return band_groups, dict(filters=mel_filters(8, 64), groups=3)


@good("listening.LogMel")
def _():
    return lambda **given: LogMel(**given)(torch.randn(2, 400) * 0.1), dict(
        bands=8, rate=16_000, n_fft=64, hop=16, convention="whisper")


@good("listening.LogMel forward", swallows=("waves",))  # behind the mask
def _():
    return LogMel(8, n_fft=64, hop=16), _sounds()


@good("listening.LogMel powers")
def _():
    return LogMel(8, n_fft=64, hop=16, convention="librosa"), dict(waves=torch.randn(2, 400) * 0.1)


@good("listening.pad_sounds")
def _():
    return pad_sounds, dict(sounds=[torch.rand(5), torch.zeros(3).numpy()], samples=8)


@good("listening.pad_sounds to the longest")
def _():
    return pad_sounds, dict(sounds=[torch.rand(5), torch.zeros(3)])


# --- encoders ---

def _frames() -> dict:
    return dict(frames=Tokens(torch.rand(2, 5, 8), torch.arange(5) < torch.tensor([[5], [3]])))


@good("audio.raise_quiet", swallows=("waves",))  # behind the mask
def _():
    return raise_quiet, _sounds() | dict(level=-10.0)


@good("audio.speaker_weights")
def _():
    return speaker_weights, {}


@good("audio.RecurrentEncoder")
def _():
    return lambda **given: RecurrentEncoder(**given)(*_sounds().values()), dict(
        dim=4, depth=1, bands=8, stride=2, loudness=-10.0, cell="gru")


@good("audio.RecurrentEncoder forward", swallows=("waves",))
def _():
    return RecurrentEncoder(4, 1, 8, stride=2), _sounds()


@good("audio.RecurrentEncoder states", swallows=("waves",))
def _():
    return RecurrentEncoder(4, 1, 8).states, _sounds()


@good("audio.RecurrentEncoder encode", swallows=("frames",))
def _():
    return RecurrentEncoder(4, 1, 8, stride=2).encode, _frames()


@good("audio.RecurrentEncoder prepare")
def _():
    return RecurrentEncoder(4, 1, 8).prepare, dict(sounds=[torch.rand(5), torch.zeros(3).numpy()])


@good("audio.RecurrentEncoder pretrained")
def _():
    return lambda **given: RecurrentEncoder.from_pretrained(**given)(*_sounds().values()), dict(
        name="speaker-lstm", stride=2)


@good("audio.sinusoids")
def _():
    return sinusoids, dict(tokens=3, dim=8)


@good("audio.AudioTransformer")
def _():
    def used(**given):
        model = AudioTransformer(**given)
        return model(*model.prepare([torch.rand(300) * 0.1, torch.zeros(0)]))
    return used, dict(dim=8, heads=2, depth=1, hidden=8, bands=8, tokens=4, attend_padding=False, activation="relu",
                      dropout=0.1)


@good("audio.AudioTransformer forward", swallows=("waves",))
def _():
    return AudioTransformer(8, 2, 1, bands=8, tokens=4).eval(), _sounds(1280)


@good("audio.AudioTransformer encode", swallows=("frames",))
def _():
    return AudioTransformer(8, 2, 1, bands=8, tokens=4).eval().encode, _frames()
