"""The end of a job is told to a receiver on loopback: signed, again and again, nowhere else."""

import asyncio
import base64
import hashlib
import hmac
import socket
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy.exc import OperationalError

from galley.core.caller import Caller
from galley.core.errors import BadRequestError
from galley.db.session import Database
from galley.schemas.jobs import WebhookState, WebhookTarget
from galley.services.job_kinds import JobRun
from galley.services.webhook_call import post
from galley.services.webhook_sender import PAUSES_S, WebhookSender
from galley.services.webhooks import WebhookGuard, new_secret
from tests.loopback import HANG, http, scripted_server
from tests.services.job_office import JobOffice

pytestmark = pytest.mark.anyio

LOOPBACK = WebhookGuard("127.0.0.0/8")
OK = http("", status="204 No Content")


async def echo(run: JobRun) -> dict[str, Any]:
    if run.params["name"] == "bad":
        raise BadRequestError("It is bad.", code="bad_name")
    return {"said": run.params["name"]}


class Post:
    """A job whose end is told to a URL, and who tells it."""

    def __init__(self, database: Database) -> None:
        self.office = JobOffice(database, echo)
        self.office.service._guard = LOOPBACK
        self.secret = new_secret()
        self.sender = WebhookSender(
            database.sessions, LOOPBACK, clock=lambda: self.office.now, draw=lambda: 0.0
        )

    async def begin(self, url: str, **params: Any) -> None:
        self.caller: Caller = await self.office.hire()
        target = WebhookTarget(url=url, secret=self.secret)
        self.job_id = await self.office.submit(self.caller, target, **params)

    async def state(self) -> WebhookState:
        webhook = (await self.office.look(self.caller, self.job_id)).webhook
        assert webhook is not None
        return webhook


@pytest.fixture
def post_office(database: Database) -> Post:
    return Post(database)


@pytest.mark.parametrize("name", ["good", "bad"])
async def test_the_receiver_is_told_once_and_can_check_who_told_it(
    post_office: Post, name: str
) -> None:
    with scripted_server(OK) as receiver:
        await post_office.begin(f"{receiver.base_url}/hook?a=1", name=name)
        await post_office.sender.send_due()
        before = list(receiver.requests)
        await post_office.office.runner.work()
        await post_office.sender.send_due()
        await post_office.sender.send_due()

    assert before == []
    (request,) = receiver.requests
    head, _, body = request.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert head.startswith(b"POST /hook?a=1 HTTP/1.1")
    assert_signed(request, post_office.secret, post_office.office.now)
    assert headers["content-type"] == "application/json"
    told = orjson.loads(body)
    assert told["type"] == ("job.succeeded" if name == "good" else "job.failed")
    assert told["data"]["id"] == post_office.job_id
    assert told["data"]["result"] == ({"said": "good"} if name == "good" else None)
    assert "log" not in told["data"]
    state = await post_office.state()
    assert (state.attempts, state.delivered_at, state.error) == (1, post_office.office.now, None)


