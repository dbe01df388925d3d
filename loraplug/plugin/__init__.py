"""Plugins: the kinds of component, the hooks, and the registry of what is installed."""
