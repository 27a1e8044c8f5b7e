"""How every program here starts and fails: one clear line, and a code that says what next."""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from cluster.exit_codes import ExitCode, MachineFault, Superseded

OURS = ("launcher", "trainer", "evalfarm", "cluster")
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


def run_program(main: Callable[[], int]) -> int:
    """Run `main` and return its exit code, or that of its failure.

    A ValueError that we raised is the user's mistake: its message is the one line to print. The
    same from a library is a fault of ours, and gets its traceback.
    """
    # Read by libraries when they are first imported: they warn about extras that are not needed.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    try:
        return main()
    except ValueError as error:
        if not _raised_by_us(error):
            traceback.print_exc()
            return ExitCode.DO_NOT_RESTART
        return _fail(str(error), ExitCode.BAD_INPUT)
    except MachineFault as error:
        return _fail(str(error), ExitCode.RETRY_ELSEWHERE)
    except (FloatingPointError, Superseded) as error:
        return _fail(str(error), ExitCode.DO_NOT_RESTART)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = None  # nor is anything left to flush
        return ExitCode.DONE
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            traceback.print_exc()
            return ExitCode.RETRY_ELSEWHERE
        return _fail(f"cannot write: {error}", ExitCode.DO_NOT_RESTART)


def last_words(log: Path) -> str:
    """The line of a program's log that says what went wrong: our own error line, or the last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]


def _fail(message: str, code: ExitCode) -> ExitCode:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code


def _raised_by_us(error: BaseException) -> bool:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    return module.partition(".")[0] in (*OURS, "__main__")