def assert_signed(request: bytes, secret: str, now: datetime) -> None:
    """Check it as the specification says, with none of our code."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    headers = {n.lower(): v for n, v in (line.split(": ", 1) for line in lines)}
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert int(headers["webhook-timestamp"]) == int(now.timestamp())


async def test_of_two_owners_with_the_same_job_each_is_told_of_their_own_by_their_own_secret(
    post_office: Post,
) -> None:
    office, made = post_office.office, list[tuple[str, str]]()
    with scripted_server(OK) as adas, scripted_server(OK) as bobs:
        for name, receiver in (("ada", adas), ("bob", bobs)):
            secret = new_secret()
            target = WebhookTarget(url=f"{receiver.base_url}/hook", secret=secret)
            made.append((await office.submit(await office.hire(name), target, name="good"), secret))
        await office.runner.work()
        await post_office.sender.send_due()

    for (job_id, secret), receiver in zip(made, (adas, bobs), strict=True):
        (request,) = receiver.requests
        assert_signed(request, secret, office.now)
        assert orjson.loads(request.partition(b"\r\n\r\n")[2])["data"]["id"] == job_id


async def test_a_cancelled_job_is_told_too(post_office: Post) -> None:
    with scripted_server(OK) as receiver:
        await post_office.begin(receiver.base_url)
        await post_office.office.service.remove(post_office.caller, post_office.job_id)
        await post_office.sender.send_due()

    assert b'"type":"job.cancelled"' in receiver.requests[0]


async def test_it_is_told_again_after_growing_pauses_and_as_the_same_message(
    post_office: Post,
) -> None:
    failures = [
        http("", status="500 Internal Server Error"),
        b"HTTP/1.1",
        http("", status="404 Not Found"),
    ]
    with scripted_server(*failures, OK) as receiver:
        await post_office.begin(receiver.base_url)
        await post_office.office.runner.work()
        counts: list[int] = []
        for pause_s in (0.0, *PAUSES_S[:3]):
            await post_office.sender.send_due()  # it is not due yet
            post_office.office.now += timedelta(seconds=pause_s)
            await post_office.sender.send_due()
            counts.append(len(receiver.requests))

    names = {line for r in receiver.requests for line in r.split(b"\r\n") if b"webhook-id" in line}
    assert counts == [1, 2, 3, 4]
    assert len(names) == 1
    assert (await post_office.state()).delivered_at is not None


async def test_after_the_last_attempt_it_is_left_at_that(post_office: Post) -> None:
    gone = [http("", status="503 Service Unavailable")] * 10
    with scripted_server(*gone) as receiver:
        await post_office.begin(receiver.base_url)
        await post_office.office.runner.work()
        for pause_s in (0.0, *PAUSES_S, 100_000.0, 100_000.0):
            post_office.office.now += timedelta(seconds=pause_s)
            await post_office.sender.send_due()

    state = await post_office.state()
    assert len(receiver.requests) == state.attempts == len(PAUSES_S) + 1
    assert (state.delivered_at, state.error) == (None, "status 503")


async def test_a_redirect_is_not_followed(post_office: Post) -> None:
    with scripted_server(OK) as elsewhere:
        moved = http("", status="307 Temporary Redirect", location=f"{elsewhere.base_url}/")
        with scripted_server(moved) as receiver:
            await post_office.begin(receiver.base_url)
            await post_office.office.runner.work()
            await post_office.sender.send_due()

    assert elsewhere.requests == []
    assert (await post_office.state()).error == "status 307"


async def test_senders_that_work_at_the_same_time_tell_it_once(post_office: Post) -> None:
    with scripted_server(*[OK] * 8) as receiver:
        await post_office.begin(receiver.base_url)
        await post_office.office.runner.work()
        await asyncio.gather(*(post_office.sender.send_due() for _ in range(4)))

    assert len(receiver.requests) == 1


async def test_what_became_private_since_is_not_called(post_office: Post) -> None:
    with scripted_server(OK) as receiver:
        await post_office.begin(receiver.base_url)
        await post_office.office.runner.work()
        strict = WebhookSender(
            post_office.office.database.sessions, WebhookGuard(),
            clock=lambda: post_office.office.now,
        )  # fmt: skip
        await strict.send_due()

    assert receiver.requests == []
    assert "https" in str((await post_office.state()).error)


async def test_a_name_that_leads_to_a_private_address_is_not_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    async def lookup(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("1.1.1.1", "127.0.0.1")
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)

    with pytest.raises(BadRequestError) as refused:
        await post("https://rebound.example.org/", b"{}", {}, WebhookGuard())

    assert refused.value.code == "webhook_refused"
    assert asked == ["rebound.example.org"]


async def test_what_was_looked_at_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is looked up once; a second answer would lead elsewhere."""
    with scripted_server(OK) as receiver:
        port = int(receiver.base_url.rpartition(":")[2])
        answers = ["127.0.0.1", "10.255.255.1"]

        async def lookup(host: str, port: int, **_: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
        status = await post(f"http://hook.example.org:{port}/", b"{}", {}, LOOPBACK)

    assert status == 204
    assert answers == ["10.255.255.1"]
    assert f"host: hook.example.org:{port}".encode() in receiver.requests[0].lower()


async def test_who_says_nothing_is_not_waited_for_long() -> None:
    with scripted_server(HANG) as receiver, pytest.raises(OSError, match="no answer within"):
        await post(receiver.base_url, b"{}", {}, LOOPBACK, timeout_s=0.2)


async def test_an_endless_answer_is_not_waited_for() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n"
    with scripted_server([head, b"x" * 10, HANG]) as receiver:
        status = await post(receiver.base_url, b"{}", {}, LOOPBACK)
        hung_up = await asyncio.to_thread(receiver.hung_up.wait, 5)

    assert (status, hung_up) == (200, True)


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 2", b"\x16\x03\x01"])
async def test_an_answer_that_is_none_is_an_error_of_the_receiver(answer: bytes) -> None:
    with scripted_server(answer) as receiver, pytest.raises(ConnectionError) as failed:
        await post(f"{receiver.base_url}/hook?token=secret", b"{}", {}, LOOPBACK)

    assert "secret" not in str(failed.value)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "xn--a", "%31%32%37.0.0.1"])
async def test_a_name_that_cannot_be_one_is_an_error_of_its_owner(host: str) -> None:
    with pytest.raises((BadRequestError, ConnectionError)):
        await post(f"https://{host}/", b"{}", {}, WebhookGuard())


async def test_what_could_not_be_written_down_does_not_end_the_sending(post_office: Post) -> None:
    def draw() -> float:
        post_office.office.now += timedelta(minutes=2)  # by then it is due again
        if not drawn.is_set():
            drawn.set()
            raise OperationalError("UPDATE webhooks", {}, Exception("database is locked"))
        return 0.0

    drawn = asyncio.Event()
    post_office.sender._draw = draw
    with scripted_server(http("", status="500 No"), OK) as receiver:
        await post_office.begin(receiver.base_url)
        await post_office.office.runner.work()
        keeping = asyncio.create_task(post_office.sender.keep())
        await asyncio.wait_for(drawn.wait(), 10)
        async with asyncio.timeout(10):
            while (await post_office.state()).delivered_at is None:
                post_office.sender.wake()
                await asyncio.sleep(0.05)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    assert len(receiver.requests) == 2
