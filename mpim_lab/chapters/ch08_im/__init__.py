"""Chapter 8: the instant-messaging system."""
