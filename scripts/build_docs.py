"""Build the docs site from `_quarto.yml`: notebooks → pages → smalldocs → local fonts and formulas → checks.

No notebook is executed: the pages show the saved outputs. No page loads anything from another host.
"""
import argparse
import base64
import copy
import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import smalldocs.site
import yaml
from docs import checks, edition, generated, icons, mentions, offline, pages, policy, polish, reference

from mmtutor.course.files import Wheel, fetch

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
DOCS = ROOT / "scripts" / "docs"
# KaTeX 0.16.40 (MIT) as the wheel djangocms-katex carries it. Only its files are taken; nothing is installed.
KATEX = Wheel("djangocms-katex", "1.0.2", "79774fa17f7d328252f6dd05688799fa7ee49abebb7cbe09f0cbf6f103352ac2")
KATEX_FOLDER = "djangocms_katex/static/djangocms_katex/vendor/katex/"
KATEX_FILES = re.compile(r"(katex\.min\.(js|css)|contrib/auto-render\.min\.js|fonts/.*\.woff2|LICENSE)")
WITH_COMMA = re.compile(r'(<span class="math inline">[^<]{1,40}</span>[,.;:!?)]+)')
REMOTE_FONTS = re.compile(r"@import\s+(url\([^)]*\)|\"[^\"]*\"|'[^']*')\s*;?")


def notebooks() -> list[Path]:
    "Every notebook of the course, relative to the repository, in reading order."
    found = [p.relative_to(ROOT) for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    return sorted(found, key=lambda p: (len(p.parts), p.stem != "index", p))


def place(notebook: Path | str) -> str:
    "The place of a notebook's page, from the site's root: `nbs/01_attention.ipynb` → `attention.ipynb`."
    inner = Path(notebook).relative_to("nbs")
    return (inner.parent / f"{pages.page_name(inner)}.ipynb").as_posix()


def page_of(notebook: Path) -> str:
    "The page of a notebook, from the site's root: `attention.html`."
    return place(notebook).replace(".ipynb", ".html")


def listed(contents: list) -> Iterator[str]:
    "The notebooks that a sidebar's `contents` name."
    for item in contents:
        if isinstance(item, dict):
            yield from [item["href"]] if "href" in item else []
            yield from listed(item.get("contents", []))
        else:
            yield item


def sidebar_problems(config: dict, present: list[Path]) -> list[str]:
    "Where `_quarto.yml` and the notebooks disagree."
    named, there = list(listed(config["website"]["sidebar"]["contents"])), [p.as_posix() for p in present]
    return ([f"_quarto.yml names {n}, which does not exist: take it out" for n in named if n not in there]
            + [f"{n} is not in the sidebar of _quarto.yml: add it to its part" for n in there if n not in named]
            + [f"_quarto.yml names {n} twice" for n in dict.fromkeys(named) if named.count(n) > 1])


def staged(value: object, there: set[str]) -> object:
    "The configuration with the notebooks' places in the site; entries without a notebook and empty parts left out."
    if isinstance(value, str):
        return place(value) if value.startswith("nbs/") else value
    if isinstance(value, list):
        kept = [v for v in value if not (isinstance(v, str) and v.startswith("nbs/") and v not in there)]
        kept = [staged(v, there) for v in kept if not (isinstance(v, dict) and v.get("href", "").startswith("nbs/")
                                                       and v["href"] not in there)]
        return [v for v in kept if not (isinstance(v, dict) and "section" in v and not v["contents"])]
    return {k: staged(v, there) for k, v in value.items()} if isinstance(value, dict) else value


def parts_of(config: dict) -> dict[Path, str]:
    "Notebook → the part of the sidebar that holds it."
    found = {}
    for item in config["website"]["sidebar"]["contents"]:
        if isinstance(item, dict) and "section" in item:
            found |= {Path(name): item["section"] for name in listed([item])}
    return found


def site_config(config: dict, present: list[Path], modules: list[str], records: list[str]) -> dict:
    """`_quarto.yml` as smalldocs gets it: without what only Quarto reads, with the generated pages (`records`) and the
    reference in the navigation.
    """
    config = staged(copy.deepcopy(config), {p.as_posix() for p in present})
    for key in ("execute", "ipynb-filters"):
        config.pop(key, None)
    config["project"] = {"type": "website", "output-dir": "_site"}
    config["format"]["html"].pop("html-math-method", None)
    website = config["website"]
    website["llms-txt"] = True
    website["page-footer"]["right"] = "[Found a mistake?](/errata.md#ours)"
    bar = {"claims.md": "Claims", "glossary.md": "Glossary", "api/index.md": "API reference"}
    website["navbar"]["left"] += [{"text": text, "href": href} for href, text in bar.items()]
    reading = {**website["sidebar"], "id": "course"}
    section = {"section": "Records", "contents": [{"text": generated.TITLES[name], "href": name} for name in records]}
    sections = [item.get("section") if isinstance(item, dict) else None for item in reading["contents"]]
    reading["contents"].insert(sections.index("Support") if "Support" in sections else len(sections), section)
    if Path("nbs/index.ipynb") not in present:
        reading["contents"] = ["index.md", *reading["contents"]]
    listing = {"id": "api", "style": reading.get("style", "docked"),
               "contents": ["api/index.md", *({"text": m, "href": f"api/{m}.md"} for m in modules)]}
    website["sidebar"] = [reading, listing]
    return config


def stage(folder: Path, config: dict, present: list[Path]) -> dict[str, dict[str, str]]:
    "Lay out in `folder` what smalldocs renders; return the names that each page may mention, and where they lead."
    sources = {p: json.loads((ROOT / p).read_text(encoding="utf-8")) for p in present}
    chapters = {module: (place(p), pages.title_of(nb)) for p, nb in sources.items() if (module := pages.module_of(nb))}
    modules = list(reference.modules(ROOT / "mmtutor", chapters))
    index = reference.build(ROOT / "mmtutor", folder / "api", chapters)
    course = generated.Course(ROOT, sources, place, parts_of(config), index)
    anchors, known = generated.build(course, folder), {}
    for path, notebook in sources.items():
        target = folder / place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        near = mentions.links(notebook, index)
        known[page_of(path)] = near
        page = pages.to_page(notebook, index, near=near, anchors=anchors)
        target.write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")
    if not (folder / "index.ipynb").exists():
        front = "\n".join(f"- [{pages.title_of(nb)}]({place(p)})" for p, nb in sources.items())
        (folder / "index.md").write_text(f"---\ntitle: mmtutor\n---\n\n{config['website']['description']}\n\n{front}\n",
                                         encoding="utf-8")
    ready = site_config(config, present, modules, [name for name in generated.TITLES if (folder / name).exists()])
    edition.stage(folder, ready, index)
    (folder / "_quarto.yml").write_text(yaml.safe_dump(ready, sort_keys=False, allow_unicode=True), encoding="utf-8")
    for asset in [config["format"]["html"]["css"], config["website"]["favicon"]]:
        (folder / asset).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / asset, folder / asset)
    return known


