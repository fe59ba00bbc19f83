"""Hands and feet: where they are, why they go wrong, and what repairs them."""
