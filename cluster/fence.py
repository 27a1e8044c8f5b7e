"""A superseded attempt changes nothing of its run any more.

A scheduler that loses sight of a node starts the job anew, while the ranks on that node go on and
see the same storage. Numbers of attempts are never reused, so whoever finds a higher one is of the
past: its agent ends its ranks, and what it would still publish, move or remove is refused.
"""

from cluster.exit_codes import Superseded
from cluster.run_folder import RunFolder


class Fence:
    """Lets one attempt change its run until a newer one begins."""

    # Asked right before each rename. Between the two a newer attempt may begin:
    # - What is published then, LATEST too, is in time: that attempt has not looked yet. It looks
    #   after it has moved away what is staged (`recover`), and from then on the rename fails.
    # - A removal still happens. What is removed has a successor that both attempts have seen.
    # - On NFS a listing may be as old as the client's attribute cache (60 s unless the site says
    #   otherwise). Until then only the sweep refuses, and only what was staged before it.

    def __init__(self, run: RunFolder, attempt: int) -> None:
        self.run = run
        self.attempt = attempt

    def is_down(self) -> bool:
        """Whether a newer attempt has begun."""
        newest = self.run.last_attempt()
        return newest is not None and newest > self.attempt

    def check(self) -> None:
        """Superseded if a newer attempt has begun."""
        if self.is_down():
            raise Superseded(
                f"attempt {self.attempt} of {self.run.root} was superseded by attempt "
                f"{self.run.last_attempt()}: it ends, and publishes nothing more"
            )
