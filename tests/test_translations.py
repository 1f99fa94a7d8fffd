"""Editions in other languages: in step with the notebooks, nothing changed that must stay, at home on the site."""
import copy
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import smalldocs.site
import yaml
from browsing import fence, new_page, serve

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import translate  # noqa: E402
from docs import checks, edition, pages  # noqa: E402


def md(source: str, name: str = "c1") -> dict:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def code(source: str, data: dict, name: str = "k1") -> dict:
    return {"cell_type": "code", "id": name, "metadata": {}, "source": source, "execution_count": None,
            "outputs": [{"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": None}]}


# The edition as it stands

def test_the_edition_is_in_step_with_the_notebooks():
    "What this names: `python scripts/translate.py --update NAME`, then translate (CONTRIBUTING, Translate a chapter)."
    assert list(translate.everything()) == []


def test_the_readme_is_the_index_in_chinese():
    assert (ROOT / "README.zh.md").read_text(encoding="utf-8") == translate.readme(), "run make export"


def test_the_front_is_complete_and_every_chapter_has_title_and_promise():
    assert set(translate.FRONT) <= set(translate.complete())
    assert len(translate.chapters()) >= 40
    for name in translate.chapters():
        assert len(translate.promise(translate.notebook(name))) == 2, f"{name} begins with # Title and > promise"
        title, promise = edition.promise_of(name)
        assert translate.CHINESE.search(promise), name


def test_every_glossary_row_keeps_its_anchor_its_code_and_its_english_term():
    rows = translate.wanted(translate.notebook("00_notation"))
    ours = translate.read("00_notation").done
    terms = {place: row for place, row in rows.items() if row.startswith('| <a id="term-')}
    assert len(terms) > 200
    for place, row in terms.items():
        if place in ours:
            (term,) = re.findall(r"</a>(.*?) \|", row)
            assert term in ours[place].split(" | ")[0], f"{term}: keep the English term beside the Chinese one"


def test_no_file_holds_more_than_its_marks_say():
    "A file is what `--update` would write: in the order of the notebook, nothing left over."
    for path in sorted(translate.FOLDER.rglob("*.md")):
        name = path.relative_to(translate.FOLDER).with_suffix("").as_posix()
        text, found = path.read_text(encoding="utf-8"), translate.read(name)
        expected = translate.updated(translate.notebook(name), found, translate.is_whole(name))
        assert text == expected, f"--update {name}"


def test_every_verdict_and_every_part_has_a_word():
    from mmtutor.course.records import ahead
    dictionary = translate.words("outputs")
    seeds = ([.1, .2, .3], [.4, .51, .62])
    verdicts = {ahead({"values": a}, {"values": b}) for a in seeds for b in seeds}
    assert len(verdicts) == 3 and all(dictionary.get(verdict) for verdict in verdicts)
    asked = {shape for name in translate.complete() for shape in translate.asked(translate.notebook(name))}
    assert set(dictionary) == asked | verdicts, "outputs.json: take out what no output says any more"
    assert {part for part, _ in translate.parts()} == set(translate.words("site")["parts"])


def test_code_outputs_and_numbers_of_the_edition_are_those_of_the_notebooks():
    for name in translate.complete():
        english = translate.notebook(name)
        ours = translate.edition(english, translate.read(name), translate.words("outputs"))
        assert [c["id"] for c in ours["cells"]] == [c["id"] for c in english["cells"]]
        for before, after in zip(english["cells"], ours["cells"]):
            if before["cell_type"] == "code":
                assert before["source"] == after["source"]
            for said, says in zip(before.get("outputs", []), after.get("outputs", [])):
                kinds = set(said.get("data", {})) - {"text/markdown", "text/html"}
                assert all(said["data"][kind] == says["data"][kind] for kind in kinds)
                for kind in ("text/markdown",):
                    one, other = ("".join(o.get("data", {}).get(kind, "")) for o in (said, says))
                    assert translate.NUMBER.findall(one) == translate.NUMBER.findall(other)


# Pieces

