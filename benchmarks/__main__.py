"""Every benchmark, one table.

python -m benchmarks [--only chat images] [--rounds 5]
"""

from benchmarks import (
    chat,
    embeddings,
    fairness,
    gateway,
    images,
    lag,
    ledger,
    limiter,
    memory,
    moving,
    overhead,
    refusals,
    retrieval,
    road,
    start,
    usage,
)
from benchmarks.main import main

main(
    {
        "chat": chat.run,
        "embeddings": embeddings.run,
        "fairness": fairness.run,
        "gateway": gateway.run,
        "images": images.run,
        "lag": lag.run,
        "ledger": ledger.run,
        "limiter": limiter.run,
        "memory": memory.run,
        "moving": moving.run,
        "overhead": overhead.run,
        "refusals": refusals.run,
        "retrieval": retrieval.run,
        "road": road.run,
        "start": start.run,
        "usage": usage.run,
    },
    __doc__,
)
