"""One run in four frameworks: equal losses when everything is told, another run when something is left."""
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mmtutor.finetune import FinetuneConfig
from mmtutor.frameworks import FRAMEWORKS, LEFT, PARTS, Adapter, lines_of, load_keras, train_with
from mmtutor.freezing import freeze
from mmtutor.ledger import HalvesModel, departure, digit_halves

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import claim_T8  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = FinetuneConfig(epochs=5, batch_size=4, accumulate=2, learning_rate=1e-2, weight_decay=0.1, clip=0.5)
SHORT = replace(CONFIG, epochs=2)
THEIRS = list(FRAMEWORKS)[1:]
bad_input = pytest.mark.bad_input


@pytest.fixture(scope="module")
def train():
    "Windows of 8, the last one of an epoch has 6: ten steps an epoch."
    return digit_halves(78)[0]


@pytest.fixture(scope="module")
def plain(train):
    return train_with("plain", HalvesModel(16), train, CONFIG)


@pytest.mark.slow
@pytest.mark.parametrize("name", THEIRS)
def test_fifty_losses_agree(name, train, plain):
    found = train_with(name, HalvesModel(16), train, CONFIG)
    assert len(found.losses) == len(plain.losses) == 50 and plain.losses[-1] < plain.losses[0]
    assert departure(found, plain) <= 1e-4
    assert len(found.reported) == 5 and all(map(math.isfinite, found.reported))


@pytest.mark.slow
@pytest.mark.parametrize("name", THEIRS)
def test_fifty_losses_agree_with_dropout(name):
    train = digit_halves(80)[0]
    wet = {n: train_with(n, HalvesModel(16, dropout=0.2), train, CONFIG) for n in ("plain", name)}
    assert departure(wet[name], wet["plain"]) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"accumulate": 1}, {"clip": None}, {"warmup": 0.0, "seed": 3, "betas": (0.8, 0.9)}],
                         ids=lambda c: next(iter(c)))
@pytest.mark.parametrize("name", THEIRS)
def test_other_configurations_agree_too(name, change, train):
    config = replace(SHORT, **change)
    assert departure(train_with(name, HalvesModel(16), train, config),
                     train_with("plain", HalvesModel(16), train, config)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name, setting", claim_T8.settings())
def test_each_setting_that_is_left_makes_another_run(name, setting, train, plain):
    found = train_with(name, HalvesModel(16), train, CONFIG, (setting,))
    assert departure(found, plain) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", THEIRS)
def test_missing_labels_do_not_count(name, train):
    pictures, there, digits = train.tensors
    gone = torch.rand(len(digits), generator=torch.Generator().manual_seed(1)) < 0.3
    some = TensorDataset(pictures, there, digits.masked_fill(gone, -100))
    whole = train_with("plain", HalvesModel(16), some, replace(SHORT, batch_size=8, accumulate=1))
    assert departure(train_with(name, HalvesModel(16), some, SHORT), whole) <= 1e-4
    assert departure(train_with(name, HalvesModel(16), some, SHORT, ("weighting",)), whole) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("name", THEIRS)
def test_less_than_a_micro_batch_and_less_than_a_window(name, count):
    train = digit_halves(count)[0]
    found = train_with(name, HalvesModel(16), train, SHORT)
    assert departure(found, train_with("plain", HalvesModel(16), train, SHORT)) <= 1e-4 and len(found.losses) == 2


def test_keras_left_alone_may_take_no_step_at_all():
    model = HalvesModel(16)
    train_with("keras", model, digit_halves(3)[0], replace(SHORT, epochs=1), ("window", "weighting"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), HalvesModel(16).parameters()))


class Normed(HalvesModel):
    def __init__(self):
        super().__init__(8)
        self.last = nn.BatchNorm1d(10)

    def forward(self, pictures, there):
        return self.last(super().forward(pictures, there))


@pytest.mark.parametrize("name, leave, wakes", [("plain", (), True), ("trainer", (), True), ("lightning", (), True),
                                                ("lightning", ("mode",), False), ("keras", (), True)])
@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_who_wakes_a_norm_and_that_freeze_holds(name, leave, wakes, train):
    for prepare, moves in ((lambda m: m.last.eval(), wakes), (lambda m: freeze(m, "last"), False)):
        model = Normed()
        prepare(model)
        train_with(name, model, TensorDataset(*(t[:16] for t in train.tensors)), replace(SHORT, epochs=1), leave)
        assert bool(model.last.running_mean.abs().max() > 0) == moves
        assert not model.training


