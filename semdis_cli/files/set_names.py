"""Names of the files and folders that a set of latents consists of."""

from pathlib import Path

MANIFEST_FILE = "manifest.json"  # what makes a folder a set
INDEX_FILE = "index.jsonl"
INDEX_FOLDER = "index"  # in its place, in sets of more than a million rows: pieces of it
CHECKSUM_FILE = "SHA256SUMS"
REPORT_FILE = "report.json"
SEEN_FILE = "seen.jsonl"
SEEN_FOLDER = "seen"  # in its place: one for each piece of the index
ITEMS_FILE = "items.table"
SHARD_FOLDER = "shards"
COLUMN_FOLDER = "columns"  # there if images have tensors beside their latents
JOURNAL_FOLDER = "journal"  # there while a run is under way or was stopped
PLAN_FILE = "plan"  # in that: made once for all runs that write the set

SET_LISTS = (INDEX_FILE, ITEMS_FILE, SEEN_FILE, CHECKSUM_FILE, MANIFEST_FILE)  # in the order in which they appear
SET_FILES = frozenset({*SET_LISTS, REPORT_FILE})
LIST_FOLDERS = frozenset({INDEX_FOLDER, SEEN_FOLDER})
SET_FOLDERS = frozenset({SHARD_FOLDER, COLUMN_FOLDER, JOURNAL_FOLDER, *LIST_FOLDERS})


def is_set(folder: Path) -> bool:
    """Tell whether `folder` holds a set of ours, finished or begun. Names alone tell: a damaged one is one too."""
    try:
        has_index = (folder / INDEX_FILE).is_file() or any(folder.glob(f"{INDEX_FOLDER}/[0-9]*.jsonl"))
        is_finished = has_index and (folder / MANIFEST_FILE).is_file()
        return is_finished or ((folder / JOURNAL_FOLDER).is_dir() and (folder / SHARD_FOLDER).is_dir())
    except OSError:  # what we may not look into
        return False
