"""What was measured, for machines and for people."""