def test_a_cell_is_cut_into_pieces_and_put_together_again():
    source = ("# T\n\n> one\n> two\n\npara\nmore\n\n- a\n  b\n- c\n\n```sh\nx\n\ny\n```\nafter\n\n"
              "| h |\n|---|\n| r |\n\n1. x\n2. y\n## H\ntext")
    pieces = translate.split(source)
    assert "".join(text + gap for text, gap in pieces) == source
    assert [text for text, _ in pieces] == ["# T", "> one\n> two", "para\nmore", "- a\n  b", "- c",
                                            "```sh\nx\n\ny\n```", "after", "| h |", "|---|", "| r |", "1. x", "2. y",
                                            "## H", "text"]


def test_all_prose_of_the_course_survives_the_cutting():
    for name in ["index", *translate.chapters()]:
        for cell in translate.notebook(name)["cells"]:
            if cell["cell_type"] == "markdown":
                source = translate.source_of(cell)
                again = "".join(text + gap for text, gap in translate.split(source))
                assert again.strip("\n") == source.strip("\n"), name


@pytest.mark.parametrize("text, wanted", [
    ("words", True), ("| `a` | $x_n$ | 3 |", False), ("|---|---|", False), ("```python\nx = 1\n```", False),
    ('<a id="here"></a>', False), ("[8](08_a.ipynb)", False), ("[eight](08_a.ipynb)", True)])
def test_what_has_words_is_translated(text, wanted):
    assert translate.needs(text) is wanted


def test_a_hash_ignores_line_breaks_and_notices_a_word():
    assert translate.key("a b\nc") == translate.key("a  b c") != translate.key("a b d")
    assert re.fullmatch(r"[0-9a-f]{8}", translate.key("x"))


ENGLISH = "| [Heads](03_a.ipynb#x) | `dim` and $h$: <b>8</b> of 1,024 |"


@pytest.mark.parametrize("ours, said", [
    ("| [头](03_a.ipynb#x) | `dim` 和 $h$：1,024中的<b>8</b> |", None),
    ("| [头](03_a.ipynb#x) | dim 和 $h$：1,024中的<b>8</b> |", "code differ"),
    ("| [头](03_a.ipynb#x) | `dim` 和 $n$：1,024中的<b>8</b> |", "formulas differ"),
    ("| [头](03_b.ipynb#x) | `dim` 和 $h$：1,024中的<b>8</b> |", "link targets differ"),
    ("| [头](03_a.ipynb#x) | `dim` 和 $h$：1,024中的8 |", "tags differ"),
    ("| [头](03_a.ipynb#x) | `dim` 和 $h$：1,042中的<b>8</b> |", "numbers differ"),
    ("| [头](03_a.ipynb#x) | `dim` | $h$：1,024中的<b>8</b> |", "columns differ"),
    ("[头](03_a.ipynb#x) | `dim` 和 $h$：1,024中的<b>8</b> |", "mark at the beginning differ"),
    (ENGLISH, "not translated"), ("", "empty")])
def test_a_changed_piece_is_named(ours, said):
    found = translate.faults(ENGLISH, ours)
    assert found == [] if said is None else any(fault.startswith(said) for fault in found), found


def test_digits_within_a_name_are_no_numbers():
    assert translate.faults("Like seq2seq.", "如同序列到序列。") == []
    assert translate.faults("16 bits", "16位") == [] != translate.faults("16 bits", "32位")


# Files out of step

