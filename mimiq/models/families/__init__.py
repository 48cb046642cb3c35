"""Families of networks beside the plain ViT, one a file."""
