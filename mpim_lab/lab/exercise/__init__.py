"""Experiments, challenges, the sandbox for the learner's code, progress and questions."""
