"""SLURM's own commands, asked so that nothing is queued twice and every refusal is one line."""

import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cluster.exit_codes import MachineFault
from cluster.rendezvous import expand_hosts

CALL_TIMEOUT_S = 60.0
# When the controller is too busy to answer, a job may be queued all the same.
LOOK_AGAIN_AFTER_S = (2.0, 5.0, 15.0)
# Of what SLURM's commands say when it was the controller, or slurmdbd, that did not answer.
NO_ANSWER = re.compile(
    r"timed out|unable to contact|connection refused|zero bytes were transmitted|"
    r"temporarily unable to accept|slurmctld.*not responding",
    re.IGNORECASE,
)
# A job that is queued again waits for 121 s: SLURM sets its start when it has left its nodes,
# unless one was asked for that still lies ahead then (22.05). By now it has left them.
LEAVES_NODES_WITHIN_S = 10
# What SLURM's refusals speak of, and the flags that asked for it.
FLAGS_BY_WORD = {
    "account": "account",
    "feature": "constraint",
    "generic resource": "gpus-per-node",
    "partition": "partition",
    "qos": "qos",
}
WHERE_SLURM_IS = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class NoSlurm(ValueError):
    """SLURM's commands are not on this machine."""


class Refused(ValueError):
    """SLURM said no, and why."""


class NoAnswer(MachineFault):
    """A daemon of SLURM's did not answer: what was asked may have been done or not."""


