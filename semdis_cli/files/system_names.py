"""Names of what systems, network storage, cameras and programs put beside the files of people, each with its kind.

Exact names only: a folder `Trash` or `thumbs` may be somebody's pictures, `#recycle` is not. What begins with a dot is
passed over anyway; it is here too, so that it can be told of by its kind.
"""

import re
from enum import StrEnum


class SystemKind(StrEnum):
    """A kind of files that are nobody's pictures, in words that follow a number."""

    THUMBNAILS = "thumbnails"
    DELETED = "deleted files"
    FILE_SYSTEM = "files of the file system"
    SNAPSHOTS = "snapshots"
    DESKTOP = "files of the desktop"
    PREVIEWS = "camera previews"
    BACKUPS = "backup copies"
    UNFINISHED = "unfinished downloads"


_OF_SYSTEMS = frozenset(
    {
        SystemKind.THUMBNAILS,
        SystemKind.DELETED,
        SystemKind.FILE_SYSTEM,
        SystemKind.SNAPSHOTS,
        SystemKind.DESKTOP,
    }
)

_FOLDERS = {
    SystemKind.THUMBNAILS: (
        "@eaDir",  # Synology
        ".@__thumb",  # QNAP
        ".thumbnails",
        ".thumb",
        "iPod Photo Cache",
    ),
    SystemKind.DELETED: (
        "$RECYCLE.BIN",  # Windows; `$Recycle.Bin` too
        "#recycle",  # Synology
        "@Recycle",  # QNAP
        ".recycle",
        ".Recycle.Bin",
        ".Trash",
        ".Trashes",
        ".trashed",
        "Network Trash Folder",  # AppleShare
    ),
    SystemKind.FILE_SYSTEM: (
        "lost+found",  # ext4
        "LOST.DIR",  # Android
        "System Volume Information",  # Windows
        "$Extend",
        ".Spotlight-V100",  # macOS
        ".fseventsd",
        ".TemporaryItems",
        ".DocumentRevisions-V100",
        "Temporary Items",  # AppleShare
        "TheVolumeSettingsFolder",
        "TheFindByContentFolder",
        "@tmp",  # Synology
        "@SynoResource",
        ".glusterfs",
        ".dropbox.cache",
        ".stfolder",
    ),
    SystemKind.SNAPSHOTS: (
        "#snapshot",  # Synology
        "@sharesnap",
        "@Recently-Snapshot",  # QNAP
        ".snapshot",  # NetApp
        "~snapshot",  # NetApp, over SMB
        ".snapshots",  # btrfs
        ".zfs",
    ),
    SystemKind.DESKTOP: ("__MACOSX",),  # in zips made on macOS
    SystemKind.BACKUPS: (".picasaoriginals", ".stversions"),
}

_FILES = {
    SystemKind.DESKTOP: (
        "Thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "Picasa.ini",
        ".picasa.ini",
        ".DS_Store",
        ".localized",
        ".nomedia",
        ".directory",
        "Icon\r",
        "ZbThumbnail.info",
        "autorun.inf",
    ),
    SystemKind.FILE_SYSTEM: (
        "aquota.user",
        "aquota.group",
        "quota.user",
        "quota.group",
        ".journal",
        ".dropbox",
        ".volumeicon.icns",
        ".com.apple.timemachine.donotpresent",
    ),
}

# As they are spelled: in lower case these are words that a folder of pictures may well have (of things recycled).
_UPPER_FOLDERS = {"RECYCLER": SystemKind.DELETED, "RECYCLED": SystemKind.DELETED}

_FOLDER_PATTERNS = (
    (r"\.Trash-\d+", SystemKind.DELETED),
    (r"found\.\d{3}", SystemKind.FILE_SYSTEM),  # chkdsk
    (r"(.+ )?(previews|smart previews|helper)\.lrdata", SystemKind.PREVIEWS),  # Lightroom
    (r".+\.(download|crdownload|part|partial)", SystemKind.UNFINISHED),  # Safari's is a folder
)

# Patterns of files start with the characters that tell them: nearly all names are done with after the first one.
_FILE_PATTERNS = (
    (r"\._.+", SystemKind.DESKTOP),  # AppleDouble: what a Mac knows of a file, on a disk that cannot
    (r"SYNO(PHOTO|FILE)_THUMB_.+", SystemKind.THUMBNAILS),
    (r"\.trashed-\d+-.+", SystemKind.DELETED),  # Android
    (r"\$[RI][0-9A-Z]{6}(\..+)?", SystemKind.DELETED),  # what Windows' bin calls its files
    (r"\.(nfs[0-9a-f]{16,}|fuse_hidden[0-9a-f]+)", SystemKind.FILE_SYSTEM),  # deleted, but open
    (r"#.+#", SystemKind.BACKUPS),  # Emacs
)

