"""The commands of ``mimiq``, one a file."""
