"""The frame of every page: its style within it, and nothing that runs or is loaded."""

from __future__ import annotations

from importlib.resources import files
from xml.etree.ElementTree import Element

from mimiq.runtime.report.markup import element, to_html

# A page is opened in a browser; whatever a bundle's texts hold, it may neither run nor load.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, body: Element) -> str:
    """The whole page as text.

    Args:
        title: as the browser shows it, beside the name of mimiq.
        body: the page's ``body``.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", f"{title} · mimiq"),
        element("style", files("mimiq.runtime.report").joinpath("page.css").read_text("utf-8")),
    )
    return to_html(element("html", head, body, lang="en"))
