"""Chains of thought with known faithfulness, and metrics of faithfulness measured against it."""
