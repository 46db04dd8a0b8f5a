"""What several chapters share: scenario, experiment, tables, the pipeline and its workers."""
