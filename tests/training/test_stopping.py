import os
import signal
import subprocess
import sys
import time

import pytest

from tweedie_diffusion.training import stopping
from tweedie_diffusion.training.stopping import Stopped, StopRequests

HEAD = """
import hashlib
from tweedie_diffusion.program import leave
from tweedie_diffusion.training.stopping import StopRequests
def held():  # by C code that lets other threads run, as by the compiler
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000_000)
"""


def started(body):
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + body], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def kill(number):
    os.kill(os.getpid(), number)


def test_a_request_is_noted_and_the_work_goes_on():
    with StopRequests() as stops:
        assert stops.asked == 0
        kill(signal.SIGTERM)
        assert stops.asked == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_where_nothing_can_be_lost_a_request_is_obeyed_at_once(number):
    def work():
        with StopRequests() as stops, stops.nothing_to_lose("step 5 is saved"):
            kill(number)
            pytest.fail("the work went on")

    with pytest.raises(Stopped, match="step 5 is saved") as stopped:
        work()
    assert stopped.value.number == number


def test_a_request_that_came_before_is_obeyed_where_nothing_can_be_lost():
    with StopRequests() as stops:
        kill(signal.SIGINT)
        with pytest.raises(Stopped, match="step 5 is saved"), stops.nothing_to_lose("step 5 is saved"):
            pytest.fail("the work went on")


def test_a_second_signal_interrupts_and_one_that_came_twice_is_one(monkeypatch):
    with StopRequests() as stops:
        kill(signal.SIGINT)
        kill(signal.SIGINT)
        monkeypatch.setattr(stopping, "ONE_SIGNAL", -1.0)
        with pytest.raises(KeyboardInterrupt):
            kill(signal.SIGINT)
        assert stops.asked == signal.SIGINT


def test_the_old_handlers_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequests():
        pass
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_the_compiler_holds_leaves_within_five_seconds(number, code):
    process = started("""
with StopRequests(leave) as stops, stops.nothing_to_lose("step 5 is saved", lambda: print("settled", flush=True)):
    print("ready", flush=True)
    held()
print("held to the end")
""")
    time.sleep(0.3)  # until it is held
    begun = time.monotonic()
    process.send_signal(number)
    shown, errors = process.communicate(timeout=25)
    assert process.returncode == code, errors
    assert time.monotonic() - begun < 5
    assert "settled\n" in shown
    assert "step 5 is saved. Go on with:\n  " in shown
    assert "held to the end" not in shown


def test_a_second_signal_ends_a_process_whatever_it_does():
    process = started("""
with StopRequests(leave) as stops:
    print("ready", flush=True)
    held()
""")
    process.send_signal(signal.SIGTERM)
    time.sleep(stopping.ONE_SIGNAL + 0.2)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=25)
    assert process.returncode == 143
    assert time.monotonic() - begun < 2
    assert "stopped at once, by a second signal" in shown
