"""Parquet as a source: which rows are images, under which keys, what lies beside them, and in how much memory."""

import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.errors import MissingExtraError, PassingReadError, UsageError
from semdis_cli.files.parquet import OpenParquet, RowReader
from semdis_cli.pipeline.advice import why_nothing
from semdis_cli.sources.files import read_bytes
from semdis_cli.sources.find import find_images
from semdis_cli.sources.parquet import ParquetReader
from tests.sources.found import check_what_is_left, columns_of, damage, reasons_of
from tests.sources.test_tars import png

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(
    path: Path,
    images: Sequence[Any],
    group: int = 3,
    features: Mapping[str, Any] | None = None,
    **columns: Sequence[Any],
) -> Path:
    kind = IMAGE if any(isinstance(image, dict) for image in images) else pa.binary()
    table = pa.table({"image": pa.array(images, kind), **columns})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def image(number: int, path: str | None = None) -> dict[str, Any]:
    return {"bytes": png(number % 40 + 1), "path": path}


def test_keys_are_paths_where_they_can_be_and_numbers_of_rows_elsewhere(tmp_path: Path) -> None:
    paths = [
        "b/a.png",
        None,
        "../out.png",
        "/abs.png",
        "b/a.png",
        "",
        "a//b.png",
        "c.png",
        "x\n.png",
        "000000001",
        ".a",
    ]
    path = write(tmp_path / "train-00000-of-00001.parquet", [image(n, path) for n, path in enumerate(paths)])
    found = find_images([path])
    numbers = [1, 2, 3, 4, 5, 6, 8, 9]
    keys = [*(f"train-00000-of-00001/{number:09d}" for number in numbers), "train-00000-of-00001/b/a.png"]
    assert [one.key for one in found.images] == [*keys, "train-00000-of-00001/c.png"]
    assert [read_bytes(one) for one in found.images] == [png(n + 1) for n in (*numbers, 0, 7)]
    assert found.passed_over == {"hidden": 1}
    status = path.stat()
    assert {(one.mtime_ns, one.ctime_ns) for one in found.images} == {(status.st_mtime_ns, status.st_ctime_ns)}


def test_a_plain_column_of_bytes_is_found_by_its_first_image(tmp_path: Path) -> None:
    other = [b"no image"] * 4
    path = write(tmp_path / "a.parquet", other, jpg=pa.array([None, png(2), png(3), b""], pa.large_binary()))
    found = find_images([path])
    assert [(one.key, read_bytes(one)) for one in found.images] == [
        ("a/000000001", png(2)),
        ("a/000000002", png(3)),
        ("a/000000003", b""),
    ]
    assert reasons_of(found) == {"a/000000000": "has no bytes in its row"}


def test_a_null_image_is_a_failure_of_its_own(tmp_path: Path) -> None:
    images = [image(0, "a.png"), {"bytes": None, "path": "b.png"}, None, image(3)]
    found = find_images([write(tmp_path / "a.parquet", images)])
    assert [one.key for one in found.images] == ["a/000000003", "a/a.png"]
    assert reasons_of(found) == {
        "a/000000002": "has no bytes in its row",
        "a/b.png": "has no bytes in its row: the image is only named, 'b.png'; write it into the Parquet",
    }


