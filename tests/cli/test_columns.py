"""What comes with images, from wherever people keep it, into the index: captions, labels, tables."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semdis_cli.store.index import read_rows
from tests.cli.conftest import PHOTOS, Outcome, Run
from tests.extras import needs

BIRDS = sorted(PHOTOS.rglob("*.jpg"))[:4]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four small photographs: `a.jpg` to `d.jpg`."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, path in zip("abcd", BIRDS, strict=True):
        small_copy(path, folder / f"{name}.jpg")
    return folder


def small_copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(path) as image:
        image.resize((32, 32)).save(to)


@pytest.fixture
def encode(tmp_path: Path, tiny: Path, run: Run) -> Run:
    def call(*arguments: str | Path) -> Outcome:
        return run("encode", *arguments, "-o", tmp_path / "set", "--model", tiny, "--threads", "1")

    return call


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "set"


def columns(root: Path) -> dict[str, Mapping[str, Any]]:
    """The columns of each image in the index."""
    return {row.key: row.record.columns for row in read_rows(root / "index.jsonl") if row.record is not None}


def told(outcome: Outcome) -> list[str]:
    """The lines on stderr that are about columns."""
    return [
        line for line in outcome.stderr.splitlines() if line.startswith(("column: ", "semdis: found ", "semdis: no"))
    ]


def manifest_columns(root: Path) -> Any:
    return json.loads((root / "manifest.json").read_bytes()).get("columns")


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# ---- Files beside images ----


def test_a_text_beside_each_image_is_its_caption_and_one_line_says_so(photos: Path, encode: Run, root: Path) -> None:
    for name in "abcd":
        write(photos / f"{name}.txt", f"\ufeffa bird called {name}, été \U0001f600\n")
    outcome = encode(photos)
    assert outcome.code == 0, outcome.stderr
    assert columns(root) == {f"{name}.jpg": {"caption": f"a bird called {name}, été \U0001f600"} for name in "abcd"}
    assert told(outcome) == [
        "semdis: found captions (txt beside it); --captions none, --labels none or --columns none leaves them out"
    ]
    assert manifest_columns(root) == {"caption": {"images": 4}}
    assert json.loads((root / "report.json").read_bytes())["columns"] == {"caption": 4}


def test_what_is_found_is_left_out_if_it_is_not_wanted(photos: Path, encode: Run, root: Path) -> None:
    for name in "abcd":
        write(photos / f"{name}.txt", "a bird")
    outcome = encode(photos, "--captions", "none")
    assert (outcome.code, told(outcome)) == (0, [])
    assert set(map(str, columns(root).values())) == {"{}"}
    assert manifest_columns(root) is None


def test_texts_beside_some_images_alone_are_no_captions_unless_asked_for(photos: Path, encode: Run, root: Path) -> None:
    write(photos / "a.txt", "a bird")
    assert encode(photos).code == 0
    assert manifest_columns(root) is None
    shutil.rmtree(root)
    outcome = encode(photos, "--captions", "txt")
    assert outcome.code == 3
    assert told(outcome) == [f"column: {name}.jpg: has no caption: there is no txt beside it" for name in "bcd"]
    assert columns(root)["a.jpg"] == {"caption": "a bird"}
    report = json.loads((root / "report.json").read_bytes())
    assert (report["images"]["ok"], report["columns"], report["column_troubles"]) == (4, {"caption": 1}, 3)


def test_a_bad_caption_costs_no_image_and_is_named(photos: Path, encode: Run, root: Path) -> None:
    write(photos / "a.txt", b"caf\xe9")
    write(photos / "b.txt", "fine")
    write(photos / "c.txt", b"x" * (1 << 21))
    write(photos / "d.txt", "long " * 20_000)
    outcome = encode(photos)
    assert outcome.code == 3
    assert columns(root) == {"a.jpg": {}, "b.jpg": {"caption": "fine"}, "c.jpg": {}, "d.jpg": {}}
    assert told(outcome)[1:] == [
        "column: a.jpg: has no caption: its txt is not UTF-8 (byte 3)",
        "column: c.jpg: has no caption: its txt is larger than 1,024 KiB",
        "column: d.jpg: has no caption: its columns would take more than 64 KiB",
    ]


def test_a_json_beside_an_image_gives_its_fields_and_a_list_is_several_captions(
    photos: Path, encode: Run, root: Path
) -> None:
    write(photos / "a.json", '{"caption": ["one", "two"], "score": 6.9, "cls": 7}')
    write(photos / "b.json", '{"caption": "three", "score": 5, "deep": [[[[[[[[[1]]]]]]]]]}')
    write(photos / "c.json", '{"caption": "four", "score": NaN}')
    write(photos / "d.json", '{"caption": "\\ud800", "score": 1e999}')
    outcome = encode(photos, "--captions", "caption", "--columns", "score,deep", "--labels", "cls")
    assert outcome.code == 3
    assert columns(root)["a.jpg"] == {"caption": ["one", "two"], "score": 6.9, "label": 7}
    assert columns(root)["b.jpg"] == {"caption": "three", "score": 5}
    assert (columns(root)["c.jpg"], columns(root)["d.jpg"]) == ({}, {})
    assert "column: b.jpg: has no deep: its deep is nested deeper than 8 levels" in told(outcome)
    assert "column: b.jpg: has no label: there is no cls beside it" in told(outcome)
    assert (
        "column: c.jpg: has no caption: its caption would be in a json that is no JSON object (NaN is no JSON)"
        in told(outcome)
    )


def test_lines_of_a_text_are_captions_of_their_own_if_asked_for(photos: Path, encode: Run, root: Path) -> None:
    for name in "abc":
        write(photos / f"{name}.txt", f"one of {name}\r\n\r\n  two of {name}\n")
    write(photos / "d.txt", "\n")
    outcome = encode(photos, "--caption-lines")
    assert outcome.code == 3
    assert columns(root)["a.jpg"] == {"caption": ["one of a", "two of a"]}
    assert told(outcome)[1:] == ["column: d.jpg: has no caption: its txt has no line with a caption"]
    shutil.rmtree(root)
    assert encode(photos).code == 0
    assert columns(root)["d.jpg"] == {"caption": ""}  # an empty file is an empty caption


def test_class_numbers_beside_images_are_labels_found_by_themselves(photos: Path, encode: Run, root: Path) -> None:
    for number, name in enumerate("abcd"):
        write(photos / f"{name}.cls", f"{number}\n")
    outcome = encode(photos)
    assert outcome.code == 0
    assert [columns(root)[f"{name}.jpg"]["label"] for name in "abcd"] == [0, 1, 2, 3]
    assert manifest_columns(root) == {"label": {"images": 4}}


def test_names_beside_images_are_classes_if_asked_for(photos: Path, encode: Run, root: Path) -> None:
    for name, label in zip("abcd", ("zebra finch", "auk", "zebra finch", "7"), strict=True):
        write(photos / f"{name}.cls", label)
    assert encode(photos).code == 0
    assert manifest_columns(root) is None
    shutil.rmtree(root)
    assert encode(photos, "--labels", "cls").code == 0
    assert [columns(root)[f"{name}.jpg"]["label"] for name in "abcd"] == [2, 1, 2, 0]
    assert manifest_columns(root) == {"label": {"images": 4, "classes": ["7", "auk", "zebra finch"]}}


# ---- Folders ----


def tree(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        small_copy(BIRDS[number % len(BIRDS)], root / name)
    return root


def test_folders_of_imagenet_are_labels_in_their_order_and_keep_their_names(
    tmp_path: Path, encode: Run, root: Path
) -> None:
    source = tree(tmp_path / "train", "n01440764/x.JPEG", "n01443537/y.JPEG", "n01440764/z.JPEG", "n02123045/x.JPEG")
    outcome = encode(source)
    assert outcome.code == 0
    assert {key: made["label"] for key, made in columns(root).items()} == {
        "n01440764/x.JPEG": 0,
        "n01440764/z.JPEG": 0,
        "n01443537/y.JPEG": 1,
        "n02123045/x.JPEG": 2,
    }
    assert manifest_columns(root)["label"] == {"images": 4, "classes": ["n01440764", "n01443537", "n02123045"]}
    assert told(outcome) == [
        (
            "semdis: found labels of 3 classes (folder of its source); "
            "--captions none, --labels none or --columns none leaves them out"
        )
    ]


def test_labels_of_a_table_go_before_folders(tmp_path: Path, encode: Run, root: Path) -> None:
    source = tree(tmp_path / "train", "n01440764/x.JPEG", "n01443537/y.JPEG")
    rows = [{"key": "n01440764/x.JPEG", "label": 388}, {"key": "n01443537/y.JPEG", "label": 1}]
    assert encode(source, "--table", write(tmp_path / "t.jsonl", lines(*rows))).code == 0
    assert {key: made["label"] for key, made in columns(root).items()} == {row["key"]: row["label"] for row in rows}


@pytest.mark.parametrize(
    "names",
    [
        ("2019/a.jpg", "2020/b.jpg"),
        ("cats/a.jpg", "dogs/b.jpg"),
        ("n01440764/a.jpg", "b.jpg"),
        ("n01440764/a.jpg", "n01440764/b.jpg"),
        ("n01440764/a.jpg", "n01443537/deeper/b.jpg"),
    ],
)
def test_other_trees_are_no_labels_by_themselves(
    tmp_path: Path, names: tuple[str, ...], encode: Run, root: Path
) -> None:
    assert encode(tree(tmp_path / "photos", *names)).code == 0
    assert manifest_columns(root) is None


def test_any_folders_are_labels_if_asked_for_those_of_several_sources_together(
    tmp_path: Path, encode: Run, root: Path
) -> None:
    train = tree(tmp_path / "train", "dogs/a.jpg", "cats/deeper/b.jpg")
    val = tree(tmp_path / "val", "dogs/c.jpg", "axolotls/d.jpg", "e.jpg")
    outcome = encode(train, val, "--labels", "folders")
    assert outcome.code == 3
    assert told(outcome) == ["column: val/e.jpg: has no label: it lies in no folder of its source"]
    assert {key: made.get("label") for key, made in columns(root).items()} == {
        "train/cats/deeper/b.jpg": 1,
        "train/dogs/a.jpg": 2,
        "val/axolotls/d.jpg": 0,
        "val/dogs/c.jpg": 2,
        "val/e.jpg": None,
    }
    assert manifest_columns(root)["label"]["classes"] == ["axolotls", "cats", "dogs"]


def test_a_class_that_is_new_to_a_set_comes_at_the_end_and_no_other_moves(
    tmp_path: Path, encode: Run, root: Path
) -> None:
    source = tree(tmp_path / "photos", "cats/a.jpg", "emus/b.jpg")
    assert encode(source, "--labels", "folders").code == 0
    before = columns(root)
    tree(source, "bats/c.jpg", "cats/d.jpg")
    outcome = encode(source)  # the set says that folders are labels
    assert outcome.code == 0
    assert "1 new class at the end, from 2 on ('bats')" in outcome.stderr
    after = columns(root)
    assert {key: after[key] for key in before} == before
    assert (after["bats/c.jpg"]["label"], after["cats/d.jpg"]["label"]) == (2, 0)
    assert manifest_columns(root)["label"] == {"images": 4, "classes": ["cats", "emus", "bats"]}


def test_images_that_are_all_of_a_new_class_have_labels_too(tmp_path: Path, encode: Run, root: Path) -> None:
    source = tree(tmp_path / "train", "n01440764/x.JPEG", "n01443537/y.JPEG")
    assert encode(source).code == 0
    tree(source, "n02123045/z.JPEG")
    outcome = encode(source)
    assert outcome.code == 0
    assert "1 new class at the end, from 2 on ('n02123045')" in outcome.stderr
    assert columns(root)["n02123045/z.JPEG"] == {"label": 2}


def test_a_source_above_the_folders_of_imagenet_is_said_to_be_one(tmp_path: Path, encode: Run, root: Path) -> None:
    tree(tmp_path / "ILSVRC" / "train", "n01440764/x.JPEG", "n01443537/y.JPEG")
    outcome = encode(tmp_path / "ILSVRC")
    assert told(outcome) == ["semdis: no labels: ImageNet's folders lie in 'train'; name that folder for its classes"]
    assert (outcome.code, manifest_columns(root)) == (0, None)


def test_that_all_labels_are_of_one_class_is_said(tmp_path: Path, encode: Run) -> None:
    tree(tmp_path / "data" / "train", "cats/a.jpg", "dogs/b.jpg")
    outcome = encode(tmp_path / "data", "--labels", "folders")
    assert outcome.code == 0
    assert "all labels are of one class, 'train': folders at the top of a source are the classes" in outcome.stderr


# ---- Tables ----


def test_a_table_gives_captions_labels_and_its_other_columns(
    photos: Path, tmp_path: Path, encode: Run, root: Path
) -> None:
    rows = [
        {"file_name": f"{name}.jpg", "text": f"bird {name}", "label": n, "score": n / 2}
        for n, name in enumerate("abcd")
    ]
    outcome = encode(photos, "--table", write(tmp_path / "t.jsonl", lines(*rows)))
    assert outcome.code == 0, outcome.stderr
    assert columns(root)["b.jpg"] == {"caption": "bird b", "label": 1, "score": 0.5}
    assert manifest_columns(root) == {name: {"images": 4} for name in ("caption", "label", "score")}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_in_a_folder_belong_to_the_images_below_it(
    suffix: str, tmp_path: Path, encode: Run, root: Path
) -> None:
    source = tree(tmp_path / "photos", "train/cats/a.jpg", "train/b.jpg", "c.jpg")
    rows: list[dict[str, Any]] = [
        {"file_name": "cats/a.jpg", "text": "a cat, asleep", "n": 1},
        {"file_name": "b.jpg", "text": "é", "n": None},
    ]
    path = source / "train" / f"metadata.{suffix}"
    if suffix == "csv":
        write(path, 'file_name,text,n\ncats/a.jpg,"a cat, asleep",1\nb.jpg,é,\n')
    elif suffix == "jsonl":
        write(path, lines(*rows))
    else:
        needs("pyarrow")
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    outcome = encode(source)
    assert outcome.code == 3
    number = "1" if suffix == "csv" else 1
    assert columns(root) == {
        "train/cats/a.jpg": {"caption": "a cat, asleep", "n": number},
        "train/b.jpg": {"caption": "é"},
    } | {"c.jpg": {}}
    assert told(outcome) == [
        (
            f"semdis: found captions (text in metadata.{suffix}), n in metadata.{suffix}; "
            "--captions none, --labels none or --columns none leaves them out"
        ),
        f"column: c.jpg: has no row in metadata.{suffix}",
    ]


def test_the_labels_of_edm2_and_captions_of_a_json_are_found_in_a_folder(
    tmp_path: Path, encode: Run, root: Path
) -> None:
    source = tree(tmp_path / "images", "00000/img00000000.jpg", "00000/img00000001.jpg")
    labels = [["00000/img00000000.jpg", 6], ["00000/img00000001.jpg", 0]]
    write(source / "dataset.json", json.dumps({"labels": labels}))
    captions = {"img00000000.jpg": ["one", "two"], "img00000001.jpg": "three"}
    write(source / "00000" / "captions.json", json.dumps(captions))
    outcome = encode(source)
    assert outcome.code == 0, outcome.stderr
    assert columns(root) == {
        "00000/img00000000.jpg": {"caption": ["one", "two"], "label": 6},
        "00000/img00000001.jpg": {"caption": "three", "label": 0},
    }
    shutil.rmtree(root)
    write(source / "dataset.json", json.dumps({"labels": None}))
    (source / "00000" / "captions.json").unlink()
    assert encode(source).code == 0
    assert manifest_columns(root) is None


def test_what_is_only_called_like_a_table_stops_nothing(photos: Path, encode: Run, root: Path) -> None:
    write(photos / "metadata.csv", "camera,lens\nX,Y\n")
    write(photos / "dataset.json", '{"labels": {"0": "background"}, "numTraining": 4}')
    write(photos / "captions.json", "[1, 2")
    outcome = encode(photos)
    assert outcome.code == 0, outcome.stderr
    assert manifest_columns(root) is None
    assert f"not used: {photos}/metadata.csv: has no column 'key' or 'file_name'" in outcome.stderr
    assert f"not used: {photos}/captions.json: is no table (" in outcome.stderr


def test_columns_are_what_all_rows_say_not_the_first_ones(
    photos: Path, tmp_path: Path, encode: Run, root: Path
) -> None:
    scores: list[Any] = [5, 5, 5, 6.9]
    rows = [{"key": f"{name}.jpg", "score": score} for name, score in zip("abcd", scores, strict=True)]
    rows[3]["late"] = "only here"
    assert encode(photos, "--table", write(tmp_path / "t.jsonl", lines(*rows))).code == 0
    assert [columns(root)[f"{name}.jpg"]["score"] for name in "abcd"] == scores
    assert manifest_columns(root) == {"late": {"images": 1}, "score": {"images": 4}}


def test_many_troubles_are_counted_and_the_first_ones_shown(photos: Path, tmp_path: Path, encode: Run) -> None:
    rows = [{"key": f"{number}.jpg", "text": "nobody"} for number in range(30)]
    table = write(tmp_path / "t.jsonl", lines({"key": "a.jpg", "text": "one"}, *rows))
    outcome = encode(photos, "--table", table, "--quiet", "--json")
    assert outcome.code == 3
    assert len(told(outcome)) == 20
    assert "... and 13 more troubles with columns" in outcome.stderr
    assert json.loads(outcome.stdout)["column_troubles"] == 33


def test_rows_and_images_that_do_not_meet_are_counted_and_named(
    photos: Path, tmp_path: Path, encode: Run, root: Path
) -> None:
    table = lines(
        {"file_name": "a.jpg", "text": "first"},
        {"file_name": "a.jpg", "text": "second"},
        {"file_name": "b.jpg", "text": 7},
        {"file_name": "c.jpg"},
        {"file_name": "gone.jpg", "text": "nobody"},
    )
    outcome = encode(photos, "--table", write(tmp_path / "t.jsonl", table + "no json\n"))
    assert outcome.code == 3
    assert columns(root) == {"a.jpg": {"caption": "first"}, "b.jpg": {}, "c.jpg": {}, "d.jpg": {}}
    assert sorted(told(outcome)[1:]) == sorted(
        [
            "column: t.jsonl, row 6: is no JSON object (Expecting value: line 1 column 1 (char 0))",
            "column: a.jpg: has another row in t.jsonl, which is not used",
            "column: gone.jpg: has a row in t.jsonl, but is no image of this run",
            "column: b.jpg: has no caption: its text is neither a text nor a list of texts",
            "column: c.jpg: has no caption: there is no text in t.jsonl",
            "column: d.jpg: has no row in t.jsonl",
        ]
    )
    report = json.loads((root / "report.json").read_bytes())
    assert (report["column_troubles"], report["images"]["failed"], report["columns"]) == (6, 0, {"caption": 1})


def test_labels_of_a_table_are_numbers_or_names_and_bad_ones_are_named(
    photos: Path, tmp_path: Path, encode: Run, root: Path
) -> None:
    table = write(tmp_path / "t.csv", "key,kind\na.jpg,owl\nb.jpg,auk\nc.jpg,owl\nd.jpg,\n")
    outcome = encode(photos, "--table", table, "--labels", "kind")
    assert outcome.code == 3
    assert [columns(root)[f"{name}.jpg"].get("label") for name in "abcd"] == [1, 0, 1, None]
    assert manifest_columns(root)["label"]["classes"] == ["auk", "owl"]
    shutil.rmtree(root)
    rows = [{"key": f"{name}.jpg", "label": label} for name, label in zip("abcd", (3, -1, 2.5, True), strict=True)]
    outcome = encode(photos, "--table", write(tmp_path / "n.jsonl", lines(*rows)))
    assert outcome.code == 3
    assert [columns(root)[f"{name}.jpg"].get("label") for name in "abcd"] == [3, None, None, None]
    assert told(outcome)[1:] == [
        "column: b.jpg: has no label: its label is -1, and labels go from 0 to 2,147,483,647",
        "column: c.jpg: has no label: its label is 2.5, neither a whole number nor a name",
        "column: d.jpg: has no label: its label is True, neither a whole number nor a name",
    ]


def test_a_table_that_cannot_be_meant_is_refused_before_any_work(
    photos: Path, tmp_path: Path, encode: Run, root: Path
) -> None:
    other = write(tmp_path / "t.csv", "file_name,text\nx/1.jpg,one\n")
    outcome = encode(photos, "--table", other)
    assert outcome.code == 2
    assert "no row is about an image: the first one says 'x/1.jpg', and an image is 'a.jpg'" in outcome.stderr
    outcome = encode(photos, "--captions", "nowhere")
    assert outcome.code == 2
    assert "--captions nowhere: there is no such thing beside any of 4 images that were looked at" in outcome.stderr
    write(photos / "a.txt", "a bird")
    write(photos / "a.json", '{"prompt": "a bird"}')
    outcome = encode(photos, "--captions", "nowhere")
    assert "that were looked at (but 'txt', 'json', 'prompt')" in outcome.stderr
    assert not root.exists() or not any(root.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--on", "key"), "goes with --table"),
        (("--caption-lines", "--captions", "none"), "is of no use where --captions is none"),
        (("--columns", "caption"), "these are --captions and --labels"),
        (("--columns", "a,,b"), "names like a,b, not 'a,,b'"),
        (("--columns", "a,none"), "not 'a,none'"),
        (
            ("--table", "t.csv", "--captions", "none", "--labels", "none", "--columns", "none"),
            "is of no use where --captions, --labels and --columns are none",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    photos: Path, options: tuple[str, ...], message: str, encode: Run
) -> None:
    outcome = encode(photos, *options)
    assert outcome.code == 2
    assert message in " ".join(outcome.stderr.replace("│", " ").split())


def test_columns_go_into_no_pipe(photos: Path, tiny: Path, run: Run) -> None:
    outcome = run("encode", photos, "-o", "-", "--model", tiny, "--labels", "folders")
    assert outcome.code == 2
    assert "writes latents alone" in " ".join(outcome.stderr.replace("│", " ").split())


# ---- Containers ----


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_a_sample_of_a_tar_gives_its_text_its_class_and_fields_of_its_json(
    photos: Path, tmp_path: Path, encode: Run, root: Path
) -> None:
    data = (photos / "a.jpg").read_bytes()
    for number in range(2):  # every tar of img2dataset has these names
        members: dict[str, bytes] = {}
        for sample, score in (("000000000", "5"), ("000000001", "6.9")):
            caption = f"tar {number}, sample {sample}"
            members |= {f"{sample}.jpg": data, f"{sample}.txt": caption.encode(), f"{sample}.cls": b"%d" % number}
            members[f"{sample}.json"] = f'{{"caption": "{caption}", "score": {score}}}'.encode()
        pack(tmp_path / f"0000{number}.tar", members)
    outcome = encode(tmp_path / "00000.tar", tmp_path / "00001.tar", "--columns", "score")
    assert outcome.code == 0, outcome.stderr
    assert columns(root) == {
        f"0000{number}/{sample}.jpg": {"caption": f"tar {number}, sample {sample}", "label": number, "score": score}
        for number in range(2)
        for sample, score in (("000000000", 5), ("000000001", 6.9))
    }


def test_one_bad_caption_of_a_tar_costs_itself_alone(photos: Path, tmp_path: Path, encode: Run, root: Path) -> None:
    data = (photos / "a.jpg").read_bytes()
    members = {"a.jpg": data, "a.txt": b"caf\xe9", "b.jpg": data, "b.txt": b"fine"}
    outcome = encode(pack(tmp_path / "t.tar", members), "--captions", "txt")
    assert outcome.code == 3
    assert columns(root) == {"t/a.jpg": {}, "t/b.jpg": {"caption": "fine"}}
    assert told(outcome) == ["column: t/a.jpg: has no caption: its txt is not UTF-8 (byte 3)"]


def test_class_labels_of_a_parquet_keep_their_numbers_and_names(
    photos: Path, tmp_path: Path, encode: Run, root: Path
) -> None:
    needs("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write_parquet(path: Path, names: list[str], labels: list[int]) -> Path:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        data = (photos / "a.jpg").read_bytes()
        table = pa.table(
            {
                "image": [{"bytes": data, "path": f"{path.stem}{number}.jpg"} for number in range(len(labels))],
                "text": [f"row {number}" for number in range(len(labels))],
                "label": labels,
            }
        )
        pq.write_table(
            table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path
        )
        return path

    one = write_parquet(tmp_path / "one.parquet", ["zebra", "auk"], [0, 1, 7])
    outcome = encode(one)
    assert outcome.code == 3
    assert columns(root) == {
        "one/one0.jpg": {"caption": "row 0", "label": 0},
        "one/one1.jpg": {"caption": "row 1", "label": 1},
        "one/one2.jpg": {"caption": "row 2"},
    }
    assert told(outcome)[1:] == ["column: one/one2.jpg: has no label: its label is 7, outside its 2 names"]
    assert manifest_columns(root)["label"]["classes"] == ["zebra", "auk"]
    other = write_parquet(tmp_path / "other.parquet", ["auk", "emu", "zebra"], [0, 1, 2])
    outcome = encode(one, other)
    assert outcome.code == 0, outcome.stderr
    assert [columns(root)[f"other/other{number}.jpg"]["label"] for number in range(3)] == [1, 2, 0]
    assert manifest_columns(root)["label"]["classes"] == ["zebra", "auk", "emu"]
    shutil.rmtree(root)
    outcome = encode(one, other)
    assert outcome.code == 2
    assert "the sources name the classes of 'label' differently" in outcome.stderr


def test_the_labels_of_a_dataset_json_come_with_their_zip(
    photos: Path, tmp_path: Path, encode: Run, root: Path
) -> None:
    names = [f"0000{number}/img{number}.jpg" for number in range(3)]
    with zipfile.ZipFile(tmp_path / "edm.zip", "w", zipfile.ZIP_STORED) as file:
        for name in names:
            file.write(photos / "a.jpg", name)
        file.writestr("dataset.json", json.dumps({"labels": [[name, 6 - n] for n, name in enumerate(names)]}))
    outcome = encode(tmp_path / "edm.zip")
    assert outcome.code == 0, outcome.stderr
    assert columns(root) == {f"edm/{name}": {"label": 6 - n} for n, name in enumerate(names)}


# ---- Sets that grow ----


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--captions", "txt"), "captions"),
        (("--labels", "folders", "--columns", "score"), "labels, column 'score'"),
        (("--table", "t.csv"), "columns, as in t.csv"),
    ],
)
def test_what_is_asked_for_once_all_is_encoded_is_said_to_be_for_attach(
    photos: Path, encode: Run, root: Path, options: tuple[str, ...], what: str
) -> None:
    assert encode(photos).code == 0
    outcome = encode(photos, *options)
    assert (outcome.code, manifest_columns(root)) == (0, None)
    assert f"semdis: the set has no {what}: semdis attach adds them" in outcome.stderr


def test_a_table_of_which_the_set_has_nothing_is_said_to_be_for_attach(
    photos: Path, tmp_path: Path, encode: Run, root: Path
) -> None:
    assert encode(photos).code == 0
    small_copy(BIRDS[0], photos / "e.jpg")
    outcome = encode(photos, "--table", write(tmp_path / "t.jsonl", lines({"key": "e.jpg", "caption": "a bird"})))
    assert (outcome.code, manifest_columns(root)) == (0, None)
    assert "the set has no column that t.jsonl has: new images get none, semdis attach adds" in outcome.stderr


def test_kept_images_keep_their_columns_and_new_ones_get_those_of_the_set(
    photos: Path, tmp_path: Path, encode: Run, root: Path
) -> None:
    for name in "abcd":
        write(photos / f"{name}.txt", f"bird {name}")
    assert encode(photos).code == 0
    before = columns(root)
    small_copy(BIRDS[0], photos / "e.jpg")
    write(photos / "e.txt", "bird e")
    write(photos / "a.txt", "corrected")
    table = write(tmp_path / "t.jsonl", lines({"key": "e.jpg", "score": 1}))
    outcome = encode(photos, "--table", table, "--columns", "score")
    assert outcome.code == 0, outcome.stderr
    assert "the set has no column 'score': new images get none, semdis attach adds them to all" in outcome.stderr
    assert columns(root) == before | {"e.jpg": {"caption": "bird e"}}


def test_a_set_without_columns_gets_none_when_it_grows(photos: Path, encode: Run, root: Path) -> None:
    assert encode(photos).code == 0
    for name in "abcde":
        write(photos / f"{name}.txt", "a bird")
    small_copy(BIRDS[0], photos / "e.jpg")
    assert encode(photos).code == 0
    assert manifest_columns(root) is None
    small_copy(BIRDS[1], photos / "f.jpg")
    outcome = encode(photos, "--captions", "txt")
    assert outcome.code == 0
    assert "the set has no captions: new images get none, semdis attach adds them to all" in outcome.stderr


def test_a_dry_run_says_what_it_finds(photos: Path, encode: Run) -> None:
    for name in "abcd":
        write(photos / f"{name}.txt", "a bird")
    outcome = encode(photos, "--dry-run")
    assert outcome.code == 0
    assert told(outcome)[0].startswith("semdis: found captions (txt beside it)")


def test_inspect_shows_columns_with_their_classes_and_how_many_lack_them(
    tmp_path: Path, encode: Run, root: Path, run: Run
) -> None:
    source = tree(tmp_path / "photos", "cats/a.jpg", "cats/b.jpg", "emus/c.jpg", "d.jpg")
    assert encode(source, "--labels", "folders").code == 3
    shown = run("inspect", root).stdout
    assert "Columns\n  name   images  missing  classes\n  label       3        1  2: 0 cats (2), 1 emus (1)\n" in shown
    fields = json.loads(run("inspect", root, "--json").stdout)
    assert fields["columns"] == {
        "label": {"images": 3, "missing": 1, "classes": ["cats", "emus"], "images_by_class": {"0": 2, "1": 1}}
    }
    shutil.rmtree(root)
    assert encode(source).code == 0
    assert "columns" not in json.loads(run("inspect", root, "--json").stdout)
