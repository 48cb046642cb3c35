"""Bundles side by side: what each costs and gains, and which one to take."""
