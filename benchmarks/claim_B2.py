"""Claim B2: a recurrent encoder and a Transformer of equal size, from scratch, reading the same log-mel frames.

(a) Which name is spoken? The course's speech, three voices to learn from, one to choose the learning rate, two never
heard to test. (b) Which of eight tones came first? Asked at the end of a clip of 0.25 seconds (one tone) to 16, with
random tones in between. (c) Seconds of a training step by the length of the clip.
The recurrent encoder runs twice in (b): as PyTorch starts it, and with gates that begin nearly open ("slow gates":
Tallec and Ollivier 2018, arXiv:1804.11188).
The speech is a file, so that the machine that trains needs no data set:
    python benchmarks/claim_B2.py --pack names.pt      where the course's data are
    python benchmarks/claim_B2.py --sounds names.pt    writes claim B2 into results/claims.json
`--plan small` is for one processor core, `--quick` a rehearsal of seconds that records nothing.
"""
import argparse
import math
import statistics
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmtutor.audio import AudioTransformer, LogMel, RecurrentEncoder
from mmtutor.course import records
from mmtutor.transformer import Tokens

BANDS, TONES, TONE_FRAMES, RATE = 40, 8, 25, 16_000  # a tone and its pause: 250 ms
VOICES = {"train": ("american_low", "american_high", "british_low"), "validation": ("british_high",),
          "test": ("scottish", "caribbean")}
KINDS = ("recurrent", "recurrent, slow gates", "transformer")


