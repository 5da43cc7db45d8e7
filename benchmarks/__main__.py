"""Every benchmark, one table.

python -m benchmarks [--only chat images] [--rounds 5]
"""

from benchmarks import chat, embeddings, images, overhead, start
from benchmarks.main import main

main(
    {
        "chat": chat.run,
        "embeddings": embeddings.run,
        "images": images.run,
        "overhead": overhead.run,
        "start": start.run,
    },
    __doc__,
)