@pytest.fixture
def small(tmp_path, monkeypatch):
    "A course of one notebook and its translation."
    (tmp_path / "nbs").mkdir(), (tmp_path / "zh").mkdir()
    monkeypatch.setattr(translate, "NBS", tmp_path / "nbs")
    monkeypatch.setattr(translate, "FOLDER", tmp_path / "zh")
    table = "| a | `x` |\n|---|---|\n| two | `y` |"
    nb = {"cells": [md(f"# Heads\n\n> Cut [it](00_a.ipynb).\n\nSome `code` here.\n\n{table}"),
                    code("1", {"text/markdown": "| good | 0.5 ± 0.1 |\n|---|---|\n\nIt is 3 times better."})]}

    def write(notebook: dict, ours: str | None = None) -> None:
        (tmp_path / "nbs" / "01_heads.ipynb").write_text(json.dumps(notebook))
        if ours is not None:
            (tmp_path / "zh" / "01_heads.md").write_text(ours)
    places = list(translate.wanted(nb))
    chinese = ["# 头", "> 切开[它](00_a.ipynb)。", "这里有 `code`。", "| 甲 | `x` |", "| 二 | `y` |"]
    marked = [f"<!-- {c} {h} -->\n{ours}\n" for (c, h), ours in zip(places, chinese)]
    text = "\n".join([translate.COMPLETE + "\n", *marked])
    (tmp_path / "zh" / "outputs.json").write_text(json.dumps({"good": "好", "It is {1} times better.": "好{1}倍。"}))
    write(nb, text)
    return nb, text, write, tmp_path


def test_a_file_in_step_has_no_problems(small):
    assert translate.problems("01_heads") == [] and translate.complete() == ["01_heads"]


def test_a_missing_a_stale_and_a_waiting_piece_are_named(small):
    nb, text, write, _ = small
    write(nb, re.sub(r"<!-- c1 \w+ -->\n这里.*\n\n", "", text))
    (said,) = translate.problems("01_heads")
    assert said.startswith("01_heads: missing c1 ") and said.endswith("Some `code` here.")
    changed = copy.deepcopy(nb)
    changed["cells"][0]["source"] = nb["cells"][0]["source"].replace("Some", "Much")
    write(changed, text)
    missing, stale = translate.problems("01_heads")
    assert missing.startswith("01_heads: missing c1") and stale.startswith("01_heads: stale c1")
    changed["cells"][0]["id"] = "c2"  # the same text in another cell
    assert write(changed) is None and len(translate.problems("01_heads")) == 10
    write(nb, text.replace("<!-- c1", "<!-- todo c1", 1))
    (said,) = translate.problems("01_heads")
    assert said.endswith("still marked todo")
    write(nb, text.replace("`code`", "`Code`"))
    assert "code differ" in translate.problems("01_heads")[0]


def test_a_file_that_does_not_claim_to_be_complete_needs_title_and_promise_alone(small):
    nb, text, write, _ = small
    write(nb, text.removeprefix(translate.COMPLETE + "\n\n").split("<!-- c1 " + list(translate.wanted(nb))[2][1])[0])
    assert translate.problems("01_heads") == [] and translate.complete() == []
    write(nb, "")
    assert len(translate.problems("01_heads")) == 2


def test_words_missing_for_an_output_and_a_piece_twice_are_named(small):
    nb, text, write, folder = small
    (folder / "zh" / "outputs.json").write_text("{}")
    assert [line.split("no ")[1] for line in translate.problems("01_heads")] == ["'good'", "'It is {1} times better.'"]
    with pytest.raises(ValueError, match="c1 .* stands twice"):
        translate.parse(text + text)


def test_update_keeps_what_fits_and_offers_the_old_translation_for_what_changed(small):
    nb, text, write, folder = small
    assert translate.update("01_heads") == 0 and (folder / "zh" / "01_heads.md").read_text() == text
    changed = copy.deepcopy(nb)
    changed["cells"][0]["source"] = nb["cells"][0]["source"].replace("| two", "| three").replace("Some", "Much")
    changed["cells"][1] = code("1", {"text/markdown": "| bad | 0.6 ± 0.1 |"})
    write(changed)
    assert translate.update("01_heads") == 3  # two pieces, one word
    new = (folder / "zh" / "01_heads.md").read_text()
    assert re.search(r"<!-- todo c1 \w{8}\n\| three \| `y` \|\n-->\n\| 二 \| `y` \|", new)
    assert re.search(r"<!-- todo c1 \w{8}\nMuch `code` here.\n-->\n这里有 `code`。", new)
    assert json.loads((folder / "zh" / "outputs.json").read_text())["bad"] == ""
    assert translate.update("01_heads") == 3 and (folder / "zh" / "01_heads.md").read_text() == new
    shown = translate.edition(changed, translate.read("01_heads"), {})["cells"][0]["source"]
    assert "| three | `y` |" in shown and "Much `code` here." in shown and shown.startswith("# 头")
    (folder / "zh" / "01_heads.md").write_text(new.replace("todo ", "").replace("二", "三"))
    translate.update("01_heads")
    final = (folder / "zh" / "01_heads.md").read_text()
    assert "three" not in final and "| 三 | `y` |" in final and "todo" not in final


