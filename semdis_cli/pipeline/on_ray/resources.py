"""Resources that an actor asks a Ray cluster for, and how many such actors go into it."""

from collections.abc import Mapping
from typing import Any

from semdis_cli.settings import ProcessSettings

Resources = Mapping[str, float]  # amounts by name: "CPU", "GPU"


def resources_of_actor(settings: ProcessSettings, *, is_on_cpu: bool) -> Resources:
    """Return what Ray keeps for an actor: its GPU or a part of one, and the cores that come with that."""
    if is_on_cpu:
        return {"CPU": settings.cpus_per_worker or 1, "GPU": 0}
    gpus = settings.gpus_per_worker or 1
    cores = [node["CPU"] / node["GPU"] for node in nodes().values() if node.get("GPU") and node.get("CPU")]
    return {"CPU": settings.cpus_per_worker or max(1, int(min(cores, default=1) * gpus)), "GPU": gpus}


def nodes() -> dict[str, Resources]:
    """Return what each node that is there has, by the id of the node."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call,unused-ignore]
    return {node["NodeID"]: node["Resources"] for node in found if node["Alive"]}


def room_for(per_actor: Resources) -> int:
    """Return how many actors go into the cluster as it is, if nobody else uses it."""
    return sum(actors_on(node, per_actor) for node in nodes().values())


def actors_on(node: Resources, per_actor: Resources) -> int:
    """Return how many actors go onto a node, by the resources of both."""
    return int(min(node.get(name, 0) // amount for name, amount in per_actor.items() if amount))
