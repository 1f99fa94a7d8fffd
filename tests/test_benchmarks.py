"""The benchmarks run, at toy size, and record what their readers expect. No test here looks at a time."""
import argparse
import json
import sys
import tomllib
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import attention as bench  # noqa: E402
import budgets  # noqa: E402
import chapters  # noqa: E402
import claim_A1  # noqa: E402
import claim_A2  # noqa: E402
import claims  # noqa: E402
import gradcache  # noqa: E402
import imports  # noqa: E402
import mutants  # noqa: E402
import resident  # noqa: E402
import run  # noqa: E402

from mmtutor.course import records  # noqa: E402


class Allocate:
    "A call that needs some MiB and gives them back; picklable."

    def __init__(self, mib: int):
        self.mib = mib

    def __call__(self):
        bytearray(self.mib * 2**20)


def test_rivals_are_compared_in_every_block():
    found = bench.compare({"toy": (2, 8, 16, 2)}, repeats=3)
    torchs = "nn.TransformerEncoderLayer"
    rivals = {"attend": {"F.scaled_dot_product_attention"}, "MultiHeadAttention": {"nn.MultiheadAttention"},
              "EncoderLayer": {torchs, "BertLayer (sdpa)", "BertLayer (eager)"},
              "EncoderLayer, norm first": {torchs, "ViTLayer", "WhisperEncoderLayer"}}
    assert set(found) == {f"cpu/{block}/toy/{way}/{rival}" for block, names in rivals.items() for rival in names
                          for way in ("forward", "forward + backward")}
    for figure in found.values():
        assert set(figure) == {"ratio", "ours ms", "turns"} and figure["turns"]["n"] == 3 and figure["ratio"] > 0


def test_rivals_do_equal_work():
    "As many parameters (Whisper's keys have no bias), the same shape out; without parameters the same numbers out."
    x = torch.randn(2, 8, 16)
    for block in bench.rivals(2, 8, 16, 2, "cpu").values():
        sizes = {0 if module is None else sum(p.numel() for p in module.parameters()) + 16 * (
            name == "WhisperEncoderLayer") for name, (module, _) in block.items()}
        outs = [function(x) for _, function in block.values()]
        assert len(sizes) == 1 and {out.numel() for out in outs} == {x.numel()}
        if sizes == {0}:
            assert torch.allclose(*outs, atol=1e-6)


def test_layers_of_hugging_face_are_what_ours_are():
    "With the same weights in the same places the same numbers: the comparison is one of equals."
    x = torch.randn(2, 8, 16)
    for ours, theirs in (("EncoderLayer", "BertLayer (sdpa)"), ("EncoderLayer, norm first", "ViTLayer")):
        block = bench.rivals(2, 8, 16, 2, "cpu")[ours]
        (mine, call), (other, their_call) = block["ours"], block[theirs]
        for module in (mine, other):
            for name, p in module.named_parameters():  # every bias and norm as it began, every matrix the same
                p.data.fill_(0.0 if "bias" in name else 1.0) if p.dim() == 1 else p.data.copy_(
                    torch.linspace(-1, 1, p.numel()).view_as(p) / 8)
            module.eval()
            for m in module.modules():
                if isinstance(m, torch.nn.LayerNorm):
                    m.eps = 1e-5
        assert torch.allclose(call(x), their_call(x), atol=1e-5)


@pytest.mark.slow
def test_compiled_rivals_have_the_same_record():
    found = bench.compare({"toy": (2, 8, 16, 2)}, repeats=2, blocks=["MultiHeadAttention"], compiled=True)
    assert {key.split("/")[3] for key in found} == {"forward", "forward + backward"} and len(found) == 2


def test_memory_record_has_every_length_and_both_ways():
    found = bench.memory((128, 2048))
    assert set(found) == {f"cpu/{way}/{n}" for way in ("written out", "fused") for n in (128, 2048)}
    assert found["cpu/written out/2048"] > found["cpu/fused/2048"] >= 0


