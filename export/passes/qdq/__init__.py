"""From fake quantisers, as torch writes them, to the Q/DQ graph that is shipped."""
