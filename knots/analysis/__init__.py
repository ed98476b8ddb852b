"""What task updates look like: similarity of what they do to activations, ranks, norms, angles, signs."""
