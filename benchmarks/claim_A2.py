"""Claim A2: one head against 2, 4 and 8 at equal width and parameters, on a task of two lookups and on a real task.

Cards: chapter 03's task. A question names two symbols, the answer is the number on either card. Three settings: a
layer of attention alone; with a feed-forward network behind it (which may untangle a mixture); and more symbols on a
narrow width, where heads become too narrow.
Real: the subgroup (of 95) of an emoji from its picture, by one attention layer with a learned query over the frozen
picture encoder's tokens.
Writes claim A2 into results/claims.json. Run: python benchmarks/claim_A2.py
"""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmtutor import data
from mmtutor.course import records
from mmtutor.freezing import cached_features
from mmtutor.multihead import MultiHeadAttention
from mmtutor.transformer import FeedForward
from mmtutor.vision import ConvEncoder

HEADS, SEEDS, NUMBERS = (1, 2, 4, 8), (0, 1, 2), 8
SETTINGS = {"attention alone": {}, "with a feed-forward network": {"feed_forward": True},
            "16 symbols, width 8": {"cards": 16, "dim": 8, "steps": 1000}}


class Player(nn.Module):
    "The card player of chapter 03."

    def __init__(self, heads: int, cards: int, dim: int, lookups: int, feed_forward: bool):
        super().__init__()
        self.symbol, self.number = nn.Embedding(cards, dim), nn.Embedding(NUMBERS, dim)
        self.asked = nn.ModuleList(nn.Embedding(cards, dim) for _ in range(lookups))
        self.attention, self.read = MultiHeadAttention(dim, heads), nn.Linear(dim, lookups * NUMBERS)
        self.feed_forward = FeedForward(dim, 4 * dim) if feed_forward else None

    def forward(self, symbols: Tensor, numbers: Tensor, asked: Tensor) -> Tensor:
        named = symbols.gather(1, asked)
        question = sum(table(named[:, i]) for i, table in enumerate(self.asked))[:, None]
        x = question + self.attention(question, self.symbol(symbols) + self.number(numbers))
        x = x if self.feed_forward is None else x + self.feed_forward(x)
        return self.read(x).unflatten(-1, (len(self.asked), NUMBERS))[:, 0]


def deal(games: int, cards: int, lookups: int, generator: torch.Generator):
    "Symbols and numbers (games, cards), the cards asked for and their numbers (games, lookups)."
    symbols = torch.rand(games, cards, generator=generator).argsort(1)
    numbers = torch.randint(NUMBERS, (games, cards), generator=generator)
    asked = torch.rand(games, cards, generator=generator).argsort(1)[:, :lookups]
    return symbols, numbers, asked, numbers.gather(1, asked)


def play(heads: int, seed: int, *, cards: int = 8, dim: int = 32, lookups: int = 2, feed_forward: bool = False,
         steps: int = 500) -> tuple[float, int]:
    "The share of games in which every answer is right, after `steps` batches of 256 games; and the parameters."
    torch.manual_seed(seed)
    player = Player(heads, cards, dim, lookups, feed_forward)
    generator, optimiser = torch.Generator().manual_seed(seed), torch.optim.Adam(player.parameters(), 1e-2)
    for _ in range(steps):
        *game, right = deal(256, cards, lookups, generator)
        loss = F.cross_entropy(player(*game).flatten(0, 1), right.flatten())
        optimiser.zero_grad(); loss.backward(); optimiser.step()
    with torch.no_grad():
        *game, right = deal(4000, cards, lookups, generator)
        share = (player(*game).argmax(-1) == right).all(1).float().mean().item()
    return share, sum(p.numel() for p in player.parameters())


