"""What is left of ONNX Runtime's speed behind Galley: texts per second, in batches and alone.

python -m benchmarks.embeddings
"""

from contextlib import ExitStack
from functools import partial

from benchmarks.findings import Finding, Run, faster, take_turns
from benchmarks.load import bodies, dice, rate, raw_rate, text
from benchmarks.main import main
from benchmarks.raw import RAW, RawEmbedder
from benchmarks.servers import EMBEDDINGS, Server, galley, has_peers, model_files, peer

PATH = "/v1/embeddings"
WORDS = 14
BATCH = 64
CLIENTS = 16
SECONDS = 1.5
LITSERVE = "LitServe, sentence-transformers"


async def run(rounds: int) -> list[Finding]:
    """Measure Galley, raw ONNX Runtime and, where it is installed, LitServe, in turns."""
    with ExitStack() as stack:
        servers = {"galley": stack.enter_context(galley())}
        if has_peers():
            litserve = peer(
                "litserve_server.py", "texts", "--model", str(model_files()[EMBEDDINGS])
            )
            servers[LITSERVE] = stack.enter_context(litserve)
        return [
            *await _compare(f"{BATCH} texts a request", BATCH, 1, servers, rounds),
            *await _compare(f"{CLIENTS} clients at once", 1, CLIENTS, servers, rounds),
        ]


async def _compare(
    what: str, batch: int, clients: int, servers: dict[str, Server], rounds: int
) -> list[Finding]:
    rng = dice(1)
    texts = [text(WORDS, rng) for _ in range(BATCH)]
    groups = [texts[at : at + batch] for at in range(0, BATCH, batch)]
    sent = bodies(
        [{"model": EMBEDDINGS, "input": group, "encoding_format": "base64"} for group in groups]
    )
    runs: dict[str, Run] = {
        name: partial(rate, server, PATH, sent, clients=clients, seconds=SECONDS, units=batch)
        for name, server in servers.items()
    }
    # What comes at the same time could share a call, so the raw engine may batch it.
    for name, threads in RAW.items():
        engine = RawEmbedder(threads)
        runs[name] = partial(
            raw_rate, partial(engine.embed, texts[: batch * clients]), seconds=SECONDS,
            units=batch * clients,
        )  # fmt: skip
    turns = await take_turns(runs, rounds)
    # Many clients keep a core busy with HTTP alone; raw, nothing but the model runs.
    fair = "raw, all cores" if clients == 1 else "raw, all cores but one"
    targets = dict.fromkeys(RAW) | {fair: 0.85, LITSERVE: 2.0}
    return [
        faster(f"embeddings: {what}", turns, "texts/s", than=name, at_least=target)
        for name, target in targets.items()
        if name in turns
    ]


if __name__ == "__main__":
    main({"embeddings": run}, __doc__)