def test_memory_of_a_layer_grows_with_its_input():
    small, large = (resident.alone(bench.layer_peak, "EncoderLayer", "ours", (2, n, 64, 2), "cpu") for n in (16, 1024))
    assert small.keys() == {"forward", "forward + backward"}
    assert large["forward + backward"] > large["forward"] > small["forward"] >= 0


def test_peak_counts_what_is_given_back():
    assert resident.alone(resident.peak_of, bytes) < 4
    assert 60 < resident.alone(resident.peak_of, Allocate(64)) < 80
    with pytest.raises(ZeroDivisionError):
        resident.alone(divmod, 1, 0)


@pytest.mark.parametrize("kind", ["attention", "lstm"])
def test_recall_can_be_learned_and_the_last_place_is_the_last_place(kind):
    model, (symbols, marks, right) = claim_A1.Reader(kind), claim_A1.recall(4, 5, torch.Generator().manual_seed(0))
    assert marks[:, 0].eq(1).all() and marks[:, 1:].eq(0).all() and torch.equal(symbols[:, 0], right)
    everywhere = model(symbols, marks, everywhere=True)
    assert everywhere.shape == (4, 6, claim_A1.SYMBOLS)
    assert torch.allclose(everywhere[:, -1], model(symbols, marks), atol=1e-6)
    assert 0 <= claim_A1.train(kind, 3, 0, steps=2) <= 1


def test_readers_are_of_equal_size():
    a, b = (sum(p.numel() for p in claim_A1.Reader(kind).middle.parameters()) for kind in ("attention", "lstm"))
    assert abs(a - b) / a < 0.05


def test_verdicts_follow_the_figures():
    right = {f"{name}/{h}": {"values": [0.1, 0.2, 0.1] if h == 1 or name.startswith(("16", "real")) and h == 8
                             else [0.9, 1.0, 1.0]}
             for name in (*claim_A2.SETTINGS, "real: subgroup from picture") for h in claim_A2.HEADS}
    assert "wide enough" in claim_A2.verdict(right) and "[2, 4] heads beat one" in claim_A2.verdict(right)
    for h in claim_A2.HEADS:
        right[f"real: subgroup from picture/{h}"] = {"values": [0.3, 0.3, 0.3]}
    assert claim_A2.verdict(right).endswith("no number of heads beat one")
    right["attention alone/2"] = right["attention alone/1"]
    assert claim_A2.verdict(right).startswith("not resolved")
    recalled = {f"attention/{d}": {"values": [1.0, 1.0, 1.0]} for d in claim_A1.DISTANCES}
    spent = {f"cpu/{n}": {"lstm / attention": {"mean": 512 / n}} for n in claim_A1.LENGTHS}
    assert "slower one at 2048 places" in claim_A1.verdict(recalled, spent)
    recalled["attention/16"] = {"values": [1.0, 0.5, 1.0]}
    assert claim_A1.verdict(recalled, spent).startswith("not resolved")


def test_cards_are_dealt_fairly():
    symbols, numbers, asked, right = claim_A2.deal(50, 8, 2, torch.Generator().manual_seed(0))
    assert symbols.sort(1).values.eq(torch.arange(8)).all() and (asked[:, 0] != asked[:, 1]).all()
    assert torch.equal(numbers[torch.arange(50), asked[:, 1]], right[:, 1])


@pytest.mark.parametrize("setting", claim_A2.SETTINGS)
def test_players_of_any_number_of_heads_are_of_equal_size(setting):
    runs = [claim_A2.play(heads, 0, **{**claim_A2.SETTINGS[setting], "steps": 1}) for heads in claim_A2.HEADS]
    assert len({size for _, size in runs}) == 1 and all(0 <= share <= 1 for share, _ in runs)


def test_judges_learn_from_tokens():
    tokens, labels = torch.randn(6, 9, 20), torch.tensor([0, 1, 2, 0, 1, 2])
    share, size = claim_A2.judge(2, 0, (tokens, labels), (tokens, labels), epochs=1)
    assert 0 <= share <= 1 and size == claim_A2.judge(8, 0, (tokens, labels), (tokens, labels), epochs=1)[1]


