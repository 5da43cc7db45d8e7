"""Models of transformers on torch: what all of them share. Needs the extra `galley[torch]`."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports] - comes with the extra
import transformers  # pyright: ignore[reportMissingImports] - as torch

from galley.engines.threads import available_cores
from galley.engines.weights import WeightsError

# What they have to say goes into exceptions; the log is the server's.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)


def load(auto: str, folder: Path, threads: int) -> Any:
    """Load a model onto the GPU where there is one, else the CPU.

    Only safetensors are read, from `folder` alone, and no code that lies beside them is run.

    Args:
        auto: which of transformers' classes knows models of this kind.
        threads: of the CPU, for all models on torch together; 0 takes every core.
    Raises:
        WeightsError: there is no such model, or transformers cannot read it.
    """
    torch.set_num_threads(threads or available_cores())
    device, kind = _place()

    def read() -> Any:
        model = getattr(transformers, auto).from_pretrained(
            folder,
            dtype=kind,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        return model.to(device).eval()

    return readable(folder, read)


def readable(folder: Path, read: Callable[[], Any]) -> Any:
    """Return what `read` makes of a folder.

    Raises:
        WeightsError: it makes nothing of it.
    """
    try:
        return read()
    except Exception as error:  # transformers raises anything on files that do not fit
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{folder} cannot be read by transformers: {reason}") from error


def hardware(model: Any) -> str:
    """Where a model runs, in words."""
    kind = str(model.dtype).removeprefix("torch.")
    if model.device.type == "cuda":
        return f"GPU ({torch.cuda.get_device_name(model.device)}), {kind}"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}, {kind}"


def accelerated(model: Any) -> bool:
    """Whether a model runs on more than the CPU."""
    return model.device.type != "cpu"


def _place() -> tuple[Any, Any]:
    """Half precision where the hardware is made for it."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32
    half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.device("cuda"), half
