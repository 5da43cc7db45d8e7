"""The clients that `galley connect` knows, and the lines that join each to a server.

In the lines, `$url` is the server's address, `$api` the same with `/v1`, and `$key` the API key,
each quoted for the language that it is in.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from string import Template
from typing import Literal

Language = Literal["sh", "python", "js", "toml", "yaml"]

# A string of JSON is one of the other languages, too.
QUOTES: dict[Language, Callable[[str], str]] = {"sh": shlex.quote}


@dataclass(frozen=True, slots=True)
class Connectable:
    """A client: what it is, where its lines belong, and the lines."""

    title: str
    language: Language
    place: str
    lines: str

    def joined(self, url: str, key: str) -> str:
        """The lines for one server.

        Args:
            url: the server's address, without `/v1`.
            key: an API key, or what stands for it.
        """
        quote = QUOTES.get(self.language, json.dumps)
        found = Template(self.lines.lstrip("\n"))
        return found.substitute(url=quote(url), api=quote(f"{url}/v1"), key=quote(key))


SHELL = "in the shell, before the program starts"

CLIENTS = {
    "openai": Connectable(
        "OpenAI's SDKs, and whatever is built on them",
        "sh",
        SHELL,
        """
export OPENAI_BASE_URL=$api
export OPENAI_API_KEY=$key
""",
    ),
    "anthropic": Connectable(
        "Anthropic's SDKs, and whatever is built on them",
        "sh",
        SHELL,
        """
export ANTHROPIC_BASE_URL=$url
export ANTHROPIC_API_KEY=$key
""",
    ),
    "langchain": Connectable(
        "LangChain (pip install langchain-openai)",
        "python",
        "in the program",
        """
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

chat = ChatOpenAI(model="galley/chat", base_url=$api, api_key=$key)
embeddings = OpenAIEmbeddings(
    model="galley/embeddings",
    base_url=$api,
    api_key=$key,
    check_embedding_ctx_length=False,  # it would count with the tokens of OpenAI's models
)
""",
    ),
    "llamaindex": Connectable(
        "LlamaIndex (pip install llama-index-llms-openai-like llama-index-embeddings-openai-like)",
        "python",
        "in the program",
        """
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

chat = OpenAILike(
    model="galley/chat",
    api_base=$api,
    api_key=$key,
    is_chat_model=True,
    is_function_calling_model=True,
)
embeddings = OpenAILikeEmbedding(model_name="galley/embeddings", api_base=$api, api_key=$key)
""",
    ),
    "pydantic-ai": Connectable(
        "pydantic-ai (pip install pydantic-ai-slim[openai])",
        "python",
        "in the program",
        """
from pydantic_ai import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=$api, api_key=$key)
chat = OpenAIChatModel("galley/chat", provider=provider)
embedder = Embedder(OpenAIEmbeddingModel("galley/embeddings", provider=provider))
""",
    ),
    "instructor": Connectable(
        "instructor (pip install instructor)",
        "python",
        "in the program",
        """
import instructor
from openai import OpenAI

client = instructor.from_openai(OpenAI(base_url=$api, api_key=$key))
""",
    ),
    "ai-sdk": Connectable(
        "Vercel's AI SDK (npm install ai @ai-sdk/openai-compatible)",
        "js",
        "in the program",
        """
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const galley = createOpenAICompatible({
  name: "galley",
  baseURL: $api,
  apiKey: $key,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const chat = galley("galley/chat");
const embeddings = galley.embeddingModel("galley/embeddings");
""",
    ),
    "llm": Connectable(
        "llm, the command line (pip install llm)",
        "sh",
        'in the shell, once; from then on: llm -m galley "hello"',
        """
cat >> "$$(dirname "$$(llm logs path)")/extra-openai-models.yaml" <<'END'
- model_id: galley
  model_name: galley/chat
  api_base: $api
  api_key_name: galley
  supports_schema: true
  supports_tools: true
  vision: true
END
llm keys set galley --value $key
""",
    ),
    "codex": Connectable(
        "Codex, OpenAI's command line",
        "toml",
        "in ~/.codex/config.toml",
        """
model = "galley/chat"
model_provider = "galley"
# model_context_window = ...  # the model's context; else Codex assumes a big one

[model_providers.galley]
name = "Galley"
base_url = $api
wire_api = "responses"
env_key = "GALLEY_API_KEY"  # in the shell: export GALLEY_API_KEY=$key
""",
    ),
    "claude-code": Connectable(
        "Claude Code, Anthropic's command line",
        "sh",
        "in the shell, then: claude",
        """
unset ANTHROPIC_API_KEY  # it would be sent as well
export ANTHROPIC_BASE_URL=$url
export ANTHROPIC_AUTH_TOKEN=$key
export ANTHROPIC_MODEL=galley/chat
export ANTHROPIC_DEFAULT_OPUS_MODEL=galley/chat
export ANTHROPIC_DEFAULT_SONNET_MODEL=galley/chat
export ANTHROPIC_DEFAULT_HAIKU_MODEL=galley/chat
# export CLAUDE_CODE_MAX_CONTEXT_TOKENS=...  # the model's context; else 1,000,000 is assumed
""",
    ),
    "aider": Connectable(
        "aider",
        "sh",
        "in the shell, then: aider --model openai/galley/chat",
        """
export OPENAI_API_BASE=$api
export OPENAI_API_KEY=$key
""",
    ),
    "continue": Connectable(
        "Continue, for editors",
        "yaml",
        "in ~/.continue/config.yaml",
        """
name: Galley
version: 1.0.0
schema: v1
models:
  - name: Galley
    provider: openai
    model: galley/chat
    apiBase: $api
    apiKey: $key
    roles: [chat, edit, apply]
  - name: Galley embeddings
    provider: openai
    model: galley/embeddings
    apiBase: $api
    apiKey: $key
    roles: [embed]
""",
    ),
    "open-webui": Connectable(
        "Open WebUI",
        "sh",
        "in the shell, before `open-webui serve`, or with -e for its container",
        """
export OPENAI_API_BASE_URL=$api
export OPENAI_API_KEY=$key
""",
    ),
}
