"""What clients and gateways say to each other: frames, and the requests of the services."""
