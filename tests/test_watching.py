"""The watchers: what they draw and write is the history, whatever became of the run in between."""
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from mmtutor.course import watching
from mmtutor.course.watching import LivePlot, TensorBoard, peak_mib
from mmtutor.finetune import FinetuneConfig, finetune

CONFIG = FinetuneConfig(epochs=3, batch_size=2, learning_rate=1e-2, checkpoint_every=2)


def loss_fn(model, batch, generator):
    return (model(batch) - 1).square().mean(), {"size": len(batch)}


def train(*watch, config=CONFIG, **more):
    torch.manual_seed(0)
    validate = lambda m: {"score": -m.weight.abs().sum(), "other": 0.5}
    return finetune(nn.Linear(3, 1), loss_fn, torch.randn(8, 3), config, validate=validate, watch=watch,
                    progress=False, **more)


def scalars(folder):
    seen = EventAccumulator(str(folder))
    seen.Reload()
    return {tag: [(event.step, event.value) for event in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}


def as_floats(pairs):
    return [(step, pytest.approx(value, rel=1e-6, abs=1e-7)) for step, value in pairs]


def check(history, found):
    assert found["loss"] == as_floats(enumerate(history.losses, 1))
    assert found["learning rate"] == as_floats(enumerate(history.rates, 1))
    for tag, of in {"epoch/loss": lambda e: e["loss"], "epoch/size": lambda e: e["parts"]["size"],
                    "validation/score": lambda e: e["validation"]["score"],
                    "validation/other": lambda e: e["validation"]["other"]}.items():
        assert found[tag] == as_floats((entry["step"], of(entry)) for entry in history)
    assert len(found) == 6


def test_tensorboard_holds_the_history(tmp_path):
    check(train(TensorBoard(tmp_path)), scalars(tmp_path))


@pytest.mark.parametrize("broken_at", [1, 4, 5, 11])
def test_a_run_that_was_broken_off_appears_once(tmp_path, broken_at):
    "Steps after the newest checkpoint, and epochs that ended there, are written twice and shown once."
    def stumble(history):
        if history.step == broken_at:
            raise KeyboardInterrupt
    first = TensorBoard(tmp_path / "board")
    with pytest.raises(KeyboardInterrupt):
        train(first, stumble, folder=tmp_path / "run")
    first.close()
    time.sleep(1.1)  # TensorBoard reads files in the order of their names, which begin with the second
    check(train(TensorBoard(tmp_path / "board"), folder=tmp_path / "run"), scalars(tmp_path / "board"))


def test_tensorboard_is_imported_on_use_and_its_absence_is_named(monkeypatch, tmp_path):
    code = ("import sys, mmtutor.finetune, mmtutor.course.watching as w; w.TensorBoard('x'); "
            "print('tensorboard' in sys.modules)")
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="TensorBoard: the package is not installed; pip install tensorboard"):
        train(TensorBoard(tmp_path))


def test_live_plot_without_a_notebook_shows_nothing_and_can_be_drawn(capfd):
    plot = LivePlot()
    with pytest.raises(ValueError, match="LivePlot: nothing to draw yet"):
        plot.picture()
    history = train(plot)
    assert capfd.readouterr() == ("", "")
    picture = plot.picture()
    best = history[history.best]
    assert picture.data[:4] == b"\x89PNG" and picture.data == plot.picture().data
    assert f"12 of 12 steps; best score {best['validation']['score']:.3f} in epoch {best['epoch']}" in picture.alt
    assert "finished" in picture.caption


def test_live_plot_redraws_in_place_and_ends_with_the_last_state(monkeypatch):
    shown = []
    class Handle:
        def update(self, picture):
            shown.append(("update", picture.caption))
    def display(picture, display_id):
        shown.append(("display", picture.caption))
        return Handle()
    monkeypatch.setattr(watching, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    train(LivePlot(seconds=0))
    assert [how for how, _ in shown] == ["display"] + ["update"] * 11
    assert "Step 1 of 12, under way" in shown[0][1] and "Step 12 of 12, finished; best score" in shown[-1][1]
    shown.clear()
    train(LivePlot(seconds=1000))
    assert [how for how, _ in shown] == ["display", "update"] and "finished" in shown[-1][1]


def test_live_plot_says_why_a_run_ended_early():
    plot = LivePlot()
    torch.manual_seed(0)
    finetune(nn.Linear(3, 1), loss_fn, torch.randn(8, 3), replace(CONFIG, epochs=9, patience=2), watch=[plot],
             validate=lambda m: {"score": 1.0}, progress=False)
    assert "no better score in 2 epochs; the best was that of epoch 1" in plot.picture().caption


PEAKS = """
import torch
from mmtutor.course.watching import peak_mib
peaks = [peak_mib()]
ones = torch.ones(2**26)  # 256 MiB
peaks.append(peak_mib(ones.device))
del ones
print(*peaks, peak_mib("cpu"))
"""


def test_peak_memory_is_that_of_this_process_and_stays_when_a_tensor_goes():
    large = torch.ones(2**28)  # 1 GiB in the parent, which the child must not report as its own
    run = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    before, during, after = map(float, run.stdout.split())
    assert peak_mib() > large.nbytes / 2**20 > 900 > before > 10
    assert 150 < during - before < 260 and after > during - 1  # Linux counts pages of a process in batches
