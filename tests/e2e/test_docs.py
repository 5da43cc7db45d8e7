"""The pages of docs in a real browser, which may talk to nobody but the server."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, expect, sync_playwright

from tests.serving import LiveServer

pytestmark = pytest.mark.xdist_group("browser")

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    # A name that is not this machine's: Swagger UI talks to a validator only from such hosts.
    "--host-resolver-rules=MAP galley.test 127.0.0.1",
]  # fmt: skip
PHOTO = Path(__file__).parents[1] / "data" / "photos" / "rocket.jpg"
ANSWER_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, "There is no browser. Run: sh scripts/test-system-packages"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, live_server: LiveServer) -> Iterator[Page]:
    """A page that has asked only the server, and complained of nothing, once the test is over."""
    base_url = live_server.url.replace("127.0.0.1", "galley.test")
    asked: list[Request] = []
    thrown: list[str] = []
    with browser.new_context(base_url=base_url, viewport={"width": 1280, "height": 1000}) as tab:
        page = tab.new_page()
        page.on("request", lambda request: asked.append(request))
        page.on("pageerror", lambda error: thrown.append(str(error)))
        yield page
    ours = urlsplit(base_url).netloc
    foreign = [asking for asking in asked if urlsplit(asking.url).netloc not in {ours, ""}]
    # What the page's own policy forbids does not leave the browser.
    assert [asking.url for asking in foreign if asking.failure != "csp"] == []
    assert thrown == []


def authorize(page: Page, key: str) -> None:
    page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".modal-ux")
    dialog.get_by_role("textbox").fill(key)
    dialog.get_by_role("button", name="Apply credentials").click()
    dialog.get_by_role("button", name="Close", exact=True).click()


def try_out(operation: Locator) -> Locator:
    """Press Execute; returns the answer, once it is there."""
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table tbody tr")
    expect(answer).to_be_visible(timeout=ANSWER_MS)
    return answer


def opened(page: Page, operation: str) -> Locator:
    block = page.locator(f"[id$='-{operation}'].opblock")
    toggle(block)
    return block


def toggle(block: Locator) -> None:
    """Open or close it, without waiting for the page to stand still, which takes a second."""
    block.locator(".opblock-summary-control").dispatch_event("click")


def is_runnable(operation: dict[str, Any]) -> bool:
    """Whether it changes nothing for others, and needs nothing that only its caller can have."""
    needs = [
        p
        for p in operation.get("parameters", [])
        if p["required"] and not p.keys() & {"example", "examples"}
    ]
    forms = set(operation.get("requestBody", {}).get("content", ())) == {"multipart/form-data"}
    return not needs and not forms and operation["tags"][0] not in {"auth", "keys", "admin"}


SAID = {
    "create_chat_completion": "chat.completion", "stream_chat": "[DONE]",
    "create_embedding": "embedding", "classify": "predictions", "retrieve_model": "owned_by",
    "process": "job_id", "create_document": "indexed",
}  # fmt: skip
"""What the answer to an example has to hold."""

REFUSED = {
    "create_rerank": "GET /v1/models lists those that do",  # no embedded model ranks
    "create_batch": "file_not_found",  # of a file that only an upload could give
}


@pytest.mark.parametrize(
    "every", [pytest.param(False, id="some"), pytest.param(True, id="all", marks=pytest.mark.slow)]
)
def test_operations_can_be_tried_out_with_their_examples(
    page: Page, live_server: LiveServer, every: bool
) -> None:
    document = live_server.client.get("/openapi.json").json()
    known = [op for ops in document["paths"].values() for op in ops.values() if is_runnable(op)]
    runnable = {op["operationId"] for op in known}
    names = runnable if every else SAID.keys()
    page.goto("/docs")
    authorize(page, live_server.key)

    answers: dict[str, str] = {}
    for name in names:
        operation = opened(page, name)
        answers[name] = try_out(operation).inner_text()
        toggle(operation)

    assert runnable >= SAID.keys() | REFUSED.keys()
    for name, answer in answers.items():
        assert answer.startswith("404" if name in REFUSED else "20"), (name, answer)
        assert (SAID | REFUSED).get(name, "") in answer


def test_files_can_be_sent_as_a_form(page: Page, live_server: LiveServer) -> None:
    page.goto("/docs")
    authorize(page, live_server.key)
    operation = opened(page, "classify_batch")
    operation.get_by_label("Request content type").select_option("multipart/form-data")
    operation.locator("input[type=file]").set_input_files(PHOTO)

    answer = try_out(operation)

    expect(answer).to_contain_text("missile")


def test_without_a_key_the_answer_says_what_is_missing(page: Page) -> None:
    page.goto("/docs")

    answer = try_out(opened(page, "create_embedding"))

    expect(answer).to_contain_text("401")
    expect(answer).to_contain_text("No API key. Send it as")


@pytest.mark.slow
def test_redoc_shows_every_route(page: Page, live_server: LiveServer) -> None:
    page.goto("/redoc")

    for path in live_server.client.get("/openapi.json").json()["paths"]:
        expect(page.get_by_text(path, exact=True).first).to_be_attached()
