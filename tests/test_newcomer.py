"""A newcomer's way in, from the wheel: install, start, JupyterLab, solve, check, upgrade.

The environment is a new one that holds nothing but the wheel; what mmtutor requires is lent to it by the environment
of the tests.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from browsing import await_lab, open_lab
from test_lab import RUN_ALL, RUN_CELL, SETTINGS

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = "01_attention.ipynb"
NEWER = "9.9.0"
pytestmark = pytest.mark.slow
FILL_IN = """async ([start, source]) => {
  const panel = window.jupyterapp.shell.currentWidget;
  const index = panel.content.widgets.findIndex(w => w.model.sharedModel.getSource().startsWith(start));
  panel.content.widgets[index].model.sharedModel.setSource(source);
  return index;
}"""
RESTART = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.save();
  await panel.sessionContext.session.kernel.restart();
  await panel.sessionContext.session.kernel.info;
}"""
SOLUTION = "def scores(q, k):\n    return q @ k.T / q.shape[-1] ** 0.5  # mine"


def build_wheel(source: Path, folder: Path) -> Path:
    "As for a release: the source archive, and the wheel out of that."
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source], check=True,
                   capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_newer(source: Path) -> None:
    "A later version: chapter 1 has a better first cell and a changed stub of the exercise `scores`."
    for path in (source / "settings.ini", source / "mmtutor" / "__init__.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r'(?m)^((?:__)?version(?:__)? = "?)[\d.]+', rf"\g<1>{NEWER}", text), encoding="utf-8")
    path = source / "nbs" / CHAPTER
    nb = json.loads(path.read_text(encoding="utf-8"))
    nb["cells"][0]["source"][0] = "# Attention, newly told\n"
    (stub,) = (c for c in nb["cells"] if "".join(c["source"]).startswith("def scores("))
    stub["source"].insert(1, "    # Begin with the product.\n")
    path.write_text(json.dumps(nb), encoding="utf-8")


class Newcomer:
    "An environment of one's own, a home of one's own, and the command `mmtutor`."

    def __init__(self, home: Path):
        self.home, self.venv = home, home / "venv"
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "MMTUTOR_NOTEBOOK")}
        shared = Path(sys.prefix) / "share" / "jupyter"  # where pip puts JupyterLab itself, beside the packages
        self.env = kept | {f"JUPYTER_{n}": str(home / n.lower()) for n in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")} | {
            "JUPYTER_PATH": str(shared), "JUPYTERLAB_DIR": str(shared / "lab"), "IPYTHONDIR": str(home / "ipython"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "MMTUTOR_PROGRESS": str(home / "progress.json"), "PATH": f"{self.venv / 'bin'}:{os.environ['PATH']}"}
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.venv], check=True)
        (packages,) = self.venv.glob("lib/python*/site-packages")
        (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (self.home / "work").mkdir()

    def install(self, wheel: Path) -> None:
        subprocess.run([sys.executable, "-m", "pip", "--python", self.venv / "bin" / "python", "install", "--quiet",
                        "--no-deps", "--no-index", "--disable-pip-version-check", wheel], check=True, env=self.env)

    def __call__(self, *words: str, where: str = "work") -> subprocess.CompletedProcess:
        return subprocess.run([self.venv / "bin" / "mmtutor", *words], cwd=self.home / where, env=self.env,
                              capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    "The wheel of this checkout, and one of a later version."
    home = tmp_path_factory.mktemp("wheels")
    source = shutil.copytree(ROOT, home / "source", ignore=shutil.ignore_patterns(
        ".venv*", ".git", "_docs", "_proc", "build", "dist", "runs", "*.egg-info", "__pycache__", ".ipynb_checkpoints"))
    first = build_wheel(source, home / "first")
    make_newer(source)
    shutil.rmtree(source / "build", ignore_errors=True)
    return first, build_wheel(source, home / "second")


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory, wheels):
    found = Newcomer(tmp_path_factory.mktemp("newcomer"))
    found.install(wheels[0])
    return found


def test_the_installed_package_is_the_wheel(newcomer):
    code = "import mmtutor, mmtutor.course.records as r; print(mmtutor.__file__, r.checkout(), r.notebooks_dir())"
    out = subprocess.check_output([newcomer.venv / "bin" / "python", "-c", code], env=newcomer.env, text=True,
                                  cwd=newcomer.home)
    package, checkout, notebooks = out.split()
    assert str(newcomer.venv) in package and str(newcomer.venv) in notebooks and checkout == "None"


def test_start_check_doctor(newcomer):
    lost = newcomer("lab", "--no-browser")
    assert lost.returncode == 1 and "`mmtutor start my-course` makes one" in lost.stderr
    done = newcomer("start", "my-course")
    assert done.returncode == 0, done.stderr
    course = newcomer.home / "work" / "my-course"
    assert "files laid out in my-course" in done.stdout and (course / "headline.png").is_file()
    assert sorted(p.name for p in course.glob("*.ipynb")) == sorted(p.name for p in (ROOT / "nbs").glob("*.ipynb"))
    done = newcomer("check")
    assert done.returncode == 0 and "go on with 01_attention: scores" in done.stdout and done.stderr == ""
    done = newcomer("doctor")
    wrong = [line for line in done.stdout.splitlines() if line.startswith("!!") and "GiB" not in line]
    assert wrong == [] and "working copy" in done.stdout and "extension anywidget is there" in done.stdout
    assert "the kernel `python3` is this Python" in done.stdout


@pytest.fixture(scope="module")
def lab(newcomer):
    "`mmtutor lab`, as the newcomer types it; only the port, the password and the browser are settled before."
    newcomer("start", "my-course")
    for name, content in SETTINGS.items():
        path = newcomer.home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {"ServerApp": {"ip": "127.0.0.1", "port": port, "port_retries": 0, "allow_root": True},
              "IdentityProvider": {"token": ""},
              "LabApp": {"expose_app_in_browser": True, "extension_manager": "readonly"}}
    (newcomer.home / "config_dir").mkdir(exist_ok=True)
    (newcomer.home / "config_dir" / "jupyter_lab_config.json").write_text(json.dumps(config))
    with open(newcomer.home / "log", "w") as log:
        server = subprocess.Popen([newcomer.venv / "bin" / "mmtutor", "lab", "--no-browser"], env=newcomer.env,
                                  cwd=newcomer.home / "work", stdout=log, stderr=subprocess.STDOUT,
                                  start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}/"
        await_lab(address, server, newcomer.home / "log", "mmtutor lab", 120)
        yield address
    finally:
        for word in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.pid, word)  # mmtutor and the JupyterLab that it waits for
                server.wait(20)
                break
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                break


