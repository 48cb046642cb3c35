"""HTML and SVG as trees: text is escaped by construction, tags are closed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element; ``class_`` stands for class, other underscores for hyphens; None is left out."""
    made = Element(
        tag,
        {
            name.rstrip("_").replace("_", "-"): f"{value:g}"
            if isinstance(value, float)
            else str(value)
            for name, value in attributes.items()
            if value is not None
        },
    )
    append(made, *children)
    return made


def append(parent: Element, *children: Child) -> None:
    """Add elements and text behind what ``parent`` holds."""
    for child in children:
        if isinstance(child, Element):
            parent.append(child)
        elif child is not None and len(parent):
            parent[-1].tail = (parent[-1].tail or "") + child
        elif child is not None:
            parent.text = (parent.text or "") + child


def prose(text: str) -> Element:
    """A list item or paragraph's words, with what stands between backquotes as code."""
    made = element("span")
    parts = text.split("`")
    for index, part in enumerate(parts):
        append(made, element("code", part) if index % 2 and index + 1 < len(parts) else part)
    return made


def table(headings: Sequence[str], rows: Iterable[Sequence[Child]]) -> Element:
    """A table; columns behind the first are numbers where there are headings, and text without.

    Where it is wider than the window, it is scrolled, by keys as well.
    """
    made = element("table", class_="numbers" if headings else "facts")
    scrolled = element("div", made, class_="scrolled", tabindex="0" if headings else None)
    if headings:
        head = element("tr", *(element("th", heading, scope="col") for heading in headings))
        append(made, element("thead", head))
    body = element("tbody")
    for first, *others in rows:
        cells = [element("td", cell) for cell in others]
        append(body, element("tr", element("th", first, scope="row"), *cells))
    append(made, body)
    return scrolled


def to_html(root: Element) -> str:
    """The document as text, with its doctype."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"
