"""Models by repository id: from a hub cache made by hand, offline, in processes that may not reach any network."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.extras import needs
from tests.forks import python
from tests.worlds import save_tiny_model

COMMIT, OLDER_COMMIT = "0123456789abcdef0123456789abcdef01234567", "f" * 40
FILES = ("config.json", "model.safetensors")

# Whatever is asked of the network is an error of its own that the hub's client does not know how to handle.
NO_NETWORK = """
import json, socket, sys

class NetworkTouched(BaseException):
    pass

def touch(*args, **kwargs):
    raise NetworkTouched(args)

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = touch
"""


@dataclass(frozen=True)
class Hub:
    """A cache folder: `org/tiny` at two commits, of which `main` is the newer, and `org/half` without its weights."""

    cache: Path
    model: Path
    older_model: Path


def add_commit(repository: Path, commit: str, model: Path) -> None:
    """Lay a model's files out as the hub's client does: blobs by hash, linked from the snapshot."""
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    for number, name in enumerate(FILES):
        blob = blobs / f"{commit[:8]}{number}"
        blob.write_bytes((model / name).read_bytes())
        (snapshot / name).symlink_to(Path("../..") / "blobs" / blob.name)


def add_ref(repository: Path, name: str, commit: str) -> None:
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / name).write_text(commit)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    needs("huggingface_hub")
    base = tmp_path_factory.mktemp("hub")
    cache, model, older_model = base / "home" / "hub", base / "model", base / "older"
    repository = cache / "models--org--tiny"
    add_commit(repository, COMMIT, save_tiny_model(model, seed=1))
    add_commit(repository, OLDER_COMMIT, save_tiny_model(older_model, seed=2))
    add_ref(repository, "main", COMMIT)
    add_ref(repository, "v1", OLDER_COMMIT)
    half = cache / "models--org--half"
    add_commit(half, COMMIT, model)
    add_ref(half, "main", COMMIT)
    (half / "snapshots" / COMMIT / "model.safetensors").unlink()
    return Hub(cache, model, older_model)


def run_script(script: str, *args: str | Path, **environment: str) -> Any:
    """Run `script` in a process without network, offline by default; the JSON that it prints last."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "XDG_"))}
    done = subprocess.run(
        [*python(), "-c", NO_NETWORK + textwrap.dedent(script), *map(str, args)],
        env={**kept, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# One process for all that has to do with one cache: it is the imports that take time.
LOAD_ALL = """
from pathlib import Path
import torch
from semdis_cli.errors import CheckpointError
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.checkpoint import resolve_model
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.settings import TokenizerSettings

cache, model, older_model = sys.argv[1:]

def is_same(one, folder):
    other = FCDMDiffAE.from_pretrained(folder).state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())

def refusal(name, load=resolve_model, **where):
    try:
        load(name, **where)
    except CheckpointError as error:
        return str(error)

whole = TokenizerSettings(dtype="float32")
by_name = Tokenizer.load("org/tiny", whole)
by_tag = Tokenizer.load("org/tiny", whole, revision="v1")
import huggingface_hub.constants
print(json.dumps({
    "cache_dir": is_same(FCDMDiffAE.from_pretrained("org/tiny", cache_dir=cache), model),
    "cache_dir as Path": is_same(FCDMDiffAE.from_pretrained("org/tiny", cache_dir=Path(cache)), model),
    "branch": is_same(FCDMDiffAE.from_pretrained("org/tiny", revision="main", cache_dir=cache), model),
    "tag": is_same(FCDMDiffAE.from_pretrained("org/tiny", revision="v1", cache_dir=cache), older_model),
    "commit": is_same(
        FCDMDiffAE.from_pretrained("org/tiny", revision="OLDER", cache_dir=cache), older_model
    ),
    "tokenizer": is_same(by_name.model, model),
    "older tokenizer": is_same(by_tag.model, older_model),
    "names": [by_name.identity.name, by_tag.identity.name],
    "revisions": [
        by_name.identity.revision,
        by_tag.identity.revision,
        resolve_model("org/tiny", revision="OLDER").revision,
    ],
    "hashes": [by_name.identity.weights_sha256, by_tag.identity.weights_sha256],
    "refusals": {
        "org/other": refusal("org/other"),
        "org/tiny": refusal("org/tiny", revision="v2"),
        "org/ti ny": refusal("org/ti ny"),
        "org/tiny--x/y": refusal("org/tiny--x/y"),
    },
    "half fetched": refusal("org/half", Tokenizer.load),
    "telemetry is off": huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY,
}))
""".replace("OLDER", OLDER_COMMIT)


@pytest.fixture(scope="module")
def offline(hub: Hub) -> Any:
    """What a process found that has the cache through HF_HOME, no network, and HF_HUB_OFFLINE=1."""
    return run_script(LOAD_ALL, hub.cache, hub.model, hub.older_model, HF_HOME=str(hub.cache.parent))


@pytest.mark.parametrize("how", ["cache_dir", "cache_dir as Path", "branch", "tag", "commit"])
def test_a_cached_model_loads_offline_by_name_and_revision(offline: Any, how: str) -> None:
    assert offline[how] is True


def test_a_tokenizer_finds_the_cache_of_the_environment_and_records_the_commit(offline: Any) -> None:
    assert offline["tokenizer"] is True
    assert offline["older tokenizer"] is True
    assert offline["names"] == ["org/tiny", "org/tiny"]
    assert offline["revisions"] == [COMMIT, OLDER_COMMIT, OLDER_COMMIT]
    assert len(set(offline["hashes"])) == 2


@pytest.mark.parametrize("name", ["org/other", "org/tiny", "org/ti ny", "org/tiny--x/y"])
def test_a_model_that_is_not_cached_is_refused_offline_in_one_clear_line(offline: Any, name: str) -> None:
    message = offline["refusals"][name]
    assert message.startswith(f"{name}: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    assert "folder" in message
    assert "config.json and model.safetensors" in message
    if name in {"org/other", "org/tiny"}:  # which may well be on the hub
        assert "cannot be fetched from the hub" in message
        assert "HF_HUB_OFFLINE" in message


def test_the_hubs_client_is_told_to_send_no_telemetry(offline: Any) -> None:
    assert offline["telemetry is off"] is True


def test_the_variable_for_the_cache_alone_is_honoured_too(hub: Hub) -> None:
    script = """
    from semdis_cli.model.checkpoint import resolve_model
    location = resolve_model("org/tiny")
    print(json.dumps([str(location.folder), location.revision]))
    """
    folder, revision = run_script(script, HF_HUB_CACHE=str(hub.cache))
    assert Path(folder) == hub.cache / "models--org--tiny" / "snapshots" / COMMIT
    assert revision == COMMIT


def test_a_half_fetched_model_is_refused_by_naming_the_file(offline: Any, hub: Hub) -> None:
    snapshot = hub.cache / "models--org--half" / "snapshots" / COMMIT
    assert offline["half fetched"].startswith(f"{snapshot / 'model.safetensors'}: cannot be read")


def test_a_repository_id_without_the_hubs_client_names_the_command_that_installs_it() -> None:
    script = """
    sys.modules["huggingface_hub"] = None
    from semdis_cli.errors import MissingExtraError
    from semdis_cli.model.checkpoint import resolve_model
    from semdis_cli.model.tokenizer import Tokenizer
    messages = []
    for load in (resolve_model, Tokenizer.load):
        try:
            load("org/tiny")
        except MissingExtraError as error:
            messages.append([str(error), error.exit_code])
    print(json.dumps([messages, resolve_model("semdis-small").name]))
    """
    messages, bundled = run_script(script)
    assert len(messages) == 2
    for message, exit_code in messages:
        assert message.startswith("org/tiny: ")
        assert "pip install 'semdis[hub]'" in message
        assert len(message.splitlines()) == 1
        assert exit_code == 2
    assert bundled == "semdis-small"


def test_an_unreachable_hub_is_one_clear_line(tmp_path: Path) -> None:
    needs("huggingface_hub")
    script = """
    def find_no_address(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    socket.getaddrinfo = socket.create_connection = find_no_address
    from semdis_cli.errors import CheckpointError
    from semdis_cli.model.checkpoint import resolve_model
    try:
        resolve_model("org/tiny")
    except CheckpointError as error:
        print(json.dumps(str(error)))
    """
    message = run_script(script, HF_HUB_OFFLINE="0", HF_ENDPOINT="http://hub.invalid", HF_HOME=str(tmp_path))
    assert message.startswith("org/tiny: cannot be fetched from the hub (")
    assert "check the name and the network" in message
    assert len(message.splitlines()) == 1
