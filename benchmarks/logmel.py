"""LogMel against librosa and transformers' WhisperFeatureExtractor on batches, as ratios theirs / ours.

One process, one thread, processor time, the two in turn. Each rival gets what it likes best: librosa one array for the
whole batch (and, a second time, sound by sound, as it is mostly used); the extractor its own padding and both of its
ways, torch and NumPy. LogMel is timed in the convention of its rival and must give the same numbers.
Writes results/bench-logmel.json. Run: python benchmarks/logmel.py
"""
import argparse
import statistics
import time
from functools import partial

import numpy as np
import torch

from mmtutor.course import records
from mmtutor.listening import LogMel, pad_sounds

RATE, BANDS = 16_000, 80
SIZES = {"32 sounds of 2 s": (32, 2), "8 sounds of 10 s": (8, 10), "16 sounds of 30 s": (16, 30)}


def rivals(count: int, seconds: int) -> dict[str, tuple]:
    "Name → (theirs, ours, tolerance); each a function without arguments that returns (batch, frames, bands)."
    import librosa
    from transformers import WhisperFeatureExtractor
    waves = 0.1 * torch.randn(count, seconds * RATE)
    array, sounds = waves.numpy(), list(waves.numpy())
    extractor = WhisperFeatureExtractor(feature_size=BANDS, chunk_length=seconds)
    plain, whisper = LogMel(BANDS, convention="librosa"), LogMel(BANDS)
    settings = {"sr": RATE, "n_fft": 400, "hop_length": 160, "n_mels": BANDS}
    mel = lambda y: np.swapaxes(librosa.feature.melspectrogram(y=y, **settings), -1, -2)
    ours = lambda: plain(waves).values

    def by_numpy():
        padded = np.stack([sound.astype(np.float32) for sound in sounds])
        return np.swapaxes(np.asarray(extractor._np_extract_fbank_features(padded, "cpu")), -1, -2)

    return {"librosa, one array": (lambda: mel(array), ours, 1e-5),
            "librosa, sound by sound": (lambda: np.stack([mel(sound) for sound in sounds]), ours, 1e-5),
            "transformers (torch)": (lambda: np.swapaxes(
                extractor(sounds, sampling_rate=RATE, return_tensors="np").input_features, -1, -2),
                lambda: whisper(*pad_sounds(sounds)).values, 1e-4),
            "transformers (NumPy)": (by_numpy, lambda: whisper(*pad_sounds(sounds)).values, 1e-4)}


def seconds_of(function) -> float:
    begun = time.process_time()
    with torch.inference_mode():
        function()
    return time.process_time() - begun


def transforms(frames: torch.Tensor, times: int) -> None:
    for _ in range(times):
        torch.fft.rfft(frames)


def fourier(sizes: dict = SIZES, repeats: int = 7) -> dict:
    "The part of our time, librosa's convention, that goes into the Fourier transforms alone: what no writing can save."
    found = {}
    for size, (count, seconds) in sizes.items():
        waves, plain = 0.1 * torch.randn(count, seconds * RATE), LogMel(BANDS, convention="librosa")
        frames = torch.randn(512, 400)
        blocks = -(-count * (seconds * 100 + 1) // len(frames))
        whole = partial(plain, waves)
        part = partial(transforms, frames, blocks)
        turns = [(seconds_of(part), seconds_of(whole)) for _ in range(repeats + 1)][1:]
        found[size] = records.spread([a / max(b, 1e-9) for a, b in turns])
    return found


def compare(sizes: dict = SIZES, repeats: int = 7) -> dict:
    "`size/rival` → theirs / ours: the ratio of the medians and the spread of turn by turn; ours in ms."
    found = {}
    for size, shape in sizes.items():
        torch.manual_seed(0)
        for name, (theirs, ours, tolerance) in rivals(*shape).items():
            assert np.abs(np.asarray(theirs()) - ours().numpy()).max() < tolerance, f"{name}: not the same numbers"
            taken = {"theirs": [], "ours": []}
            for turn in range(repeats + 1):  # the first warms up
                for who, function in (("theirs", theirs), ("ours", ours))[::1 if turn % 2 else -1]:
                    taken[who].append(seconds_of(function))
            a, b = taken["theirs"][1:], taken["ours"][1:]
            found[f"{size}/{name}"] = {
                "ratio": round(statistics.median(a) / max(statistics.median(b), 1e-9), 4),
                "ours ms": round(1e3 * statistics.median(b), 4),
                "turns": records.spread([x / max(y, 1e-9) for x, y in zip(a, b)])}
            print(f"{size}/{name:26} {found[f'{size}/{name}']['ratio']:.2f}", flush=True)
    return found


def main() -> None:
    import librosa
    import transformers
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="a toy size, few turns; print, and write nothing")
    dry = parser.parse_args().dry
    torch.set_num_threads(1)
    begun, sizes, turns = records.commit(), {"2 sounds of 1 s": (2, 1)} if dry else SIZES, 2 if dry else 7
    figures = {"bands": BANDS, "threads": 1, "librosa": librosa.__version__, "transformers": transformers.__version__,
               "theirs / ours": compare(sizes, turns), "Fourier / ours": fourier(sizes, turns)}
    if not dry:
        records.record("bench-logmel", "python benchmarks/logmel.py", [0], figures, begun=begun)


if __name__ == "__main__":
    main()