def test_update_leaves_a_file_with_a_promise_alone_unless_asked_for_the_whole(small):
    nb, text, write, folder = small
    write(nb, "")
    assert translate.update("01_heads") == 2 and translate.update("01_heads") == 2
    (folder / "zh" / "outputs.json").write_text("{}")
    assert translate.update("01_heads", whole=True) == 7 and translate.update("01_heads") == 7


# The edition

def test_numbers_of_a_new_recording_need_no_new_translation(small):
    nb, _, write, _ = small
    nb["cells"][1] = code("1", {"text/markdown": "| good | 0.9 ± 0.2 |\n|---|---|\n\nIt is 12 times better."})
    write(nb)
    assert translate.problems("01_heads") == []
    shown = translate.edition(nb, translate.read("01_heads"), translate.words("outputs"))
    assert shown["cells"][1]["outputs"][0]["data"]["text/markdown"] == "| 好 | 0.9 ± 0.2 |\n|---|---|\n\n好12倍。"


def test_captions_and_alt_texts_are_translated_and_nothing_else_of_a_figure():
    figure = '<figure><img alt="Two &quot;bars&quot;" width="9"><figcaption>Up by 3.</figcaption></figure>'
    words = {'Two "bars"': "两根“柱”<", "Up by {1}.": "上升{1}。"}
    nb = translate.edition({"cells": [code("f()", {"text/html": figure})]}, translate.Translation(), words)
    assert nb["cells"][0]["outputs"][0]["data"]["text/html"] == (
        '<figure><img alt="两根“柱”&lt;" width="9"><figcaption>上升3。</figcaption></figure>')


def test_headings_keep_their_english_anchors():
    nb = {"cells": [md("# Title\n\n## Why divide by `d`?\n\nText.")]}
    places = list(translate.wanted(nb))
    ours = translate.Translation(True, dict(zip(places, ["# 题", "## 为什么除以 `d`？", "文。"])))
    assert translate.edition(nb, ours, {}, anchors=True)["cells"][0]["source"] == (
        "# 题\n\n## 为什么除以 `d`？ {#why-divide-by-d}\n\n文。")
    assert "{#" not in translate.edition(nb, ours, {})["cells"][0]["source"]


# The site

def test_links_lead_to_the_same_language_where_there_is_one():
    text = ("[a](00_a.ipynb#x), [b](01_b.ipynb#y), ![p](h.png), [c](course/c.ipynb), [d](#d), [e](https://e)\n\n"
            "```\n[a](01_b.ipynb)\n```")
    assert edition.relocate(text, {"00_a"}) == (
        "[a](00_a.ipynb#x), [b](/01_b.ipynb#y), ![p](/h.png), [c](/course/c.ipynb), [d](#d), [e](https://e)\n\n"
        "```\n[a](01_b.ipynb)\n```")


def test_a_page_knows_its_counterpart():
    assert edition.counterpart("index")[0] == "zh/index" and edition.counterpart("zh/index")[0] == "index"
    assert edition.counterpart("zh/promises")[0] == "index" and edition.counterpart("api/index") is None
    other, tag, says, title = edition.counterpart("capstone")
    if "19_capstone" not in translate.complete():
        assert (other, tag, says) == ("zh/promises#capstone", "zh-Hans", "中文简介") and "尚未译成中文" in title
    page = edition.with_switch(f"<head></head><ul>{edition.TOGGLE}", "zh/notation")
    assert 'hreflang="en" href="../notation.html"></head>' in page
    assert '<a class="nav-link language-switch" lang="en" hreflang="en" href="../notation.html">English</a>' in page


