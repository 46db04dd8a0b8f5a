"""What the notebooks run, one folder a chapter.

Naive versions, experiments, scenarios, challenges, measurements.
"""
