"""What the notebooks run: naive versions, experiments, scenarios, challenges, measurements, one folder a chapter."""
