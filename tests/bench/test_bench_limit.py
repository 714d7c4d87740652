"""The arithmetic of a bench: medians and shares, the limit, what binds and what would help."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.bench.limit import (
    Limit,
    Reached,
    Resource,
    Setting,
    Spread,
    StageCost,
    explain,
    find_limit,
    with_cost,
    with_threads,
)
from semdis_cli.bench.peers import compare
from semdis_cli.bench.timing import Effort, Rounds, time_rounds

SECONDS = st.floats(1e-6, 1e3)


def stage(
    name: str, thread_s: float, *, resource: Resource = "cores", num_threads: int = 2, cpu_s: float = 0.0
) -> StageCost:
    """A stage that takes so many seconds of a thread for an image."""
    return StageCost.of(name, resource, num_threads, 10, [(10 * thread_s, 10 * cpu_s)])


# ---- Rounds ----


@settings(deadline=None)
@given(st.lists(SECONDS, min_size=1, max_size=20))
def test_a_spread_has_the_median_between_its_quartiles(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.num_rounds == len(values)
    assert math.isclose(spread.median, statistics.median(values))
    assert min(values) <= spread.lower_quartile <= spread.median * (1 + 1e-12)
    assert spread.median <= spread.upper_quartile * (1 + 1e-12) <= max(values) * (1 + 2e-12)


def test_quartiles_lie_between_the_values_beside_them() -> None:
    assert Spread.of([4.0, 1.0, 3.0, 2.0]) == Spread(2.5, 1.75, 3.25, 4)


def test_rates_and_unit_times_are_the_inverse_of_one_another() -> None:
    rounds = Rounds(8, (2.0, 4.0, 16.0))
    assert rounds.rate() == Spread(2.0, 1.25, 3.0, 3)
    assert rounds.rate(0.5).median == 1.0
    assert rounds.unit_s().median == 0.5


def test_what_is_timed_runs_warm_first_and_then_in_equal_rounds() -> None:
    asked: list[int] = []
    rounds = time_rounds(asked.append, Effort(2, 3, 1e-6), multiple=4)
    assert asked[:3] == [4, 4, 4]
    assert asked[3:] == [rounds.num_units] * 3
    assert rounds.num_units % 4 == 0
    assert all(seconds > 0 for seconds in rounds.seconds)


def test_a_stage_that_was_measured_at_two_times_counts_both() -> None:
    costs = [StageCost.of("model", "cores", 2, 4, [(seconds, seconds / 2)]) for seconds in (4.0, 12.0)]
    both = StageCost.over(costs)
    assert both.thread_s_per_image == Spread(2.0, 1.0, 3.0, 2)
    assert (both.cpu_s_per_image, both.images_per_s) == (1.0, 1.0)
    assert (both.name, both.num_threads, both.num_images) == ("model", 2, 4)


# ---- The limit ----


def test_stages_on_the_same_cores_take_turns() -> None:
    limit = find_limit([stage("read", 0.03), stage("model", 0.01)], num_threads=2)
    assert limit.images_per_s == pytest.approx(1 / (0.03 / 2 + 0.01 / 2))
    assert limit.resource == "cores"
    assert limit.stages == {"read": pytest.approx(0.75), "model": pytest.approx(0.25)}
    assert list(limit.stages) == ["read", "model"]
    assert limit.without_first_images_per_s == pytest.approx(1 / (0.01 / 2))


def test_an_accelerator_works_beside_the_cores() -> None:
    stages = [stage("read", 0.03), stage("model", 0.02, resource="accelerator", num_threads=1)]
    limit = find_limit(stages, num_threads=2)
    assert limit.resource == "accelerator"
    assert limit.images_per_s == pytest.approx(50)
    assert limit.stages == {"model": 1.0}
    assert limit.without_first_images_per_s == pytest.approx(2 / 0.03)


def test_what_the_host_computes_for_an_accelerator_takes_cores() -> None:
    model = stage("model", 0.002, resource="accelerator", num_threads=2, cpu_s=0.05)
    limit = find_limit([stage("read", 0.03), model], num_threads=2)
    assert limit.resource == "cores"
    assert limit.images_per_s == pytest.approx(2 / (0.03 + 0.05))
    assert limit.binding_stage == "model"


def test_waiting_for_the_disk_takes_no_core_but_what_is_computed_meanwhile_does() -> None:
    stages = [stage("read", 0.02), stage("publish", 0.008, resource="disk", num_threads=4, cpu_s=0.004)]
    limit = find_limit(stages, num_threads=2)
    assert limit.resource == "cores"
    assert limit.images_per_s == pytest.approx(1 / (0.02 / 2 + 0.004 / 2))
    slow = [stages[0], stage("publish", 0.4, resource="disk", num_threads=4)]
    assert find_limit(slow, num_threads=2).resource == "disk"


def test_a_single_stage_leaves_nothing_without_it() -> None:
    assert find_limit([stage("model", 0.5)], num_threads=2).without_first_images_per_s is None


@settings(deadline=None)
@given(st.lists(st.tuples(SECONDS, st.sampled_from(["cores", "accelerator", "disk"])), min_size=1, max_size=6))
def test_no_stage_is_slower_than_the_limit_and_its_shares_add_up(costs: list[tuple[float, Resource]]) -> None:
    stages = [stage(f"{number}", seconds, resource=name) for number, (seconds, name) in enumerate(costs)]
    limit = find_limit(stages, num_threads=2)
    assert all(limit.images_per_s <= one.images_per_s * (1 + 1e-9) for one in stages)
    assert sum(limit.stages.values()) == pytest.approx(1)
    shares = list(limit.stages.values())
    assert shares == sorted(shares, reverse=True)
    without = limit.without_first_images_per_s
    assert without is None or without >= limit.images_per_s * (1 - 1e-9)


@settings(deadline=None)
@given(st.lists(SECONDS, min_size=1, max_size=5), st.integers(1, 64))
def test_twice_the_threads_are_twice_the_rate_where_cores_bind(seconds: list[float], num_threads: int) -> None:
    stages = [stage(f"{number}", one, num_threads=num_threads) for number, one in enumerate(seconds)]
    limit = find_limit(stages, num_threads)
    more = find_limit(with_threads(stages, num_threads, 2 * num_threads), 2 * num_threads)
    assert more.images_per_s == pytest.approx(2 * limit.images_per_s)


def test_calls_of_several_threads_have_fewer_threads_that_make_them() -> None:
    stages = [stage("reading", 0.01, num_threads=8), stage("model", 0.1, num_threads=2)]
    reading, model = with_threads(stages, 8, 16)
    assert (reading.num_threads, model.num_threads) == (16, 4)
    [least] = with_threads([stage("model", 0.1, num_threads=1)], 8, 4)
    assert least.num_threads == 1


def test_another_cost_takes_the_place_of_the_stage_of_its_name() -> None:
    stages = [stage("model", 0.02), stage("writing images", 0.1)]
    changed = with_cost(stages, stage("writing images", 0.01))
    assert [one.name for one in changed] == ["model", "writing images"]
    assert find_limit(changed, 2).images_per_s == pytest.approx(2 / 0.03)


# ---- What a person reads ----

WAITED = Reached(share_of_limit=0.5, wait_share=0.25)


def test_the_binding_stage_is_named_with_its_share_and_what_is_left_without_it() -> None:
    limit = find_limit([stage("reading images", 0.03), stage("model encode", 0.01)], num_threads=2)
    text = explain("encode", limit, Reached(0.95, 0.05), [])
    assert text == (
        "encode is bound by reading images: it takes 75% of the threads' time, model encode 25%. "
        "Were it free, the limit would be 200.0 images/s instead of 50.0."
    )


def test_only_a_setting_that_helps_is_advised_and_the_best_of_them() -> None:
    limit = Limit(10.0, "cores", {"writing images": 1.0}, None)
    others = [Setting("--format webp", 5.0), Setting("--format jpg", 30.0), Setting("--workers 4", 20.0)]
    assert explain("decode", limit, Reached(1.0, 0.0), others).endswith(
        "--format jpg would raise the limit from 10.0 to 30.0 images/s."
    )
    assert "--format webp" not in explain("decode", limit, Reached(1.0, 0.0), others[:1])


def test_a_run_that_falls_short_says_how_much_was_waiting_and_how_much_was_slower() -> None:
    assert pytest.approx(1.5) == WAITED.slowdown
    cores = Limit(10.0, "cores", {"reading images": 1.0}, None)
    assert explain("encode", cores, WAITED, []).endswith(
        "The run reached 50% of the limit: threads waited for 25% of their time, and beside each other the stages took "
        "1.5 times as long as by themselves."
    )
    accelerator = Limit(10.0, "accelerator", {"model encode": 1.0}, None)
    assert "times as long" not in explain("encode", accelerator, WAITED, [])
    assert explain("encode", cores, Reached(0.75, 0.25), []).endswith("threads waited for 25% of their time.")


def test_a_ratio_is_that_of_rounds_that_followed_one_another() -> None:
    found = compare([(10.0, 1.0), (40.0, 2.0), (90.0, 3.0)], "NCHW")
    assert found.images_per_s.median == 40.0
    assert found.peer_images_per_s.median == 2.0
    assert found.ratio == Spread(20.0, 15.0, 25.0, 3)
