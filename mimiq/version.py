"""The version, read from the installed distribution so that it is written once."""

from importlib.metadata import version

__version__ = version("mimiq")
