"""What passes, rules and summaries look for in a graph: Linears, attention, what lies around."""
