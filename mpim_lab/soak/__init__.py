"""The soak: random schedules of faults against every design, and random steps over the public API."""
