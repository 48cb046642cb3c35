"""Where networks come from: a file a library, each mapping its layout to timm's."""
