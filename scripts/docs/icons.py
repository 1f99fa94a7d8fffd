"""Of two thousand icons the few that the pages show: the font and its sheet shrink from 216 kB to a few."""
import io
import re
from pathlib import Path

RULE = re.compile(r'\.(bi-[\w-]+)::before\{content:"\\([0-9a-f]+)"\}')
NAMED = re.compile(r"\bbi-[\w-]+")
CODED = re.compile(r'content:\s*"\\([0-9a-fA-F]{4})"')


def used(site: Path) -> tuple[set[str], set[str]]:
    "The icons that pages, scripts and sheets of `site` name by class, and those they name by code."
    texts = [p.read_text(encoding="utf-8") for kind in ("*.html", "*.js", "*.css") for p in site.rglob(kind)
             if p.parent.name != "bootstrap-icons" and not p.name.startswith("search")]
    codes = {c.lower() for text in texts for c in CODED.findall(text)}
    return {n for text in texts for n in NAMED.findall(text)}, codes


def subset(font: bytes, codes: set[str]) -> bytes:
    "The font with these characters alone, as WOFF; the same bytes every time."
    import logging

    from fontTools import subset as tool
    from fontTools.ttLib import TTFont
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # two stray bytes in the font's list of names
    found = TTFont(io.BytesIO(font), recalcTimestamp=False, recalcBBoxes=False)
    options = tool.Options(flavor="woff", notdef_outline=True, layout_features=[])
    worker = tool.Subsetter(options)
    worker.populate(unicodes=[int(c, 16) for c in codes])
    worker.subset(found)
    found.flavor, out = "woff", io.BytesIO()
    found.save(out)
    return out.getvalue()


def shrink(site: Path) -> None:
    "Keep what is used of Bootstrap's icons."
    folder = site / "site_libs" / "bootstrap-icons"
    sheet, names = folder / "bootstrap-icons.min.css", used(site)
    rules = sheet.read_text(encoding="utf-8")
    codes = {code for name, code in RULE.findall(rules) if name in names[0]} | names[1]
    (font,) = folder.rglob("*.woff")
    font.write_bytes(subset(font.read_bytes(), codes))
    for other in folder.rglob("*.woff2"):
        other.unlink()
    kept = RULE.sub(lambda m: m[0] if m[1] in names[0] else "", rules)
    sheet.write_text(re.sub(r'url\("[^"]*woff2[^"]*"\) format\("woff2"\),\s*', "", kept), encoding="utf-8")
