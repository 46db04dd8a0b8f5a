"""Servers: embedded ones, the user's own, and how each process ends for certain."""
