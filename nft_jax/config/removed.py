"""Fields that older versions had, for the config.json of their runs."""
from __future__ import annotations

# Dotted name -> (the value that is all there is today, what to do about a run with another one).
REMOVED: dict[str, tuple[object, str]] = {
    "rollout.rollout_ahead": (0, "steps always train on answers of the parameters that they start from"),
    "optimizer.second_moment_dtype": ("float32", "Adam's second moment is always kept in float32"),
}