TINY = {"dim": 16, "depth": 1, "heads": 2}


def test_gradcache_is_exact_and_open_clips_way_is_where_it_is_deterministic():
    found = {key: figure["largest"] for key, figure in gradcache.errors((0,), parts=3, micro=2, size=TINY).items()}
    assert set(found) == {f"{how} dropout/{what}/{way}" for how in ("with", "without") for what in ("towers", "scale")
                          for way in gradcache.FLAT}
    for how in ("with", "without"):
        assert found[f"{how} dropout/towers/GradCache"] < 1e-10 and found[f"{how} dropout/scale/GradCache"] < 1e-10
        assert found[f"{how} dropout/towers/accumulated"] > 1e-2
    assert found["without dropout/towers/open_clip"] < 1e-10 and found["with dropout/towers/open_clip"] > 1e-2
    assert found["without dropout/scale/open_clip"] == pytest.approx(2, abs=1e-6)  # three losses for one: 3 − 1
    with pytest.raises(ValueError, match="no way 'other', expected one of whole batch"):
        gradcache.step("other", gradcache.Towers(**TINY), [0], gradcache.part_of)


def test_gradcache_record_has_every_way():
    assert set(gradcache.seconds(32, 1, TINY)) == set(gradcache.WAYS)
    found = gradcache.memory((32,), TINY)
    assert set(found) == {"weights", *(f"{way}/32" for way in gradcache.WAYS)} and min(found.values()) > 0


def test_imports_are_told_apart():
    found = imports.each(["mmtutor.course.dates", "mmtutor.course.figures"], repeats=1)
    assert found["mmtutor.course.dates"]["brings"] == [] and "matplotlib" in found["mmtutor.course.figures"]["brings"]
    assert imports.package(1)["seconds"]["n"] == 1 and "mmtutor.attention" in imports.modules()
    with pytest.raises(RuntimeError, match="mmtutor.nothing could not be imported"):
        imports._run(imports.ONE, "mmtutor.nothing")


def notebook(path: Path, code: str) -> Path:
    import nbformat
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), path)
    return path


@pytest.mark.slow
def test_a_notebook_is_measured_and_a_broken_one_says_why(tmp_path, monkeypatch):
    good = notebook(tmp_path / "good.ipynb", "import time; x = bytearray(400 * 2**20); time.sleep(1); del x")
    bad = notebook(tmp_path / "bad.ipynb", "1 / 0")
    found = chapters.measure(good)
    assert found["seconds"] >= 1 and 400 < found["peak MiB"] < 900
    assert "ZeroDivisionError" in chapters.measure(bad)["failed"]
    monkeypatch.setattr(chapters.notebooks, "NBS", tmp_path)
    kept, calls = tmp_path / "kept.json", []
    monkeypatch.setattr(chapters, "measure", lambda path: calls.append(path.stem) or {
        "failed": "no"} if path == bad else calls.append(path.stem) or {"seconds": 1.0, "peak MiB": 2})
    assert chapters.run([good, bad], kept, "a")["good"] == {"seconds": 1.0, "peak MiB": 2}
    chapters.run([good, bad], kept, "a")
    assert calls == ["good", "bad", "bad"]  # what failed is tried again
    chapters.run([good], kept, "b")
    assert calls[-1] == "good"  # another commit begins anew


def turns(ratio: float, sd: float = 0.0) -> dict:
    return {"ratio": ratio, "turns": {"mean": ratio, "sd": sd, "n": 4}}


def judged(record: str, figures: dict, tmp_path: Path) -> dict[str, budgets.Row]:
    (tmp_path / f"{record}.json").write_text(json.dumps({"figures": figures}), encoding="utf-8")
    return {row.what: row for row in budgets.table(tmp_path) if row.record == record}


