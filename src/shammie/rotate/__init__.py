"""ROTATE: a neuron's weights, read without running the model."""