def test_the_promises_say_what_is_not_translated():
    text = edition.promises()
    for name in translate.chapters():
        where = text.split(f"{{#{edition.page_of(name)}}}")[1].split("###")[0]
        assert ("尚未翻译" in where) is (name not in translate.complete()), name
    bar = edition.sidebar("docked")["contents"]
    entries = [item for section in bar if "section" in section for item in section["contents"]]
    assert len(entries) == len(translate.chapters())
    assert all(item["href"].startswith("zh/") or item["text"].endswith("（英文）") for item in entries)


def test_a_page_says_how_many_pieces_wait(small):
    nb, text, write, folder = small
    shutil.copy(ROOT / "translations" / "zh" / "site.json", folder / "zh" / "site.json")
    assert "译文尚未跟上" not in edition.notice("01_heads")
    write(nb, text.replace("<!-- c1", "<!-- todo c1", 1))
    assert "有1处译文尚未跟上" in edition.notice("01_heads")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    "A small site: the front in both languages, and one chapter."
    folder = tmp_path_factory.mktemp("languages")
    for name in ("index", "00_notation", "01_attention"):
        page = pages.to_page(translate.notebook(name), {})
        (folder / f"{edition.page_of(name)}.ipynb").write_text(json.dumps(page, ensure_ascii=False))
    bar = {"id": "course", "style": "docked", "contents": ["index.ipynb", "notation.ipynb", "attention.ipynb"]}
    config = {"project": {"type": "website", "output-dir": "_site"}, "format": {"html": {
        "theme": {"light": "cosmo", "dark": "darkly"}, "toc": True, "lang": "en"}},
        "website": {"title": "mmtutor", "search": True, "sidebar": [bar],
                    "navbar": {"left": [{"text": "Course", "href": "index.ipynb"}]}}}
    edition.stage(folder, config, {})
    (folder / "_quarto.yml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    built = smalldocs.site.build(folder, quiet=True)
    assert edition.finish(built.out) == []
    return built.out


@pytest.mark.slow
def test_the_site_has_both_languages(site):
    ours, theirs = (json.loads((site / part / "search.json").read_text()) for part in ("zh", "."))
    assert {entry["href"].split(".")[0] for entry in ours} == {"index", "notation", "promises"}
    assert theirs and not [entry for entry in theirs if entry["href"].startswith("zh/")]
    for name in ("index", "notation"):
        text, english = ((site / part / f"{name}.html").read_text() for part in ("zh", "."))
        assert '<html lang="zh-Hans">' in text and '<html lang="en">' in english
        ids = [set(re.findall(r'\bid="((?:term-)?[\w-]+)"', page.split("<main")[1])) for page in (english, text)]
        assert {i for i in ids[0] if not re.match(r"cb|cell-", i)} <= ids[1], "every anchor of the English page"
        assert 'href="../attention.html"' in text
        assert "*" not in "".join(checks.Page(text).text), "a star that is no emphasis: close it beside a character"


@pytest.mark.browser
@pytest.mark.slow
def test_a_reader_switches_language_and_searches_in_it(site, chromium):
    page, said = new_page(chromium), []
    with serve(site) as address:
        fence(page, address)  # formulas are not looked at
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on("response", lambda r: said.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.goto(address + "notation.html")
        page.locator(".language-switch").click()
        page.wait_for_url("**/zh/notation.html")
        assert "词元" in page.inner_text("main") and page.locator("[id='term-token']").count() == 1
        page.get_by_label("搜索").first.fill("交叉注意力")
        page.locator(".smalldocs-search-results a[href*='notation.html']").first.click()
        page.wait_for_url("**/zh/notation.html*")
        page.locator(".language-switch").click()
        page.wait_for_url(address + "notation.html")
        page.goto(address + "attention.html")
        page.locator(".language-switch").click()
        page.wait_for_url("**/zh/promises.html#attention")
        assert said == []
        page.close()
