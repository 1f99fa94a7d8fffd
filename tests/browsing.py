"""Chromium for tests: how it is opened, how a folder is served to it, and the reader of a page with figures."""
import functools
import http.server
import importlib.util
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest
import torch

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Figures</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>body{margin:8px}html.quarto-dark{background:#15181c;color:#eee}</style></head><body><main><h1>Figures</h1>%s</main></body></html>"""
GOLDEN = """async ([code, calls]) => {
  const module = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  return calls.map(([name, ...given]) => module[name](...given));
}"""


# A browser, a server, a page

@contextmanager
def open_chromium() -> Iterator:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("no Chromium on the PATH: install Debian's package `chromium` (apt-get install chromium)")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    "The address of a folder."
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **more):
            super().__init__(*args, directory=str(folder), **more)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def new_page(browser, seconds: float = 120):
    "A page that waits so long for what it is told to find: a busy machine is not an error."
    page = browser.new_page()
    page.set_default_timeout(1000 * seconds)
    return page


def fence(page, *own: str) -> list[str]:
    "Let nothing through but what begins with `own`; the list of what was asked of others fills as it happens."
    foreign = []
    page.route(lambda url: not url.startswith((*own, "data:", "blob:")),
               lambda r: (foreign.append(r.request.url), r.abort()))
    return foreign


def complaints(page) -> list[str]:
    "What the page writes on its console, and its errors; the list fills as it happens."
    said = []
    page.on("console", lambda m: said.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda e: said.append(f"error: {e}"))
    return said


@functools.cache
def axe() -> str:
    "The source of axe-core."
    return Path(importlib.util.find_spec("axe_playwright_python").origin).with_name("axe.min.js").read_text("utf-8")


# JupyterLab

def await_lab(address: str, server: Popen, log: Path, called: str, seconds: float) -> None:
    "Return when the server answers; fail with the end of its log when it does not."
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{address}api", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail(f"{called} did not start:\n" + log.read_text()[-3000:])
            time.sleep(0.3)


@contextmanager
def open_lab(address: str, seconds: float) -> Iterator:
    "JupyterLab in Chromium; `page.foreign` lists what was asked of other hosts."
    with open_chromium() as browser:
        page = new_page(browser, seconds)
        page.foreign = fence(page, address, "ws:")
        page.goto(f"{address}lab")
        page.wait_for_function("() => window.jupyterapp")
        yield page


# Figures

class Reader:
    "A page with figures, opened by a reader; what it asked of other hosts and what it complained about."

    def __init__(self, browser, address: str, name: str, **more):
        self.context = browser.new_context(**({"viewport": {"width": 900, "height": 3000}} | more))
        self.page = new_page(self.context, 60)
        self.foreign, self.said = fence(self.page, address), complaints(self.page)
        self.page.goto(f"{address}{name}.html")
        if more.get("java_script_enabled", True):
            done = "[...document.querySelectorAll('.mmtutor-figure')].every(f => f.dataset.state)"
            self.page.wait_for_function(done)

    def frame(self, number: int):
        return self.page.locator(".mmtutor-figure iframe").nth(number).element_handle().content_frame()

    def hears(self, number: int, that: str) -> bool:
        "What the page has from a figure, `v`, comes to fulfil a condition: a message takes its time."
        figure = "document.querySelectorAll('.mmtutor-figure')[number]"
        self.page.wait_for_function(f"number => (v => {that})(JSON.parse({figure}.dataset.values))", arg=number)
        return True

    def set(self, number: int, **values) -> None:
        self.page.evaluate("([n, values]) => document.querySelectorAll('.mmtutor-figure iframe')[n]"
                           ".contentWindow.postMessage({ values }, '*')", [number, values])

    def dark(self, on: bool) -> None:
        self.page.evaluate("on => document.documentElement.classList.toggle('quarto-dark', on)", on)
        for frame in self.page.frames[1:]:
            frame.locator(f"html[data-theme={'dark' if on else 'light'}]").wait_for()


def write_figures(site: Path, **pages: list) -> None:
    "Pages of figures, enlivened as the docs are."
    import build_docs
    for name, shown in pages.items():
        (site / f"{name}.html").write_text(PAGE % "".join(f.static() for f in shown), encoding="utf-8")
    build_docs.enliven(site)


@contextmanager
def serve_figures(site: Path, **pages: list) -> Iterator[str]:
    "The address of a site with pages of figures."
    write_figures(site, **pages)
    (site / "broken.html").write_text(PAGE % "", encoding="utf-8")  # where the fixture `javascript` calls from
    with serve(site) as address:
        yield address


def label(frame, name: str):
    return frame.locator("label", has_text=name).locator("input")


def axe_is_content(reader: Reader, number: int = 0) -> None:
    "No finding of axe and no sideways scrolling, light and dark."
    frame = reader.frame(number)
    frame.evaluate(axe())
    frame.locator("summary").click()
    grounds = []
    for dark in (False, True):
        reader.dark(dark)
        found = frame.evaluate("axe.run('main')")
        wrong = [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found["violations"]]
        assert wrong == [] and len(found["passes"]) > 10
        assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"
        grounds.append(frame.evaluate("getComputedStyle(document.querySelector('.mmt')).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(23, 26, 31)"]


def close(found, expected, tolerance=1e-12):
    "Numbers of JavaScript are those of torch."
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, atol=tolerance, rtol=0)
