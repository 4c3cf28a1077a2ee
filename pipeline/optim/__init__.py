"""What happens to gradients between clipping and the optimizer."""
