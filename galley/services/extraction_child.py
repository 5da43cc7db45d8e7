"""The text of one file, in a process of its own: what parses PDF and DOCX is C code.

`extraction.py` starts it; it may crash, spin or eat its memory, and costs nobody else anything.
It prints a line of JSON, `{"pages": ...}` or `{"error": CODE, "message": ...}`, then the text.
"""

import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from galley.services.extraction_html import text_of_html

MOST_CHARACTERS = 10_000_000
MOST_PAGES = 5_000
MEMORY_BYTES = 1_500_000_000
CPU_S = 30

MOST_ENTRIES = 10_000
MOST_UNZIPPED = 200_000_000
# XML shrinks to a tenth, seldom to a fiftieth; a bomb to a thousandth.
MOST_RATIO = 200
_SMALL = 1_000_000
_DEEPEST_TABLE = 8

_LIGATURES = str.maketrans({
    "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl",
    "\ufb05": "st", "\ufb06": "st",
})  # fmt: skip
_HEADING = re.compile(r"(\d+(\.\d+)*\.? +)?[^\W\d_a-z](.*[^\s.,;:!?])?")
_ENDS = re.compile(r"[.!?:;][\"'\u201d\u2019)\]]*$")


class Refusal(Exception):  # noqa: N818 - it is the file that is at fault
    """The file cannot be used; `code` and words as the caller will see them."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> None:
    """Print the text of the file that the arguments name: its kind, its path."""
    kind, path = sys.argv[1], Path(sys.argv[2])
    bound()
    try:
        text, pages = _READERS[kind](path)
    except (MemoryError, RecursionError):
        _tell(Refusal("The document takes too much memory to read.", code="document_too_large"))
    except Refusal as error:
        _tell(error)
    else:
        _print({"pages": pages}, text)


def bound() -> None:
    """Take away what a reader has no need of: memory, time, and files to write."""
    try:
        import resource
    except ImportError:  # Windows: there the clock alone is the limit
        return
    os.nice(10)  # requests go first
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        try:
            resource.setrlimit(kind, (most, most))
        except (OSError, ValueError):  # macOS knows no limit on address space
            continue


def _tell(refusal: Refusal) -> None:
    _print({"error": refusal.code, "message": str(refusal)})


def _print(header: dict[str, Any], text: str = "") -> None:
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + text.encode(errors="replace"))


class _Gathered:
    """Parts of a text, which end where there are too many characters of them."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0

    def add(self, part: str) -> None:
        self._size += len(part) + 2
        if self._size > MOST_CHARACTERS:
            too_long()
        self._parts.append(part)

    def text(self) -> str:
        return "\n\n".join(part for part in self._parts if part)


def too_long() -> NoReturn:
    """Refuse a text of too many characters."""
    raise Refusal(f"It has more than {MOST_CHARACTERS:,} characters.", code="document_too_large")


def read_pdf(path: Path) -> tuple[str, int]:
    """Return the text of a PDF and its number of pages."""
    import pypdfium2
    from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY

    try:
        pdf = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY):
            raise Refusal(
                "The PDF is encrypted. Send it without a password.", code="document_encrypted"
            ) from None
        raise Refusal("The PDF is damaged.", code="document_unreadable") from None
    if len(pdf) > MOST_PAGES:
        raise Refusal(
            f"The PDF has {len(pdf)} pages and at most {MOST_PAGES} are read. Split it.",
            code="document_too_large",
        )
    gathered, unreadable = _Gathered(), 0
    for number in range(len(pdf)):
        try:
            page = pdf[number]
            found = page.get_textpage().get_text_bounded()
            page.close()
        except pypdfium2.PdfiumError:
            unreadable += 1
            continue
        gathered.add(unwrapped(found))
    if unreadable == len(pdf):
        raise Refusal("No page of the PDF can be read.", code="document_unreadable")
    return gathered.text(), len(pdf)


