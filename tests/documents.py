"""Files for retrieval to find, as people have them: PDF and DOCX, made of texts with headings."""

import io
from pathlib import Path

from docx import Document
from fpdf import FPDF

ROOT = Path(__file__).parent.parent
TEXTS = Path(__file__).parent / "data" / "retrieval" / "documents"
DOCS = ROOT / "docs"

FILES = {
    "Keeping a sourdough starter.pdf": "sourdough.md",
    "Travel expenses policy.docx": "travel.md",
    "Bicycle maintenance handbook.pdf": "bicycle.md",
    "Dishwasher user manual.pdf": "dishwasher.md",
    "Staff handbook.docx": "staff.md",
    "Incident report: data centre outage.docx": "outage.md",
    "A short history of the tides.pdf": "tides.md",
    "Vegetable garden calendar.docx": "garden.md",
    "Rental agreement, ground floor flat.pdf": "rental.md",
}


def made(name: str) -> bytes:
    """The file called `name`, whose suffix says as what."""
    text = (TEXTS / FILES[name]).read_text("utf-8")
    return make_pdf(text) if name.endswith(".pdf") else make_docx(text)


def make_pdf(text: str, *, pages: int = 0) -> bytes:
    """Set `text` as a PDF: headings large, paragraphs in lines, then so many empty `pages`."""
    pdf = FPDF()
    pdf.add_page()
    for level, block in _blocks(text):
        pdf.set_font("Times", size=20 - 4 * level if level else 11)
        plain = block.encode("cp1252", "replace").decode("latin-1")
        pdf.multi_cell(0, 6, plain, new_x="LMARGIN", new_y="NEXT")
        pdf.ln(3)
    for _ in range(pages):
        pdf.add_page()
    return bytes(pdf.output())


def make_docx(text: str) -> bytes:
    """Set `text` as a DOCX with styles for its headings."""
    document = Document()
    for level, block in _blocks(text):
        if level:
            document.add_heading(block, level - 1)
        else:
            document.add_paragraph(block)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def _blocks(text: str) -> list[tuple[int, str]]:
    """Paragraphs of a text in Markdown: a heading's level, or 0, and the words."""
    found: list[tuple[int, str]] = []
    for block in text.split("\n\n"):
        words = block.strip().lstrip("#")
        if words.strip():
            found.append((len(block.strip()) - len(words), words.strip()))
    return found
