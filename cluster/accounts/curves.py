"""The GPU-hours of a run in TensorBoard, at the step that each attempt came to. Needs no torch."""

import logging
from collections.abc import Iterator
from importlib.util import find_spec

from cluster.accounts.accounting import Account, total
from cluster.accounts.attempt_facts import accounts_of, attempt_facts
from cluster.run_folder import RunFolder, read_json

log = logging.getLogger(__name__)


def draw_accounts(run: RunFolder) -> None:
    """Draw the newest attempt's point: the hours of the run until then, and their goodput."""
    if find_spec("tensorboard") is None:
        log.warning("tensorboard is not installed here: GPU-hours stand in %s alone", run.state)
        return
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    state = read_json(run.state)
    record = state["attempts"][-1]
    facts = attempt_facts(run, record)
    step = facts.steps[-1].last if facts.steps else facts.resumed_from or 0
    sums = total(accounts_of(run, state))
    suffix = f".attempt-{record['number']:03d}"
    writer = EventFileWriter(str(run.tensorboard / "cluster"), filename_suffix=suffix)
    for tag, number in scalars(sums):
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=number)])
        writer.add_event(Event(wall_time=facts.ended, step=step, summary=summary))
    writer.close()


def scalars(account: Account) -> Iterator[tuple[str, float]]:
    """Tag and value of each curve."""
    hours = account.hours()
    if hours["goodput"] is not None:
        yield "cluster/goodput", hours["goodput"]
    for name in ("requested", "used", "useful"):
        yield f"gpu_hours/{name}", hours[name]
    for cause, lost in hours["lost"].items():
        yield f"gpu_hours_lost/{cause}", lost
