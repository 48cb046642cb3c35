"""What lies in files: JSON objects, weights outside of a graph, what is being added to a bundle."""
