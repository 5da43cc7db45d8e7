"""Thirty questions to a folder of documents, written from titles alone before it was indexed.

The folder is docs/ and nine PDFs and DOCX; `answers.toml` has what a passage must say.
"""

import tomllib
from pathlib import Path

import pytest

from galley.services.retrieval import Query
from tests.documents import DOCS, FILES, made
from tests.services.shelf import Run, open_shelf

pytestmark = pytest.mark.anyio

DATA = Path(__file__).parent.parent / "data" / "retrieval"


@pytest.mark.slow
async def test_the_right_passage_is_among_the_first_three_for_27_of_30_questions(
    tmp_path: Path, models_dir: Path
) -> None:
    questions = tomllib.loads((DATA / "questions.toml").read_text())["questions"]
    answers = tomllib.loads((DATA / "answers.toml").read_text())
    files = {page.name: page.read_bytes() for page in sorted(DOCS.rglob("*.md"))}
    files |= {name: made(name) for name in FILES}
    async with open_shelf(tmp_path, models_dir) as shelf:
        for name, content in files.items():
            await shelf.add(content, name)
        run = Run(shelf.owner)

        result = await shelf.documents.job.index_documents(run)

        assert result["indexed"] == len(files)
        assert len({done for done, _, _ in run.told}) > len(files)
        assert run.told[-1][:2] == (result["characters"], result["characters"])
        missed: list[str] = []
        for question in questions:
            asked, document = question["ask"], question["document"]
            results = await shelf.documents.retrieval.find(shelf.owner, Query(asked, limit=3))
            said = [
                " ".join(found.text.split())
                for found in results.found
                if found.document_name == document
            ]
            if not any(answer in text for answer in answers[document] for text in said):
                missed.append(asked)
        assert len(questions) == 30
        assert len(missed) <= 3, missed
