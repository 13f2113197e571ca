"""`resam-bench robustness`: mIoU under corruptions."""
