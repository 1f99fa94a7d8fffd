"""Editions in other languages, kept in step with the notebooks.

`--status` says what is missing, stale or wrong; `--update` brings files in step; `--write` writes README.zh.md.

A translation is data beside its source, never a copy of it. `translations/zh/NAME.md` belongs to `nbs/NAME.ipynb` and
holds pieces of Markdown: a paragraph, a list item or a table row, each under the id of its cell and the hash of its
English text. Code, formulas and outputs come from the notebook. A piece that is missing or no longer fits its English
is shown in English.
"""
import argparse
import copy
import hashlib
import html
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
LANGUAGE = "zh"
FOLDER = ROOT / "translations" / LANGUAGE
FRONT = ("index", "00_notation")  # pages that must be complete
COMPLETE = "<!-- complete -->"
HEAD = re.compile(r"^<!-- (todo )?(\w[\w-]*) ([0-9a-f]{8})(?:\n.*?\n)? ?-->$", re.M | re.S)
FENCE = re.compile(r"^\s*(```|~~~)")
CODE = re.compile(r"```.*?```|`[^`]*`", re.S)
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$", re.S)
TARGET = re.compile(r"\]\(([^)\s]*)\)")
TAG = re.compile(r"<[^>]+>")
NUMBER = re.compile(r"(?<![A-Za-z\d])(?:\d(?:[\d,]*\d)?(?:\.\d+)?|\.\d+)")  # the 2 of seq2seq is no number
CHINESE = re.compile(r"[\u4e00-\u9fff]")
FIGURE_TEXT = re.compile(r'(<figcaption>|\balt=")(.*?)(?=</figcaption>|")', re.S)


@dataclass
class Translation:
    "What one file in `translations/` holds."
    complete: bool = False  # the file claims to hold the whole notebook
    pieces: dict[tuple[str, str], str] = field(default_factory=dict)  # (cell id, hash of the English) → translated
    todo: set[tuple[str, str]] = field(default_factory=set)  # pieces that say that they are not done

    @property
    def done(self) -> dict[tuple[str, str], str]:
        "The pieces that may be shown."
        return {place: text for place, text in self.pieces.items() if place not in self.todo and text}


# Pieces

def split(source: str) -> list[tuple[str, str]]:
    "A Markdown cell as pieces, each with the line breaks behind it: paragraphs, list items, table rows, fenced code."
    found, fenced = [], False
    for line in source.split("\n"):
        starts = (not found or found[-1][1] or re.match(r"\||- |\d+\. |#", line)
                  or found[-1][0].startswith(("|", "#")) or FENCE.match(found[-1][0]))
        if fenced or (line.strip() and not starts):
            found[-1][0] += "\n" + line
        elif line.strip():
            if found and not found[-1][1]:
                found[-1][1] = "\n"
            found.append([line, ""])
        elif found:
            found[-1][1] += "\n\n" if not found[-1][1] else "\n"
        fenced ^= bool(FENCE.match(line))
    return [(text, gap) for text, gap in found]


def key(text: str) -> str:
    "The hash of a piece; line breaks within it do not matter."
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:8]


def needs(text: str) -> bool:
    "Whether a piece has words to translate: not code, formulas, tags and addresses alone."
    if FENCE.match(text):
        return False
    for pattern in (CODE, FORMULA, TAG):
        text = pattern.sub("", text)
    return bool(re.search(r"[A-Za-z]", TARGET.sub("]", text)))


def source_of(cell: dict) -> str:
    return "".join(cell["source"])


def notebook(name: str) -> dict:
    "The English notebook, `index` or `course/records` for example."
    return json.loads((NBS / f"{name}.ipynb").read_text(encoding="utf-8"))


def wanted(nb: dict) -> dict[tuple[str, str], str]:
    "Every piece of a notebook that has to be translated: (cell id, hash) → English."
    return {(cell["id"], key(text)): text for cell in nb["cells"] if cell["cell_type"] == "markdown"
            for text, _ in split(source_of(cell)) if needs(text)}


def promise(nb: dict) -> dict[tuple[str, str], str]:
    "The pieces that every chapter has in every language: its title and its one-line promise."
    return {place: text for place, text in list(wanted(nb).items())[:2] if text.startswith(("# ", "> "))}


