"""Thousands of chat clients in one process, against gateways."""
