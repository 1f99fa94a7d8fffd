"""Tables on disk: what is written is read again, and a table that is not whole is not taken for one."""
import errno
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtutor.course.tables import is_whole, open_part, write_media, write_part

WORDS = st.lists(st.one_of(st.none(), st.text(max_size=5)), min_size=1, max_size=600)


def features():
    from datasets import Value
    return {"word": Value("string"), "place": Value("int32")}


@given(WORDS)
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read(words):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.arrow"
        write_part(path, {"place": range(len(words)), "word": words}, features())
        table = open_part(path)
        assert table["word"][:] == words and table["place"][:] == list(range(len(words)))
        assert table.column_names == ["word", "place"] and table.features == features()
        assert is_whole(path, len(words)) and not is_whole(path, len(words) + 1)
        assert [p.name for p in Path(folder).iterdir()] == ["words.arrow"]


@pytest.mark.parametrize("cut", [0, 1, 100, 300])
def test_a_cut_table_is_not_whole(tmp_path, cut):
    path = tmp_path / "words.arrow"
    write_part(path, {"word": ["w"] * 700, "place": range(700)}, features())
    content = path.read_bytes()
    path.write_bytes(content[:len(content) * cut // 400])
    assert not is_whole(path, 700)


@pytest.mark.bad_input
def test_a_table_that_is_no_table_is_not_opened(tmp_path):
    (tmp_path / "words.arrow").write_bytes(b"zebra")
    with pytest.raises(ValueError, match="words.arrow is no whole Arrow file"):
        open_part(tmp_path / "words.arrow")


def test_no_file_is_not_whole(tmp_path):
    assert not is_whole(tmp_path / "words.arrow", 0)


def test_an_old_table_survives_a_failed_write(tmp_path, monkeypatch):
    import pyarrow as pa
    path = tmp_path / "words.arrow"
    write_part(path, {"word": ["old"], "place": [1]}, features())

    def full(sink, schema):
        sink.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(pa.ipc, "new_stream", full)
    with pytest.raises(OSError, match="No space"):
        write_part(path, {"word": ["new"], "place": [2]}, features())
    assert open_part(path)["word"][:] == ["old"] and [p.name for p in tmp_path.iterdir()] == ["words.arrow"]


def test_the_folder_and_the_file_name_the_fingerprint(tmp_path):
    found = set()
    for folder, name in (("a", "x"), ("a", "y"), ("b", "x")):
        path = tmp_path / folder / f"{name}.arrow"
        write_part(path, {"word": ["same"], "place": [1]}, features())
        found.add(open_part(path)._fingerprint)
    assert len(found) == 3
    again = tmp_path / "elsewhere" / "a" / "x.arrow"
    write_part(again, {"word": ["same"], "place": [1]}, features())
    assert open_part(again)._fingerprint in found


@pytest.mark.bad_input
def test_a_missing_column_is_an_error(tmp_path):
    path = tmp_path / "words.arrow"
    for more in ({}, {"place": [1], "more": [1]}, {"place": [1, 2]}):
        with pytest.raises(ValueError, match="write_part: columns .*expected word, place, all of one length"):
            write_part(path, {"word": ["one"]} | more, features())
    assert not list(tmp_path.iterdir())


def test_file_contents_are_rows_of_a_feature(tmp_path):
    from datasets import Image
    rows, steps = [{"left": b"a", "right": b"b"}, {"left": b"c", "right": b"d"}], []
    write_media(tmp_path / "pairs.arrow", iter(rows), Image(decode=False), lambda: steps.append(1))
    table = open_part(tmp_path / "pairs.arrow")
    assert [{side: row[side]["bytes"] for side in row} for row in table] == rows and len(steps) == 2
    assert table.features == {"left": Image(decode=False), "right": Image(decode=False)}
