"""Where slides lie in the picture, and what is drawn around them."""