# Files

def file_of(name: str) -> Path:
    return FOLDER / f"{name}.md"


def parse(text: str) -> Translation:
    "Read the text of a translation file."
    heads = list(HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    found = Translation(text.startswith(COMPLETE))
    for head, end in zip(heads, ends):
        place = head[2], head[3]
        if place in found.pieces:
            raise ValueError(f"translation: the piece {head[2]} {head[3]} stands twice in the file; keep one")
        found.pieces[place] = text[head.end():end].strip()
        found.todo |= {place} if head[1] else set()
    return found


def read(name: str) -> Translation:
    "The translation of a notebook; empty where there is none."
    path = file_of(name)
    return parse(path.read_text(encoding="utf-8")) if path.exists() else Translation()


def chapters() -> list[str]:
    "The chapters in the order of the site's sidebar."
    return [name for _, names in parts() for name in names]


def parts() -> list[tuple[str, list[str]]]:
    "The parts of the course and their chapters, from `_quarto.yml`."
    import yaml
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    found = [(item["section"], [Path(path).stem for path in item["contents"]
                                if re.match(r"nbs/\d", str(path)) and (ROOT / path).exists()])
             for item in config["website"]["sidebar"]["contents"] if isinstance(item, dict) and "section" in item]
    return [(part, names) for part, names in found if names]


def complete() -> list[str]:
    "The notebooks whose whole text is translated, so that they have a page."
    files = [path for path in sorted(FOLDER.rglob("*.md")) if path.read_text(encoding="utf-8").startswith(COMPLETE)]
    return [path.relative_to(FOLDER).with_suffix("").as_posix() for path in files]


def words(name: str) -> dict[str, str]:
    "`outputs` (what computed tables and figures say) or `site` (what the site itself says)."
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# Outputs: the numbers are the record's; the words around them are translated

def template(text: str) -> tuple[str, list[str]]:
    "A text with {1}, {2}, … for its numbers, and the numbers: a new recording does not ask for a new translation."
    numbers: list[str] = []

    def put(match: re.Match) -> str:
        numbers.append(match[0])
        return f"{{{len(numbers)}}}"
    return NUMBER.sub(put, " ".join(text.split())), numbers


def phrases(output: str, translate: Callable[[str], str]) -> str:
    "A Markdown output with every table cell and paragraph put through `translate`, if it has words."
    def line(text: str) -> str:
        if text.startswith("|"):
            return "|".join(f" {translate(c.strip())} " if re.search(r"[A-Za-z]{2}", c) else c for c in text.split("|"))
        return translate(text) if needs(text) else text
    return "".join(line(text) + gap for text, gap in split(output))


def captions(output: str, translate: Callable[[str], str]) -> str:
    "An HTML output with the captions and alt texts of its figures put through `translate`."
    def change(match: re.Match) -> str:
        return match[1] + html.escape(translate(html.unescape(match[2]))) if needs(match[2]) else match[0]
    return FIGURE_TEXT.sub(change, output)


def outputs(nb: dict, translate: Callable[[str], str]) -> None:
    "Put the words in the outputs of a notebook through `translate`, in place."
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind, change in (("text/markdown", phrases), ("text/html", captions)):
                if kind in data and cell["cell_type"] == "code":
                    data[kind] = change("".join(data[kind]), translate)


def asked(nb: dict) -> list[str]:
    "The templates of all words in the outputs of a notebook."
    found: list[str] = []

    def note(text: str) -> str:
        found.append(template(text)[0])
        return text
    outputs(copy.deepcopy(nb), note)
    return list(dict.fromkeys(found))


# English + translation → the edition

def edition(nb: dict, translation: Translation, dictionary: dict[str, str], anchors: bool = False) -> dict:
    """The notebook with its prose translated; code, formulas and numbers are the source's own.

    `anchors` gives every heading the anchor of its English heading (the site's syntax), so that links keep working.
    """
    nb = copy.deepcopy(nb)
    done = translation.done
    for number, cell in enumerate(nb["cells"]):
        if cell["cell_type"] == "markdown":
            out = []
            for text, gap in split(source_of(cell)):
                ours = done.get((cell["id"], key(text)), text)
                if anchors and ours != text and text.startswith("#") and (number or out):
                    ours += f" {{#{anchor(text)}}}"
                out.append(ours + gap)
            cell["source"] = "".join(out)

    def translate(text: str) -> str:
        shape, numbers = template(text)
        ours = dictionary.get(shape) or shape
        return re.sub(r"\{(\d+)\}", lambda m: numbers[int(m[1]) - 1], ours)
    outputs(nb, translate)
    return nb


def anchor(heading: str) -> str:
    "The anchor of a heading as the site writes it."
    from smalldocs.markdown import pandoc_id
    return pandoc_id(re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading.lstrip("# ")))


