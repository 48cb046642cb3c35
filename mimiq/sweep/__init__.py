"""Many compilations: networks × precisions × recipes, each a job of its own."""
