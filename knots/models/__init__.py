"""Model families: loading a base, attaching updates to it, class heads."""
