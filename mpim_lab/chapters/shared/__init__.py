"""What the experiments of several chapters share: the pipeline, its faults, the workers, the effect log."""
