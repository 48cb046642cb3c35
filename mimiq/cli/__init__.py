"""The command line: ``mimiq-compile``, and the stages on their own under ``mimiq``.

Every flag becomes a value here, once; nothing below reads flags. Heavy libraries are imported
inside the commands that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import click

from mimiq.cli.commanding import Group, version_option
from mimiq.cli.commands.bench import bench
from mimiq.cli.commands.build import build
from mimiq.cli.commands.check import check
from mimiq.cli.commands.compare import compare
from mimiq.cli.commands.compile import compile_command
from mimiq.cli.commands.distill import distill
from mimiq.cli.commands.doctor import doctor
from mimiq.cli.commands.eval import evaluate_command
from mimiq.cli.commands.export import export
from mimiq.cli.commands.inspect import inspect_command
from mimiq.cli.commands.models import models
from mimiq.cli.commands.pack import pack
from mimiq.cli.commands.report import report
from mimiq.cli.commands.sensitivity import sensitivity
from mimiq.cli.commands.sweep import sweep
from mimiq.cli.commands.synthesize import synthesize

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Group, context_settings=_CONTEXT)
@version_option
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
    compare,
    sweep,
    models,
    doctor,
):
    main.add_command(_command)

compile_main = compile_command
compile_main.context_settings = _CONTEXT
