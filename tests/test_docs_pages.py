"""The pages of the docs site that no notebook holds, its policy, and what can be taken away from it."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import smalldocs
import yaml

from mmtutor import verdicts

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import build_docs  # noqa: E402
from docs import (  # noqa: E402
    architecture,
    benchmarks,
    cells,
    claims,
    errata,
    generated,
    glossary,
    icons,
    mentions,
    offline,
    pages,
    policy,
    polish,
    reference,
    reliability,
    results,
    tables,
)

CLAIMS = json.loads((ROOT / "results" / "claims.json").read_text(encoding="utf-8"))
ERRATA = yaml.safe_load((ROOT / "scripts" / "docs" / "errata.yml").read_text(encoding="utf-8"))


def spread(mean: float, sd: float = 0.1, n: int = 3) -> dict:
    return {"mean": mean, "sd": sd, "n": n, "values": [mean] * n}


def run(figures: dict, **more) -> dict:
    machine = {
        "system": "Linux",
        "processor": "x86_64",
        "cores": 2,
        "memory_gib": 8,
        "python": "3.11",
        "torch": "2.13",
        "accelerator": None,
    }
    return {
        "command": "python b.py",
        "commit": "abc",
        "seeds": [0, 1, 2],
        "machine": machine,
        "version": "0.1.0",
        "figures": figures,
    } | more


def code(id: str, source: str, **more) -> dict:
    return {
        "cell_type": "code",
        "id": id,
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    } | more


def text(source: str) -> dict:
    return {"cell_type": "markdown", "id": "m", "metadata": {}, "source": source}


NOTEBOOK = {
    "cells": [
        text("# Heads\n\n> Several."),
        text("## Does it help?"),
        code("c1", 'claim = records.read("claims")["A2"]', outputs=[{"output_type": "stream", "text": ["right: 1\n"]}]),
        code("c2", '#| hide\nrecords.read("claims")["A9"]'),
        text("```\n## not a heading\n```"),
        code(
            "c3",
            "run = records.read('subsets')\nclaims = records.read(\"claims\")\nprint(claims['T5'], claims.get('T6'))",
        ),
    ]
}


@pytest.fixture(scope="module")
def walked() -> list:
    return cells.walk({Path("nbs/03_heads.ipynb"): NOTEBOOK}, build_docs.place)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    "The generated pages of this repository, built twice; their text."
    texts = []
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp(name)
        sources = {p: json.loads((ROOT / p).read_text(encoding="utf-8")) for p in build_docs.notebooks()}
        config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
        course = generated.Course(ROOT, sources, build_docs.place, build_docs.parts_of(config), {})
        used = generated.build(course, folder)
        texts.append(
            {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*.*"))}
        )
    assert texts[0] == texts[1], "the same results give the same pages and figures"
    return texts[0] | {"used": used, "sources": sources}


# Which cell shows what


def test_cells_are_found_by_what_they_read_under_their_heading(walked):
    found = cells.readers(walked)
    assert {key: [c.id for c in value] for key, value in found.items()} == {
        "claims/A2": ["c1"],
        "subsets": ["c3"],
        "claims/T5": ["c3"],
        "claims/T6": ["c3"],
    }
    (cell,) = found["claims/A2"]
    assert (cell.link, cell.title, cell.heading, cell.output) == (
        "/heads.ipynb#at-c1",
        "Heads",
        "Does it help?",
        "right: 1",
    )
    assert found["subsets"][0].heading == "Does it help?"


def test_a_cell_that_is_not_there_is_named(walked):
    assert cells.holding(walked, "03_heads", 'read("claims")["A2"]').id == "c1"
    with pytest.raises(ValueError, match=r"no code cell of nbs/03_heads.ipynb holds 'gone'"):
        cells.holding(walked, "03_heads", "gone")


def test_a_cell_that_is_linked_gets_an_anchor():
    page = pages.to_page(NOTEBOOK, {}, anchors={"c1"})
    assert [c["source"] for c in page["cells"] if "at-" in c["source"]] == [
        '<a id="at-c1" class="exported-anchor"></a>'
    ]


# Claims


def test_every_recorded_claim_is_on_the_page_with_verdict_spread_run_and_cell(made):
    page, anchors = made["claims.md"], made["used"]
    for id, claim in CLAIMS.items():
        (part,) = re.findall(rf"^## {id}: .*?(?=^## |\Z)", page, re.M | re.S)
        assert tables.cell(verdicts.CLAIMS[id]) in part and claims.short(claim["verdict"]) in part, id
        assert f"`{claim['command']}`" in part and claim["commit"].rstrip("+") in part and "seeds" in part, id
        assert f"(/results/claim-{id}.md)" in part and f"results/claim-{id}.md" in made, id
        assert "±" in part, id
        place = build_docs.place(f"nbs/{claim['chapter']}.ipynb")
        linked = re.findall(rf"\(/{re.escape(place)}#at-([\w-]+)\)", part)
        assert linked and set(linked) <= anchors, f"{id}: no cell of {claim['chapter']} reads it"


def test_a_claim_without_a_run_says_so_and_one_that_is_not_listed_is_refused():
    listed, how = {"A1": "It [holds] *now*.", "T1": "Waits."}, {"A1": "recall", "T1": "much"}
    recorded = {"A1": run({"x": spread(1)}, verdict="holds when asked", summary="1 ± 0", chapter="03_heads")}
    places = {"03_heads": ("heads.ipynb", "Heads")}
    page = claims.page(listed, how, recorded, {}, places)
    assert r"## A1: It \[holds\] \*now\*. {#claim-A1}" in page and "**Verdict: holds when** asked" in page
    assert "**Verdict: not measured yet.**" in page and "Measured: recall." in page
    assert "2 claims; *holds when* 1, *not measured yet* 1." in page and "[Heads](/heads.ipynb)" in page
    with pytest.raises(ValueError, match="names the chapter 03_heads, which has no notebook"):
        claims.page(listed, how, recorded, {}, {})
    with pytest.raises(ValueError, match="claims: Z9: not in all of"):
        claims.page(listed, how, recorded | {"Z9": recorded["A1"]}, {}, places)
    with pytest.raises(ValueError, match="claims: A1: not in all of"):
        claims.page(listed, {"T1": "much"}, recorded, {}, places)


@pytest.mark.parametrize("verdict", ["holds", "holds when …", "fails", "not resolved at this scale"])
def test_verdicts_are_those_of_the_records(verdict):
    from mmtutor.course import records

    assert verdict.startswith(records.VERDICTS) and verdict.startswith(claims.short(verdict))
    assert sorted(claims.VERDICTS) == sorted(records.VERDICTS)


# Errata


def test_every_erratum_leads_to_a_cell_and_every_claim_of_them_is_recorded(made):
    page = made["errata.md"]
    assert len(ERRATA) >= 15 and len({e["id"] for e in ERRATA}) == len(ERRATA)
    for entry in ERRATA:
        (part,) = re.findall(rf"^## [^\n]* {{#{entry['id']}}}$.*?(?=^## |\Z)", page, re.M | re.S)
        (id,) = re.findall(r"Proof: .*?#at-([\w-]+)\)", part)
        assert id in made["used"]
        assert ("claim" in entry) == ("/claims.md#claim-" in part)
        if entry["id"] != "name":
            assert not re.search(r"\d\.\d", entry["so"]), f"{entry['id']}: figures belong to the cell"
    assert "{#ours}" in page and "CHANGELOG.md" in page
    assert page.count("```") >= 20, "what cells print is quoted"


def test_an_erratum_about_a_claim_that_is_not_recorded_is_refused(walked):
    entry = {"id": "x", "said": "s", "so": "t", "proof": ["03_heads", "claims"], "claim": "A1"}
    with pytest.raises(ValueError, match=r"errata.yml: x names the claim A1"):
        errata.page([entry], lambda *at: cells.holding(walked, *at), {})
    assert errata.quoted("a\nb") == "```\na\nb\n```" and errata.quoted("") == errata.quoted("x\n" * 40) == ""


# Results, benchmarks, budgets


def test_every_record_has_a_page_with_its_provenance_and_all_its_figures(made):
    for path in sorted((ROOT / "results").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        runs = {f"claim-{id}": r for id, r in record.items()} if path.stem == "claims" else {path.stem: record}
        for place, one in runs.items():
            page = made[f"results/{place}.md"]
            assert f"(results/{place}.md)" in made["results.md"]
            assert (
                f"`{one['command']}`" in page and one["commit"].rstrip("+") in page and one["machine"]["torch"] in page
            )
            shown = sum(tables.is_spread(v) for _, v in tables.flat(one["figures"]))
            assert page.count("±") >= shown, f"{place}: {shown} figures with spread"


def test_figures_become_tables():
    found = results.figures_of(
        run(
            {
                "chance": 0.5,
                "right": {"a": {"x": spread(0.25), "y": 3}, "b": {"x": spread(0.75), "y": 4}},
                "odd": {"k": spread(1), "deep": {"er": [1, 2]}},
            }
        )
    )
    assert found[1].splitlines()[2] == "| chance | 0.500 |"
    assert "| a | 0.250 ± 0.100 (n = 3) | 3 |" in found[3] and found[2] == "## right"
    assert "| deep / er | 1, 2 |" in found[5]


@pytest.mark.parametrize(
    "value, said",
    [
        (0.5, "0.500"),
        (3, "3"),
        (12345, "12,345"),
        (1234.56, "1,234.6"),
        (2e-6, "2.00e-06"),
        (0.0, "0"),
        ("cpu", "cpu"),
        (True, "True"),
    ],
)
def test_numbers_are_short(value, said):
    assert tables.number(value) == said


def test_nothing_in_a_table_is_taken_for_markup():
    said = tables.cell("a|b *c* [d] <e> $f$ `g|h*` [i](j.md)")
    assert said == r"a\|b \*c\* \[d\] &lt;e> \$f\$ `g\|h*` [i](j.md)"
    assert tables.table(["h"], [["x\ny"]]) == "| h |\n| --- |\n| x y |"


def turns(ratio: float, sd: float = 0.01) -> dict:
    return {"ratio": ratio, "ours ms": 1.0, "turns": spread(ratio, sd, 9)}


def test_budgets_are_those_of_the_benchmarks_judged_by_the_records():
    layers = {"ours / theirs": {"cpu/EncoderLayer/base/forward + backward/BertLayer": turns(1.5)}}
    rows = {row[0]: row for row in benchmarks.judged({"bench-attention": run(layers)})}
    assert list(rows) == [budget.what for budget in benchmarks.budgets.BUDGETS]
    row = rows["attention and encoder layer, forward + backward, ours / theirs"]
    assert row[3] == "short by 50%" and row[2].startswith("1.5 (cpu/") and "(/results/bench-attention.md)" in row[2]
    others = [found for what, _, *found in rows.values() if what != row[0]]
    assert all(found[0] == "" and found[1].startswith(("not measured: there is no", "held by")) for found in others)


def test_every_benchmark_is_on_the_page_drawn_or_listed(made):
    page = made["benchmarks.md"]
    present = [p.stem for p in (ROOT / "results").glob("*.json") if p.stem.startswith(("bench-", "gpu-"))]
    for name in present:
        assert f"\n## {name}\n" in page
    figures = re.findall(r"\(/(media/[^)]+\.svg)\){fig-alt=\"[^\"]{20,}\"}", page)
    assert len(figures) >= 4 and all(made[f].lstrip().startswith("<?xml") for f in figures)
    assert ("No run on a GPU is recorded" in page) == (not any(n.startswith("gpu-") for n in present))


def test_a_record_from_a_gpu_is_shown_and_judged(tmp_path):
    speed = {
        "large/full, as written": {"seconds": 0.1, "MFU": 0.5, "turns": spread(0.1)},
        "large/frozen, as written": {"seconds": 0.1, "MFU": 0.2, "turns": spread(0.1)},
    }
    memory = {"whole/64": {"seconds": 1, "peak MiB": 900}, "whole/256": {"seconds": 6, "peak MiB": 3000}}
    memory["whole/8192"] = None  # it did not fit
    records = {"gpu-run": run({"speed": speed, "memory": memory, "parity": {"attend/float32": 1e-7}})}
    page = benchmarks.page(records, tmp_path, ROOT / "mmtutor" / "course" / "widgets")
    assert "## gpu-run" in page and "1.00e-07" in page and "No run on a GPU" not in page
    assert "(/media/gpu-run-memory-peak-MiB.svg){fig-alt=" in page and "whole: 900 to 3000" in page
    assert re.search(r"\| model FLOPs utilisation.*0\.5 \(large/full, as written\).*\| reached \|", page)


def test_reliability_is_told_from_its_records(made):
    assert all(f"## {title}" in made["reliability.md"] for title, *_ in reliability.PARTS)
    assert "kill -9" in made["reliability.md"]
    bare = reliability.page({})
    assert bare.count("*No run is recorded.") == len(reliability.PARTS) and "`python benchmarks/fuzzed.py`" in bare
    row = {"functions": 2, "right": 30, "refused": 40, "broken": 1}
    fuzzed = {"modules": {"a": row, "b": row}, "left out": {"needs two ranks": ["c.d"]}, "seconds": 20, "GiB": 3}
    left = {"changes": 9, "killed": 6, "slow": 1, "harmless": {"x": "a message"}, "survivors": ["- a + b"]}
    page = reliability.page({"fuzzed": run(fuzzed), "mutants": run({"modules": {"a": left}})})
    assert "| all | 4 | 60 | 80 | 2 |" in page and "`c.d`: needs two ranks." in page
    assert "| `a` | 9 | 7 | 1 | 1 | 87.5% |" in page and "- `a`: `- a + b`" in page and "| a message | 1 |" in page


# Architecture and glossary


def test_the_ladder_is_drawn_from_the_imports(made, tmp_path):
    page = made["architecture.md"]
    assert "None lies on or above the diagonal." in page and made["media/ladder.svg"]
    names = reference.modules(ROOT / "mmtutor")
    assert all(f"(/api/{name}.md)" in page for name in names)
    package = tmp_path / "mmtutor"
    package.mkdir()
    (package / "one.py").write_text("from mmtutor.two import x\n")
    (package / "two.py").write_text("from .course import files\nimport mmtutor.three\n")
    assert architecture.imports(package / "one.py", ["one", "two", "three"]) == ["two"]
    assert architecture.imports(package / "two.py", ["one", "three", "course.files"]) == ["three", "course.files"]


def test_the_glossary_has_every_term_and_its_symbol():
    notation = json.loads((ROOT / "nbs" / "00_notation.ipynb").read_text(encoding="utf-8"))
    symbol = "mmtutor.attention.attend"
    page = glossary.page(notation, {symbol: "/api/attention.md#attend"})
    terms = re.findall(r'<a id="(term-[\w-]+)"></a>', "".join("".join(c["source"]) for c in notation["cells"]))
    assert len(terms) > 60 and all(f'<a id="{t}"></a>' in page for t in terms)
    assert f"[`{symbol}`](/api/attention.md#attend)" in page and ".ipynb)" in page and "(01_attention" not in page
    with pytest.raises(ValueError, match="has no glossary"):
        glossary.page({"cells": []}, {})


# Names in code


def test_names_in_code_lead_to_the_reference():
    notebook = {
        "cells": [
            code("a", "#| default_exp heads"),
            code("b", "from mmtutor.attention import attend as look\nfrom mmtutor.course import records"),
            code("c", "%magic mmtutor"),
        ]
    }
    index = {
        "attention.attend": "/api/attention.md#attend",
        "heads.split": "/api/heads.md#split",
        "heads.Box.open": "/api/heads.md#Box.open",
        "mmtutor.course.records": "/api/course.records.md",
        "course.records.read": "/api/course.records.md#read",
    }
    known = mentions.links(notebook, index)
    assert known == {
        "split": "/api/heads.md#split",
        "look": "/api/attention.md#attend",
        "records.read": "/api/course.records.md#read",
    }
    page = (
        '<p>look</p><code class="sourceCode python">y = look(x, look=1) <span class="co"># look</span>\n'
        'a.look; records.read(<span class="st">"split"</span>); split</code>'
    )
    assert mentions.linked(page, known, "../") == (
        '<p>look</p><code class="sourceCode python">y = <a class="mention" href="../api/attention.html#attend">look</a>'
        '(x, look=1) <span class="co"># look</span>\na.look; '
        '<a class="mention" href="../api/course.records.html#read">records.read</a>'
        '(<span class="st">"split"</span>); <a class="mention" href="../api/heads.html#split">split</a></code>'
    )
    assert pages.link_names("Call `look`.", None, {}, {"look": "/api/a.md#b"}) == "Call [`look`](/api/a.md#b)."


# The policy

PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>t</title><script>own()</script></head><body>'
    '<a class="quarto-color-scheme-toggle" onclick="window.smalldocsToggleScheme(); return false;">x</a>'
    '<p style=\'margin:0\'>a</p><p class="b" style="margin: 0;">c</p><img onerror="evil()">'
    "<script>evil()</script></body></html>"
)


def test_a_page_under_the_policy_keeps_no_inline_script_or_style_of_ours():
    rules = {}
    page = policy.guarded(PAGE, "../", rules, {"own()": "scheme.js"})
    assert page.index("Content-Security-Policy") < page.index("<title>") < page.index("../site_libs/mmtutor/scheme.js")
    (name,) = rules
    assert f'<p class="{name}">a</p><p class="b {name}">c</p>' in page and "style=" not in page
    assert (
        "onclick" not in page and "onerror" in page and page.count("evil()") == 2
    )  # left for the policy and the checks
    assert policy.sheet(rules) == f".{name}{{margin:0!important}}\n"


def test_the_policy_allows_nothing_from_elsewhere_and_nothing_inline():
    rules = dict(rule.strip().split(" ", 1) for rule in policy.POLICY.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert (
        rules["script-src"] == rules["style-src"] == "'self'"
        and "unsafe" not in policy.POLICY
        and "http" not in policy.POLICY
    )
    frame = policy.frame("run()")
    assert (
        f"script-src {policy.digest('run()')} blob:" in frame
        and "default-src 'none'" in frame
        and "connect-src" not in frame
    )


@pytest.mark.parametrize(
    "html, said",
    [
        ("<script>evil()</script>", "<script>"),
        ('<img alt="x" src="a.png" onerror="evil()">', "onerror="),
        ("<iframe></iframe>", "<iframe>"),
        ('<a href=" javascript:evil()">x</a>', "javascript: link"),
        ('<a href="java&#9;script:evil()">x</a>', "javascript: link"),
        ('<button formaction="javascript:evil()">x</button>', "javascript: link"),
        ('<svg><a><animate attributeName="href" to="javascript:evil()"/></a></svg>', "javascript: link"),
        ('<a href="data:text/html,x">x</a>', "data: link"),
        ('<meta http-equiv="Refresh" content="0;url=x">', "<meta>"),
        ("<style>p{}</style>", "<style>"),
        ('<form action="x"></form>', "<form>"),
        ('<base href="x">', "<base>"),
    ],
)
def test_active_content_is_named(tmp_path, html, said):
    from docs import checks

    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "index.html").write_text(f"<html><head><title>t</title></head><body>{html}</body></html>")
    assert any(f"{said} is active content" in line for line in checks.problems(tmp_path, []))


def test_landmarks_have_names_and_folds_are_buttons():
    page = polish.polished(
        '<nav id="quarto-sidebar" class="x"><a class="y" data-bs-toggle="collapse" data-bs-target="#s-1" '
        'role="navigation">1</a></nav><th></th>'
    )
    assert 'aria-label="Pages"' in page and 'href="#s-1" role="button"' in page and page.endswith("<td></td>")


# Other parts

def test_only_the_icons_that_are_shown_are_kept(tmp_path):
    from fontTools.ttLib import TTFont

    vendor = Path(smalldocs.__file__).parent / "assets" / "vendor" / "bootstrap-icons"
    shutil.copytree(vendor, tmp_path / "site_libs" / "bootstrap-icons")
    (tmp_path / "index.html").write_text('<i class="bi bi-search"></i>')
    (tmp_path / "site_libs" / "a.css").write_text('p::before { content: "\\f282"; }')
    icons.shrink(tmp_path)
    (font,) = (tmp_path / "site_libs").rglob("*.woff*")
    before, after = TTFont(next(vendor.rglob("*.woff"))), TTFont(font)
    assert set(after.getBestCmap()) == {0xF52A, 0xF282} and font.stat().st_size < 5_000
    for code in (0xF52A, 0xF282):  # where a glyph stands depends on its box
        old, new = (f["glyf"][f.getBestCmap()[code]] for f in (before, after))
        assert (old.xMin, old.yMin, old.xMax, old.yMax) == (new.xMin, new.yMin, new.xMax, new.yMax)
    rules = (tmp_path / "site_libs" / "bootstrap-icons" / "bootstrap-icons.min.css").read_text()
    assert "bi-search::before" in rules and "bi-alarm" not in rules and "woff2" not in rules and "MIT" in rules




# What can be taken away


def test_the_zip_is_the_site_and_the_same_every_time(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.png").write_bytes(b"picture")
    (tmp_path / "index.html").write_text(f"<p>{offline.TAKE}</p>")
    first = offline.archive(tmp_path).read_bytes()
    assert offline.archive(tmp_path).read_bytes() == first
    with zipfile.ZipFile(tmp_path / offline.ZIP) as found:
        assert found.namelist() == ["mmtutor-site/index.html", "mmtutor-site/media/a.png"]
        assert (
            offline.TAKEN in found.read("mmtutor-site/index.html").decode()
            and found.read("mmtutor-site/media/a.png") == b"picture"
        )


def test_llms_txt_and_sitemap():
    said = offline.llms(
        "T", "D", [("1 Part", [("attention.html", "Attention", "Mix."), ("b/c.html", "C", "")])], "https://x.example/"
    )
    assert said == (
        "# T\n\n> D\n\n## 1 Part\n\n- [Attention](https://x.example/attention.llms.md): Mix.\n"
        "- [C](https://x.example/b/c.llms.md)\n"
    )
    assert "<loc>a.html</loc>" in offline.sitemap(["a.html"]) and "relative" in offline.sitemap(["a.html"])
    full = offline.sitemap(["a b.html"], "https://x.example/")
    assert "<loc>https://x.example/a%20b.html</loc>" in full and "relative" not in full


def test_markdown_copies_share_the_pictures_of_the_pages(tmp_path):
    (tmp_path / "course" / "a_files").mkdir(parents=True)
    (tmp_path / "course" / "a_files" / "p.png").write_bytes(b"picture")
    (tmp_path / "course" / "a.llms.md").write_text(
        '![x](a_files/p.png)\n<div data-values="{1}"><img alt="y" src="data:image/png;base64,cGljdHVyZQ=="></div>'
    )
    offline.texts(tmp_path, build_docs.take_out_media)
    (file,) = (tmp_path / "media").iterdir()
    assert (tmp_path / "course" / "a.llms.md").read_text() == (
        f'![x](../media/{file.name})\n<div><img alt="y" src="../media/{file.name}"></div>'
    )
    assert not (tmp_path / "course" / "a_files").exists()
