"""How the settings tree gets its values: flags, environment variables, TOML files, and what shows them."""
