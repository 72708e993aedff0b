"""All that the server operator sees or does: the server app, the round loop, validation."""
