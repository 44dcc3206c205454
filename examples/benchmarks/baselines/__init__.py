"""Baselines that need code of their own."""
