"""The child process: llama.cpp's own HTTP server on a UNIX socket, for one model.

    python -m galley.engines.llama_server < one line of JSON, then an open pipe

It prints one line of JSON when it answers, and ends as soon as its standard input does: when
the server closes the pipe, and when the server dies in any way. It listens on the UNIX socket that
it is given, and removes that socket's folder at the end; without one, on a random loopback port.
"""

import importlib
import json
import os
import shutil
import signal
import sys
import threading
from typing import Any

xllamacpp: Any = importlib.import_module("xllamacpp")  # native: it has no types to check against


def _end_with_parent(socket: str | None) -> None:
    sys.stdin.read()
    if socket:
        shutil.rmtree(os.path.dirname(socket), ignore_errors=True)
    os._exit(0)  # no destructors: destroying a young llama.cpp server hangs


# A prompt is read in batches, and a hang-up is noticed between two of them. On a CPU larger ones
# are no faster (measured: 64 to 2048 within 10 %), only deafer.
CPU_BATCH = 64


def _gpus() -> list[str]:
    return [device["name"] for device in xllamacpp.get_device_info() if device["name"] != "CPU"]


def _hardware(params: Any) -> str:
    devices = _gpus()
    count = params.cpuparams.n_threads
    threads = f"CPU, {count} thread{'s' if count > 1 else ''}"
    if not devices or params.n_gpu_layers == 0:
        return threads
    layers = "all layers" if params.n_gpu_layers < 0 else f"{params.n_gpu_layers} layers"
    return f"{', '.join(devices)} ({layers} that fit), {threads}"


def _params(wanted: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = wanted["path"]
    params.model_alias = {wanted["name"]}  # unset, the file's path would show in answers
    params.api_keys = [wanted["secret"]]
    params.port = 0
    if "socket" in wanted:
        params.hostnames = [wanted["socket"]]
    params.n_parallel = wanted["slots"]
    # One for each connection: an answer's, and for a moment that of who hung up before it; the
    # rest is for counting tokens and for those who look on.
    params.n_threads_http = 2 * int(wanted["slots"]) + 4
    params.n_ctx = int(wanted["slots"]) * int(wanted["context"])
    params.n_gpu_layers = wanted["gpu_layers"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = wanted["threads"]
    # Workers sleep while they wait: spinning would take the core that the API needs.
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    if wanted.get("projector"):
        params.mmproj.path = wanted["projector"]  # some read a picture in one batch, or not at all
    elif not _gpus() or params.n_gpu_layers == 0:
        params.n_batch = params.n_ubatch = max(CPU_BATCH, params.n_parallel)
    params.cache_ram_mib = 0
    params.prefill_assistant = False  # an answer is a turn of its own, as OpenAI's is
    params.ui = False
    params.endpoint_props = params.endpoint_slots = params.endpoint_metrics = True
    params.verbosity = 0  # prompts are never logged
    return params


def main() -> None:
    """Serve until standard input ends."""
    wanted = json.loads(sys.stdin.readline())
    params = _params(wanted)
    threading.Thread(target=_end_with_parent, args=[wanted.get("socket")], daemon=True).start()
    server = xllamacpp.Server(params)
    # llama.cpp installs handlers of its own; ours is the closed pipe.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ready = {"url": server.listening_address, "hardware": _hardware(params)}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
