"""`resam-bench train`: our training step beside the reference's."""
