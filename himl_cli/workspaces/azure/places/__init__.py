"""Where a workspace and its services lie: addresses, clouds, configuration."""