@pytest.fixture(scope="module")
def page(lab):
    with open_lab(lab, 300) as page:
        yield page


def said(cell: dict) -> str:
    "What a cell says, as plain text."
    parts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell["outputs"]]
    return "\n".join("".join(part) for part in parts)


@pytest.mark.browser
def test_chapter_one_in_jupyterlab(newcomer, page):
    found = page.evaluate(RUN_ALL, CHAPTER)
    assert "failed" not in found, found
    code = [c for c in found["cells"] if c["cell_type"] == "code"]
    errors = [(c["id"], o["ename"], o["evalue"]) for c in code for o in c["outputs"] if o["output_type"] == "error"]
    assert errors == [] and [c["execution_count"] for c in code] == list(range(1, len(code) + 1))

    figure = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .mmt").first
    slider = figure.get_by_role("slider", name="logit of cat")
    before = float(slider.get_attribute("aria-valuenow"))
    slider.press("PageUp")
    assert float(slider.get_attribute("aria-valuenow")) > before

    stub = page.evaluate(FILL_IN, ["def scores(", SOLUTION])
    page.evaluate(RUN_CELL, stub)
    assert "scores · passed" in said(page.evaluate(RUN_CELL, stub + 1))

    page.evaluate(RESTART)
    last = max(i for i, c in enumerate(found["cells"]) if "".join(c["source"]).startswith("ex.progress()"))
    for index, cell in enumerate(found["cells"][:4]):
        if cell["cell_type"] == "code":
            page.evaluate(RUN_CELL, index)
    progress = said(page.evaluate(RUN_CELL, last))
    assert "1 of 13 passed" in progress, progress
    assert page.foreign == []
    done = newcomer("check")
    assert re.search(r"01_attention .* 1 of 13\n", done.stdout) and "go on with 01_attention: softmax" in done.stdout


def test_an_upgrade_keeps_the_solution(newcomer, wheels):
    "After the chapter above, or on a fresh copy: the solution stays, the course's changes arrive."
    newcomer("start", "my-course")
    path = newcomer.home / "work" / "my-course" / CHAPTER
    nb = json.loads(path.read_text(encoding="utf-8"))
    (stub,) = (c for c in nb["cells"] if "".join(c["source"]).startswith("def scores("))
    stub["source"] = SOLUTION
    path.write_text(json.dumps(nb), encoding="utf-8")
    newcomer.install(wheels[1])
    assert f"the course of {NEWER}: mmtutor update" in newcomer("doctor").stdout
    done = newcomer("update", where="work/my-course")
    assert done.returncode == 0 and f"→ {NEWER}" in done.stdout
    assert "changed by you and by the course: def scores" in done.stdout
    cells = ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    at = cells.index(SOLUTION)
    assert cells[0].startswith("# Attention, newly told") and "# Begin with the product." in cells[at + 1]
    assert "nothing to update" in newcomer("update", "my-course").stdout