def readme() -> str:
    "The text of README.zh.md."
    import nbformat
    from readme import as_readme
    nb = edition(notebook("index"), read("index"), words("outputs"))
    said = words("site")
    state = said["state"].format(count=len(chapters()), english=len(untranslated()))
    note = f"{said['languages']}\n\n{state}{said['readme']}"
    return as_readme(nbformat.reads(json.dumps(nb), as_version=4), f"translations/{LANGUAGE}/index.md", note)


def untranslated() -> list[str]:
    "The chapters whose text is not translated yet."
    return [name for name in chapters() if name not in complete()]


# Checks

def kept(text: str) -> dict[str, Counter]:
    "What a translation must not change: code, formulas, link targets, tags, numbers, and the shape of the piece."
    found = {"code": Counter(" ".join(code.split()) for code in CODE.findall(text))}
    text = CODE.sub("", text)
    found["formulas"] = Counter(FORMULA.findall(text))
    text = FORMULA.sub("", text)
    found["link targets"] = Counter(TARGET.findall(text))
    text = TARGET.sub("]", text)
    found["tags"] = Counter(TAG.findall(text))
    text = TAG.sub("", text)
    found["numbers"] = Counter(NUMBER.findall(text))
    found["columns"] = Counter({"|": text.count("|")} if text.startswith("|") else {})
    mark = re.match(r"#+ |> |- |\d+\. |\||!\[", text)
    found["mark at the beginning"] = Counter([mark[0]] if mark else [])
    return found


def faults(english: str, ours: str) -> list[str]:
    "What is wrong with the translation of one piece."
    if not ours:
        return ["empty"]
    theirs, found = kept(english), kept(ours)
    wrong = [f"{what} differ: English {sorted(theirs[what].elements())}, here {sorted(found[what].elements())}"
             for what in theirs if theirs[what] != found[what]]
    wrong += ["not translated"] * (not CHINESE.search(ours) and not ours.startswith("#"))  # a title may be a name
    return wrong + ["a blank line"] * ("\n\n" in ours)


def problems(name: str) -> list[str]:
    "Everything that keeps the translation of a notebook from being in step with it, one line each."
    path = NBS / f"{name}.ipynb"
    if not path.exists():
        return [f"{name}: nbs/{name}.ipynb does not exist: rename or remove translations/{LANGUAGE}/{name}.md"]
    nb, translation = notebook(name), read(name)
    there = wanted(nb)
    need = there if translation.complete or name in FRONT else promise(nb) if re.match(r"\d", name) else {}
    found = [f"{name}: missing {cell} {hashed}: {' '.join(text.split())[:80]}"
             for (cell, hashed), text in need.items() if (cell, hashed) not in translation.pieces]
    for (cell, hashed), text in translation.pieces.items():
        at = f"{name}: {cell} {hashed}"
        if (cell, hashed) in translation.todo:
            found += [f"{at}: still marked todo"] if (cell, hashed) in need else []
        elif (cell, hashed) not in there:
            found.append(f"{name}: stale {cell} {hashed}: {text[:40]}")
        else:
            found += [f"{at}: {fault}" for fault in faults(there[cell, hashed], text)]
    if translation.complete or name in FRONT:
        dictionary = words("outputs")
        found += [f"{name}: outputs.json has no {shape!r}" for shape in asked(nb) if not dictionary.get(shape)]
    if name in FRONT and not translation.complete:
        found.append(f"{name}: the file does not begin with {COMPLETE}")
    return found