def test_budgets_are_judged_by_the_records_alone(tmp_path):
    assert all(row.verdict.startswith(("not measured: there is no", "held by")) for row in budgets.table(tmp_path))
    key = "cpu/EncoderLayer/base/forward + backward/{}"
    layers = {key.format("BertLayer"): turns(0.9), key.format("ViTLayer"): turns(1.04, 0.06),
              "cpu/EncoderLayer/base/forward/BertLayer": turns(7.0), "cpu/attend/base/forward + backward/F": turns(7.0)}
    row, = judged("bench-attention", {"ours / theirs": layers}, tmp_path).values()
    assert row.verdict == "not resolved: beyond it by less than the noise; 1 of 2 within" and not row.short
    layers[key.format("ViTLayer")] = turns(1.04, 0.02)
    row, = judged("bench-attention", {"ours / theirs": layers}, tmp_path).values()
    assert row.verdict == "short by 4%; 1 of 2 within" and row.short == [key.format("ViTLayer")] and "1.04" in row.found
    layers[key.format("ViTLayer")] = turns(1.0)
    row, = judged("bench-attention", {"ours / theirs": layers}, tmp_path).values()
    assert row.verdict == "reached"
    row, = judged("bench-attention", {"something": 1}, tmp_path).values()
    assert row.verdict == "not measured: the record lacks 'ours / theirs'"
    assert {row.verdict.partition(":")[0].split(" by ")[0].partition(";")[0] for row in budgets.table(tmp_path)} <= {
        *budgets.VERDICTS, "held by a test", "held"}


def test_budgets_at_least_and_overheads(tmp_path):
    mel = {"a/librosa, one array": turns(2.0), "a/transformers (torch)": turns(1.0),
           "a/transformers (NumPy)": turns(4.0)}
    row, = judged("bench-logmel", {"theirs / ours": mel}, tmp_path).values()
    assert row.verdict == "short by 33%; 1 of 2 within" and row.short == ["a/librosa, one array"]
    steps = {"plain": turns(1.0), "finetune": turns(1.03), "fabric": turns(1.02), "trainer": turns(1.3),
             "lightning": turns(1.4)}
    fabric, others = judged("bench-frameworks", {"seconds": {"small": steps}}, tmp_path).values()
    assert fabric.verdict == "short by 50%" and others.verdict == "reached"
    steps["finetune"] = turns(1.03, 0.02)
    fabric, _ = judged("bench-frameworks", {"seconds": {"small": steps}}, tmp_path).values()
    assert fabric.verdict.startswith("not resolved")


def test_budgets_of_memory_chapters_and_imports(tmp_path):
    peaks = {"weights": 1.0, "accumulated/64": 100.0, "accumulated/1024": 104.0, "GradCache/64": 101.0,
             "GradCache/1024": 130.0}
    flat, cache = judged("bench-gradcache", {"peak MiB": peaks}, tmp_path).values()
    assert flat.verdict == "reached" and cache.verdict.startswith("short by 9%") and "1024 samples" in cache.found
    rows = {"a": {"seconds": 80.0, "peak MiB": 900}, "b": {"seconds": 100.0, "peak MiB": 5000}}
    one, whole, memory = judged("chapters", {"chapters": rows, "seconds together": 180.0}, tmp_path).values()
    assert one.short == ["b"] and "100 s (b)" in one.found and whole.verdict == "reached"
    assert memory.verdict.startswith("short by 22%")
    rows["b"] = {"failed": "it broke"}
    one, *_ = judged("chapters", {"chapters": rows, "seconds together": 80.0}, tmp_path).values()
    assert one.verdict == "not measured: b failed"
    found = {"mmtutor": {"seconds": {"mean": 0.1, "sd": 0.0, "n": 5}, "brings": []}, "on use only": ["keras"],
             "modules": {"mmtutor.x": {"brings": ["keras", "scipy"]}}}
    quick, brought = judged("bench-imports", found, tmp_path).values()
    assert quick.verdict == "reached" and brought.verdict == "short by 1; 1 of 2 within"


def test_budgets_of_a_gpu(tmp_path):
    speed = {"large/full, as written": {"MFU": 0.35}, "large/full, compiled": {"MFU": 0.45},
             "large/frozen, as written": {"MFU": 9}}
    memory = {"accumulated/64": {"peak MiB": 10}, "GradCache/64": {"peak MiB": 11}, "accumulated/128": {"peak MiB": 12},
              "GradCache/128": None}
    rows = judged("gpu-run", {"speed": speed, "memory": memory, "not done": {"peers": "stopped"}}, tmp_path).values()
    assert [row.verdict.partition(":")[0] for row in rows] == [
        "not measured", "short by 14%", "reached", "reached", "not measured"]


