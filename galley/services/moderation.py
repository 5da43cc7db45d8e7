"""What a text is about that may not be welcome: by a model, or by rules looked up in it."""

import asyncio
import re
import tomllib
from collections.abc import Mapping
from concurrent.futures import Executor
from functools import cache
from importlib.resources import files
from typing import Any, cast, get_args

from galley.core.errors import BadRequestError, NotFoundError
from galley.engines.base import Moderator
from galley.schemas.moderations import Category, ModerationRequest, ModerationResult
from galley.services.charge import Charge
from galley.services.dispatch import Dispatch
from galley.services.metering import Meter
from galley.services.models import Loaded, Models, Replica
from galley.services.routing import Plan

MODEL = "galley-moderation"
"""The rules, as a model: in the ledger and in prices."""

DEFAULT = "galley/moderation"

NAMES = frozenset(
    {
        MODEL, DEFAULT, "omni-moderation-latest", "omni-moderation-2024-09-26",
        "text-moderation-latest", "text-moderation-stable", "text-moderation-007",
    }
)  # fmt: skip
"""What the rules answer to, where no model does: the names that OpenAI's clients send, too."""

THRESHOLD = 0.5
MAX_CHARACTERS = 200_000
"""Of all texts of a request together."""

LONGEST_MATCH = 400
_SHORT = 4_096
_SLICE = 16_384
_CATEGORIES: tuple[Category, ...] = get_args(Category)


class ModerationService:
    """Judges texts: by the default model for it, where one is set, or else by the rules.

    Args:
        heavy: where long texts are read.
    """

    def __init__(self, models: Models, meter: Meter, dispatch: Dispatch, heavy: Executor) -> None:
        self._models = models
        self._meter = meter
        self._dispatch = dispatch
        self._heavy = heavy

    async def judge(self, charge: Charge, request: ModerationRequest) -> list[ModerationResult]:
        """Return one result per text.

        Raises:
            NotFoundError: there is no such model.
            BadRequestError: there are images that nobody here can judge, or too much text.
            RateLimitError: the caller is over a limit.
            EngineError, OverloadedError: the model does not answer.
        """
        record, texts = charge.record, request.texts
        record.model = request.model
        plan = self._plan(charge, request.model)
        if plan is None:
            record.served_model = MODEL
            _check(request, sees=False)
            await self._meter.admit(charge, MODEL, texts=len(texts))
            results = await self._looked_up(texts)
        else:
            models = self._models.moderators(plan)
            record.route, record.arm, record.served_model = plan.route, plan.arm, models[0].name
            _check(request, sees=all(model.settings.sees for model in models))
            await self._meter.admit(charge, *(model.name for model in models), texts=len(texts))

            async def ask(
                model: Loaded[Moderator], replica: Replica[Moderator]
            ) -> list[ModerationResult]:
                await self._meter.enter(charge, model.name)
                return await replica.engine.judge(request)

            results = await self._dispatch.call(models, charge.attempts, ask)
        record.units = len(texts)
        return results

    def _plan(self, charge: Charge, name: str) -> Plan | None:
        """Say which models to ask; None for the rules."""
        if name not in NAMES:
            return self._models.plan(name, charge.caller)
        if name == MODEL:
            return None
        try:
            return self._models.plan(DEFAULT, charge.caller)
        except NotFoundError:
            return None

    async def _looked_up(self, texts: list[str]) -> list[ModerationResult]:
        if sum(map(len, texts)) <= _SHORT:
            return [judge(text) for text in texts]
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(self._heavy, judge, text) for text in texts]


def _check(request: ModerationRequest, *, sees: bool) -> None:
    """Refuse what cannot be judged."""
    if request.images and not sees:
        raise BadRequestError(
            "Images are not judged here, texts alone: leave them out.",
            code="unsupported_content",
            param=f"input[{request.images[0]}]",
        )
    if (length := sum(map(len, request.texts))) > MAX_CHARACTERS:
        raise BadRequestError(
            f"The texts have {length} characters together; at most {MAX_CHARACTERS} are read.",
            code="context_length_exceeded",
            param="input",
        )


def judge(text: str) -> ModerationResult:
    """Say what a text is about."""
    scores: dict[Category, float] = dict.fromkeys(_CATEGORIES, 0.0)
    for category, score, pattern in rules():
        if score > scores[category] and _is_in(pattern, text):
            scores[category] = score
    for category in _CATEGORIES:
        whole = cast("Category", category.partition("/")[0])
        scores[whole] = max(scores[whole], scores[category])
    categories: dict[Category, bool] = {name: scores[name] >= THRESHOLD for name in _CATEGORIES}
    return ModerationResult(
        flagged=any(categories.values()),
        categories=categories,
        category_scores=scores,
        category_applied_input_types={name: ["text"] for name in _CATEGORIES},
    )


@cache
def rules() -> tuple[tuple[Category, float, re.Pattern[str]], ...]:
    """Return every rule: its category, how sure it is, and what it looks for."""
    found = tomllib.loads(files("galley.services").joinpath("moderation_rules.toml").read_text())
    return tuple(
        (rule["category"], rule["score"], re.compile(_written(rule, found["words"]), re.IGNORECASE))
        for rule in found["rule"]
    )


def _written(rule: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Write a rule's pattern out; a space is any white space, an apostrophe either of the two."""
    pattern: str = rule["pattern"]
    for name, listed in words.items():
        pattern = pattern.replace(f"${name}", listed)
    return pattern.replace(" ", r"\s{1,4}").replace("'", "['\u2019]")


def _is_in(pattern: re.Pattern[str], text: str) -> bool:
    """Look for it piece by piece: a search keeps everybody else waiting while it lasts."""
    return any(
        pattern.search(text, place, place + _SLICE + LONGEST_MATCH)
        for place in range(0, len(text) or 1, _SLICE)
    )
