"""Pages in another language stand below a folder of its code (`nbs/zh/index.ipynb`); each leads to its partner."""

from pathlib import Path

LANGUAGES = {"zh": ("zh-Hans", "中文")}  # folder → the language as HTML names it, and as its readers do
HERE = '<li class="nav-item compact"><a class="quarto-color-scheme-toggle'


def partners(name: str, there: set[str]) -> list[tuple[str, str, str]]:
    "The pages that say the same in another language: place, language, what the link says."
    folder, _, rest = name.partition("/")
    if folder in LANGUAGES:
        return [(rest, "en", "English")] if rest in there else []
    return [(f"{code}/{name}", *said) for code, said in LANGUAGES.items() if f"{code}/{name}" in there]


def switch(text: str, name: str, there: set[str]) -> str:
    "The page `name` with its language declared, and with links to its translations in the bar."
    folder = name.split("/")[0]
    if folder in LANGUAGES:
        text = text.replace('<html lang="en">', f'<html lang="{LANGUAGES[folder][0]}">', 1)
    up = "../" * name.count("/")
    links = "".join(
        f'<li class="nav-item"><a class="nav-link" lang="{code}" hreflang="{code}" href="{up}{place}">{said}</a></li>'
        for place, code, said in partners(name, there)
    )
    return text.replace(HERE, links + HERE, 1)


def build(site: Path, names: list[str]) -> None:
    "Put the switch into every page that has a translation."
    there = set(names)
    for name in names:
        path = site / name
        before = path.read_text(encoding="utf-8")
        after = switch(before, name, there)
        if after != before:
            path.write_text(after, encoding="utf-8")
