"""The networks, as they are published; they import the config, each other and torch."""
