"""The command line's options, in groups that several commands share."""

from mimiq.cli.options.calibration import images_options, tuning_options
from mimiq.cli.options.grouping import option
from mimiq.cli.options.measurement import (
    backend_option,
    batches_option,
    engine_options,
    limit_option,
    measure_options,
)
from mimiq.cli.options.network import budget_options, model_options, precision_options
from mimiq.cli.options.output import (
    cache_option,
    dry_run_option,
    json_option,
    out_options,
    say_options,
)

__all__ = [
    "backend_option",
    "batches_option",
    "budget_options",
    "cache_option",
    "dry_run_option",
    "engine_options",
    "images_options",
    "json_option",
    "limit_option",
    "measure_options",
    "model_options",
    "option",
    "out_options",
    "precision_options",
    "say_options",
    "tuning_options",
]
