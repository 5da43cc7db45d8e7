"""Better chat models than the embedded one, small enough for a laptop: `galley models add NAME`."""

from collections.abc import Mapping

from galley.core.catalogue import ModelSettings

PRESETS: Mapping[str, ModelSettings] = {
    "qwen2.5-1.5b": ModelSettings(
        kind="chat",
        source="hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF/qwen2.5-1.5b-instruct-q4_k_m.gguf",
        license="Apache-2.0",
    ),
    "smollm2-1.7b": ModelSettings(
        kind="chat",
        source="hf:HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF/smollm2-1.7b-instruct-q4_k_m.gguf",
        license="Apache-2.0",
    ),
    "qwen3-4b": ModelSettings(
        kind="chat", source="hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf", license="Apache-2.0"
    ),
}
