"""The whole MPIM system for notebooks, and `mpim-lab serve`."""
