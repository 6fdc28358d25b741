"""The commands, one module per noun: options, one call of a service, output."""