def call(*command: str, timeout_s: float = CALL_TIMEOUT_S) -> str:
    """What one of SLURM's commands prints.

    Refused with its own reason, NoAnswer if a daemon of SLURM's gives none, NoSlurm without it.
    """
    try:
        done = subprocess.run(
            command,
            env=outside_a_job(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except FileNotFoundError:
        raise NoSlurm(
            f"there is no SLURM here: {command[0]} is not on the PATH. Do this on a login node of "
            "the cluster; `--on local` trains on this machine"
        ) from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} had no answer within {timeout_s:.0f} s") from None
    if done.returncode == 0:
        return done.stdout
    reason = _reason(done.stderr) or f"{command[0]} ended with code {done.returncode}"
    if NO_ANSWER.search(done.stderr):
        raise NoAnswer(f"SLURM does not answer: {reason}")
    raise Refused(f"SLURM refused: {reason}")


def outside_a_job(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a job's own would pass on, or a user's would override with."""
    ours = re.compile(
        r"(SLURM|SLURMD|SBATCH|SRUN|SQUEUE|SINFO|SACCT|SCONTROL|PMI|PMIX)_.*|"
        r"(LOCAL_)?RANK|WORLD_SIZE|MASTER_(ADDR|PORT)"
    )
    return {
        key: value
        for key, value in environment.items()
        if key in WHERE_SLURM_IS or not ours.fullmatch(key)
    }


def own_job(environment: Mapping[str, str]) -> str | None:
    """The number of the job that we are in, such as 17, or 17_3 in an array; None outside of one.

    A task of an array has a SLURM_JOB_ID too, but the last one's is the array's: to queue that
    again is to queue all its tasks again, and all are cancelled by it.
    """
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


def new_token() -> str:
    """What a job is found by whose number was lost."""
    return f"letterpress:{secrets.token_hex(8)}"


def submit_once(
    script: Path, token: str, *, excluded: Sequence[str] = (), after: str | None = None
) -> str:
    """Queue a script, unless a job with this token is queued already; the job's number.

    It starts once the job `after` has. A controller that does not answer in time may have queued
    it: it is looked for first. Refused names what the script asks for that SLURM's reason is about.
    """
    command = ["sbatch", "--parsable", f"--comment={token}"]
    if after:
        command.append(f"--dependency=after:{checked_job(after)}")
    if excluded:
        command.append(f"--exclude={','.join(checked_nodes(excluded))}")
    failure: NoAnswer | None = None
    for wait_s in (0.0, *LOOK_AGAIN_AFTER_S):
        time.sleep(wait_s)
        try:
            found = find_job(token)
            return found or call(*command, str(script)).strip().partition(";")[0]
        except NoAnswer as error:
            failure = error
        except Refused as error:
            raise Refused(f"{error}{_flags_about(str(error), script)}") from None
    assert failure is not None
    raise failure


def find_job(token: str) -> str | None:
    """The number of the newest of our jobs whose comment is this token, ended ones too.

    Of an array its own number: the tasks share the comment.
    """
    jobs = [line.split("|", 1) for line in own_jobs("%F|%k").splitlines()]
    return max((job for job, comment in jobs if comment == token), key=int, default=None)


def cancel(job: str) -> None:
    """End a job at once, or take it out of the queue."""
    call("scancel", checked_job(job))


def requeue(job: str, *, excluded: Sequence[str], expired: Sequence[str] = ()) -> list[str]:
    """Queue our own running job again, without some nodes; what SLURM refused of it.

    Asked from inside the job this must be the last that it does, by a process that SIGTERM does
    not end: SLURM ends the job at once, and takes nodes and a start for a job only once it is no
    longer running. Refused if the job cannot be queued again.
    """
    changes = [f"ExcNodeList={','.join(_excluded_now(job, excluded, expired))}"]
    call("scontrol", "requeue", checked_job(job))
    changes.append(f"StartTime=now+{LEAVES_NODES_WITHIN_S}")
    refused = []
    for change in changes:
        try:
            call("scontrol", "update", f"JobId={job}", change)
        except (Refused, NoAnswer) as error:
            refused.append(f"{change}: {error}")
    return refused


def start_now(job: str) -> None:
    """Let a job that is queued again start before the time that SLURM has set."""
    call("scontrol", "update", f"JobId={checked_job(job)}", "StartTime=now")


def own_jobs(form: str) -> str:
    """A line for each of this user's jobs, and each task of an array, that is still known.

    In squeue's oldest format, which is the same from 21.08 to 26.05: its --json is not, and on
    22.05 ignores every filter, so that it would fetch the jobs of everybody.
    """
    user = f"--user={os.getuid()}"
    return call("squeue", "--noheader", "--array", user, "--states=all", f"--format={form}")


def checked_job(job: str) -> str:
    """The number of a job, as it may stand in a command."""
    if not re.fullmatch(r"\d+(_\d+)?", job):
        raise ValueError(f"a job of SLURM has a number such as 17 or 17_3, got {job!r}")
    return job


def checked_nodes(nodes: Iterable[str]) -> list[str]:
    """Names of nodes, as they may stand in a command."""
    for node in nodes:
        if not NODE_NAME.fullmatch(node):
            raise ValueError(f"a node's name is letters, digits, '.', '_' and '-', got {node!r}")
    return list(nodes)


def _flags_about(reason: str, script: Path) -> str:
    """The flags in a script that a refusal is about, for the end of its line."""
    keys = [key for word, key in FLAGS_BY_WORD.items() if word in reason.lower()]
    flags = re.findall(r"^#SBATCH (--([a-z-]+)=.*)", script.read_text(), re.MULTILINE)
    about = [flag for flag, key in flags if key in keys]
    return f" (the job asks for {' '.join(about)})" if about else ""


def _excluded_now(job: str, excluded: Sequence[str], expired: Sequence[str]) -> list[str]:
    """What the job was to avoid anyway, and these; what has expired may be used again."""
    shown = call("scontrol", "show", "job", "-o", checked_job(job))
    found = re.search(r"\bExcNodeList=(\S+)", shown)
    before = expand_hosts(found[1]) if found and found[1] != "(null)" else []
    kept = [node for node in before if node not in expired]
    return checked_nodes(dict.fromkeys([*kept, *excluded]))


def _reason(stderr: str) -> str:
    """The last line that says what is wrong, without the name of the command before it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return re.sub(r"^\w+: (error: )?", "", lines[-1]) if lines else ""
