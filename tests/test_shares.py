"""Shares of a run: who gets what, and what launchers say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import UsageError
from semdis_cli.shares import Launched, Share, find_launched

COUNTS = st.integers(1, 40)


@given(st.integers(0, 300), COUNTS)
def test_every_item_is_dealt_to_one_share_and_the_shares_differ_by_one_at_most(number: int, count: int) -> None:
    dealt = [Share(index, count).deal(range(number)) for index in range(count)]
    assert sorted(item for items in dealt for item in items) == list(range(number))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@given(COUNTS, st.data())
def test_a_share_is_read_as_it_is_written(count: int, data: st.DataObject) -> None:
    share = Share(data.draw(st.integers(0, count - 1)), count)
    assert Share.parse(str(share)) == share == Share.named(share.name)


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "-1/2", "1.0/2", "1/2/3", "a/b", "1 /2", "٣/٤", "0/12345678"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="a part is written i/n"):
        Share.parse(text)


@pytest.mark.parametrize(("text", "why"), [("2/2", "from 0 to 1"), ("8/8", "from 0 to 7"), ("0/0", "1 to 1,000,000")])
def test_a_part_that_is_none_is_refused_with_the_numbers_that_there_are(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Share.parse(text)


def test_none_is_all_of_it() -> None:
    assert Share.parse("none") is None


@pytest.mark.parametrize("name", ["0", "0.jsonl", "3-of-2", "03-of-8", "3-of-08", "a-of-b", "3-of-8-of-9", "-1-of-2"])
def test_other_names_are_no_share_s(name: str) -> None:
    assert Share.named(name) is None


ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
STEP = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "16"}
LAUNCHED = {
    "a job array from 0": (ARRAY, "3/8"),
    "a job array from 1": ({**ARRAY, "SLURM_ARRAY_TASK_MIN": "1"}, "2/8"),
    "a job array by steps": (
        {"SLURM_ARRAY_TASK_ID": "30", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"}
        | {"SLURM_ARRAY_TASK_STEP": "10"},
        "2/4",
    ),
    "a step": (STEP, "1/4"),
    "a step of an earlier version": ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, "1/4"),
    "a step in a job array": (ARRAY | STEP, "13/32"),
    "torchrun": (TORCHRUN, "5/16"),
    "torchrun in a step of one process": (TORCHRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, "5/16"),
}


@pytest.mark.parametrize("case", LAUNCHED)
def test_a_launcher_says_which_share(case: str) -> None:
    environment, wanted = LAUNCHED[case]
    launched = find_launched(environment)
    assert launched is not None
    assert launched.share == Share.parse(wanted)
    assert all(f"{name}={environment[name]}" in launched.by for name in ("RANK",) if name in environment)


ALONE = {
    "nothing": {},
    "one process": {"RANK": "0", "WORLD_SIZE": "1"},
    "a batch script of a job with several tasks": {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},
    "a shell within an allocation": {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},
    "an array of one": {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1"},
    "half of it": {"RANK": "3"},
    "no numbers": {"RANK": "three", "WORLD_SIZE": "four"},
}


@pytest.mark.parametrize("case", ALONE)
def test_a_process_alone_has_no_share(case: str) -> None:
    assert find_launched(ALONE[case]) is None


WRONG = {
    "an array with gaps": {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3"},
    "a rank beyond the world": {"RANK": "4", "WORLD_SIZE": "4"},
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_share_is_refused_with_the_way_out(case: str) -> None:
    with pytest.raises(UsageError, match="--part none"):
        find_launched(WRONG[case])


def test_a_share_that_is_given_counts_and_the_launcher_still_knows_the_place_on_the_machine() -> None:
    assert find_launched(TORCHRUN | {"LOCAL_RANK": "3"}, Share(0, 2)) == Launched(Share(0, 2), local_rank=3)
    assert find_launched(STEP | {"SLURM_LOCALID": "1"}, Share(0, 2)) == Launched(Share(0, 2), local_rank=1)
    assert find_launched({"SLURM_LOCALID": "1"}, Share(0, 2)) == Launched(Share(0, 2))


def test_the_line_on_it_says_by_what() -> None:
    assert find_launched(TORCHRUN) == Launched(Share(5, 16), "RANK=5, WORLD_SIZE=16")
