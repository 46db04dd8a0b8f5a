"""Publish/subscribe: the MessageQueue, its subscriptions, their buffers, acknowledged publishing (chapter 1)."""
