"""One good call of each public function of records, cards of models, checkpoints and counted parts."""
import tempfile
from pathlib import Path

import torch
from fuzzed import good
from torch import nn

from mmtutor.course import card, checkpoints, parts, records

HOME = tempfile.TemporaryDirectory()


def _folder() -> Path:
    return Path(tempfile.mkdtemp(dir=HOME.name))


# --- records ---

@good("course.records.checkout")
def _():
    return records.checkout, {}


@good("course.records.notebooks_dir")
def _():
    return records.notebooks_dir, {}


@good("course.records.results_dir")
def _():
    return records.results_dir, {}


@good("course.records.machine")
def _():
    return records.machine, {}


@good("course.records.commit")
def _():
    return records.commit, {}


@good("course.records.spread")
def _():
    return records.spread, dict(values=[0.5, 0.6, 0.8])


@good("course.records.complete")
def _():
    def found(name, record):
        with records.complete(name):
            return record["a"]
    return found, dict(name="show", record={"a": 1})


@good("course.records.show")
def _():
    return records.show, dict(figure=records.spread([0.5, 0.6]), digits=3)


@good("course.records.ahead")
def _():
    return records.ahead, dict(ours={"values": [0.5, 0.6, 0.8]}, theirs={"values": [0.4, 0.3, 0.4]})


@good("course.records.record")
def _():
    return records.record, dict(name="toy", command="python toy.py", seeds=[0, 1], figures={"accuracy": 0.5},
                                folder=_folder(), begun="abc")


@good("course.records.read", raises=(FileNotFoundError,))
def _():
    folder = _folder()
    (folder / "toy.json").write_text('{"a": 1}')
    return records.read, dict(name="toy", folder=folder)


@good("course.records.read what a file holds", raises=(FileNotFoundError,))
def _():
    def found(content):
        folder = _folder()
        (folder / "toy.json").write_text(content)
        return records.read("toy", folder)
    return found, dict(content='{"a": 1}')


@good("course.records.peak_memory")
def _():
    def used():
        with records.peak_memory() as found:
            torch.ones(1000)
        return found
    return used, {}


@good("course.records.record_claim")
def _():
    return records.record_claim, dict(
        id="A1", claim="It helps.", verdict="holds", command="python x.py", seeds=[0, 1, 2], figures={"share": 0.5},
        summary="so much", chapter="01_x", folder=_folder(), begun="abc")


# --- the card of a model ---

@good("course.card.model_card")
def _():
    kind = "frozen/decoder/picture+sound/0.003"
    figures = {"odd": records.spread([0.5]), "clean/R@1/picture+sound": records.spread([0.5])}
    record = dict(figures={"test": {kind: figures}}, command="mmtutor run", commit="abc", version="0.1.0",
                  machine={"torch": "2", "accelerator": None}, seeds=[0])
    settings = dict(data="emoji", text_model="a", picture_model="b", sound_model="c")
    return card.model_card, dict(record=record, job=f"{kind}/0", settings=settings, groups=["food", "animals"],
                                 names=20, temperature=1.5, learned=["picture"])


# --- checkpoints ---

@good("course.checkpoints.random_states")
def _():
    return checkpoints.random_states, {}


@good("course.checkpoints.set_random_states")
def _():
    def put(states):
        with checkpoints.own_randomness():
            checkpoints.set_random_states(states)
            return torch.rand(1), list(checkpoints.random_states())
    return put, dict(states=checkpoints.random_states())


@good("course.checkpoints.set_random_states of numpy")
def _():
    states = checkpoints.random_states()

    def put(numpy, numpy_rest):
        with checkpoints.own_randomness():
            checkpoints.set_random_states(states | dict(numpy=numpy, numpy_rest=numpy_rest))
    return put, {name: states[name] for name in ("numpy", "numpy_rest")}


@good("course.checkpoints.own_randomness")
def _():
    def drawn(seed):
        with checkpoints.own_randomness(seed):
            return torch.rand(2)
    return drawn, dict(seed=3)


def _files():
    return {"model": {"weight": torch.randn(2, 3), "count": torch.tensor(3)}, "state": {"order": torch.arange(4)}}


@good("course.checkpoints.save_checkpoint")
def _():
    def kept(**given):
        folder = given["folder"]
        path = checkpoints.save_checkpoint(**given)
        found = checkpoints.newest_checkpoint(folder)
        assert len(list(folder.iterdir())) <= given["keep"] and path.is_dir()
        return found
    folder = _folder()
    for step in (1, 2):
        checkpoints.save_checkpoint(folder, step, _files(), {}, 2)
    return kept, dict(folder=folder, step=3, files=_files(), facts={"epoch": 1, "loss": 0.5}, keep=2)


def _read(read):
    "What `read` finds of a checkpoint after somebody has changed its files."
    def found(state, tensors):
        folder = _folder()
        path = checkpoints.save_checkpoint(folder, 1, _files(), {"epoch": 1}, 2)
        for name, content in (("state.json", state), ("model.safetensors", tensors)):
            if content != "as it is":
                (path / name).write_text(content)
        return read(folder, path)
    return found, dict(state="as it is", tensors="as it is")


@good("course.checkpoints.read_checkpoint")
def _():
    return _read(lambda folder, path: checkpoints.read_checkpoint(path))


@good("course.checkpoints.newest_checkpoint")
def _():
    return _read(lambda folder, path: checkpoints.newest_checkpoint(folder))


# --- parts ---

@good("course.parts.step_by_step")
def _():
    def product():
        with parts.step_by_step():
            return torch.ones(2, 3) @ torch.ones(3, 2)
    return product, {}


def _model():
    return nn.ModuleDict({"first": nn.Linear(3, 4), "second": nn.BatchNorm1d(4)})


@good("course.parts.count_flops", swallows=("x",))  # whatever the numbers are, the operations are the same
def _():
    class Square(nn.Module):
        def forward(self, x):
            return x.reshape(1, -1) @ x.reshape(-1, 1)

    def counted(x):
        return parts.count_flops(Square(), x)
    return counted, dict(x=torch.randn(2, 3))


@good("course.parts.Part")
def _():
    def lines(**given):
        return parts.as_lines([parts.Part(**given)])
    return lines, dict(name="all", parameters=12, trained=4, bytes=48, flops=24.0)


@good("course.parts.parts_of")
def _():
    return parts.parts_of, dict(model=_model(), names={"one": "first", "two": "second"}, samples=2,
                                counts={"": 30, "first": 24, "second": 6})


@good("course.parts.as_lines")
def _():
    return parts.as_lines, dict(parts=parts.parts_of(_model(), {"one": "first"}, {"": 30, "first": 24}, 2))


@good("course.parts.step_flops", swallows=("x",))
def _():
    def counted(x):
        return parts.step_flops(lambda: x.reshape(1, -1) @ x.reshape(-1, 1))
    return counted, dict(x=torch.randn(2, 3))


@good("course.parts.utilisation")
def _():
    return parts.utilisation, dict(flops=1e12, seconds=0.5, precision="bfloat16", device_name="NVIDIA H200")