def test_nan_is_seen_by_the_ledger_and_hidden_by_the_trainers_report(train):
    poisoned = TensorDataset(*(t.clone() for t in train.tensors))
    poisoned.tensors[0][int(train.tensors[1].all(1).nonzero()[7]), 6, 3] = torch.nan
    for name in THEIRS:
        found = train_with(name, HalvesModel(8), poisoned, SHORT)
        assert math.isnan(found.losses[-1]) and departure(found, found) == math.inf
        assert math.isfinite(found.reported[-1]) == (name == "trainer")


def test_nothing_is_left_behind(train, tmp_path, monkeypatch, capfd, recwarn):
    "No file, no output, no change of the global generator."
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for name in FRAMEWORKS:
        train_with(name, HalvesModel(8), TensorDataset(*(t[:16] for t in train.tensors)), replace(SHORT, epochs=1))
        assert torch.equal(state, torch.get_rng_state()), name
    assert list(tmp_path.iterdir()) == []
    out, err = capfd.readouterr()
    assert out == "" and err == ""
    assert not [w for w in recwarn if not issubclass(w.category, DeprecationWarning)]


@bad_input
def test_what_cannot_be_run(train):
    go = lambda name="keras", data=train, config=SHORT, leave=(): train_with(name, HalvesModel(8), data, config, leave)
    for call, words in (
            (lambda: go("jax"), "unknown framework 'jax', expected one of plain, trainer, lightning, keras"),
            (lambda: go(leave=("epsilom",)), "keras has no setting epsilom to leave, only clipping, groups"),
            (lambda: go("plain", leave=("clipping",)), "plain has no setting clipping to leave, only none"),
            (lambda: go(data=TensorDataset(*(t[:0] for t in train.tensors))), "the training data are empty"),
            (lambda: go(config=replace(SHORT, precision="bfloat16")), "precision 'bfloat16'"),
            (lambda: go(config=replace(SHORT, encoder_learning_rate=1e-4)), "expected float32 and one learning rate")):
        with pytest.raises(ValueError, match=f"train_with: .*{words}"):
            call()


def in_a_fresh_process(code: str, home: Path, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KERAS")}
    run = subprocess.run([sys.executable, "-c", code], env=clean | {"KERAS_HOME": str(home)} | environment,
                         capture_output=True, text=True)
    return run.stdout.strip() or run.stderr.strip().splitlines()[-1]


NAME = "from mmtutor.frameworks import load_keras; print(load_keras().config.backend())"


@pytest.mark.slow
def test_keras_falls_back_to_torch_and_a_choice_of_ones_own_stays(tmp_path):
    assert in_a_fresh_process(NAME, tmp_path) == "torch"
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "tensorflow"}))  # as Keras writes it by itself
    assert in_a_fresh_process(NAME, tmp_path) == "torch"
    refused = "ModuleNotFoundError: No module named 'jax'"  # what Keras's NumPy backend wants: the choice was kept
    assert in_a_fresh_process(NAME, tmp_path, KERAS_BACKEND="numpy") == refused
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "numpy"}))
    assert in_a_fresh_process(NAME, tmp_path) == refused


@bad_input
def test_another_backend_than_the_one_needed(monkeypatch):
    keras = load_keras("torch")
    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    assert load_keras() is keras
    with pytest.raises(ValueError, match="load_keras: Keras runs on tensorflow, expected torch; set KERAS_BACKEND="):
        load_keras("torch")


def test_lines_are_counted_without_what_takes_settings_back():
    def sample(leave=()):
        "A docstring."
        # a comment

        if "x" in leave:
            return 1
        if "x" not in leave:
            return 2
        return 3
    assert lines_of(sample) == 4
    assert lines_of(Adapter) == 9
    assert PARTS.keys() == FRAMEWORKS.keys() == LEFT.keys()


def test_claim_is_judged_by_its_figures():
    told = {"keras": {"largest": 1e-6}}
    left = {"keras/order": {"mean": 0.5}, "trainer/groups": {"mean": 0.01}}
    said = claim_T8.verdict(told, left, {"plain": 20, "keras": 60})
    assert said.startswith("holds when") and "20 lines against 60" in said
    assert "(keras: order) moves the loss by 0.50" in said
    assert "all 2 settings are known: keras is the shortest" in claim_T8.verdict(told, left, {"plain": 20, "keras": 10})
    assert claim_T8.verdict({"keras": {"largest": 1e-3}}, left, {}).startswith("not resolved")


@pytest.mark.slow
def test_times_and_memory_have_every_way():
    found = claim_T8.seconds(turns=1, sizes={"toy": (8, 2)}, steps=(1, 3))["toy"]
    assert list(found) == list(claim_T8.WAYS) and found["plain"]["ratio"] == 1
    fabric = claim_T8.go("fabric", 8, SHORT, digit_halves(30)[0])
    assert departure(fabric, claim_T8.go("plain", 8, SHORT, digit_halves(30)[0])) < 1e-5
