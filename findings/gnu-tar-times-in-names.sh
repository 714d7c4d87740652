#!/usr/bin/env bash
# Python's tarfile puts the time of last access into the names of files in a tar that GNU tar wrote with --incremental.
#
# A header has 155 bytes behind byte 345. In POSIX's ustar they are the first half of a long name. GNU's own dialect
# (magic "ustar  \0", the default of GNU tar) has no such half: with --incremental or --listed-incremental it stores the
# times of access and change there. tarfile looks at the header's type only, not at its magic, and joins them to the
# name: the same photograph is called otherwise whenever somebody has looked at it.
set -euo pipefail
[[ "$(tar --version)" == *"GNU tar"* ]] || { echo "needs GNU tar" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir photos
echo "a picture" > photos/a.png
touch -a -d 2001-02-03T00:00:00Z photos/a.png
tar --format=gnu --incremental -cf photos.tar photos

tar --version | head -n 1
python3 --version
echo "expected (GNU tar lists): $(tar -tf photos.tar | grep a.png)"
python3 - <<'PYTHON'
import sys
import tarfile

name = next(member.name for member in tarfile.open("photos.tar") if member.name.endswith("a.png"))
print(f"tarfile lists:            {name}")
if name == "photos/a.png":
    sys.exit("tarfile reads such tars right now")
assert name == f"{981158400:011o}/photos/a.png", name  # the time of access in octal
print("Why it matters: whoever names samples by their path (keys of a data set, resuming, joining captions) gets")
print("other names than any other reader, and other ones after each reading of the files.")
PYTHON