def unwrapped(page: str) -> str:
    """Join the lines of each paragraph: a line ends one if it is short, or its sentence is over.

    A short line by itself above full ones is taken for a heading and written as Markdown does.

    A word that was broken off at a line's end, which PDFium marks, is put together again.
    """
    page = re.sub("[\x02\ufffe](\r\n|\r|\n)", "", page.translate(_LIGATURES))
    lines = [line.strip() for line in page.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    width = max(map(len, lines), default=0)
    made: list[str] = []
    for number, line in enumerate(lines):
        after = lines[number + 1] if number + 1 < len(lines) else ""
        ends = not made or made[-1].endswith("\n")
        if ends and _is_heading(line, after, width):
            made.append(f"\n\n## {line}\n\n")
        elif line and _goes_on(line, width):
            made.append(f"{line} ")
        else:
            made.append(f"{line}\n")
    return re.sub(r"\n{3,}", "\n\n", "".join(made)).strip()


def _goes_on(line: str, width: int) -> bool:
    """Whether a paragraph goes on after `line`: it is as wide as the page allows."""
    return len(line) > 0.75 * width > 30 and not _ends_short(line, width)


def _is_heading(line: str, after: str, width: int) -> bool:
    """Whether `line` stands alone, has no end of a sentence, and full lines follow."""
    short = 2 < len(line) < 0.6 * width and width > 40
    return short and _HEADING.fullmatch(line) is not None and len(after) > 0.75 * width


def _ends_short(line: str, width: int) -> bool:
    return len(line) < 0.9 * width and _ENDS.search(line) is not None


def read_docx(path: Path) -> tuple[str, None]:
    """Return the text of a DOCX: headings as Markdown writes them, a table's rows as lines."""
    check_zip(path)
    from docx import Document
    from docx.opc.exceptions import PackageNotFoundError

    gathered = _Gathered()
    try:
        document = Document(str(path))
        styles = {style.style_id: style.name or "" for style in document.styles}
        for part in _blocks(document.element.body, styles):
            gathered.add(part)
    except (Refusal, MemoryError, RecursionError):
        raise
    except (
        PackageNotFoundError,
        Exception,
    ) as error:  # lxml's, zipfile's and its own share no base
        raise Refusal("The DOCX is damaged.", code="document_unreadable") from error
    return gathered.text(), None


def check_zip(path: Path) -> None:
    """Refuse an archive that would unpack to too much; its directory says so before it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise Refusal("The file is a damaged archive.", code="document_unreadable") from error
    if any(entry.flag_bits & 1 for entry in entries):
        raise Refusal(
            "The file is encrypted. Send it without a password.", code="document_encrypted"
        )
    large = [entry for entry in entries if entry.file_size > _SMALL]
    if (
        len(entries) > MOST_ENTRIES
        or sum(entry.file_size for entry in entries) > MOST_UNZIPPED
        or any(entry.file_size > MOST_RATIO * max(1, entry.compress_size) for entry in large)
    ):
        raise Refusal("The file would unpack to more than is read.", code="document_too_large")
    if "word/document.xml" not in {entry.filename for entry in entries}:
        raise Refusal(
            "The file is an archive, but no DOCX. Send text, Markdown, HTML, PDF or DOCX.",
            code="document_type_unsupported",
        )


def _blocks(container: Any, styles: dict[str, str], depth: int = 0) -> Iterator[str]:
    from docx.oxml.ns import qn
    from docx.text.paragraph import Paragraph

    for element in container:
        if element.tag == qn("w:p"):
            text = Paragraph(element, None).text.strip()  # pyright: ignore[reportArgumentType] - its parent is asked for styles alone
            yield _as_heading(styles.get(element.style or "", ""), text)
        elif element.tag == qn("w:tbl") and depth < _DEEPEST_TABLE:
            yield "\n".join(_rows(element, styles, depth))
        elif element.tag == qn("w:sdt"):  # a content control, such as a table of contents
            for content in element.iterchildren(qn("w:sdtContent")):
                yield from _blocks(content, styles, depth + 1)


def _rows(table: Any, styles: dict[str, str], depth: int) -> Iterator[str]:
    for row in table.tr_lst:
        cells = (" ".join(filter(None, _blocks(cell, styles, depth + 1))) for cell in row.tc_lst)
        if any(line := [" ".join(cell.split()) for cell in cells]):
            yield " | ".join(line)


def _as_heading(style: str, text: str) -> str:
    level = 1 if style == "Title" else 0
    if found := re.fullmatch(r"[Hh]eading ([1-6])", style):
        level = int(found[1])
    return f"{'#' * level} {' '.join(text.split())}" if level and text else text


def read_html(path: Path) -> tuple[str, None]:
    """Return the text of a page; `extraction.py` has it in UTF-8."""
    text = text_of_html(path.read_text("utf-8"))
    if len(text) > MOST_CHARACTERS:
        too_long()
    return text, None


_READERS = {"pdf": read_pdf, "docx": read_docx, "html": read_html}
