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
    limiter,
    memory,
    overhead,
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
        "limiter": limiter.run,
        "memory": memory.run,
        "overhead": overhead.run,
        "retrieval": retrieval.run,
        "road": road.run,
        "start": start.run,
        "usage": usage.run,
    },
    __doc__,
)
