"""The capstone: its parts, a rehearsal of the whole run, going on after kill -9, and the recorded figures."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from mmtutor import capstone, inputs, questions
from mmtutor.course import records

QUICK = inputs.PROFILES["quick"]


# --- parts ---

def test_top_and_all_leave_batch_norm_and_text_alone():
    class Picture(nn.Module):
        dim = 4

        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for _ in range(16))
            self.head = nn.Conv2d(4, 4, 1)

    class Sound(nn.Module):
        dim = 4

        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 4, 3)
    text = nn.Linear(4, 4)
    text.dim = 4
    encoders = {"text": text, "picture": Picture(), "sound": Sound()}
    learns = {r: {n for n, p in capstone.new_model(r, "decoder", QUICK, encoders).named_parameters()
                  if p.requires_grad and n.startswith("encoders.")} for r in capstone.LEARNING}
    assert not learns["frozen"]
    assert "encoders.picture.blocks.12.0.weight" in learns["top"] and "encoders.sound.lstm.bias_hh_l2" in learns["top"]
    assert not {n for n in learns["top"] if "stem" in n or "blocks.3." in n or "_l1" in n}
    assert learns["top"] < learns["all"] and "encoders.picture.stem.weight" in learns["all"]
    assert not {n for n in learns["all"] if ".1." in n and "blocks" in n and n.split(".")[-2] == "1"}, "batch norm"
    model = capstone.new_model("all", "decoder", QUICK, encoders).train()
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_jobs_hold_learning_rates_and_every_seed():
    names = list(capstone.jobs(replace(inputs.PROFILES["full"], learning_rates=(1e-3, 3e-3))))
    assert len(names) == len(set(names))
    assert "all/decoder/picture+sound/0.003/2" in names and "frozen/concat/picture+sound/0.001/0" in names
    assert not [n for n in names if n.startswith(("all/concat", "top/concat"))]


@pytest.mark.bad_input
def test_unknown_profile_and_foreign_folder(tmp_path):
    with pytest.raises(ValueError, match="no profile 'fulll'; there are frozen, full, rates, gpu, quick, hub"):
        capstone.run("fulll", folder=tmp_path)
    assert not list(tmp_path.iterdir())
    capstone.claim_folder(tmp_path / "a", QUICK, fresh=False)
    capstone.claim_folder(tmp_path / "a", QUICK, fresh=False)
    with pytest.raises(ValueError, match="other settings.*epochs was 2, is 3.*--fresh"):
        capstone.claim_folder(tmp_path / "a", replace(QUICK, epochs=3), fresh=False)
    capstone.claim_folder(tmp_path / "a", replace(QUICK, epochs=3), fresh=True)
    with pytest.raises(ValueError, match="no way 'guessed'"):
        capstone.measure("guessed", QUICK)
    with pytest.raises(ValueError, match="of 101 steps; there are cached, recomputed, learning, and 1 to 100 steps"):
        capstone.measure("cached", QUICK, 101)
    with pytest.raises(ValueError, match="first_stage: 'zebra' is no job; expected regime/fusion/asked"):
        capstone.first_stage("zebra")
    with pytest.raises(ValueError, match="new_model: no regime 'zebra'; there are frozen, longer"):
        capstone.new_model("zebra", "decoder", QUICK, {})
    with pytest.raises(ValueError, match="gather: the record has no 'tset'"):
        capstone.gather({"a/0": {"test": {}}}, "tset")
    (tmp_path / "a/settings.json").write_text("{")
    with pytest.raises(ValueError, match="run: .*settings.json is cut off or damaged"):
        capstone.claim_folder(tmp_path / "a", QUICK, fresh=False)


# --- a rehearsal of the whole ---

def start(folder):
    code = "import sys; from mmtutor.course.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, "run", "--profile", "quick", "--folder", folder],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory, built):
    folder = tmp_path_factory.mktemp("run") / "quick"
    process = start(folder)
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out[-3000:]
    return folder, out


@pytest.mark.slow
def test_the_run_prints_records_and_reports(rehearsal):
    folder, out = rehearsal
    for text in ("majority class", "linear probe, picture+sound", "frozen/concat", "frozen/decoder", "R@1", "cached",
                 "recomputed", "report:"):
        assert text in out, text
    found = json.loads((folder / "capstone-quick.json").read_text())
    assert found["command"] == "mmtutor run --profile quick"
    assert {"baselines", "test", "validation", "cost", "parameters"} <= found["figures"].keys()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<audio") == page.count('alt="the picture of') == 12
    links = re.findall(r'(?:src|href)="([^"]{1,40})', page)
    assert links and all(link.startswith("data:") for link in links), "the report needs no network"
    assert "{{" not in page and "{%" not in page
    assert f"model:   {folder / 'model'}" in out


@pytest.mark.slow
def test_the_model_of_the_run_can_be_asked_in_a_terminal(rehearsal, capsys):
    from mmtutor.course.cli import main
    folder, _ = rehearsal
    assert main(["ask", str(folder / "model"), "--text", "a red heart", "--top", "2"]) == 0
    assert "from text" in (said := capsys.readouterr().out) and said.count(", ") == 3
    assert main(["ask", str(folder / "model"), "--picture", "no.png"]) == 1
    assert "there is no file 'no.png'" in capsys.readouterr().err
    assert main(["ask", str(folder)]) == 1 and "has no README.md" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_is_read_again(rehearsal):
    folder, _ = rehearsal
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("result.json")}
    assert len(before) == 2
    results = capstone.run("quick", folder=folder, progress=False)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("result.json")} == before
    assert set(results["test"]) == {"frozen/concat/picture+sound/0.003", "frozen/decoder/picture+sound/0.003"}


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(rehearsal, tmp_path, built):
    "SIGKILL after the first checkpoint of the decoder; the second start ends with the very same figures."
    whole, folder = rehearsal[0], tmp_path / "quick"
    process, name = start(folder), "frozen/decoder/picture+sound/0.003/0"
    deadline = time.monotonic() + 600
    while not list((folder / name).glob("checkpoints/step-*/state.json")):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / name / "result.json").exists()
    capstone.run("quick", folder=folder, progress=False)
    same = lambda base: json.loads((base / name / "result.json").read_text())
    assert same(folder) == same(whole)


# --- the recorded figures ---

def test_recorded_run_keeps_what_the_readme_says():
    figures = records.read("capstone-frozen")["figures"]
    test = figures["test"][f"frozen/decoder/picture+sound/{inputs.RATE:g}"]
    both, parts = test["clean/R@10/picture+sound"], [test[f"clean/R@10/{m}"] for m in ("picture", "sound")]
    assert both["n"] == 3 and both["mean"] >= 0.55
    assert all(records.ahead(both, part) == "ahead" for part in parts)
    together = test["degraded/group/text+picture+sound"]
    assert all(together["mean"] - test[f"degraded/group/{m}"]["mean"] >= 0.05 for m in inputs.MODALITIES)
    assert test["odd"]["mean"] >= 0.62, "chance is 1/4"
    cost = figures["cost"]
    assert cost["recomputed"]["seconds per epoch"] > 2 * cost["cached"]["seconds per epoch"]


def test_recorded_unfreezing_pays_in_every_seed():
    "All layers against frozen, and against the control that trained as long: the group, seed by seed."
    test = records.read("capstone-full")["figures"]["test"]
    of = lambda regime: test[f"{regime}/decoder/picture+sound/{inputs.RATE:g}"]["clean/group/picture+sound"]["values"]
    group = {regime: np.array(of(regime)) for regime in ("frozen", "longer", "all")}
    assert len(group["all"]) == 3
    assert (group["all"] > group["frozen"]).all() and (group["all"] > group["longer"]).all()


def test_the_rate_is_the_one_that_validation_prefers():
    found = {kind: figures for profile in ("full", "rates")
             for kind, figures in records.read(f"capstone-{profile}")["figures"]["validation"].items()}
    mean = {kind: np.mean([figures[key]["mean"] for key in questions.HEADLINES])
            for kind, figures in found.items() if kind.startswith("frozen/decoder/picture+sound/")}
    assert len(mean) == 3 and max(mean, key=mean.get).endswith(f"/{inputs.RATE:g}")
