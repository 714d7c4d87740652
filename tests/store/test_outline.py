"""The outline of a plan: what was written is read again, whatever names are made of; what is damaged is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.store.writing.changes import Changes
from semdis_cli.store.writing.outline import Outline, OutlinedShard, outline_of

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8) | st.text(
    st.sampled_from('a"\\\n\udc80\udcff\ue080\uf000'), min_size=1, max_size=8
)
counts, times = st.integers(0, 2**40), st.none() | st.integers(-5, 2**62)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
sizes = st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096))
shards = st.builds(
    lambda number, images: OutlinedShard(f"{number:08d}-1x2.safetensors", images), st.integers(0, 99), counts
)
failures = st.builds(Failure, names, names, st.none() | counts, times, times)
left_out = st.builds(LeftOut, names, st.sampled_from(["min-size", "dedupe"]), counts, times, times, sizes, digests)
keys = st.frozensets(names, max_size=3)
changes = st.builds(
    lambda returned, removed, forgotten, set_aside: Changes(
        returned=returned, removed=removed, forgotten=forgotten, set_aside=set_aside
    ),
    *(keys, keys, keys),
    st.dictionaries(names, st.sampled_from(["min-size", "dedupe"]), max_size=3),
)
outlines = st.builds(
    Outline,
    sha256=digests,
    shards=st.lists(shards, max_size=3).map(tuple),
    num_inputs=counts,
    failures=st.lists(failures, max_size=3).map(tuple),
    changes=changes,
    left_out=st.lists(left_out, max_size=3).map(tuple),
    has_kept=st.just(value=False),
)


@settings(deadline=None, max_examples=60)
@given(outline=outlines)
def test_an_outline_is_read_as_what_was_written(tmp_path_factory: pytest.TempPathFactory, outline: Outline) -> None:
    path = tmp_path_factory.mktemp("outline") / "outline"
    outline.write(path)
    assert Outline.read(path) == outline
    assert outline_of(path) == outline.sha256


@settings(deadline=None, max_examples=60)
@given(outline=outlines, data=st.data())
def test_a_damaged_outline_is_refused(
    tmp_path_factory: pytest.TempPathFactory, outline: Outline, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("outline") / "outline"
    outline.write(path)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 2))
    damaged = [whole[:place], whole[:place] + b"\xff" + whole[place + 1 :], whole * 2]
    path.write_bytes(data.draw(st.sampled_from(damaged)))
    with pytest.raises(StoreError, match="damaged"):
        Outline.read(path)
