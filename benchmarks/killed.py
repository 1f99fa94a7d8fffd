"""Training runs are killed at random moments, also inside a save, and continued: do they end with the same bits?

One run is plain, one writes its checkpoints slowly, so that more kills land inside a save, one has a worker that reads
ahead. Each is killed once or twice before it may end. Writes results/reliability-training.json.
Run: python benchmarks/killed.py --moments 50
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F

from mmtutor.course import checkpoints, records
from mmtutor.finetune import FinetuneConfig, History, ReadAhead, finetune

KINDS = ("plain", "slow disk", "worker")
CONFIG = FinetuneConfig(epochs=5, batch_size=4, accumulate=3, learning_rate=1e-2, checkpoint_every=3, patience=4)


class Model(nn.Module):
    "Dropout and running statistics: what a continued run could get wrong."
    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoders = nn.ModuleDict({"a": nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))})
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoders["a"](x).relu())


class Rows:
    "Fifty rows, read one by one and changed at random: from epoch and row, or from the global generators for a batch."
    def __init__(self, count: int = 50):
        self.x = torch.randn(count, 6, generator=torch.Generator().manual_seed(5))
        self.y = (self.x[:, 0] > 0).long() + (self.x[:, 1] > 1).long()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        if isinstance(index, tuple):
            epoch, row = index
            shift = np.random.default_rng([7, epoch, row]).normal()
            return self.x[row] + 0.1 * np.float32(shift), self.y[row]
        return self.x[index] + 0.1 * random.gauss(0, 1) + 0.1 * np.random.normal(), self.y[index]  # noqa: NPY002


def loss_fn(model, batch, generator):
    x, y = batch
    logits = model(x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype))
    return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(-1) == y).float().mean()}


def validate(model):
    "Draws random numbers, which must not be felt."
    rows = Rows()
    return {"score": -F.cross_entropy(model(rows.x), rows.y), "noise": torch.rand(1)}


@contextmanager
def slow_disk(seconds: float = 0.01) -> Iterator[None]:
    "Tensors are written in two halves, with a pause between."
    def slowly(tensors, path):
        data = save(tensors)
        with open(path, "wb") as file:
            file.write(data[:len(data) // 2])
            file.flush()
            time.sleep(seconds)
            file.write(data[len(data) // 2:])
    fast, checkpoints.save_file = checkpoints.save_file, slowly
    try:
        yield
    finally:
        checkpoints.save_file = fast


def train(folder: Path, kind: str, **more) -> tuple[nn.Module, History]:
    "The run, from its beginning or from where it was; what the new model starts with does not matter then."
    model = Model(seed=random.SystemRandom().randrange(1000) if any(folder.glob("step-*/state.json")) else 0)
    data = ReadAhead(Rows(), workers=1) if kind == "worker" else Rows()
    with slow_disk() if kind == "slow disk" else slow_disk(0):
        history = finetune(model, loss_fn, data, CONFIG, validate=validate, folder=folder, progress=False, **more)
    return model, history


def final(folder: Path) -> tuple[dict, dict]:
    "Facts and files of the newest checkpoint."
    return checkpoints.read_checkpoint(max(folder.glob("step-*")))


def same(a: tuple[dict, dict], b: tuple[dict, dict]) -> bool:
    "Two checkpoints are equal: every weight, mean, generator state and number of the history, in every bit."
    (facts, files), (others, theirs) = a, b
    return facts == others and files.keys() == theirs.keys() and all(
        files[k].keys() == theirs[k].keys() and all(torch.equal(t, theirs[k][name]) for name, t in files[k].items())
        for k in files)


def inside_a_save(folder: Path) -> bool:
    return any(not (path / "state.json").exists() for path in folder.glob("step-*"))


def unloadable(folder: Path) -> int:
    "How many checkpoints call themselves finished and cannot be read."
    bad = 0
    for path in folder.glob("step-*"):
        if (path / "state.json").exists():
            try:
                checkpoints.read_checkpoint(path)
            except ValueError:
                bad += 1
    return bad


def serve() -> None:
    "Lines in: folder, tab, kind. For each a process is forked that trains; out come its number and its exit code."
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), "plain")  # what is imported at the first call is not imported in every process anew
    print("ready", flush=True)
    for line in sys.stdin:
        folder, kind = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            try:
                train(Path(folder), kind)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


@contextmanager
def runner() -> Iterator:
    "A function (folder, kind, seconds until SIGKILL or None) → exit code; the training runs in processes of their own."
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import killed; killed.serve()"
    errors = tempfile.TemporaryFile("w+")  # workers whose run was killed complain; it matters when a run fails
    server = subprocess.Popen([sys.executable, "-c", code], text=True, bufsize=1, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=errors)
    ready = server.stdout.readline()

    def go(folder: Path, kind: str, seconds: float | None = None) -> int:
        print(f"{folder}\t{kind}", file=server.stdin, flush=True)
        pid = int(server.stdout.readline())
        if seconds is not None:
            time.sleep(seconds)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        code = int(server.stdout.readline())
        if code not in (0, -signal.SIGKILL):
            errors.seek(0)
            raise RuntimeError(f"killed: the run ended with {code}:\n{errors.read()[-3000:]}")
        return code
    try:
        assert ready == "ready\n", "the process that runs the training did not start"
        yield go
    finally:
        server.stdin.close()
        server.wait(timeout=60)
        server.stdout.close()
        errors.close()


def battery(moments: int, folder: Path, seed: int | None = None) -> dict[str, dict[str, int]]:
    "Kill at so many random moments; what came of it, by kind of run."
    draw, found = random.Random(seed), {kind: Counter(kills=0) for kind in KINDS}
    with runner() as go:
        whole, lasts = {}, {}
        for kind in KINDS:
            begun = time.monotonic()
            go(folder / f"whole {kind}", kind)
            lasts[kind], whole[kind] = time.monotonic() - begun, final(folder / f"whole {kind}")
        number = 0
        while sum(count["kills"] for count in found.values()) < moments or number < len(KINDS):  # each at least once
            kind = KINDS[number % len(KINDS)]
            mine, count, number = folder / f"run {number}", found[kind], number + 1
            for _ in range(draw.choice((1, 1, 2))):
                if sum(c["kills"] for c in found.values()) < moments:
                    killed = go(mine, kind, draw.uniform(0, lasts[kind])) != 0
                    count["kills"] += killed
                    count["inside a save"] += killed and inside_a_save(mine)
                    count["before any checkpoint"] += killed and not any(mine.glob("step-*/state.json"))
                    count["unloadable checkpoints"] += unloadable(mine)
            go(mine, kind)
            count["runs"] += 1
            count["ended bit-equal"] += same(final(mine), whole[kind])
    return {kind: dict(count) for kind, count in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    begun = records.commit()
    with tempfile.TemporaryDirectory() as folder:
        found = battery(args.moments, Path(folder), args.seed)
    names = ("kills", "inside a save", "before any checkpoint", "unloadable checkpoints", "runs", "ended bit-equal")
    total = {name: sum(count[name] for count in found.values()) for name in names}
    print(*(f"{kind}: {count}" for kind, count in found.items()), f"all: {total}", sep="\n")
    if not args.dry:
        records.record("reliability-training", f"python benchmarks/killed.py --moments {args.moments}", [args.seed],
                       {"by kind": found, "all": total}, begun=begun)


if __name__ == "__main__":
    main()
