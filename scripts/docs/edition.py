"""The site in other languages: pages from `translations/`, a switch on pages with a counterpart, a search of their own.

A page that is not translated is not there: whatever leads to it says so and leads to the English page.
"""
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import translate

from docs import pages

HOME = translate.LANGUAGE  # the folder of the edition on the site
LINK = re.compile(r"\]\((?!\w+:|#|/)([^)\s]+)\)")
TOGGLE = '<li class="nav-item compact"><a class="quarto-color-scheme-toggle'
OFFSET = re.compile(r'(<meta name="smalldocs:offset" content=")[^"]*"')


def page_of(name: str) -> str:
    "The page of a notebook, from the root of its language: `01_attention` → `attention`."
    return (Path(name).parent / pages.page_name(name)).as_posix()


def translated_pages() -> list[str]:
    "The pages that exist in both languages."
    return [page_of(name) for name in translate.complete()]


def relocate(markdown: str, there: set[str]) -> str:
    "Links of a translated page: to the same language where the page exists, else to the English page."
    def move(match: re.Match) -> str:
        path, _, anchor = match[1].partition("#")
        name = path.removesuffix(".ipynb")
        return match[0] if name in there and name != path else f"](/{path}{'#' * bool(anchor)}{anchor})"
    parts = pages.FENCE.split(markdown)
    parts[::3] = [LINK.sub(move, part) for part in parts[::3]]
    return "".join(part for i, part in enumerate(parts) if i % 3 != 2)


def notice(name: str) -> str:
    "What a translated page says about itself."
    said = translate.words("site")
    text = said["page"].format(english=f"/{page_of(name)}.ipynb")
    if name == "index":
        text += said["state"].format(count=len(translate.chapters()), english=len(translate.untranslated()))
    translation, need = translate.read(name), translate.wanted(translate.notebook(name))
    late = sum(place not in translation.done for place in need)
    return text + (said["waiting"].format(count=late) if late else "")


def translated_page(name: str, index: Mapping[str, str]) -> dict:
    "The page of a translated notebook."
    there = set(translate.complete())
    nb = translate.edition(translate.notebook(name), translate.read(name), translate.words("outputs"), anchors=True)
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = relocate(translate.source_of(cell), there)
        for data in (output.get("data", {}) for output in cell.get("outputs", ())):
            if "text/markdown" in data:
                data["text/markdown"] = relocate("".join(data["text/markdown"]), there)
    page = pages.to_page(nb, index, lang=translate.words("site")["tag"])
    source = f"::: {{.translated}}\n{notice(name)}\n:::"
    note = {"cell_type": "markdown", "metadata": {}, "id": "translated", "source": source}
    return {**page, "cells": [page["cells"][0], note, *page["cells"][1:]]}


def promise_of(name: str) -> tuple[str, str]:
    "Title and promise of a chapter, translated where they are in step, else in English."
    done = translate.read(name).done
    title, promise = [done.get(place, text) for place, text in translate.promise(translate.notebook(name)).items()]
    return title.lstrip("# "), " ".join(line.lstrip("> ") for line in promise.split("\n"))


def number(name: str) -> str:
    return name.split("_")[0]


def promises() -> str:
    "The page with every chapter's title and promise, which says which chapters are translated."
    said, there = translate.words("site"), translate.complete()
    out = [f"---\ntitle: {said['promises']}\ndescription: {said['promises description']}\nlang: {said['tag']}\n---",
           said["state"].format(count=len(translate.chapters()), english=len(translate.untranslated()))]
    for part, names in translate.parts():
        out.append(f"## {said['parts'].get(part, part)}")
        for name in names:
            title, promise = promise_of(name)
            link = (f"[{said['read']}](/{HOME}/{page_of(name)}.ipynb)" if name in there
                    else f"[{said['read in English']}](/{page_of(name)}.ipynb)")
            out += [f"### {number(name)} {title} {{#{page_of(name)}}}", promise, link]
    return "\n\n".join(out) + "\n"


