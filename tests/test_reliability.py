"""What befalls a training run: kills, SIGTERM, full disks, damaged and foreign checkpoints, NaN, hardly any data.

`pytest tests/test_reliability.py --moments 50` kills at more moments than the suite does.
"""
import contextlib
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import killed  # noqa: E402

from mmtutor.course import checkpoints, files  # noqa: E402
from mmtutor.finetune import FinetuneConfig, ReadAhead, Terminated, finetune  # noqa: E402
from mmtutor.optimiser import NotFinite  # noqa: E402

pytestmark = pytest.mark.reliability
QUIET = {"progress": False}
CONFIG = FinetuneConfig(epochs=2, batch_size=4, accumulate=3, learning_rate=1e-2)  # ten steps, two checkpoints


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(folder=None, model=None, data=None, config=CONFIG, **more):
    model = killed.Model() if model is None else model
    history = finetune(model, killed.loss_fn, killed.Rows() if data is None else data, config,
                       validate=killed.validate, folder=folder, **QUIET, **more)
    return model, history


def same(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def unbroken():
    torch.set_num_threads(1)
    return train()


# --- kill -9 ---

@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, request):
    "Every run ends with the bits of the run that nobody killed; no checkpoint is left that cannot be read."
    moments = request.config.getoption("--moments")
    found = killed.battery(moments, tmp_path)
    assert sum(count["kills"] for count in found.values()) == moments
    for kind, count in found.items():
        assert count["ended bit-equal"] == count["runs"] > 0, (kind, found)
        assert count["unloadable checkpoints"] == 0, (kind, found)


@contextlib.contextmanager
def dying(moment):
    "Ends this process without any clean-up at a chosen place of the second save."
    save, remove, write, written = checkpoints.save_file, checkpoints._remove, Path.write_text, []
    def save_file(tensors, path):
        written.append(path)
        if len(written) == {"first file": 4, "second file": 5}.get(moment):
            path.write_bytes(b"half of it")
            os._exit(9)
        save(tensors, path)
    def write_text(path, *more, **rest):
        if len(written) == 6 and moment == "before the last":
            os._exit(9)
        return write(path, *more, **rest)
    def removed(path):
        if len(written) == 6 and path.name == "step-00000005" and moment == "while the old one goes":
            (path / "state.json").unlink()
            os._exit(9)
        remove(path)
    checkpoints.save_file, checkpoints._remove, Path.write_text = save_file, removed, write_text
    yield


@pytest.mark.parametrize("moment", ["first file", "second file", "before the last", "while the old one goes"])
def test_killed_inside_a_save(tmp_path, unbroken, moment):
    config = replace(CONFIG, keep=1)
    pid = os.fork()
    if pid == 0:
        try:
            with dying(moment):
                train(tmp_path, config=config)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    done = 10 if moment == "while the old one goes" else 5
    assert killed.inside_a_save(tmp_path)
    assert checkpoints.newest_checkpoint(tmp_path)[0]["history"]["step"] == done
    model, history = train(tmp_path, killed.Model(seed=4), config=config)
    assert same(model, unbroken[0]) and list(history) == list(unbroken[1])
    if done == 5:
        assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"] and not list(tmp_path.rglob("*.part"))


