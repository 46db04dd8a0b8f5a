"""Publish/subscribe: the MessageQueue, its subscriptions, acknowledged publishing (chapter 1)."""
