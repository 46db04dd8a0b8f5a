"""Random schedules of public calls and faults; after each step the invariants are checked."""
