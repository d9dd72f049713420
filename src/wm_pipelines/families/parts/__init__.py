"""Bases that several families share."""
