"""The services behind a gateway: messages and their log, groups, presence, the offline store, tokens."""
