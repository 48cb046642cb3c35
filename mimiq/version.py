"""The version, read from the installed distribution so that it is written once."""

from importlib.metadata import version

DISTRIBUTION = "mimiq-vit"  # on the package index; "mimiq" is another project there

__version__ = version(DISTRIBUTION)
