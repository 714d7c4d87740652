"""The sampler under programs that wrap loaders: every latent as promised, or a refusal that says why."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.dataset.sampler import BucketBatchSampler
from semdis_cli.errors import UsageError
from tests.dataset.test_dataset import WIDE, set_by_hand
from tests.dataset.test_sampler import Items, make_items
from tests.extras import needs
from tests.store import make_shard

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

Batches = list[list[int]]

# What accelerate is known to lose of a sampler with `batch_size`: 19 items of three sizes, in batches of two.
NINETEEN = make_items(*[0] * 7 + [1] * 7 + [2] * 5)
any_items = st.lists(st.integers(0, 4), max_size=60).map(lambda buckets: make_items(*buckets))
any_options = st.fixed_dictionaries({"seed": st.none() | st.integers(0, 9), "drop_last": st.booleans()})


@pytest.fixture(autouse=True)
def _no_state_of_other_tests() -> Iterator[None]:
    """Accelerate keeps its state for the whole process."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def prepared(
    sampler: BucketBatchSampler, rank: int, world_size: int, dataset: Any = None, **options: Any
) -> DataLoader[Any]:
    """A loader as `accelerator.prepare` gives it to one of several processes."""
    items: Any = dataset or list(range(len(sampler._bucket_numbers)))
    loader = DataLoader(items, batch_sampler=sampler)
    given = {"device": torch.device("cpu"), "num_processes": world_size, "process_index": rank, **options}
    made: DataLoader[Any] = accelerate.data_loader.prepare_data_loader(loader, **given)
    return made


def batches_of_ranks(items: Items, batch_size: int, world_size: int, *, even: bool, **options: Any) -> list[Batches]:
    """Return what each process gets of a sampler that knows nothing of it. `len` must have said how much."""
    ranks = []
    for rank in range(world_size):
        loader = prepared(BucketBatchSampler(items, batch_size, **options), rank, world_size, even_batches=even)
        ranks.append([list(batch) for batch in loader.batch_sampler])  # type: ignore[union-attr]
        assert len(loader) == len(ranks[-1])
    return ranks


def keys_of(loader: Any) -> list[list[str]]:
    return [list(batch.key) for batch in loader]


def all_batches(ranks: list[Batches]) -> list[tuple[int, ...]]:
    return sorted(tuple(batch) for batches in ranks for batch in batches)


# --- Accelerate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_no_item_is_lost_where_short_batches_stand_in_the_middle(world_size: int, even: bool) -> None:
    ranks = batches_of_ranks(NINETEEN, 2, world_size, even=even, seed=0)
    served = [item for batch in all_batches(ranks) for item in batch]
    assert set(served) == set(range(19))
    assert even or len(served) == 19


@settings(deadline=None, max_examples=60)
@given(
    items=any_items,
    batch_size=st.integers(1, 9),
    world_size=st.sampled_from([1, 2, 3, 4, 8]),
    even=st.booleans(),
    options=any_options,
)
def test_processes_share_the_batches_as_they_are(
    items: Items, batch_size: int, world_size: int, even: bool, options: dict[str, Any]
) -> None:
    ranks = batches_of_ranks(items, batch_size, world_size, even=even, **options)
    there_are = Counter(map(tuple, BucketBatchSampler(items, batch_size, **options)))
    served = Counter(all_batches(ranks))
    assert set(served) == set(there_are)
    lengths = [len(batches) for batches in ranks]
    if even:
        assert len(set(lengths)) == 1
        assert 0 <= served.total() - there_are.total() < world_size
    else:
        assert served == there_are
        assert max(lengths) - min(lengths) <= 1


@settings(deadline=None, max_examples=30)
@given(items=any_items, batch_size=st.integers(1, 9), world_size=st.sampled_from([2, 3, 8]), even=st.booleans())
def test_batches_too_many_are_left_out_if_the_sampler_was_told_to(
    items: Items, batch_size: int, world_size: int, even: bool
) -> None:
    ranks = batches_of_ranks(items, batch_size, world_size, even=even, seed=1, uneven="drop")
    assert len({len(batches) for batches in ranks}) == 1
    served, there_are = all_batches(ranks), len(BucketBatchSampler(items, batch_size))
    assert len(set(served)) == len(served) == there_are // world_size * world_size


def test_batches_that_are_dealt_out_already_are_not_split_again() -> None:
    sampler = BucketBatchSampler(NINETEEN, 2, rank=0, world_size=2)
    with pytest.raises(UsageError, match="to 2 ranks, and a wrapper is about to split them again: leave out rank"):
        prepared(sampler, 0, 2)
    assert list(prepared(sampler, 0, 1)) != []  # alone, nothing is split


