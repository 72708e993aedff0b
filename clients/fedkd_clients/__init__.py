"""All that may see a private example: the client app, its data, its models."""
