"""Each library under load: how it publishes and how it receives, set up as its own page advises."""
