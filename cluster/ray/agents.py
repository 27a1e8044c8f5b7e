"""The agents of an attempt on Ray: an actor on each node holds its GPUs and runs its agent."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.exit_codes import ExitCode
from cluster.ranks.processes import start_session
from cluster.run_folder import RunFolder

GRACE_S = 15.0  # after one node has failed: the others' agents end their ranks within 5 s
SAY_EVERY_S = 30.0  # that there is no room yet


@dataclass(frozen=True, kw_only=True)
class Room:
    """What an attempt takes of a Ray cluster."""

    nodes: int
    ranks: int
    """On each node: a GPU and a core each."""
    on_gpus: bool
    without: tuple[str, ...] = ()
    """Addresses of nodes that are not to be used."""

    @property
    def bundle(self) -> dict[str, float]:
        """What is taken of one node."""
        return {"CPU": self.ranks, **({"GPU": self.ranks} if self.on_gpus else {})}


class NodeAgent:
    """One node of an attempt. Its agent, and so its ranks, die with this actor."""

    def address(self) -> str:
        """By which the other nodes reach this one."""
        import ray

        return str(ray.util.get_node_ip_address())

    def run(self, command: Sequence[str], code: str) -> int:
        """Run the agent to its end; its exit code."""
        # Ray says how many threads an actor has; the agent says it of each rank.
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        environment["PYTHONPATH"] = code
        return start_session(command, log=None, env=environment, cwd=Path(code)).wait()


def check_room(room: Room) -> None:
    """ValueError if the cluster has too few nodes of the kind, however long one waits."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    fit = [node for node in alive if _fits(node["Resources"], room.bundle)]
    usable = [node for node in fit if node["NodeManagerAddress"] not in room.without]
    if len(usable) < room.nodes:
        raise ValueError(
            f"the recipe asks for nodes with {_spelt(room.bundle)}: {room.nodes} of them, and of "
            f"this Ray's {len(alive)} nodes {len(usable)} will do; set ranks.nodes, ranks.per_node"
        )


def run_agents(
    run: RunFolder, attempt: int, room: Room, command: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Run an attempt to its end on all nodes: their names, and those that died under it.

    How it ended is in the agents' records.
    """
    import ray

    with _actors(room) as actors:
        hosts = ray.get([actor.address.remote() for actor in actors])
        ends = {}
        for number, actor in enumerate(actors):
            agent = agent_command(run, attempt, hosts, number, room.ranks)
            ends[actor.run.remote([*agent, "--", *command], str(run.code))] = hosts[number]
        return hosts, _wait(ends)


def agent_command(
    run: RunFolder, attempt: int, hosts: Sequence[str], number: int, ranks: int
) -> list[str]:
    """How the agent of one node is started."""
    return [
        *(sys.executable, "-m", "cluster.agent", "--run", str(run.root)),
        *("--attempt", str(attempt), "--ranks", str(ranks)),
        *("--node", str(number), "--hosts", *hosts),
    ]


def _wait(ends: Mapping[Any, str]) -> list[str]:
    """Wait for all agents, or not long once one has failed; the nodes that died."""
    import ray
    from ray.exceptions import RayError

    pending, dead, timeout_s = list(ends), [], None
    while pending:
        done, pending = ray.wait(pending, num_returns=1, timeout=timeout_s)
        if not done:
            break  # they hang in a collective: they end with their actors
        try:
            failed = ray.get(done[0]) not in (ExitCode.DONE, ExitCode.STOPPED)
        except RayError:
            failed = True
            dead.append(ends[done[0]])
        timeout_s = GRACE_S if failed else timeout_s
    return dead


@contextmanager
def _actors(room: Room) -> Iterator[list[Any]]:
    """An actor on each of so many nodes; they end with this context."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group(
        [room.bundle] * room.nodes,
        strategy="STRICT_SPREAD",
        bundle_label_selector=[_selector(room)] * room.nodes,
    )
    try:
        while not ray.wait([group.ready()], timeout=SAY_EVERY_S)[0]:
            print(f"waiting until {room.nodes} nodes have {_spelt(room.bundle)} free", flush=True)
        yield [
            ray.remote(NodeAgent)
            .options(
                num_cpus=room.bundle["CPU"],
                num_gpus=room.bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, number),
            )
            .remote()
            for number in range(room.nodes)
        ]
    finally:
        remove_placement_group(group)  # which ends its actors


def _selector(room: Room) -> dict[str, str]:
    """Of nodes that may be used, by Ray's own names for them."""
    import ray

    left_out = [n["NodeID"] for n in ray.nodes() if n["NodeManagerAddress"] in room.without]
    return {"ray.io/node-id": f"!in({','.join(left_out)})"} if left_out else {}


def _fits(resources: Mapping[str, float], bundle: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in bundle.items())


def _spelt(bundle: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())
