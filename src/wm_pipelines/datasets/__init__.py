"""Kedro datasets of this project: its own forms of storage, and atomic versions of Kedro's."""
