"""`resam-bench ablation`: what each part of the method adds."""
