"""Figures made while the site is built: SVG with the same bytes for the same numbers, on white as in the chapters."""

import io
from contextlib import contextmanager
from pathlib import Path

import matplotlib


@contextmanager
def repeatable(name: str):
    "Inside, matplotlib draws without a screen, and ids in an SVG follow from `name` alone."
    matplotlib.use("Agg")
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        yield


def save(fig, file: Path) -> None:
    "Write a figure as SVG without a date, and close it."
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight", facecolor="white")
    matplotlib.pyplot.close(fig)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(buffer.getvalue(), encoding="utf-8")


def figure(place: str, alt: str, caption: str) -> str:
    "A figure in Markdown, with its picture at `place` from the site's root."
    return f'![{caption}](/{place}){{fig-alt="{alt}"}}'
