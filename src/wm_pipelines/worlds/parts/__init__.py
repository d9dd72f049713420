"""What worlds are made of."""
