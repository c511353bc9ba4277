"""The joint PhysNet–DCMNet model."""
