"""What a compiled network costs and gains, measured on its exported graphs."""