_SUFFIXES = {
    SystemKind.PREVIEWS: ("thm",),  # beside videos and raws
    SystemKind.BACKUPS: ("bak", "orig", "old"),
    SystemKind.UNFINISHED: (
        *("part", "partial", "filepart", "crdownload", "download", "opdownload", "incomplete", "aria2", "!ut", "!qb"),
        *("tmp", "temp"),
    ),
}
_ENDS = {"~": SystemKind.BACKUPS, "@synoeastream": SystemKind.THUMBNAILS, "@synoresource": SystemKind.THUMBNAILS}
_EXIFTOOL = re.compile(r".+\.[a-z0-9]{2,5}_original", re.DOTALL)

# What people and hubs put beside a data set; none of it is an image, so only folders to write in need to know.
_NOTES = re.compile(
    r"(readme|license|licence|copying|notice|citation)"
    r"(\.(md|txt|rst|html|pdf|cff|bib))?|dvc\.(yaml|lock)|.+\.dvc|croissant\.json|datapackage\.json|dataset_infos?\.json",
    re.IGNORECASE,
)


def _by_name(names: dict[SystemKind, tuple[str, ...]]) -> dict[str, SystemKind]:
    return {name.casefold(): kind for kind, group in names.items() for name in group}


def _compiled(patterns: tuple[tuple[str, SystemKind], ...]) -> tuple[re.Pattern[str], tuple[SystemKind, ...]]:
    """One pattern for all of them, and the kind of each alternative: many names are asked for."""
    whole = "|".join(f"(?P<k{number}>{pattern})" for number, (pattern, _) in enumerate(patterns))
    return re.compile(whole, re.IGNORECASE | re.DOTALL), tuple(kind for _, kind in patterns)


_FOLDER_NAMES, _FILE_NAMES, _BY_SUFFIX = _by_name(_FOLDERS), _by_name(_FILES), _by_name(_SUFFIXES)
_ALL_ENDS = tuple(_ENDS)
_FOLDER_PATTERN, _FOLDER_KINDS = _compiled(_FOLDER_PATTERNS)
_FILE_PATTERN, _FILE_KINDS = _compiled(_FILE_PATTERNS)


def system_kind(name: str, *, is_folder: bool) -> SystemKind | None:
    """The kind of a file or folder that is not its owner's, by its `name` without folders; None for all others."""
    folded = name.casefold()
    if not is_folder:
        return _FILE_NAMES.get(folded) or _kind_by_end(folded) or _kind_by_pattern(name, _FILE_PATTERN, _FILE_KINDS)
    kind = _FOLDER_NAMES.get(folded) or _UPPER_FOLDERS.get(name)
    return kind or _kind_by_pattern(name, _FOLDER_PATTERN, _FOLDER_KINDS)


def _kind_by_end(folded: str) -> SystemKind | None:
    stem, _, suffix = folded.rpartition(".")
    if stem and suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if folded.endswith("_original"):
        return SystemKind.BACKUPS if _EXIFTOOL.fullmatch(folded) else None
    if not folded.endswith(_ALL_ENDS):  # asked of every file of a run
        return None
    return next(kind for end, kind in _ENDS.items() if folded.endswith(end))


def _kind_by_pattern(name: str, pattern: re.Pattern[str], kinds: tuple[SystemKind, ...]) -> SystemKind | None:
    match = pattern.fullmatch(name)
    return None if match is None or match.lastgroup is None else kinds[int(match.lastgroup[1:])]


def may_lie_beside(name: str, *, is_folder: bool | None = None) -> bool:
    """Tell whether an output folder is as good as empty with this in it: hidden, a system's, or a note like README.md.

    Backups and half downloads are their owner's and do not count. `is_folder` None: one of the two may.
    """
    if is_folder is None:
        return may_lie_beside(name, is_folder=False) or may_lie_beside(name, is_folder=True)
    is_note = not is_folder and _NOTES.fullmatch(name) is not None
    return name.startswith(".") or is_note or system_kind(name, is_folder=is_folder) in _OF_SYSTEMS
