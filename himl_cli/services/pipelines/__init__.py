"""A pipeline from a JSON file in DeepSeismic's schema, up to what a workspace can run."""
