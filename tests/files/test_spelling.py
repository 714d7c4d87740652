"""Names that a disk does not tell apart."""

from pathlib import Path, PurePosixPath

import pytest

from semdis_cli.files import spelling
from semdis_cli.files.spelling import ANY, EXACT, Spelling, clashes, give_own_names, probe_spelling
from semdis_cli.pipeline.images_out import StreamNames

_CASE = Spelling(case=True, unicode=False, ends=False)


def as_names(*texts: str) -> dict[str, PurePosixPath]:
    return {text: PurePosixPath(text) for text in texts}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("IMG.png", "img.png"),
        ("Ä.png", "ä.png"),
        ("\xe9.png", "e\u0301.png"),
        ("\xc9.png", "e\u0301.png"),
        ("STRASSE", "straße"),
        ("\u017f", "S"),
        ("\u0131", "I"),
        ("가", "\u1100\u1161"),
        ("a./x", "a/x"),
        ("a. . /x", "A/X"),
    ],
)
def test_what_some_disk_takes_for_one_name_is_folded_to_one(one: str, other: str) -> None:
    assert ANY.fold(PurePosixPath(one)) == ANY.fold(PurePosixPath(other))
    assert EXACT.fold(PurePosixPath(one)) != EXACT.fold(PurePosixPath(other))


def test_names_that_every_disk_tells_apart_are_not_folded_to_one() -> None:
    texts = ("a", "b", "a.png", "a/b", "ab", "e", "\xe9", "\xe8", " a", ".a", "\udce9")
    assert len({ANY.fold(PurePosixPath(text)) for text in texts}) == len(texts)


def test_this_disk_is_asked_without_a_trace_and_one_that_cannot_be_is_taken_for_the_poorest(tmp_path: Path) -> None:
    assert probe_spelling(tmp_path) == EXACT
    assert list(tmp_path.iterdir()) == []
    assert probe_spelling(tmp_path / "missing") == ANY


def test_nothing_changes_where_names_are_told_apart(tmp_path: Path) -> None:
    names = as_names("IMG.png", "img.png", "a/x", "A/x")
    assert give_own_names(names, tmp_path) == (names, {})


def test_each_gets_a_name_of_its_own_and_always_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelling, "probe_spelling", lambda _: _CASE)
    texts = [
        "IMG.png",
        "Img.png",
        "img.png",
        "img.2.png",
        "A/x.png",
        "a/x.png",
        "b.png/y.png",
        "B.png",
        "\xe9",
        "e\u0301",
    ]
    names, changed = give_own_names(as_names(*texts), tmp_path)
    assert {key: str(name) for key, name in changed.items()} == {
        "Img.png": "Img.3.png",
        "img.png": "img.4.png",
        "a/x.png": "a/x.2.png",
        "B.png": "B.2.png",
    }
    assert not clashes(names, _CASE)
    assert give_own_names(as_names(*reversed(texts)), tmp_path)[0] == names


def test_in_a_stream_each_gets_a_name_of_its_own_too() -> None:
    asked: list[None] = []

    def probe() -> Spelling:
        asked.append(None)
        return _CASE

    names = StreamNames("png", probe)
    keys = ("A/one.jpg", "A/two.jpg", "B/\xe9.jpg")
    assert [str(names.claim(key)) for key in keys] == ["A/one.png", "A/two.png", "B/\xe9.png"]
    assert asked == []
    more = ("A/ONE.jpg", "a/one.jpg", "a/three.jpg", "B/e\u0301.jpg", "A/one.webp")
    assert [str(names.claim(key)) for key in more] == [
        "A/ONE.2.png",
        "a/one.3.png",
        "a/three.png",
        "B/e\u0301.png",
        "A/one.webp.png",
    ]
    assert len(asked) == 1
    assert list(names.renamed) == ["A/ONE.jpg", "a/one.jpg"]