def sidebar(style: str) -> dict:
    "The sidebar of the translated pages: each chapter, in English where it is not translated, and says so."
    said, there = translate.words("site"), translate.complete()
    contents: list = [{"text": "mmtutor", "href": f"{HOME}/index.ipynb"},
                      {"text": said["promises"], "href": f"{HOME}/promises.md"}]
    for part, names in translate.parts():
        entries = []
        for name in names:
            title = promise_of(name)[0]
            entries.append({"text": title, "href": f"{HOME}/{page_of(name)}.ipynb"} if name in there else
                           {"text": said["in English"].format(title=title), "href": f"{page_of(name)}.ipynb"})
        contents.append({"section": said["parts"].get(part, part), "contents": entries})
    return {"id": HOME, "style": style, "contents": [*contents, {"text": said["rest"], "href": "index.ipynb"}]}


def stage(folder: Path, config: dict, index: Mapping[str, str]) -> None:
    "Lay out the translated pages in `folder` and put their sidebar into the site's `config`."
    for name in translate.complete():
        target = folder / HOME / f"{page_of(name)}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(translated_page(name, index), ensure_ascii=False), encoding="utf-8")
    (folder / HOME / "promises.md").write_text(promises(), encoding="utf-8")
    sidebars = config["website"]["sidebar"]
    sidebars.append(sidebar(sidebars[0].get("style", "docked")))


def counterpart(page: str) -> tuple[str, str, str, str] | None:
    "For a page, from the site's root: the other page, its language, what the switch says, and its title."
    said = translate.words("site")
    both, chapters = translated_pages(), [page_of(name) for name in translate.chapters()]
    if page == f"{HOME}/promises":
        return "index", "en", "English", ""
    if page.startswith(f"{HOME}/"):
        return page.removeprefix(f"{HOME}/"), "en", "English", ""
    if page in both:
        return f"{HOME}/{page}", said["tag"], said["switch"], ""
    if page == "glossary":
        return f"{HOME}/notation#glossary", said["tag"], said["switch"], ""
    if page in chapters:
        return f"{HOME}/promises#{page}", said["tag"], said["switch to promise"], said["no text yet"]
    return None


def with_switch(text: str, page: str) -> str:
    "The HTML of a page with a link to its counterpart in the navigation bar and, if it is the same page, in the head."
    found = counterpart(page)
    if not found:
        return text
    other, tag, says, title = found
    path, _, anchor = other.partition("#")
    href = os.path.relpath(f"{path}.html", Path(page).parent) + ("#" + anchor if anchor else "")
    hint = f' title="{title}"' if title else ""
    link = f'<a class="nav-link language-switch" lang="{tag}" hreflang="{tag}" href="{href}"{hint}>{says}</a>'
    text = text.replace(TOGGLE, f'<li class="nav-item">{link}</li>{TOGGLE}', 1)
    same = not anchor and page != f"{HOME}/promises"
    return text.replace("</head>", f'<link rel="alternate" hreflang="{tag}" href="{href}"></head>', 1) if same else text


def divide_search(site: Path) -> None:
    "Give the translated pages a search of their own, so that each reader finds pages in one language."
    entries = json.loads((site / "search.json").read_text(encoding="utf-8"))
    ours = [entry for entry in entries if entry["href"].startswith(f"{HOME}/")]
    rest = [entry for entry in entries if entry not in ours]
    for entry in ours:
        entry["href"] = entry["objectID"] = entry["href"].removeprefix(f"{HOME}/")
    for path, found in ((site / "search.json", rest), (site / HOME / "search.json", ours)):
        path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def finish(site: Path) -> list[str]:
    "Put the switch into every page, the interface of translated pages into their language; say what is wrong."
    said, found = translate.words("site"), []
    for path in site.rglob("*.html"):
        page, text = path.relative_to(site).with_suffix("").as_posix(), path.read_text(encoding="utf-8")
        if page.startswith(f"{HOME}/"):
            for english, ours in said["interface"].items():
                text = text.replace(english, ours)
            inner = "../" * (len(Path(page).parts) - 2) or "./"
            text = OFFSET.sub(rf'\g<1>{inner}"', text)  # where the page looks for search.json
            text = re.sub(r'(class="(?:navbar-brand|nav-link)" href=")\.\./((?:\.\./)*index\.html")', r"\1\2", text)
        done = with_switch(text, page)
        found += [f"{page}: no place for the language switch"] * (counterpart(page) is not None and done == text)
        path.write_text(done, encoding="utf-8")
    divide_search(site)
    return found + [f"{HOME}/{page}: the page is missing" for page in [*translated_pages(), "promises"]
                    if not (site / HOME / f"{page}.html").is_file()]
