"""Taking over the settings of other tools: InnerEye's YAML, DeepSeismic's `.env`, the portal's config.json."""
