"""Bundles behind a server, and what a server really serves."""
