"""Claim A3: positional encoding gives order to a model that otherwise has none. One small Transformer, six variants.

Two tasks on random symbols: name the token before each token; say which of two marked tokens came first. Trained on 8
to 16 tokens, tested on 16 and, for the first task, on longer sequences. Writes to results/claims.json.
Run: python benchmarks/claim_A3.py
"""
import torch
from torch import nn
from torch.nn import functional as F

from mmtutor.attention import attend, causal_mask
from mmtutor.course import records
from mmtutor.positions import LearnedPositions, RotaryPositions, SinusoidalPositions

KINDS = ("none", "sinusoidal", "learned", "learned, std 0.02", "rotary", "none, causal mask")
SEEDS, STEPS, BATCH, SYMBOLS, DIM, HEADS = (0, 1, 2), 600, 64, 32, 48, 4
SHORT, LONG, LENGTHS = 8, 16, (16, 24, 32, 48, 64, 128)
BEFORE, FIRST = "the token before", "which came first"


class Block(nn.Module):
    "Self-attention and a feed-forward network, norm first; queries and keys turned if there is a `rotary`."

    def __init__(self, rotary: nn.Module | None, causal: bool):
        super().__init__()
        self.rotary, self.causal = rotary, causal
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.feed_forward = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mask = causal_mask(tokens, device=x.device) if self.causal else None
        x = x + self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.norm2(x))


class Model(nn.Module):
    "Symbols → two blocks → an answer for every token, or one for the sequence."

    def __init__(self, kind: str, task: str):
        super().__init__()
        self.task = task
        self.symbol = nn.Embedding(SYMBOLS, DIM)
        additive = {"sinusoidal": SinusoidalPositions,
                    "learned": lambda dim: LearnedPositions(dim, max(LENGTHS), std=1.0),  # as large as the symbols
                    "learned, std 0.02": lambda dim: LearnedPositions(dim, max(LENGTHS))}
        self.positions = additive[kind](DIM) if kind in additive else nn.Identity()
        rotary = RotaryPositions(DIM // HEADS) if kind == "rotary" else None
        self.blocks = nn.Sequential(*(Block(rotary, kind == "none, causal mask") for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, SYMBOLS if task == BEFORE else 2)

    def forward(self, symbols):
        x = self.norm(self.blocks(self.positions(self.symbol(symbols))))
        return self.head(x[:, 1:] if self.task == BEFORE else x.mean(1))


def samples(task: str, count: int, length: int, generator: torch.Generator):
    "Symbols (count, length) and the answers: (count, length − 1) or (count,)."
    draw = lambda low, shape: torch.randint(low, SYMBOLS, shape, generator=generator)
    if task == BEFORE:
        symbols = draw(0, (count, length))
        return symbols, symbols[:, :-1]
    symbols = draw(2, (count, length))  # symbols 0 and 1 are the marked ones, at two different places
    places = torch.rand(count, length, generator=generator).argsort(-1)[:, :2]
    symbols.scatter_(1, places, torch.tensor([0, 1]).expand(count, 2))
    return symbols, (places[:, 0] < places[:, 1]).long()


def train(kind: str, task: str, seed: int) -> Model:
    torch.manual_seed(seed)
    model, generator = Model(kind, task), torch.Generator().manual_seed(1000 + seed)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        length = int(torch.randint(SHORT, LONG + 1, (), generator=generator))
        symbols, answers = samples(task, BATCH, length, generator)
        loss = F.cross_entropy(model(symbols).flatten(0, -2), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Model, task: str, length: int, seed: int) -> float:
    symbols, answers = samples(task, 500, length, torch.Generator().manual_seed(seed))
    return (model(symbols).argmax(-1) == answers).float().mean().item()


def without_order(length: int, seed: int) -> float:
    "The best that can be done for the token before by a model that knows which symbols there are, not where."
    symbols, answers = samples(BEFORE, 500, length, torch.Generator().manual_seed(seed))
    others = F.one_hot(symbols, SYMBOLS).sum(1, keepdim=True) - F.one_hot(symbols, SYMBOLS)  # of every token
    return (others[:, 1:].argmax(-1) == answers).float().mean().item()


@torch.no_grad()
def shuffled_difference(kind: str, seed: int) -> float:
    "How far an untrained model is from f(Px) = P f(x), 64-bit floats, largest difference over 20 sequences."
    torch.manual_seed(seed)
    model = Model(kind, FIRST).double()
    body = lambda symbols: model.norm(model.blocks(model.positions(model.symbol(symbols))))
    symbols, order = torch.randint(0, SYMBOLS, (20, LONG)), torch.randperm(LONG)
    return (body(symbols[:, order]) - body(symbols)[:, order]).abs().max().item()


def main() -> None:
    torch.set_num_threads(1)
    begun, figures = records.commit(), {"accuracy": {}, "longer": {}, "shuffled": {}, "without order": {}}
    for kind in KINDS:
        figures["shuffled"][kind] = max(shuffled_difference(kind, seed) for seed in SEEDS)
        for task in (BEFORE, FIRST):
            models = [train(kind, task, seed) for seed in SEEDS]
            figures["accuracy"][f"{task}/{kind}"] = records.spread(
                [accuracy(m, task, LONG, 7 + s) for s, m in zip(SEEDS, models)])
            if task == BEFORE:
                for length in LENGTHS:
                    figures["longer"][f"{length}/{kind}"] = records.spread(
                        [accuracy(m, task, length, 7 + s) for s, m in zip(SEEDS, models)])
            print(kind, task, records.show(figures["accuracy"][f"{task}/{kind}"]), flush=True)
    for length in LENGTHS:
        figures["without order"][str(length)] = records.spread([without_order(length, 7 + s) for s in SEEDS])
        print(length, *(records.show(figures["longer"][f"{length}/{k}"]) for k in KINDS),
              records.show(figures["without order"][str(length)]))
    print(figures["shuffled"])
    mean = lambda key: f"{figures['accuracy'][key]['mean']:.2f}"
    longer = lambda kind: f"{kind} {figures['longer'][f'64/{kind}']['mean']:.2f}"
    summary = (f"Without positions: shuffling changes nothing but the order of the results (difference below 1e-14), "
               f"“which came first” {mean(f'{FIRST}/none')} (guessing 0.50), "
               f"“the token before” {mean(f'{BEFORE}/none')}. Sinusoidal, learned, "
               f"rotary: {mean(f'{FIRST}/sinusoidal')}, {mean(f'{FIRST}/learned')}, "
               f"{mean(f'{FIRST}/rotary')} and {mean(f'{BEFORE}/sinusoidal')}, {mean(f'{BEFORE}/learned')}, "
               f"{mean(f'{BEFORE}/rotary')}. A learned table that begins small (0.02): "
               f"{mean(f'{FIRST}/learned, std 0.02')} and {mean(f'{BEFORE}/learned, std 0.02')}. "
               f"A causal mask and no positions: {mean(f'{FIRST}/none, causal mask')} and "
               f"{mean(f'{BEFORE}/none, causal mask')}. At four times the trained length: "
               f"{longer('sinusoidal')}, {longer('learned')}, {longer('rotary')}.")
    records.record_claim("A3", "Positional encoding gives order to a model that otherwise has none.",
                         "holds when attention looks both ways; a causal mask alone already gives order",
                         "python benchmarks/claim_A3.py", SEEDS, figures, summary=summary, chapter="02_positions",
                         begun=begun)


if __name__ == "__main__":
    main()
