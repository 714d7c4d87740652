"""The Job of examples/kubernetes: what Kubernetes takes it for, and its container's command once for each index."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.errors import ExitCode
from tests.examples import EXAMPLES, World
from tests.extras import needs

VERSIONS = ("1.29", "1.33", "1.37")


def documents() -> list[dict[str, Any]]:
    """The objects that the file has."""
    needs("yaml")
    import yaml

    return list(yaml.safe_load_all((EXAMPLES / "kubernetes" / "job.yaml").read_text(encoding="utf-8")))


@pytest.fixture
def job() -> dict[str, Any]:
    found: list[dict[str, Any]] = [document["spec"] for document in documents() if document["kind"] == "Job"]
    return found[0]


@pytest.fixture
def container(job: dict[str, Any]) -> dict[str, Any]:
    containers: list[dict[str, Any]] = job["template"]["spec"]["containers"]
    return containers[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version: str) -> None:
    needs("kubernetes_validate")
    import kubernetes_validate

    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)
        document["spec"]["backofLimit"] = 1
        with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
            kubernetes_validate.validate(document, version, strict=True)


def test_there_is_a_pod_for_every_part(job: dict[str, Any], container: dict[str, Any]) -> None:
    [parts] = [int(each["value"]) for each in container["env"] if each["name"] == "PARTS"]
    assert (job["completionMode"], job["completions"]) == ("Indexed", parts)


def test_no_exit_code_that_another_try_may_mend_ends_a_part(job: dict[str, Any]) -> None:
    rules = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
    assert list(rules) == ["Ignore", "FailJob", "FailIndex"]
    ending = {action: rules[action]["onExitCodes"]["values"] for action in ("FailJob", "FailIndex")}
    assert ending == {"FailJob": [ExitCode.NO_SPACE], "FailIndex": [ExitCode.USAGE, ExitCode.BAD_DATA]}


@pytest.mark.slow
def test_the_pods_make_one_set_in_any_order_with_one_killed(
    container: dict[str, Any], tmp_path: Path, tiny: Path
) -> None:
    world = World.make(tmp_path, tiny)
    text = json.dumps([*container["command"], *container["args"]])
    mine = {"/data/photos": world.photos, "/data/latents": str(world.latents), "--size 256": " ".join(world.options)}
    for name, value in mine.items():
        assert name in text
        text = text.replace(name, value)
    command = json.loads(text)

    def pod(index: int) -> dict[str, str]:
        return {"JOB_COMPLETION_INDEX": str(index), "PARTS": "4", "CORES": "1"}

    assert world.stop_at_work(command, "2/4", signal.SIGKILL, pod(2)) == 128 + signal.SIGKILL
    for index in (3, 1, 2, 0):
        done = world.run(command, pod(index))
        assert done.returncode == 0, done.stderr
    world.assert_whole()
