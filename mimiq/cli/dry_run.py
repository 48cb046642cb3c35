"""What a compilation would do, for ``--dry-run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimiq.cli.output import print_json, show, shown, table

if TYPE_CHECKING:
    from mimiq.cache import Cache
    from mimiq.spec import Job
    from mimiq.stages.estimate import Estimate


def show_plan(job: Job, plan: Estimate, cache: Cache, *, as_json: bool) -> None:
    """Every step with about its time, and where the result would go."""
    from mimiq.cli.terminal_progress import duration

    if as_json:
        print_json({"bundle": str(job.out), "cache": str(cache.root), **plan.to_json()})
        return

    def time_of(seconds: float | None) -> str:
        return "not known before" if seconds is None else duration(seconds)

    rows = [(step.name, step.what, time_of(step.seconds)) for step in plan.steps]
    title = f"{job.model.name} at {job.precision.label}, recipe {job.recipe.name}, on {plan.device}"
    show(table(("step", "what is done", "about"), rows, title))
    unknown = any(step.seconds is None for step in plan.steps)
    show(
        f"\nAbout {duration(plan.seconds)} in all"
        + (", and what is not known before." if unknown else "."),
        "Other work on this host makes it longer. Steps that are done stay in the cache:",
        f"  bundle  {shown(job.out)}\n  cache   {shown(cache.root)}",
        "Nothing was done. Give the same command without --dry-run to compile.",
    )
