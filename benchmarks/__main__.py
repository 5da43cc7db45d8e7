"""Every benchmark, one table.

python -m benchmarks [--only chat images] [--rounds 5]
"""

from benchmarks import (
    capacity,
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
    shared,
    start,
    usage,
)
from benchmarks.main import main

main(
    {
        "capacity": capacity.run,
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
        "shared": shared.run,
        "start": start.run,
        "usage": usage.run,
    },
    __doc__,
)
