"""Load generators: processes that publish and receive, for measurements and benchmarks."""
