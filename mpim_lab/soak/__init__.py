"""The soak: random schedules of faults against every design, and of calls to the public API."""
