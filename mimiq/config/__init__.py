"""What is wanted, as values."""
