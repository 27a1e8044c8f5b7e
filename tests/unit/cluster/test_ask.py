"""Programs are asked with a limit, and what they do not say has a reason."""

import sys
import time

from cluster.ask import ask


def test_what_a_program_prints_is_its_answer() -> None:
    answer = ask([sys.executable, "-c", "print('22.05')"], timeout_s=30)
    assert answer.text == "22.05\n"
    assert answer.silence == ""


def test_a_program_that_hangs_is_left_at_its_limit() -> None:
    began_s = time.monotonic()
    answer = ask(["sleep", "60"], timeout_s=0.2)
    assert answer.text is None
    assert answer.silence == "sleep gave no answer in 0.2 s"
    assert time.monotonic() - began_s < 10


def test_a_program_that_is_not_here_or_fails_says_why() -> None:
    assert ask(["no-such-program"], timeout_s=5).silence == "no no-such-program on PATH"
    failing = [sys.executable, "-c", "import sys; sys.exit('the controller is gone')"]
    assert ask(failing, timeout_s=30).silence.endswith(": the controller is gone")


def test_a_program_is_given_more_environment_than_ours() -> None:
    code = "import os; print(os.environ['WHERE'], 'PATH' in os.environ)"
    answer = ask([sys.executable, "-c", code], timeout_s=30, environment={"WHERE": "here"})
    assert answer.text == "here True\n"