def test_the_table_reads_the_records_of_this_repository():
    rows = budgets.table()
    assert len({row.what for row in rows}) == len(budgets.BUDGETS)
    assert all(row.verdict.startswith(budgets.VERDICTS) for row in rows)
    assert all(row.what in budgets.as_text(rows) for row in rows)
    for name in {row.record for row in rows if (budgets.RESULTS / f"{row.record}.json").exists()}:
        assert records.read(name)["figures"] == budgets.figures_of(name)
    assert "lacks" not in budgets.as_text(rows)  # every record there has the form that its budget reads


def test_jobs_are_run_apart_and_a_failure_stops_no_other(monkeypatch, tmp_path, capfd):
    for name, code in (("good", "print('fine')"), ("bad", "1 / 0"), ("long", "import time; time.sleep(60)")):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "JOBS", tuple(run.Job(n, (f"{n}.py",), 5 if n == "long" else 50)
                                           for n in ("bad", "long", "good")))
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert run.main() == 1
    out = capfd.readouterr().out
    assert "FAILED" in out and "stopped after 5 s" in out and "fine" in out and "Budgets" in out


def test_the_recorded_command_has_what_is_not_the_default(monkeypatch, one_thread):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16)
    monkeypatch.setattr(sys, "argv", ["claim.py", "--epochs", "2", "--dry"])
    args, options = claims.parsed(parser)
    assert options == " --epochs 2" and args.dry and args.seeds == 3


def test_figures_of_all_seeds_are_gathered_in_their_groups(capsys):
    found = claims.over_seeds((0, 1, 2), lambda seed: {"all": {"test": seed / 10}, "cost": 1.0 * seed})
    assert found["all"]["test"]["values"] == [0.0, 0.1, 0.2] and found["cost"]["mean"] == 1
    assert capsys.readouterr().out.startswith("seed 0 ")


def test_every_job_is_there_and_can_be_tried():
    for job in run.JOBS:
        assert "--dry" in (run.HERE / job.command[0]).read_text(encoding="utf-8")


@pytest.mark.slow
def test_loading_is_set_against_the_step(built):
    import pipeline
    found = pipeline.raw(16, 1, pipeline.PROFILES["quick"], workers=(0,))
    assert found["supply / need"]["0"] > 0 and 0 < found["waiting, part of the loop"]["0"] < 1
    assert pipeline.cached(1, pipeline.PROFILES["quick"])["supply / need"] > 0


def test_mutants_are_counted_by_what_became_of_them(tmp_path):
    (tmp_path / "mmtutor").mkdir()
    codes = {"a": 1, "b": 3, "c": 0, "d": 33, "e": 36, "f": -9, "g": None}
    (tmp_path / "mmtutor" / "attention.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    there = mutants.made(tmp_path)
    assert there == {"attention": codes}
    assert mutants.drawn(there, 0) == mutants.drawn(there, 7) == {"attention": list("abcdefg")}
    some = mutants.drawn(there, 3)
    assert some == mutants.drawn(there, 3) and len(set(some["attention"])) == 3 and {*some["attention"]} < {*codes}
    tried = [code for code in codes.values() if code is not None]
    assert mutants.count(tried) == {
        "changes": 6, "killed": 2, "slow": 1, "survived": 1, "unreached": 1, "other": 1}
    assert mutants.change("--- a\n+++ b\n@@ -1 +1 @@\n x\n-    y = 1\n+    y = 2\n") == "- y = 1 + y = 2"


def test_mutated_modules_and_their_tests_are_there():
    settings = tomllib.loads((mutants.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    for name in settings["only_mutate"] + settings["pytest_add_cli_args_test_selection"] + settings["also_copy"]:
        assert (mutants.ROOT / name.split("::")[0]).exists(), name
