"""What a load needs, worked out by hand for round costs."""

from dataclasses import replace

import pytest

from benchmarks.capacity_model import HEADROOM, Costs, Load, most_requests_per_s, plan

COSTS = Costs(
    alone_s=0.001,
    server_s=0.002,
    redis_s=0.0001,
    postgres_s=0.0004,
    stream_s=0.003,
    chunk_s=0.00001,
    http=2_000,
    chunk=250,
    redis_operations=20,
    redis_traffic=3_000,
    row=400,
    receipt=600,
    hour=300,
    log=1_500,
    sqlite_request=900,
)
WHOLE = Load(1_000, streamed=0)


def test_what_fits_on_one_core_is_one_server_with_nothing_beside_it() -> None:
    made = plan(COSTS, Load(100, streamed=0))

    assert (made.alone, made.servers, made.server_cores) == (True, 1, pytest.approx(0.1))
    assert (made.redis_cores, made.postgres_cores, made.log_per_s) == (0, 0, 0)


def test_more_is_several_servers_that_share_and_each_has_room_to_spare() -> None:
    made = plan(COSTS, WHOLE)

    assert not made.alone
    assert made.server_cores == pytest.approx(2.0)
    assert made.server_cores / made.servers <= HEADROOM < made.server_cores / (made.servers - 1)
    assert made.redis_operations_per_s == pytest.approx(20_000)
    assert made.postgres_cores == pytest.approx(0.4)
    assert made.rows_per_s == 1_000


def test_servers_that_share_are_at_least_two_so_that_one_may_be_gone() -> None:
    made = plan(COSTS, Load(601, streamed=0))

    assert made.servers >= 2


def test_a_stream_costs_its_own_and_that_of_its_chunks_in_place_of_a_whole_answers() -> None:
    made = plan(COSTS, replace(WHOLE, streamed=1.0, chunks=100))

    # 2 ms of sharing and the 2 ms that a stream costs alone more than a whole answer, and 1 ms.
    assert made.server_cores == pytest.approx(1_000 * (0.002 + 0.002 + 0.001))
    assert made.traffic_per_s == pytest.approx(1_000 * (2_000 + 100 * 250))


def test_where_a_redis_is_full_there_are_several_installations() -> None:
    assert plan(COSTS, WHOLE).installations == 1
    assert plan(COSTS, replace(WHOLE, requests_per_s=100_000)).installations == 17


def test_storage_grows_with_requests_and_what_is_deleted_goes_again() -> None:
    load = replace(WHOLE, keys=10, days=30, receipt_days=7)
    requests, sums = 86_400_000, 10 * 24 * 300

    made = plan(COSTS, load)

    assert made.day == pytest.approx(requests * 1_000 + sums)
    assert made.month == pytest.approx(requests * 400 * 30)
    assert made.kept == pytest.approx(requests * (400 * 30 + 600 * 7) + sums * 365)


def test_on_sqlite_a_request_is_kept_as_one_size() -> None:
    made = plan(COSTS, Load(10, streamed=0, keys=0, days=90))

    assert made.day == pytest.approx(864_000 * 900)
    assert made.kept == pytest.approx(90 * made.day)


@pytest.mark.parametrize(
    ("servers", "cores", "most"),
    [(1, 64, 500), (2, 64, 1_000), (8, 2, 2 / (0.002 + 0.0001 + 0.0004 + 0.0005))],
)
def test_servers_are_full_before_the_machine_is_or_after_it(
    servers: int, cores: int, most: float
) -> None:
    said = most_requests_per_s(COSTS, servers=servers, cores=cores, load_s=0.0005)

    assert said == pytest.approx(most)
