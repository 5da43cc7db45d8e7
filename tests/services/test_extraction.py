"""Files as people have them, and as people who mean no good make them."""

import asyncio
import io
import zipfile
import zlib
from pathlib import Path

import pytest
from fpdf import FPDF
from fpdf.enums import EncryptionMethod
from hypothesis import given
from hypothesis import strategies as st

from galley.core.errors import BadRequestError
from galley.services.extraction import LONGEST_NAME, MEDIA_TYPES, Extractor, clean, label
from galley.services.extraction_child import MOST_PAGES, unwrapped
from galley.services.extraction_html import text_of_html
from tests.documents import make_docx, make_pdf

pytestmark = pytest.mark.anyio

PAGE = b"""<!doctype html><html><head><title>Tides &amp; moons</title>
<style>p { color: red }</style><script>steal()</script></head>
<body><h1>The moon</h1><p>It pulls <b>the</b>
sea&hellip;</p><ul><li>ebb<li>flow</ul><table><tr><td>high<td>low</table>
<noscript>no</noscript><pre>a\n  b</pre></body></html>"""


@pytest.fixture
def extractor(tmp_path: Path) -> Extractor:
    return Extractor(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


async def refused(
    extractor: Extractor, file: Path, content: bytes, **hints: str
) -> BadRequestError:
    write(file, content)
    with pytest.raises(BadRequestError) as caught:
        await extractor.extract(file, **hints)
    return caught.value


async def test_a_pdf_is_read_with_paragraphs_joined_and_headings_marked(
    extractor: Extractor, file: Path
) -> None:
    sentence = "The moon pulls the sea towards itself on the near side of the earth. "
    write(file, make_pdf(f"# Tides\n\n## The moon\n\n{sentence * 6}\n\n{sentence * 3}"))

    found = await extractor.extract(file, name="report.txt")

    assert found.media_type == MEDIA_TYPES["pdf"]
    assert found.pages == 1
    assert "## The moon\n\nThe moon pulls" in found.text
    assert sentence * 2 in found.text


async def test_a_docx_is_read_with_its_headings_and_tables(
    extractor: Extractor, file: Path
) -> None:
    write(file, make_docx("# Travel\n\n## Hotels\n\nUp to 130 euros a night."))

    found = await extractor.extract(file)

    assert found.media_type == MEDIA_TYPES["docx"]
    assert found.text == "# Travel\n\n# Hotels\n\nUp to 130 euros a night."


async def test_rows_of_a_table_become_lines(extractor: Extractor, file: Path) -> None:
    from docx import Document

    document = Document()
    table = document.add_table(2, 2)
    for n, cell in enumerate(cell for row in table.rows for cell in row.cells):
        cell.text = f"cell {n}"
    document.save(str(file))

    found = await extractor.extract(file)

    assert found.text == "cell 0 | cell 1\ncell 2 | cell 3"


async def test_of_a_page_only_what_is_shown_is_read(extractor: Extractor, file: Path) -> None:
    write(file, PAGE)

    found = await extractor.extract(file)

    assert found.media_type == MEDIA_TYPES["html"]
    assert found.text == (
        "# Tides & moons\n\n# The moon\n\nIt pulls the sea\u2026\n\n- ebb\n\n- flow\n\n"
        "high | low\n\na\n  b"
    )


def test_what_is_broken_off_within_a_script_shows_none_of_it() -> None:
    assert text_of_html("<p>seen</p><script>let hidden = '<p>") == "seen"


@pytest.mark.parametrize(
    ("name", "media_type", "kind"),
    [
        ("notes.md", None, "markdown"),
        ("notes", "text/markdown; charset=utf-8", "markdown"),
        ("notes.txt", None, "text"),
        ("notes.pdf", "application/pdf", "text"),  # it is none
    ],
)
async def test_text_is_told_by_its_name_where_the_content_leaves_it_open(
    extractor: Extractor, file: Path, name: str, media_type: str | None, kind: str
) -> None:
    write(file, b"# Notes\n\nNothing yet.")

    found = await extractor.extract(file, name=name, media_type=media_type)

    assert found.media_type == MEDIA_TYPES[kind]


async def test_what_begins_with_many_comments_is_told_at_once(
    extractor: Extractor, file: Path
) -> None:
    write(file, b"<!-- a -->" * 400 + b"and no page")

    found = await extractor.extract(file)

    assert found.media_type == "text/plain"


async def test_a_page_may_begin_with_comments(extractor: Extractor, file: Path) -> None:
    write(file, b"<!-- a -->\n<!-- <p> --> <html><p>Tides</p></html>")

    found = await extractor.extract(file)

    assert (found.media_type, found.text) == ("text/html", "Tides")


@pytest.mark.parametrize(
    "raw",
    [
        "caf\u00e9 \u20ac".encode("utf-8-sig"),
        "caf\u00e9 \u20ac".encode("utf-16"),
        b"\xfe\xff" + "caf\u00e9 \u20ac".encode("utf-16-be"),
        "caf\u00e9 \u20ac".encode("utf-32"),
        "caf\u00e9 \u20ac".encode("cp1252"),
    ],
)
async def test_text_is_read_in_the_encoding_that_it_has(
    extractor: Extractor, file: Path, raw: bytes
) -> None:
    write(file, raw)

    found = await extractor.extract(file)

    assert found.text == "caf\u00e9 \u20ac"


async def test_a_page_is_read_in_the_encoding_that_it_names(
    extractor: Extractor, file: Path
) -> None:
    page = '<html><meta charset="koi8-r"><p>\u043c\u043e\u0440\u0435</p>'
    write(file, page.encode("koi8-r"))

    assert (await extractor.extract(file)).text == "\u043c\u043e\u0440\u0435"


async def test_a_page_cannot_name_an_encoding_that_takes_hours(
    extractor: Extractor, file: Path
) -> None:
    write(file, b'<html><meta charset="punycode"><p>caf\xe9</p>')

    assert (await extractor.extract(file)).text == "caf\u00e9"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "document_empty"),
        (b" \n\t \r\n", "document_empty"),
        (b"<html><script>only()</script></html>", "document_empty"),
        (b"text\x00with a NUL", "document_type_unsupported"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "document_type_unsupported"),
        (bytes(range(256)) * 8, "document_type_unsupported"),
        (b"\xff\xfea", "document_unreadable"),  # half a character of UTF-16
        (b"\xef\xbb\xbf\xff", "document_unreadable"),
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(512), "document_type_unsupported"),
        (b"%PDF-1.7\nnothing of the kind", "document_unreadable"),
        (b"PK\x03\x04" + bytes(100), "document_unreadable"),
        (b"PK\x05\x06" + bytes(18), "document_type_unsupported"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_the_reason(
    extractor: Extractor, file: Path, content: bytes, code: str
) -> None:
    assert (await refused(extractor, file, content)).code == code


async def test_an_encrypted_pdf_is_refused_as_such(extractor: Extractor, file: Path) -> None:
    pdf = FPDF()
    pdf.set_encryption("owner", "user", encryption_method=EncryptionMethod.AES_128)
    pdf.add_page()

    error = await refused(extractor, file, bytes(pdf.output()))

    assert error.code == "document_encrypted"


async def test_a_pdf_without_text_is_said_to_need_recognition(
    extractor: Extractor, file: Path
) -> None:
    error = await refused(extractor, file, make_pdf("", pages=2))

    assert error.code == "document_empty"
    assert "OCR" in error.message


async def test_a_pdf_of_ten_thousand_pages_is_refused(extractor: Extractor, file: Path) -> None:
    error = await refused(extractor, file, pdf_of_pages(10_000))

    assert error.code == "document_too_large"
    assert "10000 pages" in error.message
    assert str(MOST_PAGES) in error.message


async def test_a_pdf_that_unpacks_to_half_a_gigabyte_costs_its_own_process_alone(
    extractor: Extractor, file: Path
) -> None:
    packer = zlib.compressobj(1)
    megabytes = b" " * 8_000_000
    packed = b"".join(packer.compress(megabytes) for _ in range(60)) + packer.flush()
    packed = zlib.compress(packed)
    content = b"<< /Length %d /Filter [/FlateDecode /FlateDecode] >>" % len(packed)

    error = await refused(extractor, file, pdf_of_pages(1, content, packed))

    assert error.code in ("document_unreadable", "document_too_large", "document_empty")


async def test_a_broken_pdf_is_refused_wherever_it_breaks_off(
    extractor: Extractor, file: Path
) -> None:
    whole = make_pdf("# Tides\n\nThe moon pulls the sea.")

    for part in (0.1, 0.5):
        error = await refused(extractor, file, whole[: int(len(whole) * part)])

        assert error.code in ("document_unreadable", "document_empty")


@pytest.mark.parametrize(
    "parts",
    [
        {"word/document.xml": bytes(10_000_000)},
        {f"word/media/{n}.bin": bytes(999_999) for n in range(210)},
        {f"part{n}": b"" for n in range(10_001)},
    ],
    ids=["one that shrinks to a thousandth", "all together", "too many"],
)
async def test_a_docx_that_would_unpack_to_much_is_refused_unread(
    extractor: Extractor, file: Path, parts: dict[str, bytes]
) -> None:
    error = await refused(extractor, file, zipped(parts))

    assert error.code == "document_too_large"


async def test_an_archive_that_is_no_docx_is_refused(extractor: Extractor, file: Path) -> None:
    error = await refused(extractor, file, zipped({"sheet.xml": b"<x/>"}))

    assert error.code == "document_type_unsupported"


async def test_entities_of_a_docx_are_not_expanded(extractor: Extractor, file: Path) -> None:
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    outside = '<!ENTITY host SYSTEM "file:///etc/hostname">'
    head = f'<!DOCTYPE d [<!ENTITY e0 "lol">{bomb}{outside}]>'
    parts = unzipped(make_docx("Before.\n\nHERE"))
    text = parts["word/document.xml"].decode()
    text = text.replace("HERE", "&e9;&host;after").replace("<w:document", f"{head}<w:document", 1)

    error = await refused(extractor, file, zipped(parts | {"word/document.xml": text.encode()}))

    assert error.code == "document_unreadable"


async def test_what_a_reader_is_given_has_no_secrets_and_may_write_nothing(
    extractor: Extractor, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALLEY_JWT_SECRET", "of nobody's business")
    write(file, make_docx("Text."))

    assert (await extractor.extract(file)).text == "Text."
    assert sorted(path.name for path in file.parent.iterdir()) == ["upload"]


async def test_a_file_that_takes_long_holds_up_its_owners_others_and_nobody_elses(
    extractor: Extractor, tmp_path: Path
) -> None:
    slow = [tmp_path / f"slow{n}" for n in range(5)]
    for path in slow:
        write(path, b"<html>" + b"<a " * 100_000)  # of which the parser makes heavy weather
    quick = tmp_path / "quick"
    write(quick, make_docx("Text."))
    waiting = [asyncio.create_task(extractor.extract(path, owner="slow")) for path in slow]
    await asyncio.sleep(0)

    found = await extractor.extract(quick, owner="quick")

    assert found.text == "Text."
    assert not all(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\report.pdf", "report.pdf"),
        ("..", "document"),
        ("", "document"),
        ("/", "document"),
        ("a\x00b\x1b[31m\n.txt", "ab[31m.txt"),
        ("\u202egnp.exe", "gnp.exe"),
        ("\ud800.txt", "\ufffd.txt"),
        ("x" * 300 + ".pdf", "x" * (LONGEST_NAME - 4) + ".pdf"),
    ],
)
def test_a_name_is_a_label_and_never_a_path(given_name: str, shown: str) -> None:
    assert label(given_name) == shown


@given(st.text())
def test_any_name_makes_a_label(name: str) -> None:
    made = label(name)

    assert 0 < len(made) <= LONGEST_NAME
    assert made.isprintable()
    assert made not in (".", "..")
    assert not {"/", "\\"} & set(made)
    assert label(made) == made


def test_a_long_text_is_cleaned_like_a_short_one() -> None:
    text = "\ufeffThe s\u00e9a\x0b rises.\r\n" * 10_000

    assert clean(text) == ("The s\u00e9a rises.\n" * 10_000).strip()


@given(st.text(alphabet=st.characters(categories=("L", "Cc", "Cs", "Z"))))
def test_cleaned_text_can_be_written_and_is_clean_already(text: str) -> None:
    made = clean(text)

    made.encode()
    assert not {"\x00", "\r", "\x1b"} & set(made)
    assert clean(made) == made


@given(st.text())
def test_lines_are_joined_without_losing_a_word(text: str) -> None:
    words = [word for word in text.split() if word.isascii() and word.isalnum()]

    assert set(words) <= set(unwrapped(text.replace("\x02", "")).replace("#", " ").split())


def pdf_of_pages(number: int, content: bytes = b"<< /Length 0 >>", stream: bytes = b"") -> bytes:
    """A PDF that shows one stream on so many pages, without the rest that a library would write."""
    kids = b" ".join(b"%d 0 R" % (n + 4) for n in range(number))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] /MediaBox [0 0 200 200] >>" % (number, kids),
        content + b"\nstream\n" + stream + b"\nendstream",
        *([b"<< /Type /Page /Parent 2 0 R /Contents 3 0 R >>"] * number),
    ]
    made = io.BytesIO(b"%PDF-1.7\n")
    made.seek(0, io.SEEK_END)
    places: list[int] = []
    for n, body in enumerate(objects, 1):
        places.append(made.tell())
        made.write(b"%d 0 obj\n%s\nendobj\n" % (n, body))
    start = made.tell()
    made.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1))
    made.writelines(b"%010d 00000 n \n" % place for place in places)
    made.write(
        b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(places) + 1, start)
    )
    return made.getvalue()


def zipped(parts: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return made.getvalue()


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
