"""What the claims F1, F3 and F4 share: a light model on frozen features of the real encoders, its training, its test.

Features are encoded once: of every encoder the last level, and a low and a middle one (EfficientNet-Lite after its
third and fifth stage, pooled to the 3 × 3 places of the last; MiniLM after two and four layers; the LSTM's first and
second layer). Model: `ModalityTokens`, one fusion, a linear head for each question. Questions: the group, of clean and
of degraded inputs, and which modality does not belong. A contrastive loss between the modalities' tokens helps every
fusion alike. The head of the odd one out sees the fusion's state and nothing else.
"""
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mmtutor import data, tasks
from mmtutor.fusion import ModalityTokens, make_fusion, mean_token
from mmtutor.inputs import MODALITIES, PROFILES, Bank, bank, pretrained
from mmtutor.multimodal import drop_modalities
from mmtutor.objectives import contrastive_loss
from mmtutor.questions import swap_one
from mmtutor.transformer import Tokens

LEVELS = ("low", "middle", "high")
WIDTHS = {"text": (384, 384, 384), "picture": (40, 112, 1280), "sound": (256, 256, 256)}  # of the three levels
DIM, EPOCHS, BATCH, RATE = 64, 16, 64, 3e-3
TOKENS = 24  # at most so many of a modality
PROFILE = replace(PROFILES["frozen"], voices=data.TRAIN_VOICES[:2], draws=2)


class LeveledText(nn.Module):
    "MiniLM's tokens after two, four and all six layers, side by side."

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder, self.prepare = encoder, encoder.prepare

    def forward(self, ids: Tensor, mask: Tensor) -> Tokens:
        e = self.encoder
        x = e.norm(e.token(ids) + e.position(torch.arange(ids.shape[1])) + e.segment.weight[0])
        found = []
        for number, layer in enumerate(e.encoder.layers, 1):
            x = layer(x, mask)
            if number in (2, 4, 6):
                found.append(x)
        return Tokens(torch.cat(found, dim=-1), mask)


class LeveledPicture(nn.Module):
    "The map after the stages of 40 and of 112 channels, pooled to the places of the last map, and that one."

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder, self.prepare = encoder, encoder.prepare

    def forward(self, pictures: Tensor) -> Tokens:
        kept, hooks = {}, []
        for level, number in (("low", 4), ("middle", 10)):  # the last blocks of these stages
            hooks.append(self.encoder.blocks[number].register_forward_hook(
                lambda _, __, out, level=level: kept.update({level: out})))
        try:
            last, mask = self.encoder(pictures)
        finally:
            for hook in hooks:
                hook.remove()
        side = math.isqrt(last.shape[1])
        maps = [rearrange(F.adaptive_avg_pool2d(kept[level], side), "b c h w -> b (h w) c") for level in LEVELS[:2]]
        return Tokens(torch.cat([*maps, last], dim=-1), mask)


class LeveledSound(nn.Module):
    "The states of the LSTM's three layers, side by side, averaged over windows as the encoder does."

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder, self.prepare = encoder, encoder.prepare
        lstm = encoder.lstm
        self.layers = nn.ModuleList(nn.LSTM(lstm.input_size if n == 0 else lstm.hidden_size, lstm.hidden_size,
                                            batch_first=True) for n in range(lstm.num_layers))
        for n, layer in enumerate(self.layers):
            layer.load_state_dict({k: getattr(lstm, k.replace("_l0", f"_l{n}")) for k in layer.state_dict()})

    def forward(self, waves: Tensor, mask: Tensor) -> Tokens:
        x, real = self.encoder.frames(waves, mask)
        found = []
        for layer in self.layers:
            x = layer(x)[0]
            found.append(x)
        stride = self.encoder.stride
        spare = -x.shape[1] % stride
        states = F.pad(torch.cat(found, dim=-1).masked_fill(~real[..., None], 0), (0, 0, 0, spare))
        states = states.unflatten(1, (-1, stride)).sum(2)
        count = F.pad(real.long(), (0, spare)).unflatten(1, (-1, stride)).sum(2)
        return Tokens(states / count.clamp(min=1)[..., None], count > 0)


