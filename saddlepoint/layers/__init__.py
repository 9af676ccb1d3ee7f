"""Layers that two systems or more share."""
