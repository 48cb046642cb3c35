"""The command line: ``mimiq-compile``, and the stages on their own under ``mimiq``.

Every flag becomes a value here, once; nothing below reads flags. Heavy libraries are imported
inside the commands that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import click

from mimiq.cli.benching import bench
from mimiq.cli.compiling import compile_command
from mimiq.cli.diagnosis import doctor
from mimiq.cli.engines import build
from mimiq.cli.exporting import export
from mimiq.cli.failures import Group
from mimiq.cli.inspecting import inspect_command
from mimiq.cli.listing import models
from mimiq.cli.making import distill, synthesize
from mimiq.cli.measuring import evaluate_command
from mimiq.cli.reporting import report
from mimiq.cli.sensitivity import sensitivity
from mimiq.cli.serving import check, pack
from mimiq.version import __version__

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Group, context_settings=_CONTEXT)
@click.version_option(__version__)
def main() -> None:
    """Compile a trained vision transformer into a small, checked INT8 or INT4 engine.

    It needs not one real image: it synthesises what it calibrates and tunes on.
    """


for _command in (
    compile_command,
    synthesize,
    sensitivity,
    distill,
    export,
    build,
    evaluate_command,
    bench,
    pack,
    check,
    inspect_command,
    report,
    models,
    doctor,
):
    main.add_command(_command)

compile_main = compile_command
compile_main.context_settings = _CONTEXT
