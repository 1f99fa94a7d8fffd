"""What is checked where: the workflow is `.ci/run`, the other lanes are marked, the container's commands exist."""
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in (ROOT / ".github/workflows").glob("*.yml")}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def commands(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_main_workflow_is_ci_run():
    ci = WORKFLOWS["ci"]
    assert set(ci[True]) == {"push", "pull_request"}, "YAML reads the key `on` as true"
    assert [commands(job) for job in ci["jobs"].values()] == [["bash .ci/run"]]
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-1] == "make test"
    assert subprocess.run(["bash", "-n", ROOT / ".ci/run"]).returncode == 0
    assert (ROOT / ".ci/run").stat().st_mode & 0o100


def test_the_browser_of_ci_run_is_that_of_the_tests():
    found = re.findall(r"command -v ([\w-]+)", (ROOT / ".ci/run").read_text(encoding="utf-8"))
    text = (ROOT / "tests" / "browsing.py").read_text(encoding="utf-8")
    assert re.findall(r'shutil\.which\("([\w-]+)"\)', text)[:3] == found


def test_the_other_lanes_are_marked_and_decide_nothing():
    lanes = WORKFLOWS["lanes"]
    assert set(lanes[True]) == {"workflow_dispatch", "schedule"}
    assert set(lanes["jobs"]) == {"quarto", "newest", "gpu"}
    for name, job in lanes["jobs"].items():
        assert "not run yet" in job["name"] and "bash .ci/run" not in commands(job), name
    assert "self-hosted" in lanes["jobs"]["gpu"]["runs-on"]
    assert "constraints.txt" not in " ".join(commands(lanes["jobs"]["newest"]))


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_every_job_is_whole(workflow):
    for name, job in WORKFLOWS[workflow]["jobs"].items():
        assert job["runs-on"] and job["timeout-minutes"], name
        assert job["steps"][0]["uses"].startswith("actions/checkout@"), name
        for step in job["steps"]:
            assert len({"run", "uses"} & step.keys()) == 1
        for path in re.findall(r"(?:scripts|benchmarks|\.ci)/[\w.]+", " ".join(commands(job))):
            assert (ROOT / path).is_file(), path


def test_the_container_uses_the_commands_of_the_makefile():
    found = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    word, target = found["postCreateCommand"].split()
    assert word == "make" and target in TARGETS and f"make {target}" in (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    python = found["image"].rsplit(":", 1)[1]
    assert f'requires-python = ">={python}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert found["forwardPorts"] == [8888]


def test_what_was_not_tried_is_said():
    "No badge for what nobody has run; the limits name it."
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "colab.research.google.com" not in readme and "codespaces.new" not in readme and "badge" not in readme
    limits = readme[readme.index("## Limits"):]
    for word in ("Quarto", "Colab", "devcontainer", "macOS", "Windows"):
        assert word in limits, word
    assert "make test" in readme and "make run" in readme
