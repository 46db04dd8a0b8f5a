"""Experiments, challenges and the engine that examines solutions, progress and questions."""
