"""Test cards: which there are, and what happens when one is charged or set up."""