def banks(profile=PROFILE, levels: Sequence[str] = LEVELS) -> dict[str, Bank]:
    "Train, validation and test with the features of these levels side by side; encoded once, then read."
    encoders = pretrained(profile)
    leveled = {"text": LeveledText(encoders["text"]), "picture": LeveledPicture(encoders["picture"]),
               "sound": LeveledSound(encoders["sound"])}
    found = {split: bank(split, profile, {m: e.eval() for m, e in leveled.items()}) for split in data.SPLITS}
    for items in found.values():
        for kind in items.kinds.values():
            for m, cached in kind.items():
                parts = cached.values[..., :TOKENS, :].split(WIDTHS[m], dim=-1)
                cached.values = torch.cat([p for p, level in zip(parts, LEVELS) if level in levels], dim=-1).float()
                cached.mask = cached.mask[..., :TOKENS]
    return found


def level_names(modalities: Sequence[str], levels: Sequence[str]) -> list[list[str]]:
    "Names by level, lowest first: the high level has the modality's own name."
    return [[m if level == "high" else f"{m}_{level}" for m in modalities] for level in levels]


def widths_of(modalities: Sequence[str], levels: Sequence[str] = ("high",)) -> dict[str, int]:
    return {m if level == "high" else f"{m}_{level}": WIDTHS[m][LEVELS.index(level)]
            for level in levels for m in modalities}


def cut(tokens: Mapping[str, Tokens], levels: Sequence[str]) -> dict[str, Tokens]:
    "The levels as modalities of their own."
    if tuple(levels) == ("high",):
        return dict(tokens)
    return {m if level == "high" else f"{m}_{level}": Tokens(part, mask) for m, (values, mask) in tokens.items()
            for level, part in zip(levels, values.split([WIDTHS[m][LEVELS.index(level)] for level in levels], dim=-1))}