class Judge(nn.Module):
    "A learned query looks at the tokens of a picture; what it finds names the subgroup."

    def __init__(self, heads: int, width: int, classes: int, dim: int = 64):
        super().__init__()
        self.norm, self.query = nn.LayerNorm(width), nn.Parameter(torch.randn(1, 1, dim))
        self.attention = MultiHeadAttention(dim, heads, context_dim=width, dropout=0.1)
        self.read = nn.Linear(dim, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.read(self.attention(self.query.expand(len(tokens), 1, -1), self.norm(tokens))[:, 0])


def pictures() -> tuple[tuple[Tensor, Tensor], ...]:
    "Tokens (items, tokens, width) and subgroups of the pictures of the training and the test set."
    encoder, found = ConvEncoder.from_pretrained(), []
    data.build()
    for split in ("train", "test"):
        rows = data.view(split)
        drawn = [data.picture_of(picture) for picture in rows["picture"]]
        found.append((cached_features(encoder, drawn, key=f"claim-A2-{split}").values,
                      torch.tensor(list(rows["subgroup"]))))
    return tuple(found)


def judge(heads: int, seed: int, train, test, epochs: int = 10) -> tuple[float, int]:
    "Test accuracy of the subgroup, and the parameters."
    torch.manual_seed(seed)
    model = Judge(heads, train[0].shape[-1], int(max(train[1].max(), test[1].max())) + 1)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    for _ in range(epochs):
        for rows in torch.randperm(len(train[1])).split(64):
            loss = F.cross_entropy(model(train[0][rows]), train[1][rows])
            optimiser.zero_grad(); loss.backward(); optimiser.step()
    model.eval()
    with torch.no_grad():
        share = (model(test[0]).argmax(-1) == test[1]).float().mean().item()
    return share, sum(p.numel() for p in model.parameters())


def gains(right: dict, name: str, heads: int) -> bool:
    "More heads beat one head by more than the spread of their differences, in every seed."
    one, many = right[f"{name}/1"]["values"], right[f"{name}/{heads}"]["values"]
    difference = records.spread([b - a for a, b in zip(one, many)])
    return min(difference["values"]) > 0 and difference["mean"] > difference["sd"]


def verdict(right: dict) -> str:
    "What the figures say, and no more."
    alone, narrow, real = "attention alone", "16 symbols, width 8", "real: subgroup from picture"
    if not gains(right, alone, 2):
        return "not resolved at this scale: a second head did not help where two lookups are needed"
    text = "holds when one layer needs two lookups at once"
    if gains(right, narrow, 2) and not gains(right, narrow, 8):
        text += " and every head is still wide enough for its own"
    helped = [heads for heads in HEADS[1:] if gains(right, real, heads)]
    return text + (f"; on the real task {helped} heads beat one" if helped else
                   "; on the real task no number of heads beat one")


def main() -> None:
    torch.set_num_threads(1)
    begun, figures, sizes = records.commit(), {}, {}
    jobs = {name: lambda heads, seed, how=how: play(heads, seed, **how) for name, how in SETTINGS.items()}
    real = pictures()
    jobs["real: subgroup from picture"] = lambda heads, seed: judge(heads, seed, *real)
    for name, job in jobs.items():
        for heads in HEADS:
            runs = [job(heads, seed) for seed in SEEDS]
            figures[f"{name}/{heads}"] = records.spread([share for share, _ in runs])
            sizes.setdefault(name, set()).update(size for _, size in runs)
            print(name, heads, figures[f"{name}/{heads}"], flush=True)
    assert all(len(size) == 1 for size in sizes.values()), sizes
    two = {heads: records.show(figures[f"attention alone/{heads}"], 2) for heads in HEADS}
    seen = {heads: records.show(figures[f"real: subgroup from picture/{heads}"]) for heads in HEADS}
    records.record_claim(
        "A2", "Several heads let the model look at several things at once.", verdict(figures),
        "python benchmarks/claim_A2.py",
        SEEDS, {"right": figures, "parameters": {name: size.pop() for name, size in sizes.items()}}, begun=begun,
        chapter="03_multihead",
        summary=f"Two lookups, both right: 1 head {two[1]}, 2 heads {two[2]}, 8 heads {two[8]}; subgroup from picture: "
                f"1 head {seen[1]}, 2 heads {seen[2]}, 8 heads {seen[8]}")


if __name__ == "__main__":
    main()
