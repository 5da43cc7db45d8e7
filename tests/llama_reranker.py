"""llama.cpp's own server as a reranker, in a process of its own.

The weights are those of a model that chats: its scores mean nothing, the wire is real.

python -m tests.llama_reranker WEIGHTS SECRET
"""

import importlib
import sys
from typing import Any

xllamacpp: Any = importlib.import_module("xllamacpp")  # native: it has no types to check against


def _serve(weights: str, secret: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = weights
    params.api_keys = [secret]
    params.port = 0
    params.n_parallel = 1
    params.n_ctx = 512
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201 - whoever started it reads it
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