@pytest.mark.parametrize("world_size", [1, 2])
def test_accelerate_refuses_split_batches_of_a_sampler_that_tells_no_batch_size(world_size: int) -> None:
    with pytest.raises(ValueError, match="does not have the `batch_size` attribute"):
        prepared(BucketBatchSampler(NINETEEN, 2), 0, world_size, split_batches=True)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    """Seven latents of one size and four of another."""
    shards = make_shard(tuple("abcdefg")), make_shard(tuple("wxyz"), bucket=WIDE)
    return LatentDataset(set_by_hand(tmp_path_factory.mktemp("set") / "latents", *shards).root)


@pytest.mark.parametrize("seedable", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_epoch_has_its_order_without_anybody_telling_the_sampler(
    dataset: LatentDataset, world_size: int, seedable: bool
) -> None:
    options = {"use_seedable_sampler": seedable, "data_seed": 5, "even_batches": False}
    loaders = [
        prepared(BucketBatchSampler(dataset, 2, seed=3), rank, world_size, dataset, **options)
        for rank in range(world_size)
    ]
    by_hand = BucketBatchSampler(dataset, 2, seed=3)
    for epoch in range(3):
        by_hand.set_epoch(epoch)
        expected = [[dataset.key(item) for item in batch] for batch in by_hand]
        for rank, loader in enumerate(loaders):
            assert keys_of(loader) == expected[rank::world_size]


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_rest_of_an_epoch_is_had_by_skipping(dataset: LatentDataset, world_size: int) -> None:
    for rank in range(world_size):
        whole, again = (prepared(BucketBatchSampler(dataset, 2, seed=3), rank, world_size, dataset) for _ in range(2))
        whole.set_epoch(2)  # type: ignore[attr-defined]
        again.set_epoch(2)  # type: ignore[attr-defined]
        rest = accelerate.skip_first_batches(again, 1)
        assert keys_of(rest) == keys_of(whole)[1:]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_epoch_is_not_begun_anew_by_the_wrapper(dataset: LatentDataset, world_size: int) -> None:
    before = BucketBatchSampler(dataset, 2, seed=3)
    before.set_epoch(2)
    expected = [[dataset.key(item) for item in batch] for batch in before]
    state = json.loads(json.dumps(before.state(1 * world_size)))  # each process has done one
    for rank in range(world_size):
        after = BucketBatchSampler(dataset, 2, seed=3)
        loader = prepared(after, rank, world_size, dataset, even_batches=False)
        after.resume(state)
        with pytest.raises(UsageError, match="epoch 0, but the sampler was resumed in epoch 2"):
            list(loader)
        loader.set_epoch(2)  # type: ignore[attr-defined]
        assert keys_of(loader) == expected[world_size:][rank::world_size]
        assert len(keys_of(loader)) == len(expected[rank::world_size])  # the next epoch is a whole one


def test_gradients_are_accumulated_to_the_end_of_an_epoch(dataset: LatentDataset) -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = accelerator.prepare(torch.nn.Linear(1, 1))
    loader = accelerator.prepare(DataLoader(dataset, batch_sampler=BucketBatchSampler(dataset, 2)))
    syncs = []
    for batch in loader:
        with accelerator.accumulate(model):
            syncs.append(accelerator.sync_gradients)
            assert accelerator.gradient_state.remainder == -1  # nobody cuts gathered batches
            assert batch.latents.shape[0] == len(batch.key)
    assert syncs == [False, False, False, True, False, True]


IN_PROCESSES = """
import json, sys
from pathlib import Path

import accelerate
from torch.utils.data import DataLoader

from semdis_cli import BucketBatchSampler, LatentDataset

folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
dataset = LatentDataset(folder / "latents")
configuration = accelerate.DataLoaderConfiguration(**options)
accelerator = accelerate.Accelerator(cpu=True, dataloader_config=configuration)
loader = accelerator.prepare(DataLoader(dataset, batch_sampler=BucketBatchSampler(dataset, 2, seed=3)))
epochs = [[list(batch.key) for batch in loader] for _ in range(2)]
(folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(epochs))
accelerator.end_training()
"""


def run_in_processes(root: Path, options: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Two processes, as `accelerate launch` starts them."""
    (root / "script.py").write_text(IN_PROCESSES)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, str(root / "script.py"), str(root), json.dumps(options)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_share_each_epoch(dataset: LatentDataset) -> None:
    root = dataset.path.parent
    done = run_in_processes(root, {"even_batches": False})
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((root / f"rank-{rank}.json").read_text()) for rank in range(2)]
    for epoch in range(2):
        served = [key for rank in ranks for batch in rank[epoch] for key in batch]
        assert sorted(served) == sorted("abcdefgwxyz")
    assert ranks[0][0] != ranks[0][1]


@pytest.mark.slow
def test_accelerate_refuses_batches_that_one_process_reads_for_all_as_our_docs_say(dataset: LatentDataset) -> None:
    done = run_in_processes(dataset.path.parent, {"dispatch_batches": True})
    assert done.returncode != 0
    assert "Can only concatenate tensors but got <class 'str'>" in done.stderr


# --- others ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:'set_vital' is deprecated")
def test_torchdata_goes_on_within_an_epoch(dataset: LatentDataset, num_workers: int) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

    def loader_of_epoch(epoch: int) -> Any:
        sampler = BucketBatchSampler(dataset, 2, seed=3)
        sampler.set_epoch(epoch)
        return torchdata.StatefulDataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)

    before, after = loader_of_epoch(2), loader_of_epoch(2)
    expected = keys_of(loader_of_epoch(2))
    batches = iter(before)
    served = [list(next(batches).key) for _ in range(2)]
    after.load_state_dict(before.state_dict())
    assert served + keys_of(after) == expected


def run_script(root: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own: what its imports leave behind, other tests would find."""
    (root / "script.py").write_text(script)
    return subprocess.run(
        [sys.executable, str(root / "script.py"), str(root), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


WITH_HUGGING_FACE = """
import json, sys
from pathlib import Path

import torch
import transformers
from torch.utils.data import DataLoader

from semdis_cli import BucketBatchSampler, LatentDataset

folder = Path(sys.argv[1])
dataset = LatentDataset(folder / "latents")
seen = []


def collate(items):
    return {"latents": torch.stack([item.latents.float() for item in items]), "keys": [item.key for item in items]}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, latents, keys):
        seen.append(keys)
        return {"loss": (self.scale * latents).square().mean()}


class Trainer(transformers.Trainer):
    def get_train_dataloader(self):
        sampler = BucketBatchSampler(dataset, 2, seed=3)
        return self.accelerator.prepare(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate))


arguments = transformers.TrainingArguments(
    output_dir=str(folder / "trained"), num_train_epochs=2, report_to=[], save_strategy="no", use_cpu=True,
    disable_tqdm=True,
)
Trainer(model=Model(), args=arguments, train_dataset=dataset).train()
(folder / "seen.json").write_text(json.dumps(seen))
"""


@pytest.mark.slow
def test_the_hugging_face_trainer_sees_each_latent_once_an_epoch(dataset: LatentDataset) -> None:
    needs("transformers")
    root = dataset.path.parent
    done = run_script(root, WITH_HUGGING_FACE)
    if "Could not import module 'Trainer'" in done.stderr:  # it needs torchvision, and some builds do not suit torch
        pytest.skip(f"its trainer cannot be imported here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    sampler = BucketBatchSampler(dataset, 2, seed=3)
    expected = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        expected += [[dataset.key(item) for item in batch] for batch in sampler]
    assert json.loads((root / "seen.json").read_text()) == expected


WITH_LIGHTNING = """
import json, sys
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader

from semdis_cli import BucketBatchSampler, LatentDataset

folder, replaces = Path(sys.argv[1]), sys.argv[2] == "replaced"
dataset = LatentDataset(folder / "latents", dtype=torch.float32)


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.epochs = []

    def on_train_epoch_start(self):
        self.epochs.append([])

    def training_step(self, batch, _):
        self.epochs[-1].append(list(batch.key))
        return (self.scale * batch.latents).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self):
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        sampler = BucketBatchSampler(dataset, 2, seed=3, rank=rank, world_size=world_size, uneven="pad")
        return DataLoader(dataset, batch_sampler=sampler)

    def on_train_end(self):
        (folder / f"rank-{self.trainer.global_rank}.json").write_text(json.dumps(self.epochs))


if __name__ == "__main__":
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, use_distributed_sampler=replaces, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )
    trainer.fit(Model())
"""


@pytest.mark.slow
def test_lightning_leaves_the_sampler_alone_or_refuses_it(dataset: LatentDataset) -> None:
    needs("lightning")
    root = dataset.path.parent
    refused = run_script(root, WITH_LIGHTNING, "replaced")
    assert refused.returncode != 0
    assert "set `Trainer(use_distributed_sampler=False)`" in refused.stderr
    done = run_script(root, WITH_LIGHTNING, "left alone")
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((root / f"rank-{rank}.json").read_text()) for rank in range(2)]
    for epoch in range(2):
        for rank in range(2):
            sampler = BucketBatchSampler(dataset, 2, seed=3, rank=rank, world_size=2, uneven="pad")
            sampler.set_epoch(epoch)
            assert ranks[rank][epoch] == [[dataset.key(item) for item in batch] for batch in sampler]
