"""Reasoning while reading: a thought every few tokens, fed back as a state; its peers under the same interface."""
