"""Claim B1: a CNN and a Vision Transformer of equal size, from scratch, on pictures and on a relation between shapes.

Pictures: the group (of 8) of an emoji, in colour and as a line drawing; 10, 30 and 100 % of the training families.
Relation: are the two red shapes the same one? They stand side by side (near) or at the other end (far), among grey
shapes; every batch is new. Shapes fill the cells of a grid that is also the Transformer's grid
of patches, so that finding them is easy for both and the relation is what is left.
Parameters within 5 %, the same batches, steps, optimiser, schedule and augmentation; the learning rate is chosen for
each model and task on the validation set, with a seed of its own.

Writes claim B1 into results/claims.json. Run: python benchmarks/claim_B1.py --plan small
(one core, about 25 minutes; `--plan full` wants a GPU). Without the data at hand: `--pack FILE.pt` where they are,
`--pictures FILE.pt` where they are not; `--quick` rehearses.
"""
import argparse
import concurrent.futures
import functools
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmtutor.course import files, records
from mmtutor.vision import ConvEncoder, VisionConfig, VisionTransformer


@dataclass(frozen=True)
class Plan:
    "How large the pictures, the models and the training are."

    size: int                                   # pixels a side
    stages: tuple[tuple[int, ...], ...]         # of the CNN; 4 × 4 places in the end
    stem: int
    dims: tuple[int, int]                       # CNN, ViT
    depth: int                                  # layers of the ViT
    distances: dict[str, tuple[int, int]]       # cells between the two shapes, by the longer axis
    steps: dict[str, int]
    batch: int
    seeds: tuple[int, ...]


FULL = Plan(64, ((1, 3, 1, 1, 24), (2, 3, 2, 6, 40), (5, 3, 2, 6, 72), (3, 5, 2, 4, 112)), 24, (160, 112), 4,
            {"near": (1, 1), "far": (5, 7)}, {"pictures": 600, "relation": 1000}, 128, (0, 1, 2, 3, 4))
SMALL = Plan(32, ((1, 3, 1, 1, 16), (2, 3, 2, 4, 24), (3, 3, 2, 4, 48)), 16, (112, 48), 2,
             {"near": (1, 1), "far": (3, 3)}, {"pictures": 500, "relation": 700}, 64, (0, 1, 2))
