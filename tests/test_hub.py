"""Models by their hub names: huggingface_hub itself downloads them, from a hub that runs in this process."""
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from mmtutor import text

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = {"someone/tiny-bert": "TextEncoder", "someone/tiny-vit": "VisionTransformer",
         "someone/tiny-whisper": "AudioTransformer"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    "Three small models with random weights as `transformers` saves them, and beside each a pickle that nobody wants."
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel, WhisperConfig, WhisperModel
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    made = (BertModel(BertConfig(**small)), ViTModel(ViTConfig(**small, image_size=32, patch_size=8)), WhisperModel(
        WhisperConfig(vocab_size=20, d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48,
                      decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, max_source_positions=50,
                      pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)))
    root = tmp_path_factory.mktemp("models")
    for name, model in zip(NAMES, made):
        model.save_pretrained(root / name)
        (root / name / "pytorch_model.bin").write_bytes(b"a pickle")
    (root / "someone/tiny-bert/tokenizer.json").write_bytes(text._minilm("tokenizer.json").read_bytes())
    pickles = root / "someone/pickles-only"
    pickles.mkdir()
    for file in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (pickles / file).write_bytes((root / "someone/tiny-bert" / file).read_bytes())
    return root


class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the hub as a download needs: it gives out the folder `server.models`, and notes in `server.given`."
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name, _, file = self.path.lstrip("/").partition(f"/resolve/{COMMIT}/")
        if self.path.startswith("/api/models/"):
            name, what, _ = re.split("/(tree|revision)/", self.path.removeprefix("/api/models/"))
            files = sorted((self.server.models / name).glob("*"))
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": COMMIT} for f in files]
            info = {"id": name, "sha": COMMIT, "private": False, "siblings": [{"rfilename": f.name} for f in files]}
            return self.answer(json.dumps(tree if what == "tree" else info).encode() if files else None)
        path = self.server.models / name / file
        if self.command == "GET":
            self.server.given.append(f"{name}/{file}")
        return self.answer(path.read_bytes() if file and path.is_file() else None)

    do_HEAD = do_GET

    def answer(self, content: bytes | None):
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        content = content or b""
        for key, value in (("Content-Length", len(content)), ("X-Repo-Commit", COMMIT),
                           ("ETag", f'"{hashlib.sha256(content).hexdigest()}"')):
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(models):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.models, server.given = models, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


LOAD = """
import json, sys
from mmtutor.audio import AudioTransformer
from mmtutor.text import TextEncoder
from mmtutor.vision import VisionTransformer
for name, kind in json.loads(sys.argv[1]).items():
    try:
        print(globals()[kind].from_pretrained(name).report)
    except Exception as error:
        print(type(error).__name__, error)
"""


def load(names: dict, cache: Path, endpoint: str) -> list[str]:
    "What each name gives in a fresh process whose hub is at `endpoint`: a report, or an error."
    env = os.environ | {"HF_HOME": str(cache), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1",
                        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", LOAD, json.dumps(names)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_all_three_kinds_load_by_name_and_then_without_a_network(hub, tmp_path):
    online = load(NAMES, tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert len(online) == 3 and all(line.endswith("none missing") for line in online), online
    assert {f.rsplit("/", 1)[1] for f in hub.given} <= {"config.json", "tokenizer.json", "model.safetensors"}
    asked = len(hub.given)
    assert load(NAMES, tmp_path, "http://127.0.0.1:9") == online, "what was downloaded once needs no network"
    assert len(hub.given) == asked


@pytest.mark.bad_input
def test_what_the_hub_does_not_give_names_the_choice_without_a_network(hub, tmp_path):
    wanted = {"someone/unknown": "TextEncoder", "someone/pickles-only": "TextEncoder"}
    unknown, pickles = load(wanted, tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert unknown == ("FileNotFoundError from_pretrained: 'someone/unknown' is no folder here, and the hub did not "
                       "give it (RepositoryNotFoundError). Without a network use TextEncoder.from_pretrained("
                       "'all-MiniLM-L6-v2').")
    assert pickles == ("FileNotFoundError from_pretrained: 'someone/pickles-only' has no model.safetensors (pickled "
                       "weights are not opened)")
    assert not any(name.endswith(".bin") for name in hub.given)
    away = load(dict(reversed(NAMES.items())) | {"no folder/here": "TextEncoder"}, tmp_path, "http://127.0.0.1:9")
    offline = ("RecurrentEncoder.from_pretrained('speaker-lstm')", "ConvEncoder.from_pretrained('efficientnet-lite0')",
               "TextEncoder.from_pretrained('all-MiniLM-L6-v2')", "TextEncoder.from_pretrained('all-MiniLM-L6-v2')")
    for line, instead in zip(away, offline, strict=True):
        assert line.startswith("FileNotFoundError from_pretrained: ") and line.endswith(f"network use {instead}.")
