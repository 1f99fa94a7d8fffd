"""What every test sees: a quiet, repeatable torch, and the repository's own tools."""
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
pytest.register_assert_rewrite("browsing", "refusals")

import browsing  # noqa: E402
import offline  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--moments", type=int, default=8, help="how often test_reliability kills a training run")
    parser.addoption("--draws", type=int, default=5, help="how often test_fuzzed damages several arguments of a call")
    parser.addoption("--notebooks", type=int, default=4, help="so many notebooks test_notebook_order executes")
    parser.addoption("--order", type=int, help="the seed of their draw; without it the suite's, or one at random")


def pytest_configure():
    sys.addaudithook(offline.only_here)


@pytest.fixture(autouse=True, scope="session")
def no_network():
    "What tests start finds no network either. What is missing of the downloads comes first."
    offline.bring_downloads()
    os.environ.update(offline.ENVIRONMENT)


@pytest.fixture(autouse=True)
def seeded():
    "Every test starts from the same random state and in float32."
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (libraries under test may still use it)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def one_thread():
    "For tiny models: more threads only wait for each other."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def own_progress(tmp_path_factory):
    "No test reads or changes the progress of whoever runs it."
    os.environ["MMTUTOR_PROGRESS"] = str(tmp_path_factory.mktemp("progress") / "progress.json")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def built():
    "The embedded data, built if this machine does not have them yet."
    from mmtutor import data
    data.build(progress=False)
    return data


@pytest.fixture(scope="module")
def chromium():
    "Chromium, for the tests of one file: while it is open, nothing else in this process can run an event loop."
    with browsing.open_chromium() as browser:
        yield browser


@pytest.fixture
def read(chromium, address):
    "Open a page of the module's `address`: `read('one')`."
    opened = []

    def read(name: str, **more) -> browsing.Reader:
        opened.append(browsing.Reader(chromium, address, name, **more))
        return opened[-1]

    yield read
    for reader in opened:
        reader.context.close()


@pytest.fixture
def javascript(chromium, address):
    "Call exported functions of a module: `javascript('softmax', ['softmax', [1, 2]], …)`."
    from mmtutor.course import interactive
    page = chromium.new_page()
    page.goto(address + "broken.html")
    yield lambda module, *calls: page.evaluate(browsing.GOLDEN, [interactive.source(module), [list(c) for c in calls]])
    page.close()