PLANS = {"small": SMALL, "full": FULL}
CELL, KINDS, RATES, CHOOSING, SHARES = 8, ("CNN", "ViT"), (5e-4, 1.5e-3, 5e-3), 100, (0.1, 0.3, 1.0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Judge(nn.Module):
    "An encoder, the mean of its tokens, a linear layer."

    def __init__(self, plan: Plan, kind: str, classes: int):
        super().__init__()
        if kind == "CNN":
            self.encoder = ConvEncoder(plan.stages, stem=plan.stem, dim=plan.dims[0], size=plan.size)
            for module in self.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 0.1  # a short training: the averages must follow faster
        else:
            self.encoder = VisionTransformer(
                VisionConfig(plan.size, CELL, dim=plan.dims[1], heads=4, depth=plan.depth, pooling="mean"))
        self.norm, self.read = nn.LayerNorm(self.encoder.dim), nn.Linear(self.encoder.dim, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.read(self.norm(self.encoder(pictures).values.mean(1)))


def costs(plan: Plan, kind: str) -> dict[str, int]:
    "Parameters, and multiply-adds of one picture forward."
    model = Judge(plan, kind, 8).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, plan.size, plan.size, dtype=torch.uint8))
    return {"parameters": sum(p.numel() for p in model.parameters()),
            "multiply-adds": counter.get_total_flops() // 2}


def pack(path: Path, size: int) -> None:
    "Write the pictures of both styles, their groups and families, as tensors."
    from mmtutor import data
    data.build(progress=False)
    found = {}
    for split in data.SPLITS:
        drawn, groups, families = [], [], []
        for style in ("colour", "lines"):
            rows = data.view(split, style=style)
            drawn += [F.interpolate(data.picture_of(p)[None].float(), (size, size), mode="bilinear", antialias=True)
                      .round().clamp(0, 255).byte()[0] for p in rows["picture"]]
            groups += list(rows["group"])
            families += range(len(rows))
        found[split] = {"pictures": torch.stack(drawn), "groups": torch.tensor(groups),
                        "families": torch.tensor(families)}
    torch.save(found, path)
    print({split: tuple(part["pictures"].shape) for split, part in found.items()}, f"{path.stat().st_size:,} bytes")


@functools.cache
def pictures(path: str) -> dict[str, dict[str, Tensor]]:
    found = torch.load(path, weights_only=True)
    return {split: {name: tensor.to(device) for name, tensor in part.items()} for split, part in found.items()}


def share_of(part: dict[str, Tensor], share: float, seed: int) -> tuple[Tensor, Tensor]:
    "The pictures and groups of this share of the families, chosen at random."
    families = int(part["families"].max()) + 1
    chosen = torch.randperm(families, generator=torch.Generator().manual_seed(seed))[:round(share * families)]
    rows = torch.isin(part["families"], chosen.to(device))
    return part["pictures"][rows], part["groups"][rows]


def moved(batch: Tensor, generator: torch.Generator) -> Tensor:
    "Each picture shifted by up to a sixteenth of its side, on white, and mirrored or not."
    size, most = batch.shape[-1], batch.shape[-1] // 16
    dy, dx = torch.randint(2 * most + 1, (2, len(batch), 1), generator=generator).to(device)
    mirror = (torch.rand(len(batch), 1, generator=generator) < 0.5).to(device)
    place = torch.arange(size, device=device)
    rows, columns = place + dy, torch.where(mirror, size - 1 - place, place) + dx
    batch = F.pad(batch, [most] * 4, value=255)
    return batch[torch.arange(len(batch), device=device)[:, None, None], :, rows[:, :, None], columns[:, None]].movedim(
        -1, 1)


def shapes() -> Tensor:
    "Eight shapes of 8 × 8 pixels, True = ink."
    y, x = torch.meshgrid(torch.arange(8) - 3.5, torch.arange(8) - 3.5, indexing="ij")
    radius, inside = (y**2 + x**2).sqrt(), (y.abs() < 3) & (x.abs() < 3)
    return torch.stack([
        radius < 3.2, (radius < 3.6) & (radius > 2), inside & ((y.abs() > 2) | (x.abs() > 2)),
        inside & ((y.abs() < 1) | (x.abs() < 1)), inside & ((y.abs() - x.abs()).abs() < 1),
        inside & (y > 2 * x.abs() - 3.1), inside & (y.abs() > 1.2), inside & (x < 0)])


def draw(plan: Plan, count: int, distance: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    "Grids (count, rows, columns) of 0 = empty, 1–8 = grey shapes, 9–16 = red; and whether the red ones are the same."
    side, number = plan.size // CELL, len(shapes())
    low, high = plan.distances[distance]
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    apart = (place[:, None] - place).abs().amax(-1)
    pairs = ((apart >= low) & (apart <= high)).nonzero()
    pairs = pairs[torch.randint(len(pairs), (count,), generator=generator)]
    grids = torch.randint(1, number + 1, (count, side**2), generator=generator)
    grids[torch.rand(count, side**2, generator=generator) > 0.25] = 0
    same = torch.rand(count, generator=generator) < 0.5
    first = torch.randint(number, (count,), generator=generator)
    second = (first + torch.randint(1, number, (count,), generator=generator) * ~same) % number
    grids.scatter_(1, pairs, number + 1 + torch.stack([first, second], 1))
    return grids.view(count, side, side).byte(), same.long()


@functools.cache
def tiles() -> Tensor:
    "The cells (17, 3, 8, 8) that a grid may hold, as pixels."
    ink, white = shapes()[:, None], torch.full((3, 8, 8), 255)
    colour = lambda *rgb: torch.where(ink, torch.tensor(rgb)[:, None, None], white)
    return torch.cat([white[None], colour(120, 120, 120), colour(220, 30, 30)]).byte().to(device)


def painted(grids: Tensor) -> Tensor:
    return rearrange(tiles()[grids.int()], "b h w c p q -> b c (h p) (w q)")


@torch.no_grad()
def accuracy(model: Judge, inputs: Tensor, labels: Tensor, paint) -> float:
    model.eval()
    right = [(model(paint(x)).argmax(-1) == y).float() for x, y in zip(inputs.split(500), labels.split(500))]
    model.train()
    return torch.cat(right).mean().item()


def train(plan: Plan, task: str, detail: str, kind: str, rate: float, seed: int, path: str, steps: int,
          most: int) -> dict:
    "Accuracy on at most `most` of validation and test after the last step; for the relation also on the way there."
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    if task == "pictures":
        sets, paint = pictures(path), lambda x: x
        inputs, labels = share_of(sets["train"], float(detail), seed)
        rows = torch.cat([torch.randperm(len(inputs), generator=generator)
                          for _ in range(-(-steps * plan.batch // len(inputs)))]).to(device)
        tests = [(sets[split]["pictures"][:most], sets[split]["groups"][:most]) for split in ("validation", "test")]
    else:
        paint = painted
        inputs, labels = (t.to(device) for t in draw(plan, steps * plan.batch, detail, generator))
        rows = torch.arange(steps * plan.batch, device=device)
        tests = [tuple(t.to(device) for t in draw(plan, most, detail, torch.Generator().manual_seed(9000 + s)))
                 for s in (0, 1)]
    model, way = Judge(plan, kind, 8 if task == "pictures" else 2).to(device), {}
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05, fused=device.type == "cuda")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    for step in range(steps):
        batch = rows[step * plan.batch:(step + 1) * plan.batch]
        x = moved(inputs[batch], generator) if task == "pictures" else paint(inputs[batch])
        loss = F.cross_entropy(model(x), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if task == "relation" and (step + 1) % max(1, steps // 5) == 0:
            way[step + 1] = accuracy(model, *tests[1], paint)
    return {"validation": accuracy(model, *tests[0], paint), "test": accuracy(model, *tests[1], paint), "way": way,
            "train": accuracy(model, inputs[:most], labels[:most], paint)}


def _job(arguments: tuple) -> dict:
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, for both alike
    return train(*arguments)


def run_all(jobs: dict[tuple, tuple], workers: int) -> dict[tuple, dict]:
    "The result of every job; on a GPU several at once, since one alone does not fill it."
    if workers < 2:
        pool, results = None, map(_job, jobs.values())
    else:
        pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        results = pool.map(_job, jobs.values())
    found = {}
    for key, result in zip(jobs, results):
        found[key] = result
        print(*key, {name: round(v, 3) for name, v in result.items() if name != "way"}, flush=True)
    if pool:
        pool.shutdown()
    return found


def ahead(right: dict, task: str, first: str, second: str) -> bool:
    "`first` beats `second` in every seed, by more than the spread of the difference and by more than a hundredth."
    pairs = zip(right[f"{task}/{first}"]["values"], right[f"{task}/{second}"]["values"])
    gap = records.spread([a - b for a, b in pairs])
    return min(gap["values"]) > 0 and gap["mean"] > max(gap["sd"], 0.01)


def verdict(right: dict) -> str:
    "What the figures say, and no more."
    won = {task: "CNN" if ahead(right, task, "CNN", "ViT") else "ViT" if ahead(right, task, "ViT", "CNN") else None
           for task in dict.fromkeys(key.rsplit("/", 1)[0] for key in right)}
    on_pictures = {won[f"pictures/{share:g}"] for share in SHARES}
    far, near = won["relation/far"], won["relation/near"]
    if max(right[f"relation/near/{kind}"]["mean"] for kind in KINDS) < 0.75:
        return "not resolved at this scale: neither model learned to compare even neighbouring shapes"
    says = (lambda winner: "neither was ahead beyond the spread" if winner is None else f"the {winner} was ahead")
    relation = f"on the relation of shapes far apart {says(far)}, of neighbours {says(near)}"
    if on_pictures == {"CNN"} and far == "ViT" and near != "ViT":
        return "holds"
    if on_pictures == {"CNN"} and far != "ViT":
        return ("holds when it is about the pictures: there the CNN was ahead with every share of the training data; "
                f"the other half does not show: {relation}")
    if far == "ViT" and on_pictures != {"CNN"}:
        return ("holds when it is about relations; on the pictures the CNN was not ahead with every share of the "
                f"training data; {relation}")
    if far == "ViT":
        return f"holds when the ViT's lead is not put down to distance: {relation}; on the pictures the CNN was ahead"
    return f"fails: on the pictures the CNN was not ahead with every share of the training data, and {relation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", choices=PLANS, default="small")
    parser.add_argument("--pack", type=Path, help="write the pictures to this file and stop")
    parser.add_argument("--pictures", type=Path, help="read the pictures from this file")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: everything, a few steps, no record")
    parser.add_argument("--workers", type=int, default=4 if device.type == "cuda" else 1, help="models at once")
    parser.add_argument("--out", type=Path, help="folder of claims.json, if not results/")
    parser.add_argument("--commit", help="the commit, where git cannot be asked")
    given = parser.parse_args()
    plan = PLANS[given.plan]
    if given.pack:
        return pack(given.pack, plan.size)
    begun, path = given.commit or records.commit(), given.pictures
    if path is None:
        path = files.cache_dir() / f"claim-B1-{plan.size}.pt"
        pack(path, plan.size)
    steps = {task: 1 if given.quick else number for task, number in plan.steps.items()}
    rates, seeds = (RATES[:1], plan.seeds[:2]) if given.quick else (RATES, plan.seeds)
    tasks = [("pictures", f"{share:g}") for share in SHARES] + [("relation", name) for name in plan.distances]
    cost = {kind: costs(plan, kind) for kind in KINDS}
    assert abs(cost["CNN"]["parameters"] / cost["ViT"]["parameters"] - 1) < 0.05, cost
    print(cost, flush=True)
    job = lambda key: (plan, *key, str(path), steps[key[0]], 32 if given.quick else 2000)
    tried = run_all({key: job(key) for task in tasks for kind in KINDS for rate in rates
                     for key in [(*task, kind, rate, CHOOSING)]}, given.workers)
    chosen = {(*task, kind): max(rates, key=lambda rate: tried[(*task, kind, rate, CHOOSING)]["validation"])
              for task in tasks for kind in KINDS}
    done = run_all({key: job(key) for part, rate in chosen.items() for seed in seeds
                    for key in [(*part, rate, seed)]}, given.workers)
    of = lambda part, name: records.spread([done[(*part, chosen[part], seed)][name] for seed in seeds])
    right = {"/".join(part): of(part, "test") for part in chosen}
    way = {"/".join(part): {step: records.spread([done[(*part, chosen[part], seed)]["way"][step] for seed in seeds])
                            for step in done[(*part, chosen[part], seeds[0])]["way"]}
           for part in chosen if part[0] == "relation"}
    groups = pictures(str(path))
    most = groups["train"]["groups"].mode().values
    mean = lambda key: f"{right[key]['mean']:.3f} ± {right[key]['sd']:.3f}"
    both = lambda key: f"{mean(key + '/CNN')} and {mean(key + '/ViT')}"
    summary = ("Test accuracy of CNN and ViT: pictures, " + "; ".join(
        f"{share:.0%} of the training data {both(f'pictures/{share:g}')}" for share in SHARES)
        + f"; are two shapes the same, near {both('relation/near')}; far {both('relation/far')}")
    figures = {
        "right": right, "on the training pictures": {"/".join(p): of(p, "train") for p in chosen}, "way": way,
        "rate": {"/".join(part): rate for part, rate in chosen.items()}, "rates tried": list(rates),
        "validation of the rates": {"/".join(map(str, key[:4])): round(r["validation"], 6) for key, r in tried.items()},
        "cost": cost, "steps": steps, "batch": plan.batch, "pixels": plan.size,
        "train pictures": {f"{share:g}": len(share_of(groups["train"], share, 0)[0]) for share in SHARES},
        "test pictures": len(groups["test"]["groups"]),
        "largest group": round((groups["test"]["groups"] == most).float().mean().item(), 6)}
    print(summary, verdict(right), sep="\n")
    if not given.quick:
        records.record_claim(
            "B1", "A CNN is good at spatial hierarchy, a ViT at global relations.", verdict(right),
            f"python benchmarks/claim_B1.py --plan {given.plan}", seeds, figures,
            summary=summary, chapter="07_vision", begun=begun, folder=given.out)


if __name__ == "__main__":
    main()
