"""Ctrl-C and SIGTERM, at work and while libraries are imported: one line, and nothing half done."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from delayed_signals import fault, run

from mimiq.cli.signals import end_at_once, interruptible

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

WORKING = """
import time
from pathlib import Path
import click
from mimiq.cli.commanding import Command
from mimiq.files import replacing

@click.command(cls=Command)
def work():
    with replacing(Path("result")) as temporary:
        temporary.write_text("half")
        print("begun", flush=True)
        time.sleep(60)

work()
"""
IMPORTING = """
import sys
import click
from mimiq.cli.commanding import Command

@click.command(cls=Command)
def work():
    sys.path.insert(0, ".")
    try:
        import slow_library
    except BaseException:
        print("an import that was broken off goes on")

work()
"""
# The command line's own imports: the first library that it asks for brings the signal.
BEGINNING = """
import os, signal, sys

class Signalling:
    def find_spec(self, name, *_):
        if name == "click":
            os.kill(os.getpid(), int(sys.argv[1]))

sys.meta_path.insert(0, Signalling())
from mimiq.entry import main
main()
"""


def signalled(program: str, number: signal.Signals, folder: Path) -> tuple[int, str, str]:
    """Run a program and send the signal when it has written a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        # A run in the background inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    out, said = process.communicate(timeout=60)
    return process.returncode, out, said


BOTH = pytest.mark.parametrize(
    ("number", "word", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)


@BOTH
def test_what_was_being_written_is_taken_back(
    number: signal.Signals, word: str, code: int, tmp_path: Path
) -> None:
    found, _, said = signalled(WORKING, number, tmp_path)
    assert (found, said) == (
        code,
        f"{word}; what is finished is kept, run the same command again to go on\n",
    )
    assert not list(tmp_path.iterdir())


@BOTH
def test_an_import_ends_at_once(
    number: signal.Signals, word: str, code: int, tmp_path: Path
) -> None:
    (tmp_path / "slow_library.py").write_text(
        "import time\nprint('begun', flush=True)\ntime.sleep(60)\n"
    )
    found, out, said = signalled(IMPORTING, number, tmp_path)
    assert (found, out) == (code, "")
    assert said.startswith(f"{word}; what is finished is kept")
    assert said.count("\n") == 1


@BOTH
def test_the_command_line_s_own_imports(number: signal.Signals, word: str, code: int) -> None:
    command = [sys.executable, "-c", BEGINNING, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, f"{word}; nothing was begun\n")


def test_next_to_nothing_is_loaded_before_signals_are_heard() -> None:
    program = "import sys; before = set(sys.modules); import mimiq.entry; "
    program += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    ours = {"mimiq", "mimiq.lazy", "mimiq.entry"}
    assert {name for name in loaded if name.startswith("mimiq")} == ours
    assert not {"click", "importlib.metadata", "logging", "numpy"} & loaded


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_moment_of_a_command_is_left_out(number: signal.Signals) -> None:
    """A few here; ``tests/nightly/test_signals.py`` takes many."""
    words = ["models", "--json"]
    whole = run(words)
    assert whole.code == 0
    for part in (0, 0.35, 0.6, 0.85):
        delay = part * whole.seconds
        assert not fault(whole, number, delay, run(words, number, delay))


def test_handlers_of_others_stay() -> None:
    def own(_number: int, _frame: object) -> None:
        """An application's."""

    before = signal.signal(signal.SIGTERM, own)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGTERM) is own
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handlers_of_the_entry_come_back() -> None:
    before = signal.signal(signal.SIGTERM, end_at_once)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGTERM) is not end_at_once
        assert signal.getsignal(signal.SIGTERM) is end_at_once
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_have_no_signals() -> None:
    found = []

    def work() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
