"""The settings tree, from which flags, variables, TOML keys, help and reference are made. Pure."""
