"""What a finished site must keep: working links and anchors, alt text, no other host, pages of a bearable size."""
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGEST = 1_500_000  # bytes of one page with its pictures and sounds
LOADING = ("src", "poster", "data", "background")  # attributes that fetch something, whatever the tag
DRAWN = {"link", "image", "use", "feimage"}  # tags whose href does
STYLED = re.compile(r"(?:@import\s+(?:url\()?|url\()\s*[\"']?\s*((?:https?:)?//[^\"')\s]+)")
BLOCKS = {"p", "div", "li", "td", "th", "figcaption", "section", "h1", "h2", "h3", "h4", "br", "nav", "main", "footer"}
QUIET = {"script", "style", "code", "pre", "textarea"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


ACTING = re.compile(r"javascript:|vbscript:|data:(?:text|application)", re.I)
SPACE = re.compile(r"[\x00-\x20]")  # a browser reads over it
LEADING = ("href", "xlink:href", "action", "formaction", "to", "from", "values", *LOADING)  # attributes that may act
FOREIGN = {"iframe", "object", "embed", "form", "base", "style", "applet", "frame"}  # what no notebook may bring


def pages_of(site: Path) -> list[Path]:
    "The pages of a site, without what belongs to its scripts."
    return sorted(p for p in site.rglob("*.html") if p.relative_to(site).parts[0] != "site_libs")


class Page(HTMLParser):
    "The ids, links, loaded files, pictures without alt text, what could act, and running text of one page."

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.loads, self.no_alt, self.title, self.media = set(), [], [], [], "", []
        self.text, self.open, self.active = [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        if tag not in VOID:
            self.open.append((tag, found.get("class", "")))
        self.text += ["\n"] * (tag in BLOCKS)
        inline = tag == "script" and not found.get("src")
        refresh = tag == "meta" and found.get("http-equiv", "").lower() == "refresh"
        self.active += [f"<{tag}>"] * (tag in FOREIGN or inline or refresh)
        self.active += [f"{name}=" for name in found if name.startswith("on") or name == "srcdoc"]
        leads = [SPACE.sub("", found[name]) for name in LEADING if name in found]
        self.active += [f"{url.split(':')[0]}: link" for url in leads if ACTING.match(url)]
        self.ids |= {found["id"]} if "id" in found else set()
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        self.loads += [found[name] for name in LOADING if found.get(name)]
        self.loads += [found[name] for name in ("href", "xlink:href") if tag in DRAWN and found.get(name)]
        self.loads += [part.split()[0] for part in re.split(r",\s+", found.get("srcset", "")) if part.strip()]
        self.loads += STYLED.findall(found.get("style", ""))
        if tag == "img" and not found.get("alt", "").strip():
            self.no_alt.append(found.get("src", "")[:60])
        if tag in ("img", "audio", "video", "source") and found.get("src"):
            self.media.append(found["src"])

    def handle_endtag(self, tag: str) -> None:
        self.text += ["\n"] * (tag in BLOCKS)
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] == "title":
            self.title += data
        if not any(tag in QUIET or "math" in cls.split() for tag, cls in self.open):
            self.text.append(data)


def problems(site: Path, wanted: list[str]) -> list[str]:
    "Everything wrong with the site in `site`, one line each; `wanted` are the pages that must be there."
    pages = {p.relative_to(site).as_posix(): Page(p.read_text(encoding="utf-8")) for p in pages_of(site)}
    found = [f"{name}: the page is missing" for name in wanted if name not in pages]
    for name, page in pages.items():
        media = {(site / name).parent / unquote(urlsplit(url).path) for url in page.media if not urlsplit(url).scheme}
        size = (site / name).stat().st_size + sum(file.stat().st_size for file in media if file.is_file())
        if size > LARGEST:
            found.append(f"{name}: {size / 1e6:.2f} MB, more than {LARGEST / 1e6} MB: use fewer or smaller pictures")
        found += [f"{name}: a picture without alt text ({src}…): show it with figures.show" for src in page.no_alt]
        found += [f"{name}: loads {url} from another host" for url in page.loads if urlsplit(url).netloc]
        found += [f"{name}: {what} is active content, which the policy of the site stops: take it out of the notebook"
                  for what in dict.fromkeys(page.active)]
        found += [f"{name}: no title"] * (not page.title.strip())
        found += [f"{name}: a formula that is not rendered: {m}"
                  for m in re.findall(r"\$[^$\n]{1,60}\$", "".join(page.text))]
        found += [f"{name}: {m} is printed as it stands: write a link instead of a Quarto reference"
                  for m in re.findall(r"[@](?:fig|tbl|eq|sec)-[\w-]+", "".join(page.text))]
        local = [url for url in page.loads + page.links if not urlsplit(url).scheme and not urlsplit(url).netloc]
        for url in dict.fromkeys(local):
            parts = urlsplit(url)
            target = ((site / name).parent / unquote(parts.path)).resolve() if parts.path else site.resolve() / name
            target = target / "index.html" if target.is_dir() else target
            there = target.is_relative_to(site.resolve()) and target.is_file()
            key = target.relative_to(site.resolve()).as_posix() if there else ""
            anchor = unquote(parts.fragment)
            if not there:
                found.append(f"{name}: broken link {url}")
            elif anchor and key in pages and anchor not in pages[key].ids:
                found.append(f"{name}: broken anchor {url}")
    for path in sorted(site.rglob("*.css")):
        found += [f"{path.relative_to(site)}: loads {url} from another host"
                  for url in STYLED.findall(path.read_text(encoding="utf-8"))]
    return found
