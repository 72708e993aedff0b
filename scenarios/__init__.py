"""The scenarios that ship with fedkd, as YAML files."""
