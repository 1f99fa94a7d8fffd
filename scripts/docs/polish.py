"""What smalldocs' pages lack for readers with a screen reader or a keyboard, put right after rendering."""

import re

NAMED = [  # landmarks of one kind need names that tell them apart
    ('<nav class="navbar', '<nav aria-label="Site" class="navbar'),
    ('<nav id="quarto-sidebar"', '<nav id="quarto-sidebar" aria-label="Pages"'),
    ('<nav class="quarto-secondary-nav"', '<nav class="quarto-secondary-nav" aria-label="Page menu"'),
    ('<nav class="page-navigation"', '<nav class="page-navigation" aria-label="Previous and next page"'),
]
FOLD = re.compile(r'<a ([^<>]*data-bs-toggle="collapse" data-bs-target="(#[\w-]+)") role="navigation"')
TOP = '<a onclick="window.scrollTo(0, 0); return false;" role="button"'


def polished(text: str) -> str:
    "One page: named landmarks, folding sections that a keyboard reaches, no empty header cells."
    for found, wanted in NAMED:
        text = text.replace(found, wanted)
    text = FOLD.sub(r'<a \1 href="\2" role="button"', text)
    text = text.replace(TOP, TOP + ' href="#quarto-content"')
    return re.sub(r"<th([^<>]*)></th>", r"<td\1></td>", text)
