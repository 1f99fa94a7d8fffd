"""The GPU run, at toy size on the CPU: every section, and what becomes of one that fails or has no time."""
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import budgets  # noqa: E402
import gpu  # noqa: E402
import gpu_run  # noqa: E402

CPU = torch.device("cpu")


def test_names_are_those_of_the_sections():
    assert set(gpu_run.NAMES) == set(gpu.SECTIONS)
    assert sum(limit for _, limit in list(gpu.SECTIONS.values())[:-1]) <= 570  # the capstone has what is left


def test_blocks_keep_their_parity_in_both_types():
    found = gpu.parity(True, CPU)
    assert {key.rsplit("/", 1)[1] for key in found} == {"float32", "bfloat16"} and len(found) == 26
    assert all(value < (1e-4 if key.endswith("float32") else 0.1) for key, value in found.items())


def test_peers_are_judged_as_the_layers_on_a_cpu_are():
    found = gpu.peers(True, CPU)
    names = {key.rsplit("/", 1)[1] for key in found}
    assert {"BertModel", "ViTModel", "WhisperEncoder", "ViTLayer", "nn.MultiheadAttention"} <= names
    judged = {case.name for case in budgets._layers({"ours / theirs": found})}
    assert {key for key in found if "forward + backward" in key} == judged


def test_whole_encoders_are_equals():
    for ours, call, theirs, their_call in gpu.whole_encoders(True, 2, CPU).values():
        sizes = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (ours, theirs)]
        assert abs(sizes[0] - sizes[1]) / sizes[1] < 0.1
        assert gpu._first(call()).shape == gpu._first(their_call()).shape


def test_full_and_frozen_are_timed():
    found = gpu.speed(True, CPU)
    assert set(found) == {"toy/full, as written", "toy/frozen, as written"}
    full, frozen = found.values()
    assert full["TFLOP"] >= frozen["TFLOP"] and full["MFU"] is None and full["samples/s"] > 0


@pytest.mark.parametrize("size", ["embedded", "toy"])
def test_models_take_their_random_inputs(size):
    model = gpu.full_model(size)
    inputs = gpu.inputs_for(model, 2, CPU)
    assert inputs["text"][0].shape == (2, 128) and torch.isfinite(gpu.loss_of(model.eval(), inputs))


def test_memory_has_every_way_and_batch():
    assert set(gpu.memory(True, CPU)) == {f"{way}/{n}" for way in gpu.gradcache.WAYS for n in (2, 4)}


@pytest.mark.slow
def test_compiled_blocks_are_themselves():
    found = gpu.compiled(True, CPU)
    assert len(found) == 2 and max(found.values()) < 1e-4
    assert len(gpu.compiled_peers(True, CPU)) == 2


@pytest.mark.slow
def test_every_block_can_be_traced():
    "All that the GPU run compiles, without the compiler."
    found = gpu.compiled(False, CPU, backend="eager")
    assert len(found) == 14 and max(found.values()) < 1e-4


@pytest.mark.slow
def test_data_and_capstone_run_at_toy_size(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {key: row["supply / need"] > 0 for key, row in gpu.pipeline(True, CPU).items()} == {
        "raw": True, "cached": True}
    found = gpu.capstone(True, CPU)
    assert found["test"] and found["cost"].keys() == {"cached", "recomputed"}
    so_far = gpu.capstone_so_far(Path(f"{gpu.CAPSTONE}-toy"))
    assert so_far["test"] == found["test"] and gpu.capstone_so_far(tmp_path / "nothing") is None


def test_sections_fail_alone_and_are_done_again(tmp_path, monkeypatch):
    tried = []

    def section(name, toy, limit, kept):
        tried.append(name)
        return {"not done": "it broke", "seconds": 1.0} if name == "peers" and tried.count("peers") == 1 else {
            "figures": {"of": name}, "seconds": 2.0}
    monkeypatch.setattr(gpu_run, "section", section)
    recorded = []
    monkeypatch.setattr(gpu_run, "write", lambda found, begun: recorded.append(json.dumps(found)))
    names = ["parity", "peers", "speed"]
    found = gpu_run.run(names, False, 100, tmp_path, "a")
    assert tried == names and found["peers"]["not done"] == "it broke" and found["speed"]["figures"] == {"of": "speed"}
    assert len(recorded) == 3  # after every section, so that a run that is cut off loses nothing
    found = gpu_run.run(names, False, 100, tmp_path, "a")
    assert tried == [*names, "peers"] and all("figures" in row for row in found.values())
    gpu_run.run(names[:1], False, 100, tmp_path, "b")
    assert tried[-1] == "parity"  # another commit begins anew
    late = gpu_run.run(["memory"], False, 1, tmp_path, "b")
    assert late["memory"]["not done"].startswith("no time was left") and tried[-1] == "parity"


def test_a_section_runs_apart_and_says_why_it_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_run, "SECTION", "import sys; open(sys.argv[3], 'w').write('{\"name\": 1}')")
    assert gpu_run.section("x", True, 50, tmp_path)["figures"] == {"name": 1}
    monkeypatch.setattr(gpu_run, "SECTION", "raise MemoryError('too much')")
    found = gpu_run.section("x", True, 50, tmp_path)
    assert "too much" in found["not done"] and found["so far"] is None
    monkeypatch.setattr(gpu_run, "SECTION", "import gpu; gpu.keep({'first': 1}); raise MemoryError('later')")
    assert gpu_run.section("x", True, 100, tmp_path)["so far"] == {"first": 1}  # what was finished is not lost
    monkeypatch.setattr(gpu_run, "SECTION", "import time; time.sleep(60)")
    assert gpu_run.section("x", True, 1, tmp_path)["not done"] == "stopped after 1 s"


def test_record_holds_what_is_there(tmp_path, monkeypatch):
    from mmtutor.course import records
    monkeypatch.setattr(records, "results_dir", lambda: tmp_path)
    gpu_run.write({"speed": {"figures": {"a": 1}, "seconds": 3.0}, "capstone": {
        "not done": "stopped", "so far": {"finished so far": []}, "seconds": 9.0}}, "abc")
    figures = records.read("gpu-run", tmp_path)["figures"]
    assert figures["speed"] == {"a": 1} and figures["not done"] == {"capstone": "stopped"}
    assert figures["capstone"] == {"finished so far": []} and figures["seconds"]["speed"] == 3.0


def test_pieces_are_put_together_again(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    (cache / "data").mkdir(parents=True)
    (cache / "data" / "x.arrow").write_bytes(bytes(range(256)) * 100)
    monkeypatch.setattr(gpu_run, "PIECE", 10_000)
    pieces = gpu_run.pack(tmp_path / "packed", cache, "3.12", wheels=())
    assert len(pieces) > 2 and all(p.stat().st_size <= 10_000 for p in pieces)
    with tarfile.open(fileobj=io.BytesIO(b"".join(p.read_bytes() for p in pieces))) as archive:
        assert archive.getnames() == ["cache/data", "cache/data/x.arrow"]
    monkeypatch.setenv("MMTUTOR_CACHE", "elsewhere")
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.setattr(sys, "path", list(sys.path))
    gpu_run.unpack(tmp_path / "packed")
    assert (tmp_path / "packed" / "cache" / "data" / "x.arrow").read_bytes() == bytes(range(256)) * 100
    assert Path(gpu_run.os.environ["MMTUTOR_CACHE"]) == (tmp_path / "packed" / "cache").resolve()
