"""``python -m mimiq.cli`` is ``mimiq``."""

from mimiq.cli import main

main(prog_name="mimiq")
