"""What is left of decoding and ONNX Runtime behind Galley: pictures per second from base64 JPEG.

python -m benchmarks.images
"""

from contextlib import ExitStack
from functools import partial

from benchmarks.findings import Finding, Run, faster, take_turns
from benchmarks.load import bodies, pictures, rate, raw_rate
from benchmarks.main import main
from benchmarks.raw import RAW, RawClassifier, graphs
from benchmarks.servers import CLASSIFY, Server, galley, has_peers, peer

PATH = "/v1/classify"
CLIENTS = 16
SECONDS = 2.0
LITSERVE = "LitServe, same graph"
TUTORIAL = "tutorial, ResNet-18"


async def run(rounds: int) -> list[Finding]:
    """Measure Galley, the raw engine and, where they are installed, the peers, in turns."""
    shots = pictures()
    sent = bodies([{"image": shot} for shot in shots])
    with ExitStack() as stack:
        servers = {"galley": stack.enter_context(galley())}
        if has_peers():
            litserve = peer("litserve_server.py", "images", "--model", str(graphs()[CLASSIFY]))
            servers[LITSERVE] = stack.enter_context(litserve)
            servers[TUTORIAL] = stack.enter_context(peer("tutorial.py"))
        runs: dict[str, Run] = {name: _served(server, sent) for name, server in servers.items()}
        batch = [shots[number % len(shots)] for number in range(CLIENTS)]
        for name, threads in RAW.items():
            call = partial(RawClassifier(threads).classify, batch)
            runs[name] = partial(raw_rate, call, seconds=SECONDS, units=CLIENTS)
        turns = await take_turns(runs, rounds)
    targets = {"raw, all cores": 0.9, "raw, all cores but one": None, LITSERVE: 1.0, TUTORIAL: 3.0}
    return [
        faster(f"images: {CLIENTS} clients", turns, "images/s", than=name, at_least=target)
        for name, target in targets.items()
        if name in turns
    ]


def _served(server: Server, sent: list[bytes]) -> Run:
    return partial(rate, server, PATH, sent, clients=CLIENTS, seconds=SECONDS, units=1)


if __name__ == "__main__":
    main({"images": run}, __doc__)
