"""Names of what systems put beside people's files."""

import pytest

from semdis_cli.files.system_names import SystemKind, may_lie_beside, system_kind

_FOLDERS = {
    SystemKind.THUMBNAILS: ["@eaDir", ".@__thumb", ".thumbnails"],
    SystemKind.DELETED: ["$RECYCLE.BIN", "$Recycle.Bin", "#recycle", "@Recycle", ".Trash-1000", ".Trashes", "RECYCLER"],
    SystemKind.FILE_SYSTEM: ["lost+found", "System Volume Information", "FOUND.000", "found.001", ".Spotlight-V100"],
    SystemKind.SNAPSHOTS: ["#snapshot", "@Recently-Snapshot", ".snapshot", "~snapshot", ".zfs"],
    SystemKind.DESKTOP: ["__MACOSX"],
    SystemKind.PREVIEWS: ["Catalog Previews.lrdata"],
    SystemKind.BACKUPS: [".picasaoriginals", ".stversions"],
    SystemKind.UNFINISHED: ["set.zip.download"],
}
_FILES = {
    SystemKind.THUMBNAILS: ["SYNOPHOTO_THUMB_XL.jpg", "IMG.jpg@SynoEAStream"],
    SystemKind.DELETED: ["$R123456.jpg", "$IABCDEF.png", ".trashed-1700000000-IMG.jpg"],
    SystemKind.FILE_SYSTEM: [".nfs000000000000000012345678", ".fuse_hidden0000001200000001", "aquota.user"],
    SystemKind.DESKTOP: ["Thumbs.db", "thumbs.db", "desktop.ini", ".DS_Store", "._IMG.jpg", "Icon\r"],
    SystemKind.PREVIEWS: ["MVI_0001.THM", "GOPR1.thm"],
    SystemKind.BACKUPS: ["IMG.jpg_original", "IMG.jpg~", "#IMG.jpg#", "IMG.jpg.bak", "IMG.png.orig"],
    SystemKind.UNFINISHED: ["a.jpg.part", "a.jpg.crdownload", "a.partial", "a.jpg.tmp", "a.jpg.aria2"],
}
_OF_PEOPLE = [
    *(
        "Trash",
        "thumbs",
        "recycle",
        "recycled",
        "found",
        "tmp",
        "Originals",
        "snapshot",
        "lost",
        "downloads",
        "previews",
    ),
    *("photo_original.jpg", "original", "a_original", "part.jpg", "old.jpg", "~a.jpg", "#1.jpg", "$R.jpg", "$1.jpg"),
    *("thm", "thm.jpg", "tmp.png", "a.download.jpg", "IMG", "img.backup.jpg", "Icon", "index.jsonl", "shard-0.tar"),
]


@pytest.mark.parametrize(("names", "is_folder"), [(_FOLDERS, True), (_FILES, False)])
def test_what_systems_put_there_has_its_kind(names: dict[SystemKind, list[str]], is_folder: bool) -> None:
    found = {kind: [system_kind(name, is_folder=is_folder) for name in group] for kind, group in names.items()}

    assert found == {kind: [kind] * len(group) for kind, group in names.items()}


@pytest.mark.parametrize("is_folder", [False, True])
def test_names_that_people_give_have_none(is_folder: bool) -> None:
    assert [name for name in _OF_PEOPLE if system_kind(name, is_folder=is_folder)] == []


def test_an_output_folder_may_hold_notes_and_what_systems_put_there_and_nothing_else() -> None:
    notes = [
        "README.md",
        "LICENSE",
        "readme.txt",
        ".gitattributes",
        "CITATION.cff",
        "shards.dvc",
        "Thumbs.db",
        ".cache",
    ]

    assert [name for name in notes if not may_lie_beside(name, is_folder=False)] == []
    assert may_lie_beside("lost+found", is_folder=True)
    assert not any(may_lie_beside(name, is_folder=True) for name in ("README.md", "Thumbs.db", "photos"))
    assert not any(
        may_lie_beside(name, is_folder=False)
        for name in ("lost+found", "a.png", "todo.doc", "readme.png", "x.part", "x~")
    )
