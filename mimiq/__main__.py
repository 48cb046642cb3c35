"""``python -m mimiq`` is ``mimiq``."""

from mimiq.entry import main

main()
