"""Publishers and receivers against a server, with every library under test."""
