"""``python -m mimiq.cli`` is ``mimiq``."""

from mimiq.entry import main

main()