def take_out_media(text: str, folder: Path, up: str) -> str:
    "Pictures and sounds that a page carries inside itself become files in `folder`: a quarter smaller, and cached."
    def file(match: re.Match) -> str:
        data = base64.b64decode(match[3])
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{match[2].split('+')[0].removeprefix('x-')}"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        return f'src="{up}{folder.name}/{name}"'
    return re.sub(r'src="data:(image|audio)/([\w+.-]+);base64,([A-Za-z0-9+/=\s]+)"', file, text)


def own_everything(site: Path) -> None:
    "Bring KaTeX into the site, cut every load from another host, and take pictures out of the pages."
    with zipfile.ZipFile(fetch(KATEX)) as wheel:
        for name in wheel.namelist():
            inner = name.removeprefix(KATEX_FOLDER)
            if inner != name and KATEX_FILES.fullmatch(inner):
                target = site / "site_libs" / "katex" / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(wheel.read(name))
    sheet = site / "site_libs" / "katex" / "katex.min.css"
    rules = sheet.read_text(encoding="utf-8")  # of the fonts, woff2 is enough for every browser since 2016
    sheet.write_text(re.sub(r",url\([^)]*\.(?:woff|ttf)\) format\([^)]*\)", "", rules), encoding="utf-8")
    for path in checks.pages_of(site):
        up = "../" * (len(path.relative_to(site).parts) - 1)
        text = path.read_text(encoding="utf-8").replace(smalldocs.site.layout.KATEX, f"{up}site_libs/katex")
        text = take_out_media(text, site / "media", up)
        text = WITH_COMMA.sub(r'<span class="together">\1</span>', text)  # no line begins with the comma
        path.write_text(text, encoding="utf-8")
    for path in (site / "site_libs" / "themes").rglob("*.css"):
        path.write_text(REMOTE_FONTS.sub("", path.read_text(encoding="utf-8")), encoding="utf-8")


