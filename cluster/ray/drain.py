"""Nodes that Ray is about to take away, and says so while there is time to save.

`ray start --block` drains its node for 30 s when it gets SIGTERM, as on Kubernetes; what a cloud
provider announces comes through an autoscaler. Ray ends nothing: who drains a node does that.
"""

import re


def draining_nodes() -> set[str]:
    """The ids of the nodes that Ray drains."""
    import ray

    # Private, but there is no other: Ray (2.60) tells it in public only to workers of Ray Train,
    # and its own Train, Data and Serve ask in this way, which has been the same since 2.10.
    assert re.match(r"2\.[1-9]\d", ray.__version__), f"Ray {ray.__version__} was not tried"
    return set(ray._private.state.state.get_draining_nodes())
