"""Reading slides: one way for all formats, from the top down, in memory that does not grow with the slide."""
