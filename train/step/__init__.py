"""The compiled training step: loss, metrics, optimizer, devices."""