class Light(nn.Module):
    "Features → tokens of one width → fusion → one linear head per question."

    def __init__(self, modalities: Sequence[str], fusion: str, *, levels: Sequence[str] = ("high",), dim: int = DIM,
                 grouped: Mapping | None = None, **options):
        super().__init__()
        self.modalities, self.levels = tuple(modalities), tuple(levels)
        widths = widths_of(modalities, levels)
        self.tokens = ModalityTokens(widths, dim, max_tokens=TOKENS)
        self.fusion = make_fusion(fusion, list(widths), dim, dropout=0.1, **(grouped or {}), **options)
        self.heads = nn.ModuleDict({"group": nn.Linear(dim, 8), "odd": nn.Linear(dim, 4)})
        self.align = nn.ModuleDict({m: nn.Linear(dim, dim) for m in modalities})
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def trunk(self) -> int:
        "Parameters of tokens and fusion, which the comparison holds equal."
        return sum(p.numel() for part in (self.tokens, self.fusion) for p in part.parameters())

    def ready(self, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
        "Tokens of one width; in training half of an encoder's channels are left out, other ones for every sample."
        tokens = cut({m: tokens[m] for m in self.modalities if m in tokens}, self.levels)
        if self.training:
            tokens = {m: Tokens(v * (2 * (torch.rand(len(v), 1, v.shape[2]) < 0.5)), mask)
                      for m, (v, mask) in tokens.items()}
        return self.tokens(tokens)

    def forward(self, tokens: Mapping[str, Tokens]) -> Tensor:
        "The state; what the comparison counts."
        return self.fusion(self.ready(tokens))

    def ask(self, task: str, ready: Mapping[str, Tokens]) -> Tensor:
        "The scores for one question."
        return self.heads[task](self.fusion(ready))


def swapped(ready: Mapping[str, Tokens], modalities: Sequence[str], generator) -> tuple[dict[str, Tokens], Tensor]:
    "`swap_one` over all three modalities, of which the model may know fewer, and may know several levels of each."
    n = len(next(iter(ready.values())).mask)
    rows, odd = swap_one({m: Tokens(torch.arange(n)[:, None, None], torch.ones(n, 1, dtype=torch.bool))
                          for m in MODALITIES}, generator)
    where = {m: rows[m].values[:, 0, 0] for m in modalities}
    return {name: Tokens(t.values[where[name.split("_")[0]]], t.mask[where[name.split("_")[0]]])
            for name, t in ready.items()}, odd


def without_some(ready: Mapping[str, Tokens], share: float) -> dict[str, Tokens]:
    "`drop_modalities`, all levels of a modality together."
    kept = drop_modalities({m: Tokens(t.values[:, :1, :1], t.mask.any(1, keepdim=True)) for m, t in ready.items()
                            if "_" not in m}, share)
    return {m: Tokens(t.values, t.mask & kept[m.split("_")[0]].mask) for m, t in ready.items()}


def loss_of(model: Light, items: Bank, rows: Tensor, generator: torch.Generator) -> Tensor:
    "All questions to one batch, and the contrastive help."
    clean = model.ready(items.pick("clean", model.modalities, rows, generator))
    half = rows[:(len(rows) + 1) // 2]
    poor = model.ready(items.pick("degraded", model.modalities, half, generator))
    loss = F.cross_entropy(model.ask("group", without_some(clean, 0.2)), items.group[rows])
    loss = loss + F.cross_entropy(model.ask("group", without_some(poor, 0.3)), items.group[half])
    mixed, odd = swapped(clean, model.modalities, generator)
    loss = loss + 1.5 * F.cross_entropy(model.ask("odd", mixed), odd)
    pairs = list(combinations(model.modalities, 2))
    alone = {m: model.align[m](mean_token(clean[m])) for m in model.modalities}
    help = [contrastive_loss(alone[a], alone[b], model.log_scale) for a, b in pairs]
    return loss + sum(help) / len(help) if help else loss


def train(model: Light, items: Bank, *, seed: int, rate: float, epochs: int = EPOCHS, loss_of=loss_of) -> Light:
    "AdamW, a short warm-up, then a cosine to zero. The same order of items for every model of one seed."
    generator = torch.Generator().manual_seed(1000 + seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    total = epochs * -(-len(items) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(1, (s + 1) / 30) * (1 + math.cos(math.pi * min(1, s / total))) / 2)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(items), generator=generator).split(BATCH):
            loss = loss_of(model, items, rows, generator)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def group_accuracy(model: Light, items: Bank, kind: str, subset: Sequence[str], shuffled: str | None = None) -> float:
    "The share of groups found from `subset`; `shuffled` is a modality that each item gets from another item."
    rows = torch.arange(len(items))
    tokens = items.pick(kind, subset, rows)
    if shuffled:
        tokens |= items.pick(kind, [shuffled], torch.randperm(len(items), generator=torch.Generator().manual_seed(7)))
    return (model.ask("group", model.ready(tokens)).argmax(1) == items.group).double().mean().item()


@torch.no_grad()
def odd_accuracy(model: Light, items: Bank) -> float:
    "The share of the odd ones found in the balanced questions of `tasks.odd_one_out`; chance is 1/4."
    questions, right = tasks.odd_one_out(range(len(items)), 0), 0
    for some in torch.arange(len(questions.odd)).split(512):
        tokens = {m: items.pick("clean", (m,), torch.from_numpy(getattr(questions, m)[some]))[m]
                  for m in model.modalities}
        answers = model.ask("odd", model.ready(tokens)).argmax(1)
        right += (answers == torch.from_numpy(questions.odd[some])).sum().item()
    return right / len(questions.odd)


def score(found: Mapping[str, float]) -> float:
    "One number to choose settings by, on validation only."
    return (found["clean"] + found["degraded"] + found["odd"]) / 3


def measures(model: Light, items: Bank) -> dict[str, float]:
    "Accuracy of the group, clean and degraded, from all that the model knows, and of the odd one out."
    return {"clean": group_accuracy(model, items, "clean", model.modalities),
            "degraded": group_accuracy(model, items, "degraded", model.modalities),
            "odd": odd_accuracy(model, items)}
