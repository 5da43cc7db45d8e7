"""The text of a file, told by its content: plain text, Markdown, HTML, PDF, DOCX."""

import asyncio
import codecs
import contextlib
import re
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast
from uuid import uuid4
from weakref import WeakValueDictionary

import orjson

from galley.core.errors import BadRequestError
from galley.services.extraction_child import MOST_CHARACTERS

MEDIA_TYPES = {
    "text": "text/plain",
    "markdown": "text/markdown",
    "html": "text/html",
    "pdf": "application/pdf",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}
LONGEST_NAME = 200
SECONDS = 30.0
"""The longest that one file may take to read."""

AT_ONCE = 4
"""Files that are read at the same time, one of each owner."""

_ROOT = Path(__file__).parents[2]
_CHILD = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    "from galley.services.extraction_child import main; main()"
)
_HEAD = 4096
_PIECE = 65_536  # characters
_MOST_BYTES = 4 * MOST_CHARACTERS + 65_536  # of UTF-8, and what is said of it

_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# A page may name its encoding; some of Python's codecs take hours, so not any.
_CHARSETS = frozenset({
    "windows-1250", "windows-1251", "windows-1252", "iso-8859-1", "iso-8859-2", "iso-8859-15",
    "koi8-r", "shift_jis", "euc-jp", "euc-kr", "gb18030", "gbk", "big5",
})  # fmt: skip
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w-]{1,20})", re.IGNORECASE)
# A comment ends at its first end (?>): to try the others too would take years.
_HTML = re.compile(
    r"\s*(<\?xml[^>]*>\s*)?(?><!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I | re.S
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_OLD_OFFICE = bytes.fromhex("d0cf11e0a1b11ae1")
_UNWANTED = {
    **dict.fromkeys((*range(9), 11, *range(14, 32), 127, 65279, 65534, 65535)),
    **dict.fromkeys(range(55296, 57344), "�"),
    12: "\n\n",  # a new page
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Extracted:
    """A file's text, and what the file turned out to be.

    `text` has no control characters but line breaks and tabs.
    """

    text: str
    media_type: str
    pages: int | None = None


def has_headings(media_type: str) -> bool:
    """Whether lines that begin with `#` are headings in the text of such a file."""
    return media_type != MEDIA_TYPES["text"]


class Extractor:
    """Reads files; those whose readers are C code, or could be led astray, in a child process.

    A process for each costs a quarter of a second and keeps no user's file for the next.

    Args:
        folder: for files that are there no longer than they are read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._room = asyncio.Semaphore(AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def extract(
        self, path: Path, *, owner: str = "", name: str = "", media_type: str | None = None
    ) -> Extracted:
        """Return the text of the file at `path`.

        Args:
            owner: whose file waits for its turn behind their other files.
            name: what its owner calls it: a hint where the content leaves it open, never a path.
            media_type: what its owner says it is, of the same weight.
        Raises:
            BadRequestError: it is encrypted, broken, too large, of a kind that is not read, or
                has no text.
        """
        kind, text = await asyncio.to_thread(_look, path, name, media_type)
        if text is not None:
            return await self.read(text, MEDIA_TYPES[kind], owner=owner)
        text, pages = await self._read_apart(kind, path, owner)
        return await _extracted(text, kind, pages)

    async def read(self, text: str, media_type: str, *, owner: str = "") -> Extracted:
        """Return what there is to read in `text`, which is of a kind that is text; as `extract`."""
        kind = next(kind for kind, known in MEDIA_TYPES.items() if known == media_type)
        if kind == "html":
            page = self._folder / f"{uuid4()}.html"
            try:
                await asyncio.to_thread(page.write_text, text, "utf-8", "replace")
                text, _ = await self._read_apart(kind, page, owner)
            finally:
                page.unlink(missing_ok=True)
        return await _extracted(text, kind, None)

    async def _read_apart(self, kind: str, path: Path, owner: str) -> tuple[str, int | None]:
        turn = self._turns.setdefault(owner, asyncio.Lock())
        async with turn, self._room:
            return await _read_apart(kind, path)


async def _extracted(text: str, kind: str, pages: int | None) -> Extracted:
    cleaned = await asyncio.to_thread(clean, text)
    if not cleaned:
        hint = " Scanned pages are pictures: run text recognition (OCR) first." * (kind == "pdf")
        raise BadRequestError(f"The document has no text.{hint}", code="document_empty")
    return Extracted(cleaned, MEDIA_TYPES[kind], pages)


def clean(text: str) -> str:
    """Leave out control characters and lone surrogates; make all line breaks alike."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # In pieces: everybody else waits while one is translated, on whatever thread.
    pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
    return "".join(piece.translate(_UNWANTED) for piece in pieces).strip()


def label(name: str) -> str:
    """Make a name of a file's name: its last part, printable, and not too long.

    It is shown and never used as a path.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", clean(name)))[-1]
    plain = "".join(c for c in last if c.isprintable()).strip()
    if plain in ("", ".", ".."):
        return "document"
    if len(plain) <= LONGEST_NAME:
        return plain
    stem, dot, suffix = plain.rpartition(".")
    ending = dot + suffix if dot and len(suffix) <= 10 else ""
    return (stem if ending else plain)[: LONGEST_NAME - len(ending)] + ending


def _look(path: Path, name: str, media_type: str | None) -> tuple[str, str | None]:
    """Tell what a file is, and return its text where that can be read right here."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if b"%PDF-" in head[:1024]:
        return "pdf", None
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "docx", None
    if head.startswith(_OLD_OFFICE):
        raise BadRequestError(
            "The file is an old or encrypted Office document. Save it as DOCX without a password.",
            code="document_type_unsupported",
        )
    if size > _MOST_BYTES:
        _too_large()
    text = _decoded(path.read_bytes())
    kind = _kind_of_text(text, name, media_type)
    if kind != "html" and len(text) > MOST_CHARACTERS:
        _too_large()
    return kind, text


def _kind_of_text(text: str, name: str, media_type: str | None) -> str:
    said = (media_type or "").partition(";")[0].strip().lower()
    suffix = Path(label(name)).suffix.lower()
    if _HTML.match(text[:_HEAD]) or said == MEDIA_TYPES["html"] or suffix in (".html", ".htm"):
        return "html"
    if said in (MEDIA_TYPES["markdown"], "text/x-markdown") or suffix in (".md", ".markdown"):
        return "markdown"
    return "text"


def _decoded(raw: bytes) -> str:
    """Read bytes as text: by their byte order mark, as UTF-8, as a page says, as Windows writes."""
    for mark, encoding in _BOMS.items():
        if raw.startswith(mark):
            return _strictly(raw[len(mark) :], encoding)
    with contextlib.suppress(UnicodeDecodeError):
        return _plain(raw.decode())
    named = _CHARSET.search(raw[:_HEAD])
    if named and (charset := named[1].decode().lower()) in _CHARSETS:
        return _strictly(raw, charset)
    try:
        return _plain(raw.decode("cp1252"))
    except UnicodeDecodeError:
        return _plain(raw.decode("latin-1"))


def _strictly(raw: bytes, encoding: str) -> str:
    try:
        return _plain(raw.decode(encoding))
    except UnicodeDecodeError:
        raise BadRequestError(
            f"The file says that it is {encoding}, and is not. Send UTF-8.",
            code="document_unreadable",
        ) from None


def _plain(text: str) -> str:
    """Refuse what is no text: control characters are what tells."""
    if _CONTROL.search(text):
        raise BadRequestError(
            "The file is neither text nor of a kind that is read: text, Markdown, HTML, PDF, DOCX.",
            code="document_type_unsupported",
        )
    return text


def _too_large() -> NoReturn:
    raise BadRequestError(
        f"The document has more than {MOST_CHARACTERS:,} characters. Split it.",
        code="document_too_large",
    )


async def _read_apart(kind: str, path: Path) -> tuple[str, int | None]:
    # No variable of ours goes along: there are secrets among them.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", _CHILD, str(_ROOT), kind, str(path),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL, env={},
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            said = await _read_all(cast("asyncio.StreamReader", process.stdout))
            await process.wait()
    except TimeoutError:
        raise BadRequestError(
            f"The document takes longer than {SECONDS:g} s to read.", code="document_too_large"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    header, _, text = said.partition(b"\n")
    if not header:
        raise BadRequestError(
            "The document cannot be read: its reader crashed or ran out of time or memory.",
            code="document_unreadable",
        )
    found = orjson.loads(header)
    if "error" in found:
        raise BadRequestError(found["message"], code=found["error"])
    return await asyncio.to_thread(text.decode), found["pages"]


async def _read_all(stream: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    left = _MOST_BYTES
    while left > 0 and (part := await stream.read(1 << 20)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
