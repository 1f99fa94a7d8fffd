"""What can be taken away from the site: every notebook, its text for language models, a map, all of it as one zip."""

import hashlib
import html
import json
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

ZIP = "mmtutor-site.zip"
END = re.compile(r'(<header id="title-block-header".*?)(</header>)', re.S)
TAKE = f'<p class="download"><a href="{ZIP}" download>The whole site as one zip file, to read offline</a></p>'
TAKEN = '<p class="download">This is the offline copy of the site.</p>'
PICTURE = re.compile(r"\]\(([^()\s]*_files/[^()\s]+)\)")


def titled(page: str, line: str) -> str:
    "The page with a line at the end of its title block."
    return END.sub(lambda m: m[1] + line + m[2], page, count=1)


def notebooks(site: Path, root: Path, placed: Mapping[Path, str]) -> None:
    "Copy every notebook to `notebooks/` and name it on its page. `placed` maps a notebook to its page."
    for source, name in placed.items():
        target = site / "notebooks" / source.relative_to("nbs")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / source, target)
        up = "../" * name.count("/")
        href = f"{up}notebooks/{source.relative_to('nbs').as_posix()}"
        link = f'<p class="download"><a href="{href}" download>Download this notebook</a></p>'
        path = site / name
        path.write_text(titled(path.read_text(encoding="utf-8"), link), encoding="utf-8")


def texts(site: Path, take_out) -> None:
    "smalldocs' Markdown copies, with the pictures of the pages for their own. `take_out` is what moved those."
    for path in sorted(site.rglob("*.llms.md")):
        up = "../" * (len(path.relative_to(site).parts) - 1)

        def picture(match: re.Match, path=path, up=up) -> str:
            file = path.parent / match[1]
            if not file.is_file():
                return match[0]
            data = file.read_bytes()
            name = f"media/{hashlib.sha256(data).hexdigest()[:16]}{file.suffix}"
            (site / "media").mkdir(exist_ok=True)
            (site / name).write_bytes(data)
            return f"]({up}{name})"

        text = take_out(PICTURE.sub(picture, path.read_text(encoding="utf-8")), site / "media", up)
        path.write_text(re.sub(r"\sdata-values=(\"[^\"]*\"|'[^']*')", "", text), encoding="utf-8")
    for folder in sorted(site.rglob("*_files")):
        shutil.rmtree(folder)


def llms(
    title: str, description: str, sections: Sequence[tuple[str, Sequence[tuple[str, str, str]]]], base: str = ""
) -> str:
    "`llms.txt`: sections of (place, title, promise); the links lead to the Markdown copies."
    lines = [f"# {title}", "", f"> {description}"]
    for name, entries in sections:
        lines += ["", f"## {name}", ""]
        lines += [
            f"- [{said}]({base}{place.removesuffix('.html')}.llms.md)" + (f": {promise}" if promise else "")
            for place, said, promise in entries
        ]
    return "\n".join(lines) + "\n"


def sitemap(names: Sequence[str], base: str = "") -> str:
    "`sitemap.xml`. Crawlers want full addresses: give the site's own as `base`; without, the places are relative."
    note = "" if base else "<!-- Places are relative: build with the base URL option to get full addresses. -->\n"
    rows = "\n".join(f"  <url><loc>{html.escape(base + quote(name))}</loc></url>" for name in sorted(names))
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n{note}<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        f"{rows}\n</urlset>\n"
    )


def search(site: Path) -> None:
    "Every search list once more as a script: pages that are opened from a folder may not read a JSON file."
    for path in site.rglob("search.json"):
        script = f"window.mmtutorSearch = {path.read_text(encoding='utf-8').strip()};\n"
        path.with_suffix(".js").write_text(script, encoding="utf-8")


def archive(site: Path) -> Path:
    "The whole site as one zip beside its index, the same bytes for the same pages."
    target = site / ZIP
    with zipfile.ZipFile(target, "w") as out:
        for path in sorted(p for p in site.rglob("*") if p.is_file() and p != target):
            name = path.relative_to(site).as_posix()
            data = path.read_bytes()
            if name == "index.html":
                data = data.decode("utf-8").replace(TAKE, TAKEN).encode("utf-8")
            info = zipfile.ZipInfo(f"mmtutor-site/{name}", date_time=(2020, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            packed = path.suffix in {".png", ".woff2", ".jpeg", ".gif"}
            out.writestr(info, data, zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED, 6)
    return target


def module_text(name: str, source: str) -> str:
    "A figure's module as a script that hands over its text."
    return f"window.mmtutorModules[{json.dumps(name)}] = {json.dumps(source, ensure_ascii=False)};\n"
