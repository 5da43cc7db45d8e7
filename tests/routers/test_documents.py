"""Documents and collections over HTTP, and what is found in them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.documents import make_docx, make_pdf
from tests.serving import LiveServer, make_settings, serving

TIDES = "# Tides\n\nThe moon pulls the sea, and twice a day the water rises."
BREAD = "# Bread\n\nFlour, water and salt make a dough that has to rest overnight."
NOWHERE = "01a20079-c0b8-71ae-9089-66bf9320b9ac"


@pytest.fixture
def client(live_server: LiveServer) -> Iterator[httpx2.Client]:
    """A user of their own."""
    headers = {"authorization": f"Bearer {live_server.key_of_new_user()}"}
    with httpx2.Client(base_url=live_server.url, headers=headers, timeout=60) as made:
        yield made


def add(client: httpx2.Client, text: str, **said: Any) -> Any:
    answer = client.post(
        "/v1/documents", json={"text": text, "media_type": "text/markdown", **said}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


def retrieve(client: httpx2.Client, query: str, **said: Any) -> Any:
    answer = client.get("/v1/retrieve", params={"query": query, **said})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_is_added_is_found(client: httpx2.Client) -> None:
    made = add(client, TIDES, name="tides.md", metadata={"year": 2026, "read": True})
    add(client, BREAD, name="bread.md")

    found = retrieve(client, "Why does the water rise?", limit=1)

    assert found == {"documents": [TIDES]}
    assert made | {"id": "", "created_at": "", "updated_at": "", "collection": ""} == {
        "id": "",
        "object": "document",
        "collection": "",
        "name": "tides.md",
        "media_type": "text/markdown",
        "metadata": {"year": 2026, "read": True},
        "status": "indexed",
        "error": None,
        "characters": len(TIDES),
        "bytes": len(TIDES),
        "passages": 1,
        "created_at": "",
        "updated_at": "",
        "job_id": None,
    }


@pytest.mark.parametrize("path", ["/v1/retrieve", "/retrieve", "/api/v1/retrieve", "/api/retrieve"])
def test_retrieve_answers_to_the_letter_wherever_it_is_served(
    client: httpx2.Client, path: str
) -> None:
    add(client, TIDES)

    answer = client.get(path, params={"query": "moon"})

    assert answer.status_code == 200
    assert answer.json() == {"documents": [TIDES]}
    assert answer.headers["content-type"] == "application/json"


def test_details_say_where_a_passage_is_from_and_why(client: httpx2.Client) -> None:
    text = TIDES + "\n\n## Ports\n\n" + "Every port keeps a delay of its own behind the moon. " * 12
    made = add(client, text, name="tides.md")

    (first, *_) = retrieve(client, "delay of ports", detail=True)["passages"]

    assert first["text"] == text[first["start"] : first["end"]]
    assert first["document_id"] == made["id"]
    assert (first["document_name"], first["collection"]) == ("tides.md", "default")
    assert first["context"] == "tides > Ports"
    assert 0 < first["score"] <= 1
    assert -1 <= first["dense"] <= 1
    assert first["bm25"] > 0
    assert first["dense_rank"] == 1


def test_a_search_says_what_it_was_done_by(client: httpx2.Client) -> None:
    add(client, TIDES)

    found = retrieve(client, "moon", detail=True)

    assert found["searched_by"] == "meaning and words"
    assert found["indexing"] is False


def test_a_search_is_narrowed_by_collection_document_name_and_metadata(
    client: httpx2.Client,
) -> None:
    client.post("/v1/collections", json={"name": "kitchen"})
    first = add(client, TIDES, name="a.md", metadata={"year": 1, "kind": "sea", "good": True})
    second = add(client, BREAD, name="b.md", collection="kitchen", metadata={"year": 2})

    def texts(**narrowed: Any) -> list[str]:
        return retrieve(client, "water", **narrowed)["documents"]

    assert set(texts()) == {TIDES, BREAD}
    assert texts(collection="kitchen") == texts(collection=second["collection"]) == [BREAD]
    assert texts(document=first["id"]) == [TIDES]
    assert texts(name="b.md") == [BREAD]
    assert texts(metadata="year=2") == [BREAD]
    assert texts(metadata=["kind=sea", "good=true"]) == [TIDES]
    assert texts(metadata=["kind=sea", "year=2"]) == []


def test_files_are_read_whatever_their_names_say(client: httpx2.Client) -> None:
    files = {"a.bin": make_pdf(TIDES), "../../b": make_docx(BREAD), "c.html": b"<html><p>Ebb</p>"}

    made = [
        client.post(
            "/v1/documents", files={"file": (name, content)}, data={"metadata": '{"n": 1}'}
        ).json()
        for name, content in files.items()
    ]

    assert [document["name"] for document in made] == ["a.bin", "b", "c.html"]
    assert [document["media_type"].rpartition(".")[2] for document in made] == [
        "application/pdf", "document", "text/html",
    ]  # fmt: skip
    assert all(document["metadata"] == {"n": 1} for document in made)
    assert "moon pulls the sea" in retrieve(client, "moon", limit=1)["documents"][0]


def test_a_document_is_shown_with_its_text_that_no_browser_takes_for_a_page(
    client: httpx2.Client,
) -> None:
    made = add(client, "<b>bold</b>", media_type="text/plain")

    shown = client.get(f"/v1/documents/{made['id']}")
    plain = client.get(f"/v1/documents/{made['id']}/text")

    assert shown.json() == made | {"text": "<b>bold</b>"}
    assert plain.text == "<b>bold</b>"
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    for answer in (shown, plain):
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_new_version_takes_the_place_of_the_old(client: httpx2.Client) -> None:
    made = add(client, TIDES, name="one.md", metadata={"n": 1})

    answer = client.put(f"/v1/documents/{made['id']}", json={"text": BREAD})

    assert answer.status_code == 200
    assert (answer.json()["name"], answer.json()["metadata"]) == ("one.md", {"n": 1})
    assert retrieve(client, "moon")["documents"] == [BREAD]
    assert client.get(f"/v1/documents/{made['id']}/text").text == BREAD


def test_a_version_that_cannot_be_read_leaves_the_old_one(client: httpx2.Client) -> None:
    made = add(client, TIDES)

    refused = client.put(
        f"/v1/documents/{made['id']}", files={"file": ("x.pdf", b"%PDF-1.7 broken")}
    )

    assert refused.status_code == 400
    assert retrieve(client, "moon")["documents"] == [TIDES]


def test_what_is_deleted_is_found_no_more(client: httpx2.Client) -> None:
    made = add(client, TIDES)

    gone = client.delete(f"/v1/documents/{made['id']}")

    assert gone.json() == {"id": made["id"], "object": "document.deleted", "deleted": True}
    assert retrieve(client, "moon", collection="default") == {"documents": []}
    assert client.get(f"/v1/documents/{made['id']}").status_code == 404
    assert client.delete(f"/v1/documents/{made['id']}").status_code == 404


def test_documents_are_listed_in_pages(client: httpx2.Client) -> None:
    made = [add(client, f"Note {n}", name=f"{n}.md") for n in range(3)]

    first = client.get("/v1/documents", params={"limit": 2}).json()
    rest = client.get("/v1/documents", params={"after": first["data"][-1]["id"]}).json()
    named = client.get("/v1/documents", params={"name": "2.md", "status": "indexed"}).json()

    assert [row["id"] for row in first["data"] + rest["data"]] == [row["id"] for row in made]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [row["name"] for row in named["data"]] == ["2.md"]


def test_collections_are_made_listed_and_deleted_with_what_is_in_them(
    client: httpx2.Client,
) -> None:
    made = client.post("/v1/collections", json={"name": "my/own", "metadata": {"a": "b"}})
    document = add(client, TIDES, collection="my/own")

    listed = client.get("/v1/collections").json()["data"]
    described = client.get("/v1/collections/my%2Fown").json()
    again = client.post("/v1/collections", json={"name": "my/own"})
    gone = client.delete(f"/v1/collections/{described['id']}")

    assert made.status_code == 201
    assert [row["name"] for row in listed if not row["read_only"]] == ["my/own"]
    assert (described["documents"], described["passages"], described["dimensions"]) == (1, 1, 384)
    assert again.status_code == 409
    assert gone.json()["object"] == "collection.deleted"
    assert client.get(f"/v1/documents/{document['id']}").status_code == 404


def test_adding_and_asking_are_booked(live_server: LiveServer) -> None:
    added = live_server.post("/v1/documents", text=TIDES)
    asked = live_server.client.get("/v1/retrieve", params={"query": "moon"})

    first, second = live_server.row(added), live_server.row(asked)
    live_server.client.delete(f"/v1/documents/{added.json()['id']}")

    assert (first["endpoint"], first["state"], first["units"]) == ("documents", "completed", 1)
    assert (second["endpoint"], second["state"], second["units"]) == ("retrieve", "completed", 1)
    assert first["prompt_tokens"] > second["prompt_tokens"] > 0
    assert first["served_model"] == second["served_model"] == "all-minilm-l6-v2"


def test_limits_are_told_and_hold(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(limits={"requests_per_minute": 3})
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=live_server.url, headers=headers, timeout=60) as client:
        answers = [client.post("/v1/documents", json={"text": TIDES}) for _ in range(4)]
        asked = client.get("/v1/retrieve", params={"query": "moon"})

    assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "2"
    assert asked.status_code == 429


def test_who_is_over_a_limit_is_sent_away_before_a_file_is_read(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(limits={"requests_per_minute": 1})
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=live_server.url, headers=headers, timeout=60) as client:
        client.get("/v1/retrieve", params={"query": "moon"})
        answer = client.post("/v1/documents", files={"file": ("a.pdf", b"%PDF-1.7 broken")})

    assert answer.status_code == 429  # and not 400
    assert "retry-after" in answer.headers


def test_searches_by_words_alone_have_limits_too(bare: LiveServer) -> None:
    key = bare.key_of_new_user(limits={"requests_per_minute": 1})
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=bare.url, headers=headers, timeout=60) as client:
        answers = [client.get("/v1/retrieve", params={"query": "moon"}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"text": ""}, 422),
        ({"text": " \n"}, 400),
        ({"text": "a", "collection": "nowhere"}, 404),
        ({"text": "a", "name": "a\nb"}, 422),
        ({"text": "a", "name": "x" * 201}, 422),
        ({"text": "a", "media_type": "application/pdf"}, 422),
        ({"text": "a", "metadata": {"k": None}}, 422),
        ({"text": "a", "metadata": {"k": "v" * 513}}, 422),
        ({"text": "a", "metadata": {"k": 10**16}}, 422),
        ({"text": "a", "metadata": {str(n): n for n in range(17)}}, 422),
        ({"text": "a", "unknown": 1}, 422),
        ({"text": "\x00\x01"}, 400),
    ],
)
def test_a_bad_document_is_refused(
    client: httpx2.Client, body: dict[str, Any], status: int
) -> None:
    answer = client.post("/v1/documents", json=body)

    assert answer.status_code == status, answer.text
    assert client.get("/v1/documents").json()["data"] == []


@pytest.mark.parametrize(
    ("content", "data", "status"),
    [
        (b"", {}, 400),
        (b"\x00\x01\x02", {}, 400),
        (b"text", {"metadata": "not json"}, 422),
        (b"text", {"metadata": '{"a": [1]}'}, 422),
        (b"text", {"background": "perhaps"}, 422),
        (b"text", {"collection": "nowhere"}, 404),
        (b"text", {"unknown": "1"}, 422),
    ],
)
def test_a_bad_upload_is_refused_and_leaves_no_file(
    live_server: LiveServer,
    client: httpx2.Client,
    content: bytes,
    data: dict[str, str],
    status: int,
) -> None:
    answer = client.post("/v1/documents", files={"file": ("a", content)}, data=data)

    assert answer.status_code == status, answer.text
    assert list((live_server.settings.data_dir / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    "query",
    [
        "", "query=", "query=%20", f"query={'x' * 4001}", "query=a&limit=0", "query=a&limit=101",
        "query=a&limit=x", "query=%ff", "query=%ed%a0%80", "query=a&metadata=year",
        "query=a&name=%00", "query=a&unknown=1", "query=a" + "&document=b" * 101,
        "&".join(["query=a"] * 600),
    ],
)  # fmt: skip
def test_a_bad_question_is_refused(client: httpx2.Client, query: str) -> None:
    answer = client.get(f"/v1/retrieve?{query}")

    assert answer.status_code == 422, answer.text
    assert "detail" in answer.json()


@pytest.mark.parametrize(
    "query", ['"', "a AND (", "NEAR(", "* OR *", "\u0000", "'; DROP TABLE words; --", "\u6f6e"]
)
def test_a_question_has_no_syntax(client: httpx2.Client, query: str) -> None:
    add(client, TIDES)

    assert client.get("/v1/retrieve", params={"query": query}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/documents/nowhere"),
        ("GET", f"/v1/documents/{NOWHERE}"),
        ("GET", f"/v1/documents/{NOWHERE}/text"),
        ("DELETE", f"/v1/documents/{NOWHERE}"),
        ("GET", "/v1/collections/nowhere"),
        ("DELETE", "/v1/collections/%00"),
        ("GET", "/v1/retrieve?query=a&collection=nowhere"),
        ("GET", "/v1/documents?collection=nowhere"),
    ],
)
def test_what_is_not_there_is_a_404(client: httpx2.Client, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 404


def test_two_owners_with_the_same_names_and_texts_never_meet(
    live_server: LiveServer, client: httpx2.Client
) -> None:
    headers = {"authorization": f"Bearer {live_server.key_of_new_user()}"}
    with httpx2.Client(base_url=live_server.url, headers=headers, timeout=60) as other:
        both = (client, other)
        for one in both:
            one.post("/v1/collections", json={"name": "notes"})
        mine, theirs = (add(one, TIDES, name="tides.md", collection="notes") for one in both)
        path = f"/v1/documents/{theirs['id']}"

        assert mine["collection"] != theirs["collection"]
        for call in (
            client.get(path),
            client.get(f"{path}/text"),
            client.put(path, json={"text": "stolen"}),
            client.delete(path),
            client.get(f"/v1/collections/{theirs['collection']}"),
            client.delete(f"/v1/collections/{theirs['collection']}"),
            client.get("/v1/documents", params={"collection": theirs["collection"]}),
            client.get("/v1/retrieve", params={"query": "a", "collection": theirs["collection"]}),
            client.post("/v1/documents", json={"text": "a", "collection": theirs["collection"]}),
        ):
            assert call.status_code == 404, call.request.url
        named = retrieve(client, "moon", document=theirs["id"], detail=True)
        listed = client.get("/v1/documents").json()["data"]
        found = retrieve(client, "moon", detail=True)["passages"]
        client.delete("/v1/collections/notes")

        assert named["passages"] == []
        assert [row["id"] for row in listed] == [mine["id"]]
        assert [row["document_id"] for row in found] == [mine["id"]]
        assert other.get(path).json()["text"] == TIDES
        assert retrieve(other, "moon")["documents"] == [TIDES]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[LiveServer]:
    """A server without models, and with small limits."""
    settings = make_settings(
        tmp_path_factory.mktemp("bare"), models_dir,
        embedded_models=False, file_limit=100_000, body_limit=10_000,
    )  # fmt: skip
    with serving(settings) as server:
        yield server


def test_without_a_model_a_document_is_refused_with_the_reason(bare: LiveServer) -> None:
    answer = bare.post("/v1/documents", text=TIDES)

    assert answer.status_code == 404
    assert "galley/embeddings" in answer.json()["detail"]
    assert bare.client.get("/v1/retrieve?query=moon").json() == {"documents": []}


def test_an_upload_over_the_limit_is_cut_off(bare: LiveServer) -> None:
    answer = bare.client.post("/v1/documents", files={"file": ("a.txt", b"word " * 1_000_000)})

    assert answer.status_code == 413
    assert list((bare.settings.data_dir / "incoming").iterdir()) == []


def test_a_text_over_the_body_limit_is_cut_off(bare: LiveServer) -> None:
    assert bare.post("/v1/documents", text="x" * 20_000).status_code == 413


def test_a_stranger_is_turned_away_before_their_file_is_read(bare: LiveServer) -> None:
    answer = httpx2.post(f"{bare.url}/v1/documents", files={"file": ("a.txt", b"word")})

    assert answer.status_code == 401


def test_a_description_that_postgresql_could_not_keep_is_refused(client: httpx2.Client) -> None:
    answer = client.post("/v1/collections", json={"name": "x", "description": "a\0b"})

    assert answer.status_code == 422
