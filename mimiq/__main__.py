"""``python -m mimiq`` is ``mimiq``."""

from mimiq.cli import main

main(prog_name="mimiq")