def test_a_half_written_newer_folder_does_not_push_out_the_whole_one(tmp_path, unbroken):
    "keep=1: killed while step 10 was saved, continued with more frequent saves, killed again."
    config = replace(CONFIG, keep=1)
    train(tmp_path, config=config, stop_after=5)
    (tmp_path / "step-00000010").mkdir()
    (tmp_path / "step-00000010" / ".model.safetensors.x.part").write_bytes(b"half")
    train(tmp_path, config=replace(config, checkpoint_every=1), stop_after=2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000007"]
    model, _ = train(tmp_path, killed.Model(seed=1), config=config)
    assert same(model, unbroken[0])


# --- SIGTERM ---

PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_reliability as t
t.torch.set_num_threads(1)
def say(history):
    print(history.step, flush=True)
    time.sleep(0.02)
data = t.ReadAhead(t.killed.Rows(), workers=1) if sys.argv[3] == "worker" else t.killed.Rows()
t.train(t.Path(sys.argv[2]), data=data, watch=[say], config=t.replace(t.CONFIG, checkpoint_every=100))
print("never reached")
"""


@pytest.mark.parametrize("kind", ["plain", "worker"])
def test_sigterm_to_all_saves_says_so_and_ends_with_143(tmp_path, kind):
    "The signal goes to the whole group of processes, workers included, as a cluster sends it."
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path), kind],
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        while program.stdout.readline() != "3\n":
            assert program.poll() is None, program.stderr.read()
        os.killpg(program.pid, signal.SIGTERM)
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 128 + signal.SIGTERM == 143 and "never" not in out
    (path,) = tmp_path.iterdir()
    step = int(path.name.removeprefix("step-"))
    assert 3 <= step < 10
    assert f"told to end (SIGTERM). Step {step} of 10 is done and saved in {tmp_path}; call again to go on." in err
    data = lambda: ReadAhead(killed.Rows()) if kind == "worker" else killed.Rows()
    unbroken, whole = train(data=data())
    model, history = train(tmp_path, killed.Model(seed=8), data(), config=replace(CONFIG, checkpoint_every=100))
    assert same(model, unbroken) and list(history) == list(whole) and history.losses == whole.losses


def terminate_at(step):
    def watcher(history):
        if history.step == step:
            signal.raise_signal(signal.SIGTERM)
    return watcher


@pytest.mark.parametrize("step", [1, 5, 9, 10])
def test_sigterm_within_the_process(tmp_path, unbroken, step):
    "The handler comes back, the model is in eval mode, the bits are right; also at the end of an epoch and of the run."
    mine = lambda *_: pytest.fail("this handler is not to be called")
    before = signal.signal(signal.SIGTERM, mine)
    try:
        model = killed.Model()
        with pytest.raises(Terminated, match=r"told to end \(SIGTERM\)") as caught:
            train(tmp_path, model, watch=[terminate_at(step)])
        assert caught.value.code == 143 and isinstance(caught.value, SystemExit) and not model.training
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    saved = checkpoints.newest_checkpoint(tmp_path)[0]["history"]["step"]
    assert saved == min(step + 1, 10)  # it came between two steps: the next one was taken and saved
    model, history = train(tmp_path, killed.Model(seed=8))
    assert same(model, unbroken[0]) and list(history) == list(unbroken[1])


@pytest.mark.parametrize("old", [signal.SIG_DFL, signal.SIG_IGN], ids=["default", "ignored"])
def test_sigterm_is_left_alone_without_a_folder_or_where_it_is_ignored(tmp_path, old):
    "Only a run that can save takes the signal over; who ignores it goes on ignoring it."
    seen, before = [], signal.signal(signal.SIGTERM, old)
    try:
        look = lambda history: seen.append(signal.getsignal(signal.SIGTERM))
        train(watch=[look])
        assert set(seen) == {old}
        if old is signal.SIG_IGN:
            _, history = train(tmp_path, watch=[look, terminate_at(2)])
            assert set(seen) == {old} and history.finished
        assert signal.getsignal(signal.SIGTERM) is old
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_signals_are_not_touched(tmp_path, unbroken):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(tmp_path)))
    thread.start()
    thread.join()
    assert same(found[0][0], unbroken[0])


# --- a full disk ---

@contextlib.contextmanager
def tmpfs(folder, monkeypatch):
    "A disk of 44 KiB."
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=44k", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def dev_full(folder, monkeypatch):
    "From the ninth file on, each new file leads to /dev/full, where the kernel answers every write with ENOSPC."
    made, make = [], files.tempfile.mkstemp
    def mkstemp(**more):
        made.append(1)
        handle, name = make(**more)
        if len(made) > 8:
            os.unlink(name)
            os.symlink("/dev/full", name)
        return handle, name
    with monkeypatch.context() as m:
        m.setattr(files.tempfile, "mkstemp", mkstemp)
        yield


def may_mount() -> bool:
    "Try it, in a mount namespace of its own that is gone afterwards."
    with contextlib.suppress(OSError):
        return os.geteuid() == 0 and subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0
    return False


DISKS = [dev_full, *([tmpfs] if may_mount() else [])]  # both are full to the kernel; the first needs no rights


@pytest.mark.parametrize("disk", DISKS)
def test_a_full_disk_is_named_and_leaves_the_older_checkpoints(tmp_path, monkeypatch, disk, unbroken):
    config = replace(CONFIG, checkpoint_every=1, keep=5)
    with disk(tmp_path, monkeypatch):
        with pytest.raises(OSError, match=r"save_checkpoint: step-0000000\d could not be written .*No space left on "
                           r"device.*older checkpoints are intact. Make room \([\d.,]+ MiB are free\)") as caught:
            train(tmp_path, config=config)
        assert caught.value.errno == errno.ENOSPC
        there = sorted(p.name for p in tmp_path.iterdir())
        assert there and not list(tmp_path.rglob("*.part"))
        for name in there:
            checkpoints.read_checkpoint(tmp_path / name)
        if disk is tmpfs:  # room is made, and it goes on
            subprocess.run(["mount", "-o", "remount,size=2m", tmp_path], check=True)
            model, _ = train(tmp_path, killed.Model(seed=2), config=config)
            assert same(model, unbroken[0])
    if disk is dev_full:
        model, _ = train(tmp_path, killed.Model(seed=2), config=config)
        assert same(model, unbroken[0])


# --- damage ---

@pytest.mark.parametrize("how, name", [  # without state.json it is an unfinished checkpoint: tested below
    (how, name) for how in ("flip", "cut", "empty", "gone", "swapped")
    for name in ("model.safetensors", "state.safetensors", "best.safetensors", "state.json")
    if (how, name) not in (("gone", "state.json"), ("swapped", "state.json"))])
def test_damaged_newest_checkpoint_is_named_and_passed_over(tmp_path, name, how, unbroken):
    train(tmp_path)
    file = tmp_path / "step-00000010" / name
    data = bytearray(file.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
    other = (tmp_path / "step-00000005" / name).read_bytes()
    file.write_bytes({"flip": data, "cut": data[:-3], "empty": b"", "gone": data, "swapped": other}[how])
    if how == "gone":
        file.unlink()
    with pytest.warns(UserWarning, match=f"step-00000010 is damaged: {name}"):
        model, history = train(tmp_path, killed.Model(seed=2))
    assert same(model, unbroken[0]) and name in history.notes[0]
    assert checkpoints.read_checkpoint(tmp_path / "step-00000010")[0]["history"]["step"] == 10  # written again, whole


def test_the_state_of_another_step_is_found_out(tmp_path, unbroken):
    "A whole state.json beside files of another step: each is sound, together they are not."
    train(tmp_path)
    (tmp_path / "step-00000010" / "state.json").write_bytes((tmp_path / "step-00000005" / "state.json").read_bytes())
    with pytest.warns(UserWarning, match="step-00000010 is damaged: model.safetensors"):
        model, _ = train(tmp_path, killed.Model(seed=2))
    assert same(model, unbroken[0])


def test_unfinished_checkpoint_is_passed_over_in_silence(tmp_path, recwarn, unbroken):
    train(tmp_path)
    (tmp_path / "step-00000010" / "state.json").unlink()
    model, _ = train(tmp_path, killed.Model(seed=2))
    assert same(model, unbroken[0]) and not recwarn.list


def test_all_damaged_is_refused(tmp_path):
    train(tmp_path)
    for file in tmp_path.glob("step-*/model.safetensors"):
        file.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no usable checkpoint: .*00010.*00005.*Delete"):
        train(tmp_path)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


@pytest.mark.parametrize("way", ["pickle", "torch.save"])
def test_a_program_in_a_checkpoint_is_never_run(tmp_path, monkeypatch, way, unbroken):
    "Even if whoever put it there has also written the right fingerprints."
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    folder = tmp_path / "run"
    train(folder)
    path = folder / "step-00000010"
    if way == "pickle":
        (path / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({"w": Evil()}, path / "model.safetensors")
    wrapped = json.loads((path / "state.json").read_text())
    content = json.loads(wrapped["content"])
    content["files"]["model"] = sha256((path / "model.safetensors").read_bytes()).hexdigest()
    text = json.dumps(content)
    (path / "state.json").write_text(json.dumps({"sha256": sha256(text.encode()).hexdigest(), "content": text}))
    with pytest.warns(UserWarning, match="step-00000010 is damaged: model.safetensors"):
        model, _ = train(folder, killed.Model(seed=2))
    assert same(model, unbroken[0]) and not (tmp_path / "evil").exists()


def test_weights_of_another_shape_are_refused_by_name(tmp_path):
    class Wide(killed.Model):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 5)
    train(tmp_path, stop_after=2)
    wide = Wide()
    before = {k: v.clone() for k, v in wide.state_dict().items()}
    with pytest.raises(ValueError, match=r"of another model .*head.weight: \(3, 8\), expected \(5, 8\)"):
        train(tmp_path, wide)
    assert all(torch.equal(v, before[k]) for k, v in wide.state_dict().items())


# --- numbers that are none, and hardly any data ---

@pytest.mark.parametrize("workers", [None, 0, 1])
def test_nan_in_one_row_names_its_micro_batch(workers, tmp_path):
    "Whoever reads it. The checkpoints stay; with the row mended, the run goes on as if nothing had been."
    row = torch.randperm(50, generator=torch.Generator().manual_seed(CONFIG.seed))[30].item()  # comes in the third step
    def rows(bad):
        data = killed.Rows()
        if bad:
            data.x[row, 2] = torch.nan
        return data if workers is None else ReadAhead(data, workers)
    config = replace(CONFIG, checkpoint_every=1)
    good, _ = train(data=rows(False), config=config)
    with pytest.raises(NotFinite, match="the loss is nan at step") as caught:
        train(tmp_path, data=rows(True), config=config)
    assert row in caught.value.indices and len(caught.value.indices) == 4 and caught.value.step == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    model, _ = train(tmp_path, killed.Model(seed=3), data=rows(False), config=config)
    assert same(model, good)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("batch_size, accumulate", [(32, 1), (2, 100), (32, 7)])
def test_less_data_than_a_batch_and_accumulation_longer_than_an_epoch(tmp_path, count, batch_size, accumulate):
    "One step an epoch, on all there is: against plain AdamW on the whole, in float64; stopped and continued as well."
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = lambda m, b, g: (F.mse_loss(m(b), b[:, :1]), {})
    config = FinetuneConfig(epochs=3, batch_size=batch_size, accumulate=accumulate, weight_decay=0, warmup=0, clip=None)
    models = [nn.Linear(6, 1).double() for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    history = finetune(models[0], loss, x, config, **QUIET)
    assert history.step == history.total == 3 and len(history) == 3
    adam = torch.optim.AdamW(models[1].parameters(), betas=(0.9, 0.98), weight_decay=0)
    for step in range(3):
        adam.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 3)).item())
        adam.zero_grad()
        loss(models[1], x, None)[0].backward()
        adam.step()
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=0, atol=1e-8)
    for _ in range(3):
        finetune(models[2], loss, x, config, folder=tmp_path, stop_after=1, **QUIET)
    assert same(models[0], models[2])
