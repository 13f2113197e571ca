"""What engines are measured against: the same weights and the same loop, run the way others run them."""