def enliven(site: Path) -> None:
    "Bring the modules of the interactive figures into the site, and their host into every page that shows one."
    folder = site / "site_libs" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for module in (ROOT / "mmtutor" / "course" / "widgets").glob("*.js"):
        text = offline.module_text(module.stem, module.read_text(encoding="utf-8"))
        (folder / f"{module.stem}.text.js").write_text(text, encoding="utf-8")
    (folder / "frame.html").write_text(policy.frame((DOCS / "frame.js").read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copy(DOCS / "figures.js", folder / "host.js")
    for path in checks.pages_of(site):
        text = path.read_text(encoding="utf-8")
        if '<div class="mmtutor-figure"' in text:
            up = "../" * (len(path.relative_to(site).parts) - 1)
            host = f'<script defer src="{up}site_libs/figures/host.js"></script>'
            path.write_text(text.replace("</body>", f"{host}\n</body>"), encoding="utf-8")


def finish(site: Path, known: dict[str, dict[str, str]]) -> None:
    "Links in code, names for screen readers, and the policy: the last things that change a page."
    for name in [path.relative_to(site).as_posix() for path in checks.pages_of(site)]:
        text = polish.polished((site / name).read_text(encoding="utf-8"))
        text = mentions.linked(text, known.get(name, {}), "../" * name.count("/"))
        (site / name).write_text(text, encoding="utf-8")
    policy.guard(site, smalldocs.site.layout.SCHEME_SCRIPT, (DOCS / "site.js").read_text(encoding="utf-8"))


def give_away(site: Path, config: dict, present: list[Path], base: str) -> None:
    "The notebooks to download, llms.txt, sitemap.xml, and the whole site as one zip."
    offline.notebooks(site, ROOT, {path: page_of(path) for path in present})
    index = site / "index.html"
    index.write_text(offline.titled(index.read_text(encoding="utf-8"), offline.TAKE), encoding="utf-8")
    offline.texts(site, take_out_media)
    first = {p: json.loads((ROOT / p).read_text(encoding="utf-8"))["cells"][0] for p in present}
    heads = {p: pages.front_matter(pages.text(cell))[0] for p, cell in first.items()}
    parts = parts_of(config)
    sections = {"Start": [p for p in present if p not in parts]}
    for path, part in parts.items():
        sections.setdefault(part, []).extend([path] if path in heads else [])
    told = [(part, [(page_of(p), heads[p].get("title", p.stem), heads[p].get("description", "")) for p in paths])
            for part, paths in sections.items() if paths]
    records = [(name.replace(".md", ".html"), title, "") for name, title in generated.TITLES.items()
               if (site / name.replace(".md", ".html")).exists()]
    told += [("Records", records), ("Reference", [("api/index.html", "API reference", "")])]
    website = config["website"]
    (site / "llms.txt").write_text(offline.llms(website["title"], website["description"], told, base), encoding="utf-8")
    names = [path.relative_to(site).as_posix() for path in checks.pages_of(site)]
    (site / "sitemap.xml").write_text(offline.sitemap(names, base), encoding="utf-8")
    offline.search(site)


def build(output: Path, base: str = "") -> list[str]:
    "Build the site into `output`; return what is wrong with it."
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    base = base or config["website"].get("site-url") or ""
    base = base if not base or base.endswith("/") else base + "/"
    present = notebooks()
    found = sidebar_problems(config, present)
    with tempfile.TemporaryDirectory(prefix="mmtutor-docs-") as scratch:
        folder = Path(scratch)
        known = stage(folder, config, present)
        print(f"staged {len(present)} notebooks; rendering", flush=True)
        built = smalldocs.site.build(folder, quiet=True)
        found += [w for w in built.warnings if ": broken link" not in w]  # the checks below say it too
        for picture in (ROOT / "nbs").glob("*.png"):
            shutil.copy(picture, built.out / picture.name)
        own_everything(built.out)
        enliven(built.out)
        found += edition.finish(built.out)
        finish(built.out, known)
        icons.shrink(built.out)
        give_away(built.out, config, present, base)
        offline.archive(built.out)
        found += checks.problems(built.out, ["index.html", *map(page_of, present)])
        if output.exists():
            shutil.rmtree(output)
        shutil.copytree(built.out, output)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "_docs", help="the site's folder (default: _docs)")
    parser.add_argument("--base-url", default="", help="where the site will stand, for sitemap.xml and llms.txt "
                        "(default: site-url in _quarto.yml, else relative places)")
    given = parser.parse_args()
    output = given.output.resolve()
    if output.exists() and any(output.iterdir()) and not (output / "site_libs").is_dir():
        print(f"build_docs: {output} is not empty and holds no site; name another folder", file=sys.stderr)
        return 2
    start = time.perf_counter()
    found = build(output, given.base_url)
    size = sum(p.stat().st_size for p in output.rglob("*") if p.is_file()) / 1e6
    count = len(checks.pages_of(output))
    print(f"{count} pages, {size:.1f} MB, {time.perf_counter() - start:.0f} s: {output / 'index.html'}")
    for line in found:
        print(f"problem: {line}", file=sys.stderr)
    print(f"{len(found)} problem(s)")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
