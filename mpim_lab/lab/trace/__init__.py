"""The trace that every picture is drawn from, and the checker that judges a run."""