def everything() -> Iterator[str]:
    "The problems of the whole edition."
    named = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.md")}
    for name in dict.fromkeys([*FRONT, *chapters(), *sorted(named)]):
        yield from problems(name)
    for shape, ours in words("outputs").items():
        if sorted(re.findall(r"\{\d+\}", shape)) != sorted(re.findall(r"\{\d+\}", ours)):
            yield f"outputs.json: {shape!r}: the numbers differ: {ours!r}"


# Bring in step

def alike(english: str, old: str) -> int:
    "How much of what a translation keeps an old translation shares with a new English text."
    theirs, ours = kept(english), kept(old)
    return sum((theirs[what] & ours[what]).total() for what in ("code", "formulas", "link targets", "tags", "numbers"))


def updated(nb: dict, translation: Translation, whole: bool) -> str:
    """The text of a translation file in the order of its notebook: what still fits as it is, the rest marked `todo`.

    A `todo` has its English in its mark and, under it, the old translation of what was there, if one looks like it.
    """
    there = wanted(nb) if whole else promise(nb)
    stale = {place: text for place, text in translation.pieces.items() if place not in there and text}
    lines = [COMPLETE + "\n"] if translation.complete else []
    for place, english in there.items():
        if place in translation.pieces and place not in translation.todo:
            lines.append(f"<!-- {place[0]} {place[1]} -->\n{translation.pieces[place]}\n")
            continue
        old = translation.pieces.get(place, "")
        if not old:
            near = [other for other in stale if other[0] == place[0]]
            best = max(near, key=lambda other: alike(english, stale[other]), default=None)
            if best and (alike(english, stale[best]) or (len(near) == 1 and not english.startswith("|"))):
                old = stale.pop(best)
        lines.append(f"<!-- todo {place[0]} {place[1]}\n{english}\n-->\n{old}\n")
    return "\n".join(lines).replace("-->\n\n\n", "-->\n\n")


def is_whole(name: str) -> bool:
    "Whether a file holds, or begins to hold, more than title and promise."
    found = read(name)
    return name in FRONT or found.complete or bool(set(found.pieces) - set(list(wanted(notebook(name)))[:2]))


def update(name: str, whole: bool = False) -> int:
    """Write the file of a notebook anew; return how many pieces and phrases wait for a translation.

    A file with title and promise alone stays so, unless `whole`.
    """
    nb, translation = notebook(name), read(name)
    whole = whole or is_whole(name)
    text = updated(nb, translation, whole)
    file_of(name).parent.mkdir(parents=True, exist_ok=True)
    file_of(name).write_text(text, encoding="utf-8")
    dictionary, shapes = words("outputs"), asked(nb) if whole else []
    new = {shape: "" for shape in shapes if shape not in dictionary}
    if new:
        merged = json.dumps(dictionary | new, ensure_ascii=False, indent=1)
        (FOLDER / "outputs.json").write_text(merged + "\n", encoding="utf-8")
    return len(parse(text).todo) + sum(not dictionary.get(shape) for shape in shapes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--status", action="store_true", help="say what is missing, stale or wrong, and which pages exist")
    how.add_argument("--update", metavar="NAME", nargs="*",
                     help="bring files in step (01_attention, index, …); without a name, all that are not")
    how.add_argument("--write", action="store_true", help="write README.zh.md (make export does it too)")
    parser.add_argument("--whole", action="store_true", help="with --update: the whole chapter, not title and promise")
    args = parser.parse_args()
    if args.write:
        (ROOT / "README.zh.md").write_text(readme(), encoding="utf-8")
        return 0
    if args.update is not None:
        for name in args.update or [name for name in dict.fromkeys([*FRONT, *chapters()]) if problems(name)]:
            if not (NBS / f"{name}.ipynb").exists():
                parser.error(f"nbs/{name}.ipynb does not exist")
            print(f"translations/{LANGUAGE}/{name}.md: {update(name, args.whole)} to translate")
        return 0
    found = list(everything())
    print(*found, f"complete: {', '.join(complete())}", f"title and promise only: {', '.join(untranslated())}",
          f"{len(found)} problem(s)", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