@dataclass(frozen=True)
class Plan:
    "How large a run is."
    widths: tuple[int, int] = (140, 96)  # of the recurrent encoder and of the Transformer: equally many parameters
    names: int = 400                     # how many different names in (a)
    epochs: int = 60
    seconds: tuple[float, ...] = (0.25, 1, 2, 4, 8, 16)  # in (b); 0.25 is a single tone
    steps: int = 400                     # of training in (b)
    batch: int = 64
    rates: tuple[float, ...] = (5e-4, 1.5e-3, 5e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    timed: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # seconds
    minutes: float = 5.5                 # a length of (b) that would not end in time is left out


PLANS = {"full": Plan(), "small": Plan((46, 32), 50, 80, (0.25, 1, 2, 4), 400, 32, timed=(1, 2, 4, 8, 16), minutes=12),
         "quick": Plan((46, 32), 10, 2, (0.25, 1), 5, 8, (5e-4, 1.5e-3), timed=(1, 2), minutes=1)}


def pack(path: str, names: int = 400, longest: float = 1.3) -> None:
    "Write `names` names by six voices as log-mel frames: uint8, 255 = the loudest, 0 = eight powers of ten below."
    from mmtutor import data
    table = data.load()
    heads = [i for i, head in enumerate(table["head"]) if head]
    columns = {v: table.select_columns([f"sound_{v}"]) for group in VOICES.values() for v in group}
    mel, found = LogMel(BANDS), []
    for i in heads:
        sounds = {v: data.sound_of(column[i][f"sound_{v}"]) for v, column in columns.items()}
        if max(map(len, sounds.values())) <= longest * RATE:
            found.append((table[i]["name"], {v: mel(s[None]).values[0] for v, s in sounds.items()}))
    picked = [found[i * len(found) // names] for i in range(names)]  # evenly through the table
    width, content = int(longest * 100), {"names": [name for name, _ in picked]}
    for part, voices in VOICES.items():
        clips = [(spoken[v], label) for label, (_, spoken) in enumerate(picked) for v in voices]
        frames = [((x - x.amax() + 2) / 2 * 255).round().byte() for x, _ in clips]
        content[part] = {"frames": torch.stack([F.pad(x, (0, 0, 0, width - len(x))) for x in frames]),
                         "lengths": torch.tensor([len(x) for x in frames]),
                         "labels": torch.tensor([label for _, label in clips])}
    torch.save(content, path)
    print(len(found), "short names,", {part: len(content[part]["labels"]) for part in VOICES}, "clips")


class Listener(nn.Module):
    "Log-mel frames → tokens → one vector (the mean, or the last real token) → scores."

    def __init__(self, kind: str, plan: Plan, classes: int, frames: int, last: bool):
        super().__init__()
        recurrent, width = plan.widths
        if kind == "transformer":
            self.encoder = AudioTransformer(width, 4, 2, bands=BANDS, tokens=-(-frames // 2))
        else:
            self.encoder = RecurrentEncoder(recurrent, 2, BANDS)
            if "slow" in kind:
                self.open_gates(frames)
        self.out, self.last = nn.Linear(self.encoder.dim, classes), last

    def open_gates(self, frames: int) -> None:
        "Gates that keep a cell for 1 to `frames` steps at the start of training."
        for name, bias in self.encoder.lstm.named_parameters():
            if name.startswith("bias"):
                dim, keep = len(bias) // 4, (1 + torch.rand(len(bias) // 4) * (frames - 2)).log()
                bias.data.zero_()
                if name.startswith("bias_ih"):
                    bias.data[:dim], bias.data[dim:2 * dim] = -keep, keep

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        values, real = self.encoder.encode(Tokens(frames, mask))
        if self.last:
            return self.out(values[torch.arange(len(values)), real.sum(1) - 1])
        return self.out((values * real[..., None]).sum(1) / real.sum(1, keepdim=True))


def learn(model: nn.Module, batches, steps: int, rate: float) -> None:
    "AdamW with a warm-up over a tenth of the steps and a cosine down to nothing."
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    shape = lambda step: min((step + 1) / (0.1 * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, shape)
    model.train()
    for _ in range(steps):
        frames, mask, labels = next(batches)
        loss = F.cross_entropy(model(frames, mask), labels)
        optimiser.zero_grad(); loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(); schedule.step()


@torch.no_grad()
def share(model: nn.Module, parts) -> float:
    "Share of right answers."
    model.eval()
    right = [(model(frames, mask).argmax(-1) == labels).float() for frames, mask, labels in parts]
    return torch.cat(right).mean().item()


class Names:
    "(a) The clips of one part, on the device."

    def __init__(self, content: dict, part: str, names: int, device: str):
        every = len(content["names"]) // names  # fewer names: every so many, not the first ones, which are all faces
        keep = (content[part]["labels"] % every == 0) & (content[part]["labels"] < every * names)
        self.frames, self.lengths, self.labels = (
            content[part][key][keep].to(device) for key in ("frames", "lengths", "labels"))
        self.labels = self.labels // every

    def rows(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frames, lengths = self.frames[rows].float() / 127.5 - 1, self.lengths[rows]
        return frames, torch.arange(frames.shape[1], device=frames.device) < lengths[:, None], self.labels[rows]

    def batches(self, size: int, seed: int):
        "Without end, every epoch in another order; each clip with up to two masked bands of frequency and of time."
        generator = torch.Generator().manual_seed(seed)
        while True:
            for rows in torch.randperm(len(self.labels), generator=generator).split(size):
                frames, mask, labels = self.rows(rows.to(self.labels.device))
                for _ in range(2):
                    for axis, most in ((1, 20), (2, 8)):
                        start = torch.rand(len(rows), 1, generator=generator) * frames.shape[axis]
                        width, place = torch.rand(len(rows), 1, generator=generator) * most, torch.arange(
                            frames.shape[axis])
                        hidden = ((place >= start) & (place < start + width)).to(frames.device)
                        frames = frames.masked_fill(hidden[:, :, None] if axis == 1 else hidden[:, None], -1)
                yield frames, mask, labels

    def all(self, size: int = 256):
        return [self.rows(rows) for rows in torch.arange(len(self.labels), device=self.labels.device).split(size)]


def tone_bank(device: str) -> Tensor:
    "Log-mel frames (tones, variants, frames, bands) of eight pitches, with other phases, loudness and noise in each."
    generator, variants = torch.Generator().manual_seed(0), 16
    t = torch.arange(TONE_FRAMES * 160) / RATE
    pitch = (300 * 10 ** (torch.arange(TONES) / (TONES - 1)))[:, None, None]
    phase, gain = (torch.rand(TONES, variants, 1, generator=generator) for _ in range(2))
    sounding = (t < 0.2) * (t / 0.01).clamp(max=1) * ((0.2 - t) / 0.01).clamp(0, 1)
    waves = (0.05 + 0.2 * gain) * sounding * torch.sin(2 * math.pi * (pitch * t + phase))
    waves = waves + 0.003 * torch.randn(waves.shape, generator=generator)
    mel = LogMel(BANDS)(waves.flatten(0, 1)).values
    return (mel - mel.amax((1, 2), keepdim=True) + 1).unflatten(0, (TONES, variants)).to(device)


def clips(bank: Tensor, seconds: float, size: int, seed: int):
    "(b) Without end: frames of random tones, and which came first."
    generator = torch.Generator(bank.device).manual_seed(seed)
    draw = lambda high, *shape: torch.randint(high, shape, generator=generator, device=bank.device)
    count = int(seconds * 100) // TONE_FRAMES
    mask = torch.ones(size, count * TONE_FRAMES, dtype=torch.bool, device=bank.device)
    while True:
        tones = draw(TONES, size, count)
        frames = bank[tones, draw(bank.shape[1], size, count)].flatten(1, 2)
        yield frames + 0.1 * torch.randn(frames.shape, generator=generator, device=bank.device), mask, tones[:, 0]


def several(stream, count: int) -> list:
    return [next(stream) for _ in range(count)]


def best_of(plan: Plan, run, *what) -> tuple[float, dict[str, float], list[float]]:
    "The rate is chosen on validation with the first seed; then a test with every seed. `run` → (validation, test)."
    tried = {rate: run(*what, rate, plan.seeds[0]) for rate in plan.rates}
    best = max(tried, key=lambda rate: tried[rate][0])
    tests = [tried[best][1]] + [run(*what, best, seed)[1] for seed in plan.seeds[1:]]
    return best, {str(rate): round(found[0], 4) for rate, found in tried.items()}, tests


def which_name(kind: str, plan: Plan, content: dict, device: str, rate: float, seed: int) -> tuple[float, float]:
    torch.manual_seed(seed)
    parts = {part: Names(content, part, plan.names, device) for part in VOICES}
    model = Listener(kind, plan, plan.names, parts["train"].frames.shape[1], last=False).to(device)
    steps = plan.epochs * -(-len(parts["train"].labels) // plan.batch)
    learn(model, parts["train"].batches(plan.batch, seed), steps, rate)
    return share(model, parts["validation"].all()), share(model, parts["test"].all())


def which_first(kind: str, plan: Plan, bank: Tensor, seconds: float, rate: float, seed: int) -> tuple[float, float]:
    torch.manual_seed(seed)
    model = Listener(kind, plan, TONES, int(seconds * 100), last=True).to(bank.device)
    learn(model, clips(bank, seconds, plan.batch, seed), plan.steps, rate)
    return tuple(share(model, several(clips(bank, seconds, 100, seed + shift), 10)) for shift in (1000, 2000))


def step_times(plan: Plan, device: str, batch: int, lengths, repeats: int = 5) -> dict:
    "Forward and backward by length, the two kinds in turn: `device/seconds` → ms and the spread of the ratio."
    found, clock = {}, time.process_time if device == "cpu" else time.perf_counter
    for seconds in lengths:
        torch.manual_seed(0)
        frames, taken = torch.randn(batch, seconds * 100, BANDS, device=device), {"recurrent": [], "transformer": []}
        mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=device)
        models = {kind: Listener(kind, plan, TONES, seconds * 100, last=True).to(device) for kind in taken}
        for _ in range(repeats + 2):  # the first two warm up
            for kind, model in models.items():
                if device != "cpu":
                    torch.cuda.synchronize()
                begun = clock()
                model(frames, mask).square().mean().backward()
                if device != "cpu":
                    torch.cuda.synchronize()
                taken[kind].append(clock() - begun)
        a, b = taken["recurrent"][2:], taken["transformer"][2:]
        found[f"{device}/{seconds}"] = {
            "recurrent / transformer": records.spread([x / max(y, 1e-9) for x, y in zip(a, b)]), "batch": batch,
            "recurrent ms": round(1e3 * statistics.median(a), 3),
            "transformer ms": round(1e3 * statistics.median(b), 3)}
        print(f"{device}/{seconds}", found[f"{device}/{seconds}"], flush=True)
    return found


def apart(a: dict, b: dict) -> int:
    "1 if every value of `a` is above every one of `b`, -1 if below, 0 if they overlap."
    return (min(a["values"]) > max(b["values"])) - (max(a["values"]) < min(b["values"]))


def verdict(names: dict, first: dict) -> str:
    "What the figures say, and no more."
    words = {1: "the recurrent encoder named more of the spoken names", -1: "the Transformer named more of the spoken "
             "names", 0: "neither named more of the spoken names"}[apart(names["recurrent"], names["transformer"])]
    lengths = sorted({float(key.split("/")[1]) for key in first})
    got = lambda kind, n: first[f"{kind}/{n:g}"]
    beats = [n for n in lengths if all(apart(got("transformer", n), got(kind, n)) == 1 for kind in KINDS[:2])]
    plain = [n for n in lengths if apart(got("transformer", n), got("recurrent", n)) == 1]
    if min(got("transformer", lengths[0])["values"]) < 0.9:
        return f"not resolved at this scale: {words}; the Transformer itself did not learn the shortest clips"
    listing = lambda them: ", ".join(f"{n:g}" for n in them) + " s"
    if not plain:
        return f"fails: {words}, and the Transformer remembered no more at any length up to {listing(lengths[-1:])}"
    longer = (f"the Transformer remembered more than the recurrent encoder at {listing(plain)}, and more than one with "
              f"slow gates at {listing(beats)}" if beats else "the Transformer remembered more than the recurrent "
              f"encoder at {listing(plain)}, but not more than one whose gates began nearly open")
    return f"holds when the second half is meant: {words}; {longer}"


def experiment(plan: Plan, content: dict, device: str) -> dict:
    begun = time.perf_counter()
    left = lambda: plan.minutes * 60 - (time.perf_counter() - begun)
    bank, figures = tone_bank(device), {"names": {}, "first": {}, "time": {}, "rates": {}, "validation": {}}
    sizes = {kind: sum(p.numel() for p in Listener(kind, plan, TONES, 100, True).encoder.parameters())
             for kind in ("recurrent", "transformer")}
    figures |= {"parameters": sizes, "chance": {"names": 1 / plan.names, "first": 1 / TONES}}
    figures["time"] = step_times(plan, device, plan.batch if device == "cuda" else 4, plan.timed)
    if device == "cuda":
        figures["time"] |= step_times(plan, "cpu", 4, [n for n in plan.timed if n in (1, 4, 16)], 3)
    for kind in ("recurrent", "transformer"):
        rate, tried, tests = best_of(plan, which_name, kind, plan, content, device)
        figures["names"][kind] = records.spread(tests)
        figures["rates"][f"names/{kind}"], figures["validation"][f"names/{kind}"] = rate, tried
        print("names", kind, rate, tried, records.show(figures["names"][kind]), f"{left():.0f} s left", flush=True)
    for seconds in plan.seconds:
        step = figures["time"].get(f"{device}/{seconds}", {"recurrent ms": 0, "transformer ms": 0})
        scale = 1 if device == "cuda" else plan.batch / 4
        due = (2 * step["recurrent ms"] + step["transformer ms"]) / 1e3 * scale * plan.steps * (
            len(plan.rates) + len(plan.seeds) - 1) * 1.1
        if due > left():
            print(f"{seconds} s: about {due:.0f} s due, {left():.0f} s left; left out", flush=True)
            continue
        for kind in KINDS:
            rate, tried, tests = best_of(plan, which_first, kind, plan, bank, seconds)
            key = f"{kind}/{seconds}"
            figures["first"][key], figures["rates"][f"first/{key}"] = records.spread(tests), rate
            figures["validation"][f"first/{key}"] = tried
            print("first", key, rate, tried, records.show(figures["first"][key]), f"{left():.0f} s left", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", metavar="FILE", help="write the speech to FILE and stop")
    parser.add_argument("--sounds", metavar="FILE", help="the speech, written by --pack")
    parser.add_argument("--plan", choices=[name for name in PLANS if name != "quick"])
    parser.add_argument("--quick", action="store_true", help="a rehearsal; records nothing")
    parser.add_argument("--minutes", type=float, help="the time after which no further length of (b) begins")
    given = parser.parse_args()
    if given.pack:
        return pack(given.pack)
    if not given.sounds:
        parser.error("--sounds FILE is needed; --pack FILE writes it")
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = "quick" if given.quick else given.plan or ("full" if device == "cuda" else "small")
    plan, begun = PLANS[name], records.commit()
    plan = replace(plan, minutes=given.minutes or plan.minutes)
    figures = experiment(plan, torch.load(given.sounds, weights_only=True), device)
    print(verdict(figures["names"], figures["first"]))
    if given.quick:
        return None
    far = f"{max(float(key.split('/')[1]) for key in figures['first']):g}"
    say = lambda part, key: records.show(figures[part][key])
    records.record_claim(
        "B2", "RNNs suit audio because it is sequential; Transformers carry longer dependencies better.",
        verdict(figures["names"], figures["first"]),
        f"python benchmarks/claim_B2.py --sounds names.pt --plan {name}", plan.seeds,
        figures | {"plan": name, "steps": plan.steps}, chapter="08_audio", begun=begun,
        summary=f"Which of {plan.names} names, unheard voices: recurrent {say('names', 'recurrent')}, "
                f"Transformer {say('names', 'transformer')}; which tone came first, after {far} s: "
                + ", ".join(f"{kind} {say('first', f'{kind}/{far}')}" for kind in KINDS)
                + f"; a step on {far} s of sound, recurrent / Transformer, {device}: "
                + f"{figures['time'][f'{device}/{far}']['recurrent / transformer']['mean']:.1f}")


if __name__ == "__main__":
    main()
