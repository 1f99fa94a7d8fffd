"""What a page may do: run the site's own files and nothing else, whatever a notebook's output holds."""

import base64
import hashlib
import html
import re
from pathlib import Path

from . import checks

# No inline script, no inline style, no other host; the frame of an interactive figure has a stricter rule of its own.
# Pictures as data are the icons of Bootstrap's own sheet.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; media-src 'self'; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'"
)
CHARSET = '<meta charset="utf-8">'
TAG = re.compile(r"<[a-zA-Z][\w-]*(?:\s[^<>]*)?>")
STYLE = re.compile(r"""\sstyle=(["'])(.*?)\1""", re.S)
CLASS = re.compile(r"""\sclass=(["'])(.*?)\1""", re.S)
CLICK = re.compile(r'\sonclick="[^"]*"')
INLINE = re.compile(r"<script>(.*?)</script>", re.S)
HOST = "site_libs/mmtutor"  # the folder of our own scripts and sheets


def digest(code: str) -> str:
    "A script's hash as a policy names it."
    return "'sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() + "'"


def frame(script: str) -> str:
    "The page inside which one interactive figure runs: its script by hash, the figure as a blob, no network at all."
    rule = f"default-src 'none'; script-src {digest(script)} blob:; style-src 'unsafe-inline'; img-src data:"
    return (
        f'<!doctype html><html lang="en"><head>{CHARSET}<meta http-equiv="Content-Security-Policy" content="{rule}">'
        "<title>Interactive figure</title>"
        "<style>html[data-theme=dark]{color-scheme:dark}body{margin:0;padding:4px}</style>"
        f"</head><body><main></main><script>{script}</script></body></html>\n"
    )


def styled(text: str, rules: dict[str, str]) -> str:
    "Style attributes as classes, so that no page needs inline styles; `rules` collects what the classes mean."

    def tag(match: re.Match) -> str:
        found = STYLE.search(match[0])
        if not found:
            return match[0]
        style = re.sub(r"\s*([:;])\s*", r"\1", html.unescape(found[2])).strip("; ")
        name = "s-" + hashlib.sha256(style.encode()).hexdigest()[:8]
        rules[name] = style
        out = match[0].replace(found[0], "", 1)
        if CLASS.search(out):
            return CLASS.sub(lambda m: f" class={m[1]}{m[2]} {name}{m[1]}", out, count=1)
        return re.sub(r"(/?>)$", rf' class="{name}"\1', out)

    return TAG.sub(tag, text)


def guarded(text: str, up: str, rules: dict[str, str], known: dict[str, str]) -> str:
    """A page under the policy: no inline script of the renderer's own, no inline style, and the rule in its head.

    `known` maps the text of each inline script that the renderer writes to the file it becomes. A script that is not
    in it stays where it is: the policy stops it, and the checks name it.
    """

    def script(match: re.Match) -> str:
        file = known.get(match[1])
        return f'<script src="{up}{HOST}/{file}"></script>' if file else match[0]

    head, rest = text.split("</head>", 1)
    head = INLINE.sub(script, head)
    tags = f'<link rel="stylesheet" href="{up}{HOST}/inline.css"><script src="{up}{HOST}/site.js" defer></script>'
    rule = f'{CHARSET}<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    page = head.replace(CHARSET, rule, 1) + tags + "</head>" + TAG.sub(lambda m: unclicked(m[0]), rest)
    return styled(page, rules)


def unclicked(tag: str) -> str:
    "The renderer's three click handlers are attached by site.js; any other is left for the checks to name."
    ours = "smalldocsToggleScheme" in tag or "window.scrollTo(0, 0)" in tag
    return CLICK.sub("", tag) if ours else tag


def sheet(rules: dict[str, str]) -> str:
    "The style sheet for the classes that `styled` made. A style attribute wins over a sheet, so these do."
    return "".join(
        f".{n}{{{';'.join(p.strip() + '!important' for p in s.split(';') if p.strip())}}}\n"
        for n, s in sorted(rules.items())
    )


def guard(site: Path, scheme_script: str, own_script: str) -> None:
    "Put every page of `site` under the policy; the renderer's one inline script and our own become files."
    folder, rules = site / HOST, {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scheme.js").write_text(scheme_script + "\n", encoding="utf-8")
    (folder / "site.js").write_text(own_script, encoding="utf-8")
    for path in checks.pages_of(site):
        up = "../" * (len(path.relative_to(site).parts) - 1)
        page = guarded(path.read_text(encoding="utf-8"), up, rules, {scheme_script: "scheme.js"})
        path.write_text(page, encoding="utf-8")
    (folder / "inline.css").write_text(sheet(rules), encoding="utf-8")
