"""A model folder goes up to a hub that runs in this process: what is sent, what is not, and what is refused."""
import base64
import http.server
import json
import threading

import pytest
from test_inference import folder, run  # noqa: F401

from mmtutor import inference

pytestmark = pytest.mark.slow
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the hub as an upload of small files needs; it notes in `server.got` what was asked."
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.got.append((self.path, body))
        found = {}
        if self.path == "/api/repos/create":
            found = {"url": f"http://127.0.0.1:{self.server.server_port}/you/finder", "id": "you/finder"}
        elif "/preupload/" in self.path:
            found = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                               for f in json.loads(body)["files"]]}
        elif "/commit/" in self.path:
            found = {"commitUrl": f"http://127.0.0.1:{self.server.server_port}/you/finder/commit/{COMMIT}",
                     "commitOid": COMMIT}
        content = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.got = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    api = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token=None: api(endpoint=address, token=token or False))
    yield server
    server.shutdown()
    server.server_close()


def test_the_five_files_go_up_and_nothing_else(hub, folder, monkeypatch):  # noqa: F811
    (folder / "notes.txt").write_text("mine alone")
    try:
        address = inference.push_to_hub(folder, "you/finder", token="hf_made_up")
    finally:
        (folder / "notes.txt").unlink()
    assert address.endswith(COMMIT)
    made = json.loads(next(body for path, body in hub.got if path == "/api/repos/create"))
    assert made["name"] == "finder" and (made.get("private") or made.get("visibility") == "private")
    lines = [json.loads(line) for line in next(b for path, b in hub.got if "/commit/" in path).splitlines()]
    files = [line["value"] for line in lines if line["key"] == "file"]
    sent = {file["path"]: base64.b64decode(file["content"]) for file in files}
    assert set(sent) == set(inference.FILES)
    assert all(content == (folder / name).read_bytes() for name, content in sent.items())


@pytest.mark.bad_input
def test_what_does_not_load_is_not_sent(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match="load_finder: .* has no README.md"):
        inference.push_to_hub(tmp_path, "you/finder", token="hf_made_up")
    assert not hub.got
