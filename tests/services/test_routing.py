"""Plans: pure, so that properties can be tested."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from galley.core.catalogue import RouteSettings
from galley.services.routing import Plan, plan

MODELS = ("big", "small", "tiny")
names = st.sampled_from(MODELS)
routes = st.builds(
    RouteSettings,
    targets=st.dictionaries(names, st.floats(0, 100), min_size=1).filter(lambda t: any(t.values())),
    fallbacks=st.lists(names, max_size=4).map(tuple),
)


def route(targets: dict[str, float], *fallbacks: str) -> RouteSettings:
    return RouteSettings(targets=targets, fallbacks=fallbacks)


def test_a_models_own_name_is_a_plan_of_itself() -> None:
    assert plan("big", {}, MODELS, user_id="u") == Plan(("big",))


def test_a_name_that_nothing_has_is_no_plan() -> None:
    assert plan("big*", {"smart": route({"big": 1})}, MODELS, user_id="u") is None


def test_a_route_goes_before_the_model_of_its_name() -> None:
    found = plan("big", {"big": route({"big": 1}, "small")}, MODELS, user_id="u")

    assert found == Plan(("big", "small"), "big")


def test_the_longest_wildcard_that_fits_is_taken_and_a_model_before_any() -> None:
    known = {"*": route({"tiny": 1}), "gpt-*": route({"small": 1}), "gpt-5*": route({"big": 1})}

    def first(asked: str) -> str:
        found = plan(asked, known, MODELS, user_id="u")
        assert found is not None
        return found.models[0]

    assert [first(n) for n in ("gpt-5-mini", "gpt-4o", "claude", "big")] == [
        "big", "small", "tiny", "big",
    ]  # fmt: skip


@given(route=routes, user_id=st.text())
def test_a_plan_begins_with_a_target_and_then_has_every_fallback_once(
    route: RouteSettings, user_id: str
) -> None:
    found = plan("r", {"r": route}, (), user_id=user_id)

    assert found is not None
    first, *others = found.models
    assert route.targets[first] > 0
    assert len(set(others)) <= len(others) <= len(route.fallbacks)
    assert set(others) == set(route.fallbacks) - {first}
    assert found.arm == (first if len(route.targets) > 1 else None)
    assert found == plan("r", {"r": route}, (), user_id=user_id)


def test_users_are_spread_by_weight_and_stay_where_they_are() -> None:
    known = {"r": route({"big": 90, "small": 10})}
    drawn = {f"user-{n}": plan("r", known, (), user_id=f"user-{n}") for n in range(2000)}

    shares = Counter(found.arm for found in drawn.values() if found)

    assert 1740 < shares["big"] < 1860  # within 4.5 standard deviations
    wider = {"r": route({"big": 80, "small": 20})}
    moved = [u for u, p in drawn.items() if p and p.arm == "small" and
             (found := plan("r", wider, (), user_id=u)) and found.arm == "big"]  # fmt: skip
    assert moved == []  # a canary that grows loses nobody
