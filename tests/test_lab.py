"""JupyterLab in a real browser: a notebook of the course opens, every cell runs, no cell fails; and who may come in."""
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from browsing import await_lab, open_lab

from mmtutor.course import workspace
from mmtutor.course.interactive import SoftmaxExplorer

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "index.ipynb" if (ROOT / "nbs" / "index.ipynb").exists() else "course/records.ipynb"
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page, also what is scrolled away
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
}
# Waiting for the application's own promises is what makes this reliable; menus that look ready are not.
RUN_ALL = """async path => {
  const app = window.jupyterapp;
  await app.restored;
  const panel = await app.commands.execute('docmanager:open', {path, factory: 'Notebook'});
  if (!panel) return {failed: 'the notebook does not open'};
  await panel.context.ready; await panel.sessionContext.ready; await panel.revealed;
  await panel.sessionContext.session.kernel.info;
  app.shell.activateById(panel.id);
  await app.commands.execute('notebook:run-all-cells');
  const cells = panel.content.widgets.map(w => w.model.toJSON());
  return {kernel: panel.sessionContext.session.kernel.name, cells};
}"""


RUN_CELL = """async index => {
  const app = window.jupyterapp, panel = app.shell.currentWidget;
  panel.content.activeCellIndex = index;
  await app.commands.execute('notebook:run-cell');
  return panel.content.widgets[index].model.toJSON();
}"""
OPEN = """async path => {
  const app = window.jupyterapp;
  const still = {shouldStart: false};
  const panel = await app.commands.execute('docmanager:open', {path, factory: 'Notebook', kernel: still});
  await panel.context.ready; await panel.revealed;
  app.shell.activateById(panel.id);
  return panel.content.widgets[0].model.trusted;
}"""
LIVE, UNTRUSTED = "live.ipynb", "untrusted.ipynb"


