"""Adapters: one file for each foreign API."""
