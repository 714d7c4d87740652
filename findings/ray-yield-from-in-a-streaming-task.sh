#!/usr/bin/env bash
# Ray sends values into generators of streaming tasks, so `yield from` a list or a map fails where it works everywhere else.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0

RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" - "$work/ray" <<'PY'
import sys

import ray

ray.init(num_cpus=1, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False,
         logging_level="CRITICAL", _temp_dir=sys.argv[1])
print("versions: ray", ray.__version__)


def loop():
    for number in [1, 2, 3]:
        yield number


def delegate():
    yield from [1, 2, 3]


def listen():
    heard = []
    for number in [1, 2, 3]:
        heard.append((yield number))
    yield type(heard[0]).__name__


def outcome(function):
    try:
        return ray.get(list(ray.remote(num_returns="streaming")(function).remote()))
    except ray.exceptions.RayTaskError as error:
        return str(error).strip().splitlines()[-1]


print("expected: a task yields what its generator yields in Python:", list(loop()), list(delegate()))
looped, delegated, heard = map(outcome, (loop, delegate, listen))
print("a task with a loop:", looped)
print("a task with yield from:", delegated)
print("what a generator is sent, where Python's loops send nothing:", heard[-1])
print("why it matters: two spellings of one loop; a task that works in its unit test fails in the cluster")
sys.exit(0 if looped == [1, 2, 3] and "has no attribute 'send'" in str(delegated) else "changed: both work now")
PY