def write_notebooks(folder: Path) -> None:
    "A notebook with a live figure, and one as a stranger sends it: outputs saved, the widget's model gone."
    made = "from mmtutor.course.interactive import SoftmaxExplorer\n"
    made += "figure = SoftmaxExplorer([2.0, 1.0, 0.5], labels=['the', 'cat', 'sat'])\nfigure"
    cells = [made, "figure.temperature = 0.25", "print(figure.logits, figure.selected)"]
    python = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    cells = [nbformat.v4.new_code_cell(c, id=f"cell{i}") for i, c in enumerate(cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=python), folder / LIVE)
    figure = SoftmaxExplorer([2.0, 1.0, 0.5, -1.0], labels=["the", "cat", "sat", "down"], mask=[1, 1, 1, 0])
    view = {"version_major": 2, "version_minor": 1, "model_id": "0123456789abcdef"}
    data = {"text/plain": repr(figure), "text/html": figure.static(),
            "application/vnd.jupyter.widget-view+json": view}
    output = nbformat.v4.new_output("execute_result", data=data, execution_count=1)
    cell = nbformat.v4.new_code_cell(made, id="shown", outputs=[output], execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=python), folder / UNTRUSTED)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab server on a copy of the notebooks, with settings of its own; yields its address."
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "nbs", home / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    write_notebooks(home / "nbs")
    for name, content in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    port = free_port()
    env = os.environ | {f"JUPYTER_{n}": str(home / n.lower()) for n in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    env |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
               "--allow-root", "--IdentityProvider.token=", "--ServerApp.port_retries=0",
               f"--ServerApp.root_dir={home / 'nbs'}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    address = f"http://127.0.0.1:{port}/"
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        await_lab(address, server, home / "log", "JupyterLab", 90)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def page(lab):
    with open_lab(lab, 180) as page:
        yield page


@pytest.mark.browser
@pytest.mark.slow
class TestInJupyterLab:
    def test_every_cell_runs(self, page):
        found = page.evaluate(RUN_ALL, NOTEBOOK)
        assert "failed" not in found, found
        code = [c for c in found["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()]
        assert code and [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
        errors = [(c["id"], o["ename"], o["evalue"]) for c in code for o in c["outputs"] if o["output_type"] == "error"]
        assert errors == []
        assert any(c["outputs"] for c in code)
        assert page.foreign == []

    def test_a_figure_hears_python_and_python_hears_the_reader(self, page):
        found = page.evaluate(RUN_ALL, LIVE)
        assert "failed" not in found, found
        figure = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .mmt")
        figure.locator("output", has_text="0.25").wait_for()  # the second cell set it
        handle = figure.get_by_role("slider", name="logit of cat")
        handle.press("PageUp")
        assert handle.get_attribute("aria-valuenow") == "2"
        for _ in range(20):  # the reader's change takes its time to reach Python
            said = "".join(page.evaluate(RUN_CELL, 2)["outputs"][0]["text"])
            if said == "[2, 2, 0.5] 1\n":  # JSON knows no 2.0
                break
            page.wait_for_timeout(200)
        assert said == "[2, 2, 0.5] 1\n"
        ground = "e => getComputedStyle(e).backgroundColor"
        assert figure.evaluate(ground) == "rgb(255, 255, 255)"
        page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
        page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
        assert figure.evaluate(ground) == "rgb(23, 26, 31)", "the figure follows JupyterLab's theme"
        assert page.foreign == []

    def test_an_untrusted_notebook_shows_the_picture_and_the_table(self, page):
        trusted = page.evaluate(OPEN, UNTRUSTED)
        assert trusted is False
        output = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output")
        output.locator("table").wait_for()
        assert "0.629" in output.locator("table").inner_text()
        assert output.locator("img").get_attribute("alt").startswith("Logits and their softmax")
        assert output.locator("img").evaluate("e => e.naturalWidth") > 100
        assert output.locator(".mmt").count() == 0 and page.foreign == []


# What `mmtutor lab` opens to whom

@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    "`mmtutor lab` on a working copy, without anything that loosens it; yields the process and what it says of itself."
    home = tmp_path_factory.mktemp("guarded")
    workspace.start(home / "course")
    config = home / "config_dir" / "jupyter_lab_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"ServerApp": {"allow_root": True, "port": free_port()}}))  # tests may be run by root
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY"))}
    env |= {f"JUPYTER_{n}": str(home / n.lower()) for n in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    env |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    command = [sys.executable, "-c", "import sys; from mmtutor.course.cli import main; sys.exit(main())",
               "lab", "--no-browser", str(home / "course")]
    with open(home / "log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while not (files := list((home / "runtime_dir").glob("jpserver-*.json"))):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail("mmtutor lab did not start:\n" + (home / "log").read_text()[-3000:])
            time.sleep(0.2)
        facts = json.loads(files[0].read_text()) | {"file": files[0]}
        await_lab(f"http://127.0.0.1:{facts['port']}/", process, home / "log", "mmtutor lab", 60)
        yield process, facts
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # mmtutor, the server and its kernels
        process.wait()


def asked(facts: dict, path: str, token: str | None = None, method: str = "GET", **headers) -> tuple[int, str, bytes]:
    "Status, where it leads, and what is answered; redirections are not followed."
    connection = http.client.HTTPConnection("127.0.0.1", facts["port"], timeout=60)
    try:
        headers |= {} if token is None else {"Authorization": f"token {token}"}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Location", ""), answer.read()
    finally:
        connection.close()


def listening(process: subprocess.Popen) -> set[tuple[str, int]]:
    "The addresses at which the processes below this one wait for connections."
    found = psutil.Process(process.pid)
    return {tuple(c.laddr) for p in (found, *found.children(recursive=True)) for c in p.net_connections("inet")
            if c.status == psutil.CONN_LISTEN or c.type == socket.SOCK_DGRAM}


@pytest.mark.slow
class TestWhoMayComeIn:
    def test_without_the_token_nobody(self, guarded):
        _, facts = guarded
        assert len(facts["token"]) == 48 and facts["file"].stat().st_mode & 0o077 == 0
        for token in (None, "", "x" * 48, facts["token"][:-1]):
            for path in ("/api/contents", "/api/contents/index.ipynb", "/api/kernels", "/api/terminals",
                         "/api/sessions", "/files/index.ipynb", "/lab/api/settings", "/api/me"):
                status, to, said = asked(facts, path, token)
                assert status == 403 or status == 302 and to.startswith("/login?"), (path, token, status, to)
                assert b"index.ipynb" not in said and b"cells" not in said
            for path in ("/lab", "/lab/tree/index.ipynb", "/lab/workspaces/auto-0", "/"):
                status, to, _ = asked(facts, path, token)
                assert status == 302 and (path == "/" or to.startswith("/login?")), (path, token, status, to)
            for method, path in (("POST", "/api/kernels"), ("POST", "/api/terminals"), ("PUT", "/api/contents/x.txt"),
                                 ("DELETE", "/api/contents/index.ipynb"), ("POST", "/api/shutdown")):
                assert asked(facts, path, token, method)[0] == 403, (method, path, token)

    def test_with_the_token_its_owner(self, guarded):
        _, facts = guarded
        status, _, said = asked(facts, "/api/contents", facts["token"])
        assert status == 200 and "01_attention.ipynb" in {f["name"] for f in json.loads(said)["content"]}
        status, to, said = asked(facts, f"/lab?token={facts['token']}")
        assert status == 200 and b"jupyter-config-data" in said

    def test_not_under_another_name(self, guarded):
        "A page of another site whose name was turned to this machine comes with its own name."
        _, facts = guarded
        for host in ("evil.example", f"evil.example:{facts['port']}"):
            assert asked(facts, "/api/contents", facts["token"], Host=host)[0] == 403

    def test_it_listens_on_this_machine_alone(self, guarded):
        "The server, and every port of a kernel that it starts."
        process, facts = guarded
        before = listening(process)
        assert asked(facts, "/api/kernels", facts["token"], "POST")[0] == 201
        end = time.monotonic() + 120
        while len(now := listening(process)) < len(before) + 5 and time.monotonic() < end:
            time.sleep(0.2)
        assert len(now) >= len(before) + 5, now
        assert facts["port"] in {port for _, port in before} and {host for host, _ in now} <= {"127.0.0.1", "::1"}, now
