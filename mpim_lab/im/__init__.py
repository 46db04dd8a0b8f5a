"""MPIM: a small instant-messaging system on top of the message queue (chapter 8)."""
