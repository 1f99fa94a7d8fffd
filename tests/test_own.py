"""Other encoders and other data behind the same settings: tiny local models, a small folder, from run to query."""
import json
from dataclasses import asdict, replace

import datasets
import numpy as np
import pytest
import torch

from mmtutor import capstone, data, inference, inputs, text
from mmtutor.capstone import measure
from mmtutor.transformer import Tokens


@pytest.fixture(scope="module")
def home(tmp_path_factory, built):
    "Three models as `transformers` saves them, and a data set of two groups."
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel, WhisperConfig, WhisperModel
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("own")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(**small)).save_pretrained(root / "bert")
    (root / "bert/tokenizer.json").write_bytes(text._minilm("tokenizer.json").read_bytes())
    ViTModel(ViTConfig(**small, image_size=32, patch_size=8)).save_pretrained(root / "vit")
    WhisperModel(WhisperConfig(
        vocab_size=20, d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=16, max_source_positions=250, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1)).save_pretrained(root / "whisper")
    table(12).save_to_disk(root / "data")
    return root


def table(count: int) -> datasets.DatasetDict:
    found = {}
    for split in data.SPLITS:
        rows = data.view(split)
        some = [i for g in (2, 3) for i in np.flatnonzero(np.array(rows["group"]) == g)[:count // 2]]
        rows = rows.select(some).select_columns(["text", "picture", "sound", "group"])
        found[split] = rows.rename_column("group", "label")
    return datasets.DatasetDict(found)


def profile(home, **changes) -> inputs.Profile:
    own = inputs.Profile(
        regimes=("frozen", "text too"), fusions=("decoder",), seeds=(0,), epochs=1, second_epochs=1, dim=32,
        embedding=32, batch_size=4, text_model=str(home / "bert"), picture_model=str(home / "vit"),
        sound_model=str(home / "whisper"), data=str(home / "data"))
    return replace(own, **changes)


@pytest.fixture(scope="module")
def done(home):
    return capstone.run(profile(home), folder=home / "run", progress=False)


@pytest.mark.slow
def test_the_whole_run_with_other_encoders_and_data(home, done):
    assert set(done["test"]) == {"frozen/decoder/picture+sound/0.003", "text too/decoder/picture+sound/0.003"}
    figures = done["test"]["text too/decoder/picture+sound/0.003"]
    assert not [key for key in figures if key.startswith("shifted")] and "clean/R@10/picture+sound" in figures
    assert done["cost"].keys() == {"cached", "recomputed", "learning"}
    for cost in done["cost"].values():
        assert cost["samples/s"] > 0 and cost["TFLOP a step"] > 0 and cost["MFU"] is None, "no peak of a CPU is known"
    assert done["cost"]["learning"]["TFLOP a step"] > 1.5 * done["cost"]["recomputed"]["TFLOP a step"]
    assert done["cost"]["cached"]["TFLOP a step"] < done["cost"]["recomputed"]["TFLOP a step"]
    assert "shifted" not in str(capstone.tables(done)) and (home / "run/report.html").is_file()
    found = json.loads((home / "run/capstone-own.json").read_text())
    assert found["command"].startswith("capstone.run(Profile(") and str(home / "bert") in found["command"]


@pytest.mark.slow
def test_every_encoder_learned_and_is_saved_with_the_model(home, done):
    job = "text too/decoder/picture+sound/0.003/0"
    folder = inference.publish(home / "run", home / "model", job)
    finder = inference.load_finder(folder)
    first = inputs.pretrained(profile(home))
    for m, encoder in finder.encoders.items():
        same = [torch.equal(a, b) for a, b in zip(encoder.parameters(), first[m].parameters())]
        assert not all(same), f"{m} did not learn"
    rows = inputs.own_rows(str(home / "data"))
    assert list(finder.groups) == rows["train"].features["group"].names and len(finder.groups) == 2
    row = rows["test"][0]
    answer = finder.ask(text=row["text"], picture=row, sound=row, top=3)
    assert answer.used == ("text", "picture", "sound") and len(answer.groups) == 2 and len(answer.names) == 3
    card = (folder / "README.md").read_text()
    assert "license: other" in card and str(home / "data") in card and "learning: text, picture, sound" in card


def test_whisper_gives_no_padding(home):
    encoder = inputs.pretrained(profile(home))["sound"]
    short = encoder(*encoder.prepare([torch.randn(8000), torch.randn(3200)]))
    assert short.mask.sum(1).tolist() == [25, 10] and short.values.shape[1] == 25, "of 250 places"
    kept = inputs.shorten(None, (), Tokens(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)))
    assert kept.values.shape == (1, 1, 2)


def test_a_folder_of_files_is_read_like_a_table(home, tmp_path):
    rows = inputs.own_rows(str(home / "data"))
    for split, found in rows.items():
        for i, row in enumerate(found):
            place = tmp_path / split / found.features["group"].int2str(row["group"])
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.txt").write_text(row["text"])
            (place / f"{i}.png").write_bytes(row["picture"]["bytes"])
            (place / f"{i}.flac").write_bytes(row["sound"]["bytes"])
    files = inputs.own_rows(str(tmp_path))
    for split in data.SPLITS:
        assert sorted(files[split]["text"]) == sorted(rows[split]["text"])
        assert files[split].features["group"].names == rows[split].features["group"].names


@pytest.mark.bad_input
@pytest.mark.parametrize("what, words", [
    ("split", "has no validation, test; expected train, validation, test"),
    ("column", "test has no sound; expected text, picture and sound"),
    ("label", "train has the columns text, picture, sound, expected group or label"),
    ("cell", "validation, row 2 has no sound; this run wants all three"),
    ("no label", "train, row 1 has no label"),
    ("class", "test has the group other, which no training row has")])
def test_data_that_do_not_fit_are_named(home, tmp_path, what, words):
    found = {split: table(4)[split] for split in data.SPLITS}
    named = lambda rows, value: rows.remove_columns("label").add_column("label", value)
    if what == "split":
        found = {"train": found["train"]}
    elif what == "column":
        found["test"] = found["test"].remove_columns("sound")
    elif what == "label":
        found["train"] = found["train"].remove_columns("label")
    elif what == "cell":
        cells = [row["sound"] for row in found["validation"]]
        cells[2] = None
        form = datasets.Features({"sound": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
        column = datasets.Dataset.from_dict({"sound": cells}, form)
        rest = found["validation"].remove_columns("sound")
        found["validation"] = datasets.concatenate_datasets([rest, column], axis=1)
    elif what == "no label":
        found["train"] = named(found["train"], ["a", None, "b", "b"])
    else:
        found = {split: named(rows, ["a", "a", "b", "b"]) for split, rows in found.items()}
        found["test"] = named(found["test"], ["a", "other", "b", "b"])
    datasets.DatasetDict(found).save_to_disk(tmp_path / "data")
    with pytest.raises(ValueError, match=words):
        inputs.own_rows(str(tmp_path / "data"))


@pytest.mark.bad_input
def test_wrong_settings_are_named(home):
    with pytest.raises(FileNotFoundError, match="'no/such data' is no folder here.*Without a network use data='emoji'"):
        inputs.own_rows("no/such data")
    with pytest.raises(ValueError, match="regime 'top' leaves nothing to learn in picture, sound.*choose 'all'"):
        capstone.new_model("top", "decoder", profile(home), inputs.pretrained(profile(home)))
    with pytest.raises(ValueError, match="profile_of: no setting speed"):
        inputs.profile_of({"speed": 3})
    with pytest.raises(FileNotFoundError, match="no/such model"):
        inputs.pretrained(profile(home, picture_model="no/such model"))
    assert inputs.profile_of(json.loads(json.dumps(asdict(profile(home))))) == profile(home)


@pytest.mark.slow
def test_a_cached_step_needs_the_fewest_operations(home):
    "The operations do not depend on the machine, so they are compared; the seconds are not."
    one, two = (measure("cached", profile(home, batch_size=n), steps=1)["TFLOP a step"] for n in (2, 4))
    assert two == pytest.approx(2 * one, rel=0.2)
