"""What clients and gateways send to each other: frames, and the requests of the services."""
