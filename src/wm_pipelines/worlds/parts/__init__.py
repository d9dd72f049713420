"""What several worlds use."""
