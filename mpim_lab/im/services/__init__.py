"""The services behind a gateway: messages, groups, presence, the offline store, tokens."""
