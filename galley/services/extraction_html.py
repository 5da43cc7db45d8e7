"""The text of a page of HTML: what a reader would see, headings as Markdown writes them."""

import re
from html.parser import HTMLParser

_UNSEEN = frozenset({"script", "style", "noscript", "template", "svg", "math", "iframe", "object"})
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl",
    "dt", "fieldset", "figcaption", "figure", "footer", "form", "head", "header", "hr", "html",
    "legend", "li", "main", "nav", "ol", "option", "p", "pre", "section", "select", "summary",
    "table", "tbody", "tfoot", "thead", "title", "tr", "ul",
})  # fmt: skip
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_SPACES = re.compile(r"[ \t\r\n\f\v]+")


def text_of_html(page: str) -> str:
    """Return the text of `page`; its title goes on top where no heading says the same."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    text = reader.text()
    title = " ".join(reader.title.split())
    if title and title not in text[: len(title) + 8]:
        text = f"# {title}\n\n{text}"
    return text.strip()


class _Reader(HTMLParser):
    """Gathers text in blocks, links and emphasis as they read; what is not shown is left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self._blocks: list[str] = []
        self._parts: list[str] = []
        self._prefix = ""
        self._unseen = ""  # the tag of what is left out, until it ends
        self._depth = 0  # of the same tag within it
        self._in_title = False
        self._in_pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unseen:
            self._depth += tag == self._unseen
        elif tag in _UNSEEN:
            self._unseen, self._depth = tag, 1
        elif tag == "br":
            self._parts.append("\n")
        elif tag in ("td", "th"):
            self._parts.append(" | " if self._parts else "")
        elif tag in _HEADINGS or tag in _BLOCKS:
            self._begin(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _UNSEEN:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            self._depth -= tag == self._unseen
            if not self._depth:
                self._unseen = ""
        elif tag in _HEADINGS or tag in _BLOCKS:
            self._end()

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if self._in_title:
            self.title += data
        else:
            self._parts.append(data if self._in_pre else _SPACES.sub(" ", data))

    def text(self) -> str:
        self._end()
        return "\n\n".join(self._blocks)

    def _begin(self, tag: str) -> None:
        self._end()
        if tag in _HEADINGS:
            self._prefix = "#" * _HEADINGS[tag] + " "
        elif tag == "li":
            self._prefix = "- "
        self._in_title = tag == "title"
        self._in_pre = tag == "pre"

    def _end(self) -> None:
        made = "".join(self._parts)
        if not self._in_pre:
            lines = (" ".join(line.split(" ")).strip() for line in made.split("\n"))
            made = "\n".join(line for line in lines if line)
        if self._prefix.startswith("#"):
            made = " ".join(made.split())
        if made.strip():
            self._blocks.append(self._prefix + made.strip("\n"))
        self._parts, self._prefix = [], ""
        self._in_title = self._in_pre = False
