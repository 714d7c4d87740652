"""Shares of the small set of the tests: written in part, as a whole, or left unfinished."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semdis_cli.shares import Share
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing.set_share import SetShareWriter
from tests.store import SmallPlan, hashes_of, make_plan, write_next


@contextmanager
def opened(root: Path, share: str, plan: SmallPlan | None = None) -> Iterator[SetShareWriter]:
    """A share that has begun."""
    plan, parsed = plan or make_plan(), Share.parse(share)
    assert parsed is not None
    with SetShareWriter(root, plan.provenance, parsed) as latents:
        assert latents.begin(plan.on(latents.base), hashes_of)
        yield latents


def write_share(root: Path, share: str, plan: SmallPlan | None = None, most: int = 1000) -> Manifest | None:
    """Write a share, or `most` shards of it; the manifest, if the set is finished with it."""
    with opened(root, share, plan) as latents:
        while latents.remaining:
            if most == 0:
                return None
            write_next(latents)
            most -= 1
        return latents.finish()


def leave_unfinished(root: Path, plan: SmallPlan | None = None) -> None:
    """Write all shards by two parts, the second of which does not get to the end."""
    write_share(root, "0/2", plan)
    with opened(root, "1/2", plan) as latents:
        while latents.remaining:
            write_next(latents)
