"""What a user sees when something goes wrong: one clear error and an exit code, no traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator

import click

from mimiq import files
from mimiq.cli.flags import with_flags
from mimiq.cli.signals import KEPT, Terminated, interruptible
from mimiq.cli.streams import printable, standard_error
from mimiq.errors import BadInput, EnvironmentLacks, MimiqError
from mimiq.files import lack_of_memory, lacks_descriptors
from mimiq.ranks import may_speak

DEBUG = "MIMIQ_DEBUG"
INTERRUPTED, TERMINATED, INTERNAL_ERROR = 130, 143, 70
EXIT_CODES = {
    0: "All went well.",
    1: "Anything else failed.",
    2: "A file, a flag or a value cannot be used as given.",
    3: "The network's structure is not supported.",
    4: "The target would refuse the graph, or run it in another precision.",
    5: "The engine builder gave up.",
    6: "A library, a driver or a device is missing on this host, or memory or disk.",
    7: "A measured accuracy, agreement or latency missed its limit.",
    INTERNAL_ERROR: "A defect of mimiq.",
    INTERRUPTED: "Interrupted; what is finished is kept.",
    TERMINATED: "Ended by SIGTERM; the same.",
}
_TALKATIVE, _NOWHERE = ("onnx_ir", "onnxscript"), logging.NullHandler()
_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn whatever is raised inside into a message on standard error and an exit code.

    click's own mistakes of usage are told as others are; its other exceptions pass, and a closed
    pipe too: click ends quietly for it.

    Raises:
        click.exceptions.Exit: with the error's exit code.
    """
    _open_streams()
    try:
        with interruptible(), _quiet_libraries(), _own_warnings():
            _require_folder()
            yield
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            raise
        if may_speak():
            print_error(_misused(error))
        raise click.exceptions.Exit(BadInput.exit_code) from error
    except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
        raise
    except KeyboardInterrupt as error:
        ended = isinstance(error, Terminated)
        if may_speak():
            print_message(f"{'terminated' if ended else 'interrupted'}; {KEPT}", "yellow")
        raise click.exceptions.Exit(TERMINATED if ended else INTERRUPTED) from error
    except Exception as error:
        if debugging():
            print(printable(traceback.format_exc()), file=standard_error())
        known, speaks = explained(error), may_speak()
        if known is None:
            if speaks:
                _print_internal(error)
            raise click.exceptions.Exit(INTERNAL_ERROR) from error
        if speaks:
            print_error(known)
        raise click.exceptions.Exit(known.exit_code) from error


def _require_folder() -> None:
    """Where it is gone, no path can be made absolute, and each library has other words for it."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise BadInput("The folder you are in was removed.", "Change to another folder.") from error


def _misused(error: click.UsageError) -> BadInput:
    """click's error in the words of all others."""
    problem = error.format_message()
    if error.ctx is None:
        return BadInput(problem)
    return BadInput(problem, f"Run: {error.ctx.command_path} --help")


def _open_streams() -> None:
    """No result is lost for a stream that is closed, or whose encoding lacks a letter."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def explained(error: Exception) -> MimiqError | None:
    """The error as one that the user can act on; None for what only a defect can have caused."""
    if isinstance(error, MimiqError):
        return error
    if files.is_full(error):
        return files.full(_filename(error))
    if files.is_too_large(error):
        return files.too_large(_filename(error))
    if isinstance(error, OSError) and error.errno in _ACCESS and error.filename is not None:
        return BadInput(
            f"{error.filename} cannot be read or written: {error.strerror}.",
            "Check the path and its permissions.",
        )
    if lacks_descriptors(error):
        return files.too_many_files()
    said = lack_of_memory(error)
    if said is not None:
        return EnvironmentLacks(
            f"The memory is exhausted: {said}",
            "Use a smaller --recipe or --batches, or a host with more memory.",
        )
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return BadInput("A file's name holds a zero byte, as no file's can.", "Check the names.")
    return None


def print_error(error: MimiqError) -> None:
    """``error: problem`` and the next step, on standard error."""
    problem, next_step = with_flags(error.problem), with_flags(error.next_step)
    print_message(problem, "red", "error: ", next_step)


def print_message(text: str, style: str, prefix: str = "", next_step: str = "") -> None:
    """One message on standard error; nothing in it is taken as markup or a terminal's command."""
    text, more = printable(text), f"\n  {printable(next_step)}" if next_step else ""
    try:
        from rich.text import Text

        from mimiq.cli.consoles import PlainConsole

        message = Text(prefix, style=f"bold {style}")
        message.append(text, style="none" if prefix else style)
        message.append(more, style="not bold")
        PlainConsole(file=standard_error(), highlight=False).print(message, soft_wrap=True)
    except (MemoryError, ImportError, OSError):  # what failed may be what printing needs as well
        with contextlib.suppress(OSError):
            os.write(2, f"{prefix}{text}{more}\n".encode(errors="replace"))


def debugging() -> bool:
    """Whether tracebacks and libraries' warnings are wanted: ``MIMIQ_DEBUG=1``."""
    return os.environ.get(DEBUG, "") not in ("", "0")


def _print_internal(error: Exception) -> None:
    print_message(
        f"{type(error).__name__}: {_first_line(error)}",
        "red",
        "internal error: ",
        "This is a defect of mimiq. Please report it with the traceback that "
        f"{DEBUG}=1 shows, and the output of mimiq doctor.",
    )


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Libraries' warnings are for developers."""
    with warnings.catch_warnings():
        if not debugging():
            warnings.simplefilter("ignore")
            for name in _TALKATIVE:  # else Python prints them
                logging.getLogger(name).addHandler(_NOWHERE)
        yield


class _Shown(logging.Handler):
    """Prints our own warnings as errors are; Python would send them to the terminal as they are."""

    def emit(self, record: logging.LogRecord) -> None:
        if may_speak():
            print_message(with_flags(record.getMessage()), "yellow", "warning: ")


@contextlib.contextmanager
def _own_warnings() -> Iterator[None]:
    logger = logging.getLogger("mimiq")
    if any(isinstance(handler, _Shown) for handler in logger.handlers):  # a command of a group
        yield
        return
    handler = _Shown(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _filename(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, OSError) and error.filename is not None:
            return str(error.filename2 or error.filename)  # of a copy, what is written
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
