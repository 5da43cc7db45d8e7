"""Chat by transformers on torch: answers that come at the same time share the model's calls."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import transformers  # pyright: ignore[reportMissingImports] - comes with the extra

from galley.core.catalogue import ModelSettings
from galley.core.errors import BadRequestError, EngineError, OverloadedError
from galley.engines.bounds import most_prompt_tokens, refuse_images, too_long
from galley.engines.spoken import Spoken
from galley.engines.threads import chat_threads
from galley.engines.torch_models import accelerated, hardware, load, readable
from galley.engines.weights import WeightsError
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta, FinishReason, Usage

TextRequest = ChatRequest | CompletionRequest

_PAGE = 32  # tokens
# Prompts are read in pieces of so many tokens, between which the other answers go on.
_CALL_TOKENS, _ACCELERATED_CALL_TOKENS = 256, 4096
_MOST_BYTES_PER_TOKEN = 128  # as of llama.cpp's models
_PENALTIES = ("frequency_penalty", "presence_penalty", "logit_bias")
_STOP_S = 30.0


def open_chat(folder: Path, settings: ModelSettings) -> "TorchChat":
    """Load a chat model. Blocks.

    Args:
        folder: as transformers writes it: `config.json`, `generation_config.json`, safetensors,
            and a tokenizer with its template.
    Raises:
        WeightsError: a file is missing, damaged, or of a model that is not supported.
    """

    def read_tokenizer() -> Any:
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )

    tokenizer = readable(folder, read_tokenizer)
    if not tokenizer.is_fast:
        raise WeightsError(f"{folder} has no tokenizer.json")
    model = load("AutoModelForCausalLM", folder, chat_threads(settings.threads))
    return readable(folder, lambda: TorchChat(model, tokenizer, settings))


class TorchChat:
    """A `ChatEngine`; made by `open_chat`. Tools are written into its prompts by `PromptedTools`.

    Its thread takes all answers a token further at a time: transformers' continuous batching.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: ModelSettings) -> None:
        self.slots = settings.most_at_once
        text = model.config.get_text_config()
        self.context = min(
            settings.context, getattr(text, "max_position_embeddings", None) or settings.context
        )
        self.hardware = hardware(model)
        self._vocabulary: int = text.vocab_size
        self._tokenizer = tokenizer
        self._own: Any = model.generation_config  # how its makers would sample
        self._ends = _ends(self._own.eos_token_id, tokenizer.eos_token_id)
        self._manager = _manager(model, self.slots, self.context)
        self._closed = False

    @property
    def problem(self) -> str | None:
        if self._closed:
            return "shut down"
        return None if self._manager.is_running() else "stopped by an error"

    async def check(self, request: TextRequest) -> int:
        _refuse_unknown(request)
        bounds = most_prompt_tokens(request)
        if max(bounds) < self.context:  # it fits without counting
            return sum(bounds)
        if (least := max(bounds) // _MOST_BYTES_PER_TOKEN) >= self.context:
            raise too_long(request, self.context, f"at least {least}")
        tokens = max([len(await self._prompt(request, n)) for n in _prompt_numbers(request)])
        if tokens >= self.context:
            raise too_long(request, self.context, str(tokens))
        return sum(min(bound, self.context) for bound in bounds)

    async def count(self, request: ChatRequest) -> int:
        _refuse_unknown(request)
        if (least := max(most_prompt_tokens(request)) // _MOST_BYTES_PER_TOKEN) >= self.context:
            raise too_long(request, self.context, f"at least {least}")
        return len(await self._prompt(request, 0))

    async def stream(
        self, request: TextRequest, *, choice: int = 0, cache_salt: str = ""
    ) -> AsyncGenerator[list[Delta]]:
        # Nothing is remembered of prompts, so `cache_salt` keeps nobody apart.
        _refuse_unknown(request)
        prompt = await self._prompt(request, choice)
        if not prompt:  # the batch would break off for everybody
            raise BadRequestError(
                "The prompt has no tokens that this model knows.",
                code="invalid_request",
                param="prompt",
            )
        room = self.context - len(prompt)
        if room < 1:
            raise too_long(request, self.context, str(len(prompt)))
        after = prompt if isinstance(request, CompletionRequest) else ()
        spoken = Spoken(self._tokenizer.backend_tokenizer, request.stops, after)
        known = 0
        with self._answering(prompt, request, min(request.limit or room, room)) as outputs:
            while True:
                output = await outputs.get()
                while not outputs.empty():  # each has all tokens of those before it
                    output = outputs.get_nowait()
                if output.error is not None:
                    raise EngineError("The model failed while answering.")
                new, known = output.generated_tokens[known:], len(output.generated_tokens)
                piece = Delta(choice, spoken.more([t for t in new if t not in self._ends]))
                piece.tokens = len(new)
                if output.is_finished() or spoken.stop is not None:
                    piece.text += spoken.rest()
                    piece.finish_reason = self._reason(output.generated_tokens, spoken)
                    piece.stop_sequence = spoken.stop
                    piece.usage = Usage(len(prompt), known)
                yield [piece]
                if piece.finish_reason is not None:
                    return

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._manager.stop(block=True, timeout=_STOP_S, hard_stop=True)
        self._manager.destroy()

    async def _prompt(self, request: TextRequest, choice: int) -> list[int]:
        """Return the tokens of the prompt of an answer, template included."""
        return await asyncio.to_thread(self._tokens, request, choice)

    def _tokens(self, request: TextRequest, choice: int) -> list[int]:
        if isinstance(request, CompletionRequest):
            prompt = request.prompts[choice // (request.n or 1)]
            if isinstance(prompt, str):
                return self._tokenizer.encode(prompt)
            if (worst := max(prompt)) >= self._vocabulary:
                raise BadRequestError(
                    f"The prompt has token {worst}; this model's go from 0 to"
                    f" {self._vocabulary - 1}.",
                    code="unknown_token",
                    param="prompt",
                )
            return prompt
        turns = [{"role": _role(m.role), "content": m.text} for m in request.messages]
        try:
            return self._tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # templates say no in their own words
            raise BadRequestError(
                f"This model's template does not take the conversation: {error}",
                code="invalid_request",
                param="messages",
            ) from error

    @contextmanager
    def _answering(
        self, prompt: list[int], request: TextRequest, limit: int
    ) -> Generator[asyncio.Queue[Any]]:
        """Have an answer made for the length of the block; its states come through the queue."""
        outputs: asyncio.Queue[Any] = asyncio.Queue()
        name, manager = uuid4().hex, self._manager
        manager.register_result_handler(name, outputs.put_nowait)
        try:
            begun = manager.add_request(
                prompt,
                request_id=name,
                max_new_tokens=limit,
                streaming=True,
                eos_token_id=self._ends,
                **self._sampling(request),
            )
            if begun is None:
                raise OverloadedError(
                    f"The model is {self.problem or 'stopping'}.", code="engine_unavailable"
                )
            yield outputs
        finally:
            manager.cancel_request(name)
            manager.output_router.result_handlers.pop(name, None)
            while not manager.output_router.output_queue.empty():  # for nobody any more
                manager.output_router.output_queue.get_nowait()

    def _sampling(self, request: TextRequest) -> dict[str, Any]:
        temperature = _first(request.temperature, self._own.temperature, 1.0)
        if temperature == 0:
            return {"temperature": 1.0, "top_k": 1, "top_p": 1.0}
        top_k = _first(getattr(request, "top_k", None), self._own.top_k, 0) or self._vocabulary
        return {
            "temperature": float(temperature),
            "top_k": min(int(top_k), self._vocabulary),
            "top_p": float(_first(request.top_p, self._own.top_p, 1.0)),
        }

    def _reason(self, tokens: list[int], spoken: Spoken) -> FinishReason:
        ended = spoken.stop is not None or (tokens and tokens[-1] in self._ends)
        return "stop" if ended else "length"


def _manager(model: Any, slots: int, context: int) -> Any:
    """Start the thread that answers, with memory for `slots` answers of `context` tokens each."""
    # Numbers unlike 1 and 0 alone bring in what samples; each request then brings its own.
    sampled = transformers.GenerationConfig(
        do_sample=True, temperature=0.5, top_k=2, top_p=0.5, eos_token_id=-1, pad_token_id=0
    )
    batching = transformers.ContinuousBatchingConfig(
        page_size=_PAGE,
        num_blocks=slots * (-(-context // _PAGE) + 1),
        max_batch_tokens=_ACCELERATED_CALL_TOKENS if accelerated(model) else _CALL_TOKENS,
        max_requests_per_batch=slots,
        safety_margin=0.0,  # there is room for all of them
        allow_block_sharing=False,  # how soon an answer begins must not tell what others asked
        auto_switch_to_flash=False,  # it would look for kernels on the network
        per_request_processors=True,
    )
    model.set_attn_implementation("sdpa")
    manager = model.init_continuous_batching(
        generation_config=sampled, continuous_batching_config=batching
    )
    manager.start()
    return manager


def _refuse_unknown(request: TextRequest) -> None:
    """Refuse what cannot be done here.

    Raises:
        BadRequestError: it names the field.
    """
    asked = [name for name in _PENALTIES if getattr(request, name)]
    if request.seed is not None:
        asked.append("seed")
    if request.logprobs is not None and request.logprobs is not False:
        asked.append("logprobs")
    if asked:
        raise _unsupported(f"{asked[0]} is unknown to models that run on torch.", asked[0])
    if isinstance(request, CompletionRequest):
        return
    refuse_images(request)
    if request.response_format is not None and request.response_format.type != "text":
        raise _unsupported(
            "Models that run on torch cannot be held to a format: leave out response_format, and a"
            " tool_choice that forces a call.",
            "response_format",
        )


def _unsupported(message: str, param: str) -> BadRequestError:
    return BadRequestError(message, code="unsupported_parameter", param=param)


def _prompt_numbers(request: TextRequest) -> range:
    """The first answer of each prompt."""
    if isinstance(request, ChatRequest):
        return range(1)
    return range(0, request.choices, request.n or 1)


def _ends(*given: int | list[int] | None) -> list[int]:
    """The tokens that end an answer; -1 is none."""
    found: set[int] = set()
    for tokens in given:
        found |= {tokens} if isinstance(tokens, int) else set(tokens or ())
    return sorted(found) or [-1]


def _role(role: str) -> str:
    return "system" if role == "developer" else role


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
