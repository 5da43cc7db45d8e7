"""Moderation by any server that speaks OpenAI's `/moderations`."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, get_args

from galley.engines.http_json import a
from galley.engines.http_patience import ENDLESS, Patience
from galley.engines.http_upstream import Upstream
from galley.engines.openai_http import bearer
from galley.schemas.moderations import Category, ModerationRequest, ModerationResult

_CATEGORIES: tuple[Category, ...] = get_args(Category)


class OpenAIHttpModerator:
    """A moderator on the other end of a connection.

    Args:
        url: the base URL, up to and including `/v1`.
        model: the model's name over there.
        api_key: sent as a bearer token.
        headers: sent with every request.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None,
        headers: Mapping[str, str] | None = None,
        patience: Patience = ENDLESS,
    ) -> None:
        self.hardware = "another server"
        self._model = model
        self._upstream = Upstream(
            url, model, key=bearer(api_key), headers=headers or {}, patience=patience
        )

    @property
    def problem(self) -> str | None:
        return self._upstream.problem

    async def look(self) -> None:
        """Find out whether anybody is there; `problem` says so from then on."""
        await self._upstream.look()

    async def judge(self, request: ModerationRequest) -> list[ModerationResult]:
        given = request.model_dump(mode="json", include={"input"}, exclude_none=True)
        answer = await self._upstream.ask("/moderations", {"model": self._model, **given})
        try:
            results = [_result(found) for found in a(list, answer.get("results"))]
            if len(results) != len(request.texts):
                raise ValueError(f"{len(results)} of {len(request.texts)}")
        except ValueError as error:
            raise self._upstream.faults.failure(f"it sent no judgement: {error}") from error
        return results

    async def aclose(self) -> None:
        await self._upstream.aclose()


def _result(found: Any) -> ModerationResult:
    """Read one result; categories that are not OpenAI's are left out.

    Raises:
        ValueError: it is none.
    """
    result = a(dict, found)
    named, scored = a(dict, result.get("categories")), a(dict, result.get("category_scores"))
    types = a(dict, result.get("category_applied_input_types"))
    return ModerationResult(
        flagged=a(bool, result.get("flagged")),
        categories={name: a(bool, named.get(name)) for name in _CATEGORIES},
        category_scores={name: _score(scored.get(name)) for name in _CATEGORIES},
        category_applied_input_types={
            name: [kind for kind in a(list, types.get(name)) if kind in ("text", "image")]
            for name in _CATEGORIES
        },
    )


def _score(found: Any) -> float:
    if found is None:
        return 0.0
    if type(found) not in (int, float) or not isfinite(found):
        raise ValueError(f"a score of {found!r}")
    return float(found)
