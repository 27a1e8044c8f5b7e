"""The agents of an attempt on Ray: an actor on each node holds its GPUs and runs its agent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.exit_codes import ExitCode
from cluster.ranks.processes import start_session
from cluster.ray.drain import draining_nodes
from cluster.ray.room import RayNode, Room, check_names, live_nodes, selector
from cluster.run_folder import RunFolder

GRACE_S = 15.0  # after one node has failed: the others' agents end their ranks within 5 s
ENDS_S = 5.0  # for an agent to end its ranks and to record that
LOOK_EVERY_S = 1.0  # whether nodes are drained, or a run that waits is stopped
NODE_DIES_S = 60.0  # from an agent's silence until Ray takes its node for dead: 15 s and more
SAY_EVERY_S = 30.0  # that there is no room yet


class NodeAgent:
    """One node of an attempt. Its agent, and so its ranks, die with this actor."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def node_id(self) -> str:
        """Where we are."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def run(self, command: Sequence[str], code: str) -> int:
        """Run the agent to its end; its exit code."""
        # Ray says how many threads an actor has; the agent says it of each rank.
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        environment["PYTHONPATH"] = code
        self.process = start_session(command, log=None, env=environment, cwd=Path(code))
        return self.process.wait()

    def end(self) -> None:
        """Let the agent end its ranks at once, with all that they started; `run` returns then."""
        if self.process:
            self.process.send_signal(signal.SIGINT)


@dataclass(frozen=True, kw_only=True)
class Seats:
    """The nodes that an attempt has been given, the first node first."""

    nodes: Sequence[RayNode]
    actors: Sequence[Any]
    room: Room

    @property
    def names(self) -> list[str]:
        """As the agents' records name the nodes."""
        return [node.name for node in self.nodes]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What Ray says of the nodes whose agents did not come to their end."""

    hosts: tuple[str, ...]
    """Those of them that Ray takes for dead."""
    words: tuple[str, ...]


@contextmanager
def seated(room: Room, is_stopped: Callable[[], bool]) -> Iterator[Seats | None]:
    """Wait until there is room, and hold it; whatever runs there ends with this context.

    None if the run is stopped before it has its nodes.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    bundles, labels = [room.bundle] * room.nodes, [selector(room)] * room.nodes
    group = placement_group(bundles, strategy="STRICT_SPREAD", bundle_label_selector=labels)
    try:
        seats = None
        while seats is None and _await_room(room, group, is_stopped):
            seats = _sit(room, group)
        yield None if is_stopped() else seats
    finally:
        remove_placement_group(group)  # which ends its actors


def run_agents(run: RunFolder, attempt: int, seats: Seats, command: Sequence[str]) -> Loss:
    """Run an attempt on all its nodes to its end, or not long after one has failed.

    How it ended is in the agents' records. When Ray drains one of the nodes, the run is asked to
    stop.
    """
    ends = {}
    for number, (actor, node) in enumerate(zip(seats.actors, seats.nodes, strict=True)):
        agent = [*agent_command(run, attempt, seats, number), "--", *command]
        ends[actor.run.remote(agent, str(run.code))] = node
    try:
        return _watch(run, ends)
    finally:
        _end_agents(seats, list(ends))


def agent_command(run: RunFolder, attempt: int, seats: Seats, number: int) -> list[str]:
    """How the agent of one node is started."""
    return [
        *(sys.executable, "-m", "cluster.agent", "--run", str(run.root)),
        *("--attempt", str(attempt), "--ranks", str(seats.room.ranks), "--node", str(number)),
        *("--address", seats.nodes[0].address, "--hosts", *seats.names),
    ]


def _watch(run: RunFolder, ends: Mapping[Any, RayNode]) -> Loss:
    """Wait for all agents, or not long once one has failed; `ends` are what Ray will answer."""
    import ray

    pending, lost, words = list(ends), [], []
    drained: set[str] = set()
    patience_s = float("inf")
    while pending and patience_s > 0:
        done, pending = ray.wait(pending, num_returns=1, timeout=LOOK_EVERY_S)
        if not done:
            drained |= _obey_drain(run, ends.values())
            patience_s -= LOOK_EVERY_S
            continue
        node = ends[done[0]]
        failed, loss = _how_it_ended(done[0])
        if loss:
            lost.append(node)
            # The end of a node that was announced explains nothing: STOP says why.
            words += [] if node.id in drained else loss
        patience_s = min(patience_s, GRACE_S) if failed else patience_s
    alive = _await_death(lost)
    return Loss(hosts=tuple(n.name for n in lost if n.id not in alive), words=tuple(words))


def _how_it_ended(answer: Any) -> tuple[bool, list[str]]:
    """Whether an agent has failed, and the words for it if it did not come to its own end."""
    import ray
    from ray.exceptions import RayError

    try:
        code = ray.get(answer)
    except RayError as error:
        return True, str(error).splitlines()
    if code < 0:  # with its actor, which could still answer
        return True, [f"an agent was ended by signal {-code}"]
    return code not in (ExitCode.DONE, ExitCode.STOPPED), []


def _await_death(lost: Sequence[RayNode]) -> set[str]:
    """Give Ray time to take the nodes of lost agents for dead; the ids of all that live."""
    deadline = time.monotonic() + NODE_DIES_S
    while True:
        alive = {node.id for node in live_nodes()}
        if not any(node.id in alive for node in lost) or time.monotonic() > deadline:
            return alive
        time.sleep(LOOK_EVERY_S)


def _obey_drain(run: RunFolder, nodes: Collection[RayNode]) -> set[str]:
    """Ask the run to save and leave if nodes are to be taken away; the ids of those."""
    draining = draining_nodes()
    drained = [node for node in nodes if node.id in draining]
    for node in drained:
        run.request_stop(f"Ray drains {node.name}, which is preempted")
    return {node.id for node in drained}


def _end_agents(seats: Seats, ends: list[Any]) -> None:
    """End what still runs: ranks that hang in a collective, or all if the run is cancelled."""
    import ray

    for actor in seats.actors:
        actor.end.remote()
    ray.wait(ends, num_returns=len(ends), timeout=ENDS_S)


def _await_room(room: Room, group: Any, is_stopped: Callable[[], bool]) -> bool:
    """Wait until a group has its nodes; False if the run is stopped before."""
    import ray

    said_s = float("-inf")
    while not ray.wait([group.ready()], timeout=LOOK_EVERY_S)[0]:
        if is_stopped():
            return False
        if time.monotonic() - said_s >= SAY_EVERY_S:
            said_s = time.monotonic()
            nodes = f"{room.nodes} nodes" if room.nodes > 1 else "a node"
            print(f"waiting for {nodes} with {room} free", flush=True)
    return True


def _sit(room: Room, group: Any) -> Seats | None:
    """Put an actor on each node of a group; None if one is lost just now: Ray looks for another."""
    import ray
    from ray.exceptions import RayError

    actors = [_actor(room, group, number) for number in range(room.nodes)]
    known = {node.id: node for node in live_nodes()}
    try:
        nodes = [known[place] for place in ray.get([actor.node_id.remote() for actor in actors])]
    except (RayError, KeyError):
        for actor in actors:
            ray.kill(actor)
        return None
    check_names([node.name for node in nodes])
    return Seats(nodes=nodes, actors=actors, room=room)


def _actor(room: Room, group: Any, number: int) -> Any:
    """The actor of one node; it can be told to end its agent while that runs."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    options = {
        "num_cpus": room.bundle["CPU"],
        "num_gpus": room.bundle.get("GPU", 0),
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, number),
    }
    return ray.remote(NodeAgent).options(max_concurrency=2, **options).remote()
