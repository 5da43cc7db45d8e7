"""Files: uploaded, listed, fetched and deleted, by their owner alone."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.routers.office import Client, Office, open_app, open_office
from tests.serving import make_settings

pytestmark = pytest.mark.anyio

LINES = b'{"a": 1}\n{"b": 2}\n'
BOUNDARY = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def office(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Office]:
    async with open_office(tmp_path_factory.mktemp("office")) as office:
        yield office


@pytest.fixture
async def ada(office: Office, request: pytest.FixtureRequest) -> Client:
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:16]
    return (await office.hire(f"{name}@example.org", tier="enterprise")).client


@pytest.fixture
async def eve(office: Office, request: pytest.FixtureRequest) -> Client:
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:16]
    return (await office.hire(f"eve-{name}@example.org", tier="enterprise")).client


async def upload(
    client: Client, content: bytes = LINES, name: str = "lines.jsonl", **fields: str
) -> Any:
    given = {"purpose": "batch"} | fields
    return await client.post("/v1/files", files={"file": (name, content)}, data=given)


def stored(office: Office) -> set[str]:
    """What lies in the folder of files."""
    folder = office.runtime.settings.data_dir / "files"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end


def part(disposition: str, content: bytes = LINES) -> bytes:
    return f"Content-Disposition: form-data; {disposition}\r\n\r\n".encode() + content


PURPOSE = part('name="purpose"', b"batch")
FILE = part('name="file"; filename="lines.jsonl"')


async def test_a_file_comes_back_as_it_was_sent(office: Office, ada: Client) -> None:
    made = (await upload(ada)).json()

    found = (await ada.get(f"/v1/files/{made['id']}")).json()
    content = await ada.get(f"/v1/files/{made['id']}/content")

    assert made == found
    assert made["object"] == "file"
    assert made["id"].startswith("file-")
    assert (made["bytes"], made["filename"], made["purpose"]) == (18, "lines.jsonl", "batch")
    assert made["status"] == "processed"
    assert content.content == LINES


async def test_what_is_downloaded_is_an_attachment_and_never_taken_for_a_page(
    ada: Client,
) -> None:
    page = b"<script>alert(1)</script>"
    made = (await upload(ada, page, "Größe 1.html", purpose="user_data")).json()

    content = await ada.get(f"/v1/files/{made['id']}/content")

    assert content.content == page
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["x-content-type-options"] == "nosniff"
    assert (
        content.headers["content-disposition"]
        == "attachment; filename*=UTF-8''Gr%C3%B6%C3%9Fe%201.html"
    )


async def test_the_order_of_a_forms_parts_does_not_matter(ada: Client) -> None:
    first = await ada.post("/v1/files", content=form(FILE, PURPOSE), headers=BOUNDARY)
    last = await ada.post("/v1/files", content=form(PURPOSE, FILE), headers=BOUNDARY)

    assert first.json()["bytes"] == last.json()["bytes"] == len(LINES)


async def test_a_file_is_taken_however_it_is_cut_on_the_way(ada: Client) -> None:
    body = form(PURPOSE, part('name="file"; filename="a"', b"\r\n--x\r--\r\n--y--" * 50))

    async def bytewise() -> AsyncIterator[bytes]:
        for byte in body:
            yield bytes([byte])

    made = (await ada.post("/v1/files", content=bytewise(), headers=BOUNDARY)).json()
    content = await ada.get(f"/v1/files/{made['id']}/content")

    assert content.content == b"\r\n--x\r--\r\n--y--" * 50


async def test_batch_files_are_kept_for_30_days_and_others_until_deleted(ada: Client) -> None:
    batch = (await upload(ada)).json()
    other = (await upload(ada, purpose="user_data")).json()
    short = (
        await upload(
            ada,
            LINES,
            "short.jsonl",
            **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"},
        )
    ).json()

    assert batch["expires_at"] - batch["created_at"] == 30 * 86_400
    assert other["expires_at"] is None
    assert short["expires_at"] - short["created_at"] == 3600


async def test_a_list_has_the_latest_first_in_pages(ada: Client) -> None:
    ids = [(await upload(ada, name=f"{n}.jsonl")).json()["id"] for n in range(3)]
    data = (await upload(ada, purpose="user_data")).json()["id"]

    first = (await ada.get("/v1/files?limit=2&purpose=batch")).json()
    rest = (await ada.get(f"/v1/files?limit=2&purpose=batch&after={first['last_id']}")).json()
    oldest = (await ada.get("/v1/files?order=asc")).json()

    assert [file["id"] for file in first["data"]] == [ids[2], ids[1]]
    assert (first["has_more"], first["first_id"]) == (True, ids[2])
    assert [file["id"] for file in rest["data"]] == [ids[0]]
    assert rest["has_more"] is False
    assert [file["id"] for file in oldest["data"]] == [*ids, data]


async def test_a_deleted_file_is_gone_and_so_are_its_bytes(office: Office, ada: Client) -> None:
    before = stored(office)
    made = (await upload(ada)).json()
    written = stored(office) - before

    gone = await ada.delete(f"/v1/files/{made['id']}")

    assert gone.json() == {"id": made["id"], "object": "file", "deleted": True}
    assert len(written) == 1
    assert stored(office) == before
    for path in (f"/v1/files/{made['id']}", f"/v1/files/{made['id']}/content"):
        answer = await ada.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "file_not_found"
    assert (await ada.delete(f"/v1/files/{made['id']}")).status_code == 404


async def test_nobody_else_sees_or_deletes_a_file(ada: Client, eve: Client) -> None:
    made = (await upload(ada)).json()
    await upload(eve)  # the same name, the same bytes

    answers = [
        await eve.get(f"/v1/files/{made['id']}"),
        await eve.get(f"/v1/files/{made['id']}/content"),
        await eve.delete(f"/v1/files/{made['id']}"),
    ]
    listed = (await eve.get("/v1/files")).json()["data"]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert len(listed) == 1
    assert listed[0]["id"] != made["id"]
    assert (await ada.get(f"/v1/files/{made['id']}/content")).content == LINES


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "a/b", "a\\b", "..", ".", "a\x00b", "a\nb", "a\x7f", "\u202egnp.exe"],
)
async def test_a_hostile_name_is_refused(office: Office, ada: Client, name: str) -> None:
    before = stored(office)
    quoted = name.encode().replace(b"\\", b"\\\\")
    disposition = b'Content-Disposition: form-data; name="file"; filename="' + quoted + b'"'
    body = form(PURPOSE, disposition + b"\r\n\r\n" + LINES)

    answer = await ada.post("/v1/files", content=body, headers=BOUNDARY)

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in {"invalid_filename", "invalid_form"}
    assert stored(office) == before


@pytest.mark.parametrize(
    ("content", "code"),
    {
        "nothing": (b"", "invalid_form"),
        "no form": (b'{"purpose": "batch"}', "invalid_form"),
        "no parts": (form(), "invalid_form"),
        "no file": (form(PURPOSE), "invalid_form"),
        "a file that is a field": (form(PURPOSE, part('name="file"')), "invalid_form"),
        "a file of another name": (form(part('name="x"; filename="a"')), "invalid_form"),
        "two files": (form(PURPOSE, FILE, FILE), "invalid_form"),
        "a form that breaks off": (form(PURPOSE, FILE, end=b""), "invalid_form"),
        "a form that breaks off within the file": (form(PURPOSE, FILE)[:-30], "invalid_form"),
        "no purpose": (form(FILE), "invalid_request"),
        "an unknown purpose": (form(FILE, part('name="purpose"', b"x")), "invalid_request"),
        "a purpose of ours": (
            form(FILE, part('name="purpose"', b"batch_output")),
            "invalid_request",
        ),
        "an unknown field": (form(FILE, PURPOSE, part('name="x"', b"1")), "invalid_request"),
        "a purpose given twice": (form(FILE, PURPOSE, PURPOSE), "invalid_form"),
        "a purpose that is no text": (form(FILE, part('name="purpose"', b"\xff")), "invalid_form"),
        "a name that is no text": (
            form(PURPOSE, b'Content-Disposition: form-data; name="file"; filename="\xff"\r\n\r\na'),
            "invalid_form",
        ),
        "a long name": (
            form(PURPOSE, part(f'name="file"; filename="{"a" * 300}"')),
            "invalid_filename",
        ),
        "an empty name": (form(PURPOSE, part('name="file"; filename=""')), "invalid_filename"),
        "an empty file": (
            form(PURPOSE, part('name="file"; filename="a"', b"")),
            "empty_file",
        ),
        "a long header": (form(PURPOSE, b"X: " + b"a" * 10_000 + b"\r\n\r\n"), "invalid_form"),
        "a long field": (form(part('name="purpose"', b"a" * 100_000), FILE), "invalid_form"),
        "a hundred fields": (
            form(*(part(f'name="{n}"', b"1") for n in range(100)), FILE),
            "invalid_form",
        ),
        "a short life": (
            form(
                FILE,
                PURPOSE,
                part('name="expires_after[anchor]"', b"created_at"),
                part('name="expires_after[seconds]"', b"60"),
            ),
            "invalid_request",
        ),
    }.values(),
)
async def test_what_is_no_upload_is_refused_in_openais_envelope_and_leaves_nothing(
    office: Office, ada: Client, content: bytes, code: str
) -> None:
    before = stored(office)

    answer = await ada.post("/v1/files", content=content, headers=BOUNDARY)

    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == code, answer.text
    assert stored(office) == before


async def test_a_form_without_a_boundary_is_refused(ada: Client) -> None:
    kinds = [
        "application/json",
        "multipart/form-data",
        f"multipart/form-data; boundary={'x' * 999}",
    ]
    for kind in kinds:
        answer = await ada.post("/v1/files", content=b"x", headers={"content-type": kind})

        assert answer.status_code == 400, kind
        assert answer.json()["error"]["code"] == "invalid_form"


async def test_files_that_are_too_large_or_too_many_are_refused(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path, tmp_path, embedded_models=False, file_limit=3_000_000, file_quota=5_000_000
    )
    async with open_app(settings) as office:
        ada = (await office.hire("ada@example.org", tier="enterprise")).client
        eve = (await office.hire("eve@example.org", tier="enterprise")).client

        fits = await upload(ada, b"a" * 3_000_000)
        larger = await upload(eve, b"a" * 3_000_001)
        much_larger = await upload(eve, b"a" * 9_000_000)
        too_many = await upload(ada, b"a" * 2_500_000)
        of_another = await upload(eve, b"a" * 2_500_000)
        await ada.delete(f"/v1/files/{fits.json()['id']}")
        again = await upload(ada, b"a" * 2_500_000)

        assert fits.status_code == of_another.status_code == again.status_code == 200
        for refused in (larger, much_larger, too_many):
            assert refused.status_code == 413
            assert refused.headers["connection"] == "close"
        assert larger.json()["error"]["code"] == "request_too_large"
        assert much_larger.json()["error"]["code"] == "request_too_large"
        assert too_many.json()["error"]["code"] == "file_quota_exceeded"
        assert len(stored(office)) == 2


async def test_ids_and_cursors_that_are_none_are_refused(ada: Client) -> None:
    for name in ("file-x", "x", "file-", "%00", "file-" + "0" * 32, "..%2f..%2fgalley.db"):
        answer = await ada.get(f"/v1/files/{name}")

        assert answer.status_code == 404, name
        assert "error" in answer.json()
    for query in ("after=x", "limit=0", "limit=10001", "order=up", "purpose=%00", "purpose=a%20b"):
        assert (await ada.get(f"/v1/files?{query}")).status_code == 400, query


async def test_files_need_their_scope(office: Office, ada: Client) -> None:
    narrow = await office.narrow(ada, "chat")

    answers = [await narrow.get("/v1/files"), await upload(narrow)]

    assert [answer.status_code for answer in answers] == [403, 403]
