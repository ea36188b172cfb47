"""Entity cells: the neuron that stands for an entity, found by activity and tested by intervention."""
