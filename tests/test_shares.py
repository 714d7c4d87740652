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


# As SLURM 22.05, Open MPI 4.1, MPICH 4.0 and torchrun set them.
ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"} | {
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "7",
    "SLURM_ARRAY_TASK_STEP": "1",
}
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_LOCALID": "0"}
STEP = BATCH | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0"}
A_TASK_A_NODE = STEP | {"SLURM_STEP_NUM_TASKS": "2"}  # the step by which mpirun starts its processes on two nodes
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "2"}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
LAUNCHED = {
    "a job array": (ARRAY, "3/8"),
    "a job array from 1": (ARRAY | {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "8"}, "2/8"),
    "a job array by steps": (
        {"SLURM_ARRAY_TASK_ID": "30", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"}
        | {"SLURM_ARRAY_TASK_STEP": "10", "SLURM_ARRAY_TASK_MAX": "40"},
        "2/4",
    ),
    "a batch script of a job array, of several tasks": (ARRAY | BATCH, "3/8"),
    "a step": (STEP, "1/4"),
    "a step in a job array": (ARRAY | STEP, "13/32"),
    "torchrun": (TORCHRUN, "5/16"),
    "torchrun in a step of a task a node": (TORCHRUN | A_TASK_A_NODE, "5/16"),
    "torchrun with one process in each task of a step": (STEP | {"RANK": "0", "WORLD_SIZE": "1"}, "1/4"),
    "Open MPI": (OPEN_MPI, "3/4"),
    "Open MPI in an allocation of SLURM": (OPEN_MPI | A_TASK_A_NODE, "3/4"),
    "MPICH in an allocation of SLURM": (MPICH | A_TASK_A_NODE, "3/4"),
    "Grid Engine": ({"SGE_TASK_ID": "3", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "8", "SGE_TASK_STEPSIZE": "1"}, "2/8"),
    "Grid Engine by steps": (
        {"SGE_TASK_ID": "9", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "10", "SGE_TASK_STEPSIZE": "4"},
        "2/3",
    ),
    "AWS Batch": ({"AWS_BATCH_JOB_ARRAY_INDEX": "2", "AWS_BATCH_JOB_ARRAY_SIZE": "8"}, "2/8"),
    "Google Cloud Batch": ({"BATCH_TASK_INDEX": "2", "BATCH_TASK_COUNT": "8"}, "2/8"),
    "Cloud Run": ({"CLOUD_RUN_TASK_INDEX": "2", "CLOUD_RUN_TASK_COUNT": "8"}, "2/8"),
}


@pytest.mark.parametrize("case", LAUNCHED)
def test_a_launcher_says_which_share(case: str) -> None:
    environment, wanted = LAUNCHED[case]
    launched = find_launched(environment)
    assert launched is not None
    assert launched.share == Share.parse(wanted)


ALONE = {
    "nothing": {},
    "one process": {"RANK": "0", "WORLD_SIZE": "1"},
    "a batch script of a job with several tasks": BATCH,
    "a task a node, by which others are started": {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    "a shell within an allocation": {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},
    "an array of one": {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "1"}
    | {"SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_MAX": "5"},
    "a job of Grid Engine that is no array": {"SGE_TASK_ID": "undefined", "SGE_TASK_LAST": "undefined"},
    "half of it": {"RANK": "3"},
    "no numbers": {"RANK": "three", "WORLD_SIZE": "four"},
}


@pytest.mark.parametrize("case", ALONE)
def test_a_process_alone_has_no_share(case: str) -> None:
    assert find_launched(ALONE[case]) is None


WRONG = {
    "an array with gaps, --array=3,7": ARRAY
    | {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "7"},
    "a task before the gap, --array=0-3,8": ARRAY | {"SLURM_ARRAY_TASK_COUNT": "5", "SLURM_ARRAY_TASK_MAX": "8"},
    "numbers between steps, --array=2-8:2,3": {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "5"}
    | {"SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_MAX": "8", "SLURM_ARRAY_TASK_STEP": "2"},
    "a task beyond the last": {"SGE_TASK_ID": "9", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "8"},
    "a rank beyond the world": {"RANK": "4", "WORLD_SIZE": "4"},
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_share_is_refused_with_the_way_out(case: str) -> None:
    with pytest.raises(UsageError, match="--part none"):
        find_launched(WRONG[case])


LOCAL = {
    "torchrun": (TORCHRUN, 1),
    "Open MPI, in a step of a task a node": (OPEN_MPI | A_TASK_A_NODE, 2),
    "MPICH, in a step of a task a node": (MPICH | A_TASK_A_NODE, 2),
    "a step": (STEP | {"SLURM_LOCALID": "1"}, 1),
    "a step with --mpi=pmi2": (STEP | {"SLURM_LOCALID": "1", "PMI_RANK": "1", "PMI_SIZE": "4"}, 1),
    "a batch script": (BATCH, None),
    "an array with gaps": (ARRAY | BATCH | {"SLURM_ARRAY_TASK_COUNT": "2"}, None),
}


@pytest.mark.parametrize("case", LOCAL)
def test_a_share_that_is_given_counts_and_the_launcher_still_knows_the_place_on_the_machine(case: str) -> None:
    environment, local_rank = LOCAL[case]
    assert find_launched(environment, Share(0, 2)) == Launched(Share(0, 2), local_rank=local_rank)


def test_the_line_on_it_says_by_what() -> None:
    assert find_launched(TORCHRUN) == Launched(Share(5, 16), "RANK=5, WORLD_SIZE=16", local_rank=1)