def test_the_other_columns_are_offered_and_the_names_of_classes(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    path = write(
        tmp_path / "a.parquet",
        [image(n) for n in range(5)],
        group=2,
        features=features,
        text=["a", "b", None, "d", "e"],
        label=[0, 1, 1, 0, 1],
        sizes=[[1, 2]] * 5,
        mask=[b"x"] * 5,
        score=[0.5, float("nan"), 1.0, 2.0, 3.0],
    )
    found = find_images([path]).images
    rows = [columns_of(one) for one in found]
    assert rows[0] == {"text": "a", "label": 0, "sizes": [1, 2], "score": 0.5}
    assert [row.get("text") for row in rows] == ["a", "b", None, "d", "e"]
    assert rows[2] == {"label": 1, "sizes": [1, 2], "score": 1.0}
    reader = found[0].reader
    assert isinstance(reader, ParquetReader)
    assert reader.class_names("label") == ("cat", "dog")
    assert reader.class_names("text") is None


def test_columns_that_datasets_calls_images_come_first_and_sound_is_none(tmp_path: Path) -> None:
    features = {"sound": {"_type": "Audio"}, "image": {"_type": "Value"}, "picture": {"_type": "Image"}}
    pictures = pa.array([image(7), image(8)], IMAGE)
    sounds = pa.array([{"bytes": b"RIFF", "path": None}] * 2, IMAGE)
    path = write(tmp_path / "a.parquet", [image(1), image(2)], features=features, sound=sounds, picture=pictures)
    assert [read_bytes(one) for one in find_images([path]).images] == [png(8), png(9)]


def test_a_folder_of_shards_is_searched_and_a_table_without_images_is_passed_over(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / "set" / "data" / f"train-{number}.parquet", [image(number)])
    pq.write_table(pa.table({"file_name": ["a"], "text": ["b"]}), tmp_path / "set" / "metadata.parquet")
    (tmp_path / "set" / "README.md").write_text("no image")
    (tmp_path / "set" / "bad.parquet").write_bytes(b"PAR1 cut off")
    found = find_images([tmp_path / "set"])
    assert [one.key for one in found.images] == ["data/train-0/000000000", "data/train-1/000000000"]
    assert list(reasons_of(found)) == ["bad.parquet"]
    assert found.num_ignored == 2


def test_a_table_without_images_that_is_named_says_so(tmp_path: Path) -> None:
    path = tmp_path / "metadata.parquet"
    pq.write_table(pa.table({"file_name": ["a"], "blob": [b"no image"]}), path)
    assert "it has no column of images" in str(why_nothing([path], find_images([path])))


def test_what_is_no_parquet_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(UsageError, match=r"a\.parquet: cannot be read as Parquet"):
        find_images([tmp_path / "a.parquet"])


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    noise = random.Random(0)
    images = [{"bytes": png(9) + noise.randbytes(5000), "path": f"{n}.png"} for n in range(9)]
    path = tmp_path / "a.parquet"
    table = pa.table({"image": pa.array(images, IMAGE)})
    pq.write_table(table, path, row_group_size=3, compression="gzip", use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start + 2000] ^= 0xFF
    path.write_bytes(data)
    found = find_images([path])
    assert [one.key for one in found.images] == ["a/0.png", "a/1.png", "a/2.png", "a/6.png", "a/7.png", "a/8.png"]
    assert list(reasons_of(found)) == ["a/000000003"]
    assert "all rows from 3 to 5" in reasons_of(found)["a/000000003"]
    assert [read_bytes(one) for one in found.images] == [images[n]["bytes"] for n in (0, 1, 2, 6, 7, 8)]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_parquet_costs_what_is_damaged_and_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    write(path, [image(n, f"{n}.png") for n in range(6)], text=list("abcdef"))
    damage(path, data, 3)
    check_what_is_left(path)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_the_footer_says_the_process_lives_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    write(path, [image(n, f"{n}.png") for n in range(6)], text=list("abcdef"))
    num_bytes = path.stat().st_size
    damage(path, data, 3, num_bytes - 8 - pq.ParquetFile(path).metadata.serialized_size)
    check_what_is_left(path)


def test_a_file_that_was_changed_meanwhile_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [image(1), image(2)])
    first, second = find_images([path]).images
    write(path, [image(5), image(6)])
    with pytest.raises(PassingReadError, match="changed while"):
        read_bytes(first)
    with pytest.raises(PassingReadError, match="changed while"):
        second.reader.stamp(second)


def test_a_file_that_got_longer_keeps_the_keys_of_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [image(1, "x.png"), image(2)])
    before = [one.key for one in find_images([path]).images]
    write(path, [image(1, "x.png"), image(2), image(3, "x.png"), *(image(n) for n in range(20))])
    assert set(before) < {one.key for one in find_images([path]).images}


def test_without_pyarrow_a_line_says_what_to_install(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [image(1)])
    script = (
        "import sys; sys.modules['pyarrow'] = None; from pathlib import Path;"
        "from semdis_cli.sources.find import find_images; find_images([Path(sys.argv[1])])"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    what = f"{path}: a Parquet needs pyarrow: pip install 'semdis[parquet]'"
    assert done.stderr.splitlines()[-1].startswith(f"{MissingExtraError.__module__}.MissingExtraError: {what}")


class CountingParquet(OpenParquet):
    """Counts the rows that are unpacked."""

    num_unpacked = 0

    def batches(self, group: int, columns: Sequence[str]) -> Any:
        for batch in super().batches(group, columns):
            self.num_unpacked += batch.num_rows
            yield batch


@pytest.mark.parametrize("kilobytes", [1, 100, 2000])
def test_threads_that_go_side_by_side_do_not_unpack_rows_again_and_again(tmp_path: Path, kilobytes: int) -> None:
    number = 100_000 // kilobytes // (1 if kilobytes == 1 else 2) // 4
    noise = random.Random(0).randbytes(kilobytes << 10)
    rows = [{"bytes": noise + number.to_bytes(4, "big"), "path": None} for number in range(number)]
    path = write(tmp_path / "a.parquet", rows, group=number)
    opened = CountingParquet(path)
    reader = RowReader(opened, ["image.bytes"])
    calls = [range(first, min(first + 64, number)) for first in range(0, number, 64)]

    def read(rows: range) -> None:
        for row in rows:
            batch, place = reader.find(row)
            assert batch.column(0).flatten()[0][place].as_py().endswith(row.to_bytes(4, "big"))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(read, calls))
    assert opened.num_unpacked <= 4 * number
